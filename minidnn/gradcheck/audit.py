"""Every gradient of a net, checked: each layer by each input and parameter, then the net as a whole.

A step that carries a ReLU over its corner, or a switch to another tap, meets two functions and not one: a
smaller step is tried, and a step for which none is small enough is left out and said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from minidnn.arrays import Array, to_host
from minidnn.errors import UsageError
from minidnn.gradcheck.checks import Check, compared, coordinates, moved, size_of
from minidnn.graph import Node
from minidnn.layers import Dropout, GradientReversal
from minidnn.layers.base import as_handed
from minidnn.net import Net
from minidnn.res import Res

TOLERANCE = 1e-6
STEPS = (1e-5, 1e-6, 1e-7)


class Row(NamedTuple):
    """One line of an audit: the gradient of one layer or of the whole net, by one of its arguments."""

    layer: str
    by: str  # "x", "w", "b", …, or "conv1/w" for the whole net
    check: Check | None  # None: all its coordinates were left out
    checked: int
    left_out: tuple[str, ...] = ()  # which coordinates, and why
    exempt: str = ""  # why this is not the true gradient, where it is declared not to be
    tolerance: float = TOLERANCE

    @property
    def verdict(self) -> str:
        if self.check is None:
            return "unchecked"
        if self.check.error > self.tolerance:
            return "WRONG"
        return "ok, by declaration" if self.exempt else "ok"


@dataclass(frozen=True)
class Audit:
    """All gradients of a net at one image.

    `print(audit)` is a table; `audit.ok` says whether all of it holds.
    """

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        return all(row.verdict.startswith("ok") for row in self.rows)

    @property
    def worst(self) -> Row:
        return max(self.rows, key=lambda row: row.check.error if row.check else -1.0)

    @property
    def exempt(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.exempt)

    def __str__(self) -> str:
        width = max(len(row.layer) for row in self.rows)
        by = max(len(row.by) for row in self.rows)
        lines = [f"{'layer':<{width}}  {'by':<{by}}  {'error':>8}  {'checked':>7}  {'left out':>8}  verdict"]
        notes = []
        for row in self.rows:
            error = f"{row.check.error:.1e}" if row.check else "-"
            counts = f"{row.checked:>7}  {len(row.left_out):>8}"
            lines.append(f"{row.layer:<{width}}  {row.by:<{by}}  {error:>8}  {counts}  {row.verdict}")
            notes += [f"{row.layer}, by {row.by}: {row.exempt}"] if row.exempt else []
            notes += [f"{row.layer}, by {row.by}, left out {reason}" for reason in row.left_out]
            if row.check and row.verdict == "WRONG":
                notes.append(f"{row.layer}, by {row.by}: {row.check}")
        return "\n".join([*lines, *notes])


def audit(
    net: Net,
    image: Array,
    *,
    mode: str = "test",
    rng: np.random.Generator | None = None,
    count: int = 8,
    tolerance: float = TOLERANCE,
) -> Audit:
    """Check every layer by every input and parameter at what it sees in this run, then the net as a whole.

    A random direction and `count` random coordinates of each array are tried. In training the masks of
    Dropout are drawn once and kept.
    """
    if count < 1:
        raise UsageError(f"an audit of {count} coordinates of each array; give at least 1")
    rng = rng or np.random.default_rng(0)
    net, image = net.to("cpu").astype("float64"), to_host(image).astype("float64")
    res = net.init_res()
    net.forwardto(res, net.names, image, mode=mode, rng=rng)
    net = _frozen(net, res)
    rows = [row for node in net.nodes for row in _audit_layer(node, res, mode, rng, count)]
    rows += _audit_whole(net, image, mode, rng, count)
    return Audit(tuple(row._replace(tolerance=tolerance) for row in rows))


def _audit_layer(node: Node, res: Res, mode: str, rng: np.random.Generator, count: int) -> Iterator[Row]:
    """The two backwards of one layer against its own forward."""
    layer, xs, slot = node.layer, [res[name].x for name in node.inputs], res[node.name]
    dzdy = rng.standard_normal(slot.shape)
    one = len(xs) == 1
    state = {"x": as_handed(xs), "x_shape": as_handed([x.shape for x in xs]), "mode": mode}
    state |= {"y": slot.x, "aux": slot.aux}
    factor = layer.gradient_factor
    exempt = "" if factor == 1 else f"declares {factor:g} times the gradient"
    grads = layer.backward(dzdy.copy(), **state)  # a copy: what writes over it shall be caught, not followed
    for i, grad in enumerate(grads if isinstance(grads, tuple) else (grads,)):

        def by_input(x: Array, i: int = i) -> tuple[float, Any]:
            return _run(layer, [*xs[:i], x, *xs[i + 1 :]], dzdy, mode, factor)

        yield _row(node.name, "x" if one else f"x{i + 1}", by_input, xs[i], grad, rng, count)._replace(
            exempt=exempt
        )
    for name, grad in (layer.backward_params(dzdy.copy(), **state) if layer.params else {}).items():

        def by_param(w: Array, name: str = name) -> tuple[float, Any]:
            return _run(layer.replacing(**{name: w}), xs, dzdy, mode, 1.0)

        yield _row(node.name, name, by_param, layer.params[name], grad, rng, count)


def _audit_whole(net: Net, image: Array, mode: str, rng: np.random.Generator, count: int) -> Iterator[Row]:
    """What the engine hands back, against the net as one function.

    Reversals pass plainly here: they have their row.
    """
    plain = [
        n._replace(layer=GradientReversal(-1)) if isinstance(n.layer, GradientReversal) else n
        for n in net.nodes
    ]
    net = net.with_nodes(plain)
    read = {name for node in net.nodes for name in node.inputs}
    ends = [node.name for node in net.nodes if node.name not in read]
    res = net.init_res()
    outs = net.forwardto(res, ends, image, mode=mode, rng=rng)
    seeds = {name: rng.standard_normal(y.shape) for name, y in outs.items()}

    def value(net: Net, image: Array) -> tuple[float, Any]:
        run = net.init_res()
        outs = net.forwardto(run, ends, image, mode=mode, rng=rng)
        sides = {node.name: _pieces_of(node, run) for node in net.nodes}
        return float(sum((outs[name] * seed).sum() for name, seed in seeds.items())), sides

    grad = net.backwardfrom(res, seeds, params=True)
    yield _row("whole net", net.input, lambda x: value(net, x), image, grad, rng, count)
    for name, dzdw in net.gradients(res).items():

        def by_param(w: Array, name: str = name) -> tuple[float, Any]:
            return value(net.replacing({name: w}), image)

        yield _row("whole net", name, by_param, net.params[name], dzdw, rng, count)


def _row(
    layer: str,
    by: str,
    f: Callable[[Array], tuple[float, Any]],
    x: Array,
    grad: Array,
    rng: np.random.Generator,
    count: int,
) -> Row:
    """Central differences along one random direction and at random coordinates, crossing no corner."""
    _, here = f(x)
    checks, left_out = [], []
    for at, step, analytic, size in _steps(x, grad, rng, count):
        for eps in STEPS:
            eps *= max(1.0, float(np.sqrt((x * x).mean())))
            (above, up), (below, down) = f(x + eps * step), f(x - eps * step)
            corner = _difference(here, up) or _difference(here, down)
            if corner is None:
                numeric = (above - below) / (2 * eps)
                checks.append(compared(analytic, numeric, max(size, 1e-4 * abs(above)), at))
                break
        else:
            left_out.append(f"{'a random direction' if at is None else list(at)}: {corner}")
    return Row(
        layer, by, max(checks, key=lambda check: check.error, default=None), len(checks), tuple(left_out)
    )


def _steps(x: Array, grad: Array, rng: np.random.Generator, count: int) -> Iterator[tuple[Any, ...]]:
    """(coordinate, step, what the gradient promises for it, size of such promises)."""
    v = rng.standard_normal(x.shape)
    yield None, v, float((grad * v).sum()), float(np.sqrt((grad * grad).sum()))
    for at in coordinates(x.shape, count, rng):
        yield at, moved(np.zeros_like(x), at, 1.0), float(grad[at]), size_of(grad)


def _run(layer: Any, xs: list[Array], dzdy: Array, mode: str, factor: float) -> tuple[float, Any]:
    y, aux = layer.forward(*xs, mode=mode)
    return factor * float((y * dzdy).sum()), {"": layer.pieces(x=as_handed(xs), y=y, aux=aux)}


def _pieces_of(node: Node, res: Res) -> Array | None:
    xs, slot = [res[name].x for name in node.inputs], res[node.name]
    return node.layer.pieces(x=as_handed(xs), y=slot.x, aux=slot.aux)


def _difference(here: dict[str, Array], there: dict[str, Array]) -> str | None:
    """The first place where two runs are on different pieces."""
    for name, pieces in here.items():
        if pieces is not None and not np.array_equal(pieces, there[name]):
            place = [int(axis[0]) for axis in np.nonzero(pieces != there[name])]
            tie = pieces.dtype.kind == "u" or pieces.dtype.kind == "i"
            what = "a tie of its window" if tie else "a corner"
            return f"{name or 'the layer'} is at {what}, {place}"
    return None


def _frozen(net: Net, res: Res) -> Net:
    """The net with the masks that this run has drawn."""
    nodes = []
    for node in net.nodes:
        layer = node.layer
        if isinstance(layer, Dropout) and res[node.name].aux is not None:
            layer = replace(layer, frozen=res[node.name].aux)
        nodes.append(node._replace(layer=layer))
    return net.with_nodes(nodes, input_shape=None)  # a mask is for this batch, not for one image
