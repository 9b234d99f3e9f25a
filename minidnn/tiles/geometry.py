"""Which part of a map a layer must read to make a part of its output, and the layer that does just that.

A window that reaches into the padding of the whole map still does, by just as much. At all other edges of the
part nothing is padded, for what lies there is read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from minidnn import layers as L
from minidnn.arrays import Array, xp_of
from minidnn.errors import UsageError
from minidnn.layers.base import Layer, Shape
from minidnn.net import Net

Span = tuple[int, int]  # along one axis: the first, and the one after the last
Area = tuple[Span, Span]  # rows, columns

WINDOWED = L.Conv | L.MaxPool | L.AvgPool
AT_EACH_PLACE = L.ReLU | L.LeakyReLU | L.PReLU | L.Sigmoid | L.Tanh | L.Softmax | L.GradientReversal | L.LRN
AT_EACH_PLACE |= L.BatchNorm | L.Dropout | L.Concat | L.Add | L.PadChannels
LOCAL = WINDOWED | L.ConvTranspose | L.Upsample | AT_EACH_PLACE  # LRNWithin, with its reach, is an LRN
WHY_NOT = {
    L.FC: "sees the whole map; net.as_convolutional() lets it slide",
    L.GlobalAvgPool: "is a mean over the whole map",
    L.Flatten: "forgets where its pixels were",
    L.MaxUnpool: "puts pixels where another map says",
}


@dataclass(frozen=True, eq=False)
class Cut(Layer):
    """A part of a map; going back, what was cut off gets no gradient."""

    rows: Span
    columns: Span

    def out_shape(self, x_shape: Shape) -> Shape:
        return (x_shape[0], *size_of((self.rows, self.columns)), x_shape[3])

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        return x[at((self.rows, self.columns))], None

    def backward(self, dzdy: Array, *, x_shape: Shape, **_: Any) -> Array:
        dzdx = xp_of(dzdy).zeros(x_shape, dzdy.dtype)
        dzdx[at((self.rows, self.columns))] = dzdy
        return dzdx


class Source(NamedTuple):
    """What a part of a layer's output is computed from, and by what."""

    made: Area  # may be more than was needed; then it is cut
    read: Area
    layer: Layer


class Along(NamedTuple):
    """The same along one axis, for a layer with a window."""

    made: Span
    read: Span
    before: int  # the pad there, or what a transpose crops
    after: int
    beyond: int = 0  # what the last window overhangs, or what a transpose has extra


def check_local(net: Net, layers: Collection[str], *, mode: str = "test") -> None:
    """That each place up to these layers sees a window of the picture only, or which layers see more."""
    reached, found = net.ancestors(layers), []
    for node in net.nodes:
        if node.name in reached:
            kind = type(node.layer)
            if not isinstance(node.layer, LOCAL):
                found.append(
                    f"{node.name!r} ({kind.__name__}) {WHY_NOT.get(kind, 'is of no kind known here')}"
                )
            elif mode != "test" and isinstance(node.layer, L.BatchNorm | L.Dropout):
                found.append(f"{node.name!r} ({kind.__name__}) in training depends on the whole batch")
    if found:
        raise UsageError(f"no tiles up to {' and '.join(layers)}: {'; '.join(found)}")


def source_of(layer: Layer, need: Area, x_size: Sequence[int]) -> Source:
    """What that area of the layer's output is computed from, for an input map of (h, w)."""
    (rows, columns), (h, w) = need, x_size
    if isinstance(layer, WINDOWED):
        y, x = _windowed(layer, 0, rows, h), _windowed(layer, 1, columns, w)
        pad, overhangs = (y.before, y.after, x.before, x.after), bool(y.beyond or x.beyond)
        there: Layer = replace(layer, window=replace(layer.window, pad=pad, ceil=overhangs))
        return Source((y.made, x.made), (y.read, x.read), there)
    if isinstance(layer, L.ConvTranspose):
        y, x = _transposed(layer, 0, rows, h), _transposed(layer, 1, columns, w)
        window = replace(layer.window, pad=(y.before, y.after, x.before, x.after))
        return Source(need, (y.read, x.read), replace(layer, window=window, extra=(y.beyond, x.beyond)))
    if isinstance(layer, L.Upsample):
        y, x = _enlarged(layer, rows, h), _enlarged(layer, columns, w)
        return Source((y.made, x.made), (y.read, x.read), layer)
    if isinstance(layer, L.LRNWithin):
        around = _reached(rows, h, layer.size // 2), _reached(columns, w, layer.size // 2)
        return Source(around, around, layer)
    return Source(need, need, replace(layer, frozen=None) if isinstance(layer, L.Dropout) else layer)


def _windowed(layer: L.Conv | L.MaxPool | L.AvgPool, axis: int, need: Span, size: int) -> Along:
    window = layer.window
    stride, extent, (before, after) = window.stride[axis], window.extent[axis], window.pad[2 * axis :][:2]
    first = min(need[0], (size - 1 + before) // stride)  # windows in the padding alone need company,
    last = max(need[1] - 1, -((extent - 1 - before) // stride))  # for something must be read
    top, bottom = first * stride - before, last * stride - before + extent
    read = max(0, top), min(size, bottom)
    padded = min(bottom - read[1], after)
    return Along((first, last + 1), read, read[0] - top, padded, bottom - read[1] - padded)


def _transposed(layer: L.ConvTranspose, axis: int, need: Span, size: int) -> Along:
    window, (start, end) = layer.window, need
    stride, extent, before = window.stride[axis], window.extent[axis], window.pad[2 * axis]
    first = max(0, min(-((extent - 1 - start - before) // stride), (start + before) // stride, size - 1))
    last = min(size - 1, (end - 1 + before) // stride)
    top, bottom = first * stride - before, last * stride - before + extent  # of all that they stamp
    return Along(need, (first, last + 1), start - top, max(0, bottom - end), max(0, end - bottom))


def _enlarged(layer: L.Upsample, need: Span, size: int) -> Along:
    """New pixels are mixed from those old ones whose centres are next to theirs."""
    (start, end), factor = need, layer.factor
    read = start // factor, -(-end // factor)
    if layer.method == "bilinear":
        before, after = (2 * start + 1 - factor) // (2 * factor), (2 * end - 1 - factor) // (2 * factor) + 1
        read = max(0, before), min(size, after + 1)
    return Along((read[0] * factor, read[1] * factor), read, 0, 0)


def _reached(need: Span, size: int, reach: int) -> Span:
    return max(0, need[0] - reach), min(size, need[1] + reach)


def size_of(area: Area) -> tuple[int, int]:
    (top, bottom), (left, right) = area
    return bottom - top, right - left


def within(area: Area, whole: Area) -> Area:
    """The same area, counted from the first corner of a larger one."""
    (top, bottom), (left, right) = area
    (down, _), (across, _) = whole
    return (top - down, bottom - down), (left - across, right - across)


def union(areas: Sequence[Area]) -> Area:
    rows, columns = (
        (min(area[axis][0] for area in areas), max(area[axis][1] for area in areas)) for axis in (0, 1)
    )
    return rows, columns


def at(area: Area) -> tuple[slice, slice, slice]:
    """To index (N, H, W, C) with."""
    return slice(None), slice(*area[0]), slice(*area[1])
