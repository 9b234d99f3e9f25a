"""Of the ways to make a step, the quickest that fits: whole or in tiles, by these kernels or by those."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod

from minidnn.arrays import Array
from minidnn.errors import TooLargeError, UsageError
from minidnn.graph import Handle, listed
from minidnn.kernels.cpu import winograd
from minidnn.layers import Conv
from minidnn.layers.base import Shape
from minidnn.net import Net
from minidnn.plan.card import is_on_card
from minidnn.plan.forecast import Forecast, forecast, in_words
from minidnn.res import Res
from minidnn.tiles import Measure, Ticking, Tiling, check_local, size_of

PROCESS = 110_000_000  # bytes: Python, the libraries that a dream loads, and what is lost between blocks
LOST_ON_CARD = 10  # of so many bytes one: tiles at an edge have other shapes, and leave gaps in its pool
TILES = (4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 192, 128, 96, 64, 48, 32)  # pixels of a side
TWICE_FORWARD = 1.5  # in tiles, the way forward is gone again for the way back
SMALLER, NONE_PREPARED = 1.5, 2.1  # times of a dream step by winograd2 and by chunked, docs/speed.md
APART = 3  # layers: tiles try smaller filters in all, from the fourth on, from the seventh on …
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


Way = tuple[Net, float, str]  # with its kernels, times of the work, and what is special about them


@dataclass(frozen=True, eq=False)
class Plan:
    """A way to make a step, and what it will take. `str(plan)` says so in a sentence."""

    net: Net  # with the kernels that were chosen
    layers: tuple[Handle, ...]
    tile: tuple[int, int] | None = None  # own pixels of each; None: the whole at once
    expected: Forecast | None = None
    work: float = 1.0  # how many times the arithmetic of the whole at once
    kernels: str = ""  # what is special about them
    words: str = "the whole picture at once"
    process: int = PROCESS
    _tilings: dict[Shape, Tiling] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.words

    @property
    def need(self) -> int:
        """Bytes of the whole process, or of a GPU, at the worst moment, as far as that was asked."""
        if self.expected is None:
            return 0
        lost = self.expected.step // LOST_ON_CARD if is_on_card(self.net) else self.process
        return self.expected.total + lost

    def gradient(
        self, res: Res, image: Array, measure: Measure, *, each: Ticking = iter
    ) -> tuple[float, Array, dict[str, Array]]:
        """z, dz/dimage and {layer: y} for measure({layer: y}) → (z, {layer: dz/dy}).

        Pictures no larger than a tile go at once, in the run that is given.
        """
        h, w = image.shape[1:3]
        if self.tile is None or (h <= self.tile[0] and w <= self.tile[1]):
            ys = self.net.forwardto(res, self.layers, image, keep="needed")
            value, seeds = self._measured(ys, measure)
            return value, self.net.backwardfrom(res, seeds), ys
        if image.shape not in self._tilings:
            self._tilings[image.shape] = Tiling(self.net, image.shape, self.layers, tile=self.tile)
        tiling = self._tilings[image.shape]
        ys = tiling.forward(image, each=each)
        value, seeds = self._measured(ys, measure)
        return value, tiling.backward(image, seeds, each=each), ys

    def _measured(self, ys: dict[str, Array], measure: Measure) -> tuple[float, dict[Handle, Array]]:
        """The value, and the seeds by name: those of a layer that was asked for twice are added up."""
        value, seeds = measure({layer: ys[self.net.name_of(layer)] for layer in self.layers})
        by_name: dict[Handle, Array] = {}
        for layer, seed in seeds.items():
            name = self.net.name_of(layer)
            by_name[name] = by_name[name] + seed if name in by_name else seed
        return value, by_name


def whole(net: Net, layers: Handle | Collection[Handle]) -> Plan:
    """No tiles, and the kernels as they are."""
    return Plan(net, tuple(listed(layers)))


def choose(
    net: Net,
    image_shape: Shape,
    targets: Handle | Collection[Handle],
    max_memory: int | str | None,
    *,
    pictures: int = 0,
    between: int = 0,
    process: int = PROCESS,
) -> Plan:
    """The quickest way to make steps on images (n, h, w, c) in a process that stays below max_memory.

    That is all of it: the weights, the caller's own `pictures` and those `between` two steps, as for
    `forecast`, and `process` for Python and its libraries. For a net on a GPU it is the memory of that. With
    None there is no bound.
    """
    if max_memory is None:
        return whole(net, targets)
    limit, layers = bytes_of(max_memory), tuple(listed(targets))
    at_once, least = 0, None
    for plan in sorted(plans(net, image_shape, layers), key=lambda found: found.work):
        expected = forecast(plan.net, image_shape, layers, tile=plan.tile, pictures=pictures, between=between)
        plan = replace(plan, expected=expected, process=process)
        at_once = at_once or plan.need  # the first, with the least work, is the whole as it is
        if plan.need <= limit:
            return replace(plan, words=_told(plan, image_shape, limit, at_once))
        least = plan if least is None or plan.need < least.need else least
    raise TooLargeError(_why_not(net, image_shape, layers, limit, least))


def plans(net: Net, image_shape: Shape, layers: tuple[Handle, ...]) -> Iterator[Plan]:
    """All ways to make a step, in no particular order."""
    names, (h, w) = net.names_of(layers), image_shape[1:3]
    tiles: dict[tuple[int, int] | None, float] = {None: 1.0}
    with suppress(UsageError):
        check_local(net, names)
        for side in TILES if set(names) - {net.input} else ():
            if side < max(h, w):
                tile = min(side, h), min(side, w)
                seen = prod(size_of(Tiling(net, image_shape, names, tile=tile).amidst().pixels))
                tiles[tile] = TWICE_FORWARD * max(1.0, seen / prod(tile))
    as_it_is, smaller, none = _with_kernels(net, image_shape, names)
    for size, work in tiles.items():
        some = smaller if size is None else smaller[::-APART]
        for chosen, times, words in (as_it_is, *some, *none):
            yield Plan(chosen, layers, size, work=work * times, kernels=words)


def bytes_of(size: int | str) -> int:
    """2_000_000_000 of "2GB"; "2GiB", "800 MB" and plain numbers are fine too."""
    if isinstance(size, int):
        number, unit = float(size), ""
    else:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", size, re.IGNORECASE)
        if found is None or (unit := found[2].upper()) not in UNITS:
            raise UsageError(f"max_memory {size!r}: give it as 2GB, 800MB or a number of bytes")
        number = float(found[1])
    if number * UNITS[unit] < 1:
        raise UsageError(f"max_memory {size!r}: give more than nothing, as 2GB")
    return int(number * UNITS[unit])


def _with_kernels(net: Net, image_shape: Shape, names: Collection[str]) -> tuple[Way, list[Way], list[Way]]:
    """The net as it is; with smaller filters in the last layer, in the last two …; and with none prepared.

    Each with its work, of which the net as it is has 1. In the last layers the filters are largest and the
    maps smallest: much memory for little work. A net whose kernels somebody chose has no other.
    """
    products, smaller, done, found = _products(net, image_shape, names), dict[str, str](), 0, list[Way]()
    for name in reversed(products):
        smaller, done = smaller | {name: "winograd2"}, done + products[name]
        work = 1 + (SMALLER - 1) * done / sum(products.values())
        since = "" if len(smaller) == len(products) else f" from {name} on"
        found.append((net.with_kernels(smaller), work, f", by winograd2 for its smaller filters{since}"))
    none = ", by chunked for it prepares no filters"
    plain = [(net.with_kernels(dict.fromkeys(products, "chunked")), NONE_PREPARED, none)] if products else []
    return (net, 1.0, ""), found, plain


def _products(net: Net, image_shape: Shape, names: Collection[str]) -> dict[str, int]:
    """The multiplications of each convolution by prepared filters, if the net is free to take others."""
    shapes = net.shapes(image_shape, upto=names) if net.about.get("kernels", "auto") == "auto" else {}
    return {
        node.name: prod(shapes[node.name]) * node.layer.w[..., 0].size
        for node in net.nodes
        if node.name in shapes
        and isinstance(node.layer, Conv)
        and net.prepared[node.name].algorithm(
            shapes[node.inputs[0]], node.layer.w, node.layer.window, node.layer.groups
        )
        in winograd.TRANSFORMS
    }


def _told(plan: Plan, image_shape: Shape, limit: int, at_once: int) -> str:
    fits = f"{plan.kernels}: about {in_words(plan.need)} of {in_words(limit)}"
    if plan.tile is None:
        return f"the whole picture at once{fits}"
    down, across = Tiling(plan.net, image_shape, plan.layers, tile=plan.tile).grid
    size = f"{plan.tile[1]}x{plan.tile[0]}"
    return f"in {down * across} tiles of {size} pixels{fits}, where the whole takes {in_words(at_once)}"


def _why_not(net: Net, image_shape: Shape, layers: Collection[Handle], limit: int, least: Plan | None) -> str:
    size, why = f"{image_shape[2]}x{image_shape[1]}", ""
    try:
        check_local(net, net.names_of(layers))
    except UsageError as error:
        why = f" ({error})"
    need = in_words(least.need) if least is not None else "more"
    return (
        f"the least that a step of {size} takes is about {need}, max_memory is {in_words(limit)}{why}; "
        f"take a smaller picture, a layer before, or more memory"
    )
