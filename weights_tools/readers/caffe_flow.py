"""What flows between the layers of a Caffe net: its size, as far as the file tells, and in which order.

A flattened map is in another order for us, (H, W, C), than for Caffe, (C, H, W); whoever reads it with
weights needs to know of which maps it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

from minidnn.errors import MismatchError, ShapeError
from minidnn.layers import FC, AvgPool, Concat, Conv, ConvTranspose, Flatten, GlobalAvgPool, Layer, MaxPool

NEEDS_SIZE = "how large its images are is not in the file; give the deploy .prototxt with it"

Size = tuple[int | None, int | None, int | None]  # h, w, c


@dataclass(frozen=True)
class Flow:
    """What the node of that name puts out; None is what the file does not tell."""

    node: str
    h: int | None
    w: int | None
    c: int | None
    maps: tuple[Size, ...] = ()  # that were laid out, one after the other, as this vector

    @property
    def size(self) -> Size:
        return self.h, self.w, self.c

    @property
    def count(self) -> int | None:
        """The numbers of one image."""
        return _count(self.size)

    def sized(self, count: int, what: str) -> tuple[int, int, int]:
        """(h, w, c) of a map that is known to have so many numbers; if all else is open, it is a square."""
        return _squared(self.size, count, what)

    def order(self, count: int, what: str) -> np.ndarray:
        """Of each number of this vector in our order, where Caffe has it."""
        known = sum(_count(one) or 0 for one in self.maps)
        open_maps = sum(_count(one) is None for one in self.maps)
        if open_maps > 1 or (not open_maps and known != count):
            found = NEEDS_SIZE if open_maps else f"found {count:,} numbers, expected {known:,}"
            raise MismatchError(f"{what}: {found}")
        orders, at = [], 0
        for one in self.maps:
            h, w, c = _squared(one, _count(one) or count - known, what)
            orders.append(np.arange(at, at + h * w * c).reshape(c, h, w).transpose(1, 2, 0).reshape(-1))
            at += h * w * c
        return np.concatenate(orders)


def after(node: str, layer: Layer, flows: Sequence[Flow], what: str) -> Flow:
    """What comes out of a layer."""
    try:
        h, w, c = _size_after(layer, flows)
    except ShapeError as error:
        raise MismatchError(f"{what}: {error}") from None
    return Flow(node, h, w, c, _maps_after(layer, flows))


def _size_after(layer: Layer, flows: Sequence[Flow]) -> Size:
    sizes = [flow.size for flow in flows]
    known = [(1, h, w, c) for h, w, c in sizes if h is not None and w is not None and c is not None]
    if len(known) == len(sizes):
        _, height, width, channels = layer.out_shape(*known)
        return height, width, channels
    h, w, c = sizes[0]
    match layer:
        case FC():
            return 1, 1, layer.out_channels
        case Conv() | ConvTranspose():
            return None, None, layer.out_channels
        case MaxPool() | AvgPool():
            return None, None, c
        case GlobalAvgPool():
            return 1, 1, c
        case Flatten():
            return 1, 1, None
        case Concat():
            channels_of_all = [one for _, _, one in sizes if one is not None]
            return h, w, sum(channels_of_all) if len(channels_of_all) == len(sizes) else None
        case _:
            return h, w, c


def _maps_after(layer: Layer, flows: Sequence[Flow]) -> tuple[Size, ...]:
    match layer:
        case Flatten():
            return flows[0].maps or (flows[0].size,)
        case Concat() if any(flow.maps for flow in flows):
            return tuple(one for flow in flows for one in flow.maps or (flow.size,))
        case FC() | Conv() | ConvTranspose() | MaxPool() | AvgPool() | GlobalAvgPool():
            return ()
        case _:
            return flows[0].maps


def _count(size: Size) -> int | None:
    h, w, c = size
    return None if h is None or w is None or c is None else h * w * c


def _squared(size: Size, count: int, what: str) -> tuple[int, int, int]:
    h, w, c = size
    if c is None or (h is None) != (w is None):
        raise MismatchError(f"{what}: {NEEDS_SIZE}")
    if h is None or w is None:
        h = w = isqrt(count // c)
        if h * w * c != count:
            raise MismatchError(
                f"{what}: {count:,} numbers are no square map of {c} channels, and {NEEDS_SIZE}"
            )
    if h * w * c != count:
        raise MismatchError(f"{what}: found {count:,} numbers, expected {h}x{w}x{c}")
    return h, w, c
