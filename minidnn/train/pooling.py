"""From a map of features to one row of numbers: what is kept of where things were."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from minidnn.arrays import Array, xp_of
from minidnn.errors import UnknownLayerError, UsageError, did_you_mean
from minidnn.graph import Handle
from minidnn.layers import BatchNorm, Dropout, Flatten, LeakyReLU, PReLU, ReLU, Sigmoid, Softmax, Tanh
from minidnn.net import Net


def flat(x: Array) -> Array:
    """Every number of the map: where each thing was is kept to the pixel."""
    return x.reshape(len(x), -1)


def mean(x: Array) -> Array:
    """How much of each feature there was, wherever."""
    return x.mean(axis=(1, 2))


def largest(x: Array) -> Array:
    """How clearly each feature was there at its best place."""
    return x.max(axis=(1, 2))


def both(x: Array) -> Array:
    """The mean, and then the largest."""
    return xp_of(x).concatenate([mean(x), largest(x)], axis=1)


def grid(x: Array) -> Array:
    """The mean of the whole, then of its quarters: a spatial pyramid of 1 + 2x2 (Lazebnik et al. 2006).

    An odd row or column in the middle counts to both sides, so a map of one pixel has quarters too.
    """
    (upper, lower), (left, right) = halves(x.shape[1]), halves(x.shape[2])
    quarters = [mean(x[:, rows, columns]) for rows in (upper, lower) for columns in (left, right)]
    return xp_of(x).concatenate([mean(x), *quarters], axis=1)


def halves(n: int) -> tuple[slice, slice]:
    """Of n = 5 lines the first three and the last three."""
    return slice(0, n - n // 2), slice(n // 2, n)


PASSED_TO = ReLU | LeakyReLU | PReLU | Sigmoid | Tanh | BatchNorm
POOLS: dict[str, Callable[[Array], Array]] = {
    "mean": mean,
    "max": largest,
    "both": both,
    "grid": grid,
    "flat": flat,
}
CELLS = {"mean": 1, "max": 1, "both": 2, "grid": 5}  # how often the channels come


def width(pool: str, shape: tuple[int, ...]) -> int:
    """How many numbers it makes of a map (n, h, w, c)."""
    return shape[1] * shape[2] * shape[3] if pool == "flat" else CELLS[pool] * shape[3]


def check_pools(pools: Iterable[str]) -> tuple[str, ...]:
    """These, each once; or which of them there is not."""
    found = tuple(dict.fromkeys(pools))
    for pool in found:
        if pool not in POOLS:
            raise UsageError(f"no pooling {pool!r}; there are {', '.join(POOLS)}{did_you_mean(pool, POOLS)}")
    return found


def chosen_layers(net: Net, layers: Iterable[Handle]) -> tuple[str, ...]:
    """Layers by name, by number, or by a pattern as `fire*` for all worth a look, in the order of the net."""
    worth, found = worth_a_look(net), set[str]()
    for layer in layers:
        if isinstance(layer, str) and layer not in net.names and any(sign in layer for sign in "*?["):
            matching = [name for name in worth if fnmatchcase(name, layer)]
            if not matching:
                raise UnknownLayerError(
                    f"no layer is called like {layer!r}; there are {', '.join(worth[:6])} …"
                )
            found.update(matching)
        else:
            found.add(net.name_of(int(layer) if str(layer).isdigit() and layer not in net.names else layer))
    if not found:
        raise UsageError("no layer was named; give one, or a pattern as '*' for all")
    return tuple(name for name in net.names if name in found)


def worth_a_look(net: Net) -> list[str]:
    """All layers but those whose answer only passes on to a ReLU or the like, and those that add nothing."""
    found = []
    for node in net.nodes:
        readers = [other.layer for other in net.nodes if node.name in other.inputs]
        passing = readers and all(isinstance(layer, PASSED_TO) for layer in readers)
        if not passing and not isinstance(node.layer, Dropout | Flatten | Softmax):
            found.append(node.name)
    return found
