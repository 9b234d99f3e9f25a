"""A net without its numbers, as JSON and back: which layers there are, who reads whom, who shares what.

A layer is found by its name in a table of our own, never imported; the arrays are placeholders of the shapes
that the file has, so that all of it can be checked before a number is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, NamedTuple, get_args

from minidnn import layers
from minidnn.arrays import Array
from minidnn.errors import (
    DamagedFileError,
    MinidnnError,
    MismatchError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedError,
    did_you_mean,
)
from minidnn.graph import Graph, Node
from minidnn.layers.base import Layer, drawn
from minidnn.net import Net
from minidnn.params import once
from minidnn.weights.index import NAME_RULE, is_allowed
from minidnn.weights.typed import built, decoded, encoded, hints_of

OPS: dict[str, type[Layer]] = {n: getattr(layers, n) for n in layers.__all__ if n != "Layer"}
MAX_NODES = 10_000
MAX_WINDOW = 1024  # for each number of a window
MAX_NUMBER = 65_536  # for each other whole number of a layer
MAX_SIDE = 4096  # of a map
MAX_PIXELS = 1 << 27  # of all maps together: planning them takes time, and a file must not decide how much

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """What the net reads; no `shape` (h, w, c): images of any size."""

    name: str
    shape: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Step:
    """One node: `op` is the class of its layer, `params` and `buffers` name its arrays in the file."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: dict[str, Any]
    params: dict[str, str]
    buffers: dict[str, str]


@dataclass(frozen=True)
class Architecture:
    """What /meta/architecture holds."""

    inputs: tuple[Input, ...]
    nodes: tuple[Step, ...]
    aliases: dict[str, str]


class Blueprint(NamedTuple):
    """A net whose arrays are placeholders, by their names in the file."""

    graph: Graph
    input_shape: tuple[int, int, int] | None
    arrays: dict[str, Array]


def described(net: Net) -> Architecture:
    """The net for the file; an UnsupportedError names every layer that is not one of ours."""
    strange = [f"{node.name} ({type(node.layer).__name__})" for node in net.nodes if not _is_ours(node)]
    if strange:
        raise UnsupportedError(
            f"layers of your own cannot be saved: {', '.join(strange)}; only those of minidnn.layers"
        )
    names = {
        id(array): name for role in ("params", "buffers") for name, array in once(net.nodes, role).items()
    }

    def named(arrays: dict[str, Array]) -> dict[str, str]:
        return {name: names[id(array)] for name, array in arrays.items()}

    steps = []
    for name, layer, inputs in net.nodes:
        attrs = encoded(layer, without=_arrays_of(type(layer)))
        steps.append(
            Step(name, type(layer).__name__, inputs, attrs, named(layer.params), named(layer.buffers))
        )
    return Architecture((Input(net.input, net.input_shape),), tuple(steps), dict(net.aliases))


def restored(document: Any, shapes: Mapping[str, Shape], file: str) -> Blueprint:
    """The net that a document of `described` tells of, with arrays of these shapes."""
    what = f"{file}: its architecture"
    try:
        told = decoded(document, Architecture)
    except ValueError as error:
        raise DamagedFileError(f"{what} is damaged: {error}; fetch it again") from None
    _check_names(told, what)
    if unknown := sorted({step.op for step in told.nodes} - OPS.keys()):
        near = did_you_mean(unknown[0], OPS)
        advice = "get the minidnn that wrote it, or a later one"
        raise UnsupportedError(f"{file}: has layers of a kind we lack: {', '.join(unknown)}{near}; {advice}")
    if missing := list(_missing(told, shapes)):
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        listed = ", ".join(missing[:5])
        raise MismatchError(f"{file}: {listed}{more}: its net wants it and the file lacks it; fetch it again")
    arrays: dict[str, Array] = {}
    nodes = [_node(step, shapes, arrays, file) for step in told.nodes]
    try:
        graph = Graph(nodes, told.inputs[0].name)
    except MinidnnError as error:
        raise DamagedFileError(f"{what} is no net: {error}; fetch it again") from None
    graph.aliases = told.aliases
    if told.inputs[0].shape is not None:
        _check_maps(graph, told.inputs[0].shape, file)
    return Blueprint(graph, told.inputs[0].shape, arrays)


