"""Bytes, before they are asked of the system."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import prod
from mmap import mmap
from typing import NamedTuple

from minidnn.arrays import Array
from minidnn.graph import Handle
from minidnn.layers.base import Shape, is_placeholder
from minidnn.net import Net
from minidnn.params import once
from minidnn.plan import card
from minidnn.plan.rehearsal import Rehearsal
from minidnn.tiles import Tiling, size_of


class Forecast(NamedTuple):
    """Bytes at the worst moment, by what they are for."""

    x: int  # what layers said, and the image itself
    aux: int  # bits, switches, energies
    dzdx: int
    workspace: int  # of the kernels, and blocks that the run keeps for its next step
    prepared: int  # filters as Winograd wants them
    pictures: int = 0  # that the caller keeps: canvas, optimiser, the step before
    weights: int = 0

    @property
    def step(self) -> int:
        """What a step takes beside the weights and the pictures, which are there anyhow."""
        return self.x + self.aux + self.dzdx + self.workspace + self.prepared

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        parts = ", ".join(f"{in_words(n)} {name}" for name, n in self._asdict().items() if n >= 500_000)
        return f"{in_words(self.total)} ({parts})" if parts else in_words(self.total)


def forecast(
    net: Net,
    image_shape: Shape,
    targets: Handle | Collection[Handle],
    *,
    keep: str = "needed",
    tile: tuple[int, int] | None = None,
    pictures: int = 0,
    between: int = 0,
) -> Forecast:
    """The memory of a step: to the targets, through an objective, and back to images (n, h, w, c).

    With a tile (h, w) it goes tile by tile. `pictures` is how many more of the image's size the caller keeps
    meanwhile, `between` how many it has between two steps; then a tile's memory is free again. A net whose
    weights lie on a GPU is told the memory of that.
    """
    names, shape = net.names_of(targets), tuple(image_shape)
    weights, picture = resident(net, net.ancestors(names)), net.dtype.itemsize * prod(shape)
    if tile is None or set(names) <= {net.input}:
        run = peak(net, shape, names, keep=keep)
        return Forecast(**run, pictures=max(pictures, between) * picture, weights=weights)
    run = _in_tiles(net, shape, names, tile)
    free = sum(run.values()) - run["prepared"]
    return Forecast(**run, pictures=max(pictures * picture, between * picture - free), weights=weights)


def peak(net: Net, image_shape: Shape, targets: Iterable[str], *, keep: str = "needed") -> dict[str, int]:
    """Bytes at the worst moment of a step, by what they are for; blocks kept for the next are workspace."""
    there = card.is_on_card(net)
    played = Rehearsal(
        net, image_shape, tuple(targets), keep=keep, place=(card.Pool(), card) if there else None
    )
    first = dict(played.step().at_peak)
    first["workspace"] += played.step().peak - sum(first.values())
    if there:
        first["workspace"] += card.WORKSPACE
    return first


def _in_tiles(net: Net, shape: Shape, names: tuple[str, ...], tile: tuple[int, int]) -> dict[str, int]:
    """The memory of a tile, and of what is there of the whole: the image, its gradient, maps and seeds."""
    tiling, item = Tiling(net, shape, names, tile=tile), net.dtype.itemsize
    part = tiling.amidst()
    run = peak(part.net, (shape[0], *size_of(part.pixels), shape[3]), [*part.ends.values()])
    maps, picture = [item * prod(tiling.shapes[name]) for name in names], item * prod(shape)
    back = sum(run.values()) - run["prepared"] + picture  # what the way back takes, and the objective not yet
    run["x"] += picture + sum(maps)
    run["dzdx"] += picture + sum(maps)
    run["workspace"] += max(0, max(maps) - back)  # an objective may square its map before it has a seed
    return run


def resident(net: Net, reached: Collection[str]) -> int:
    """Bytes of weights in memory: of those mapped from a file only what runs is read."""
    arrays = once(net.nodes, "params") | once(net.nodes, "buffers")
    used = once([node for node in net.nodes if node.name in reached], "params")
    lying = [array for array in arrays.values() if not is_placeholder(array)]
    here = {id(array) for array in used.values()}
    return sum(array.nbytes for array in lying if id(array) in here or not _is_mapped(array))


def in_words(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def _is_mapped(array: Array) -> bool:
    """Whether it lies in a file."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return isinstance(getattr(array, "obj", array), mmap)