def _is_ours(node: Node) -> bool:
    return OPS.get(type(node.layer).__name__) is type(node.layer)


def _arrays_of(kind: type[Layer]) -> dict[str, bool]:
    """The fields that hold arrays, and whether the layer can do without."""
    marked = [field for field in fields(kind) if "role" in field.metadata]
    return {field.name: NoneType in get_args(hints_of(kind)[field.name]) for field in marked}


def _check_names(told: Architecture, what: str) -> None:
    if len(told.nodes) > MAX_NODES:
        raise TooLargeError(f"{what} has {len(told.nodes):,} layers, the limit is {MAX_NODES:,}; split it")
    if len(told.inputs) != 1:
        raise UnsupportedError(f"{what} has {len(told.inputs)} inputs, we run nets of one; cut it apart")
    for name in [told.inputs[0].name, *(step.name for step in told.nodes)]:
        if not is_allowed(name):
            raise UnsafeFileError(f"{what} calls a layer {name[:60]!r}; allowed are {NAME_RULE}")


def _missing(told: Architecture, shapes: Mapping[str, Shape]) -> Iterator[str]:
    for step in told.nodes:
        named = step.params | step.buffers
        yield from (repr(path) for path in named.values() if path not in shapes)
        for name, optional in _arrays_of(OPS[step.op]).items():
            if name not in named and not optional:
                yield repr(f"{step.name}/{name}")


def _node(step: Step, shapes: Mapping[str, Shape], arrays: dict[str, Array], file: str) -> Node:
    """A layer with placeholders; nodes that name the same array get the very same one."""
    kind, what = OPS[step.op], f"{file}: layer {step.name!r} ({step.op})"
    given: dict[str, Array | None] = dict.fromkeys(_arrays_of(kind))
    for name, path in (step.params | step.buffers).items():
        if name not in given:
            raise MismatchError(f"{what} has no array {name!r}{did_you_mean(name, given)}; fetch it again")
        given[name] = arrays.setdefault(path, drawn(None, shapes[path], 1))
    try:
        _check_numbers(step.attrs)
        layer = built(kind, step.attrs, limit=MAX_NUMBER, **given)
    except MinidnnError as error:
        raise MismatchError(f"{what} does not fit its arrays: {error}; fetch it again") from None
    except ValueError as error:
        raise DamagedFileError(f"{what} is damaged: {error}; fetch it again") from None
    return Node(step.name, layer, step.inputs)


def _check_numbers(attrs: dict[str, Any]) -> None:
    """Windows larger than any picture would cost time and memory before the first image comes."""
    window = attrs.get("window")
    for numbers in window.values() if isinstance(window, dict) else ():
        if isinstance(numbers, list):
            decoded(numbers, tuple[int, ...], MAX_WINDOW)


def _check_maps(graph: Graph, shape: tuple[int, int, int], file: str) -> None:
    """That every layer can read what comes to it, and that no map is too large to plan."""
    maps: dict[str, Shape] = {graph.input: (1, *shape)}
    pixels = 0
    for node in (None, *graph.nodes):
        name = graph.input if node is None else node.name
        if node is not None:
            try:
                maps[name] = node.layer.out_shape(*(maps[read] for read in node.inputs))
            except MinidnnError as error:
                reads = ", ".join(map(repr, node.inputs))
                what = f"{file}: layer {name!r} cannot read {reads}: {error}"
                raise MismatchError(f"{what}; fetch it again") from None
        h, w, c = maps[name][1:]
        pixels += h * w
        if min(h, w, c) < 1:
            raise DamagedFileError(f"{file}: {name!r} makes maps of {h}x{w}x{c}; fetch it again")
        if max(h, w) > MAX_SIDE or pixels > MAX_PIXELS:
            limit = f"{MAX_SIDE} a side and {MAX_PIXELS:,} for all layers"
            what = f"{file}: {name!r} makes maps of {h}x{w} pixels"
            raise TooLargeError(f"{what}, the limit is {limit}; save it for smaller images")
