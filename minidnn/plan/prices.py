"""What one layer takes from memory on its way forward and back, told from shapes alone.

These are sums over the arrays that kernels/ and layers/ make, in the same order; the test that runs the real
thing beside them says when the two have drifted apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

from minidnn import layers as L
from minidnn.kernels.behind import is_halved
from minidnn.kernels.choice import Kernel
from minidnn.kernels.cpu import chunked, winograd
from minidnn.kernels.cpu.channels import PIECE
from minidnn.kernels.cpu.desk import Middle, needs
from minidnn.kernels.cpu.threads import CREW
from minidnn.kernels.im2col import ROWS_AT_ONCE
from minidnn.kernels.pool import IN_CACHE
from minidnn.layers.base import Layer, Shape
from minidnn.tiles.geometry import Cut
from minidnn.window import Window

HANDS_ON = L.GradientReversal | L.Dropout | L.Flatten | Cut  # what they got, forward
HANDS_BACK = L.Concat | L.Add | L.Dropout | L.Flatten | L.PadChannels  # or parts of it, going back


class Price(NamedTuple):
    """Bytes: of the result, of scratch beside it, of what is remembered. `lent` is by the run's memory, which
    keeps the block; `fresh` is by the system, which takes it back; on a desk there is room for the largest.
    """

    result: int = 0
    is_lent: bool = False
    lent: tuple[int, ...] = ()
    fresh: int = 0
    aux: int = 0
    prepared: int = 0  # filters made for this, once
    is_first: bool = False  # the result is there before any scratch
    desk: Mapping[str, int] = MappingProxyType({})  # of each worker


def step(layers: Sequence[Any], how: Kernel, x_shape: Shape, item: int) -> list[Price]:
    """Of a convolution, and of each layer that it does on the way from what came of the one before."""
    conv, relu, *pool = layers
    shape = conv.out_shape(x_shape)
    y, found = prod(shape), forward(conv, how, [x_shape], prod(shape), item)
    rectified = forward(relu, how, [shape], y, item)
    pooled = [forward(each, how, [shape], prod(each.out_shape(shape)), item) for each in pool]
    if not _by_rows(conv, how, x_shape):
        return [found, rectified, *pooled]
    is_winograd = _name(conv, how, x_shape) in winograd.TRANSFORMS
    if pool and is_winograd and is_halved(shape, pool[0].window):
        found, pooled = found._replace(result=pooled[0].result), [Price(aux=pooled[0].aux)]
    return [found, Price(aux=rectified.aux), *pooled]


def step_back(layers: Sequence[Any], how: Kernel, x_shape: Shape, item: int) -> list[Price]:
    """The way back through them, the last first."""
    conv, relu, *pool = layers
    shape = conv.out_shape(x_shape)
    y, found = prod(shape), backward(conv, how, [x_shape], prod(conv.out_shape(x_shape)), item)
    if _by_rows(conv, how, x_shape) and all(is_halved(shape, each.window) for each in pool):
        return [found]
    before = [backward(each, how, [shape], prod(each.out_shape(shape)), item) for each in pool]
    return [*before, backward(relu, how, [shape], y, item), found]


def forward(layer: Layer, how: Kernel, x_shapes: Sequence[Shape], y: int, item: int) -> Price:
    """For inputs of these shapes and an output of y numbers."""
    x_shape = x_shapes[0]
    if isinstance(layer, L.Conv):
        return _conv(layer, how, x_shape, item)
    if isinstance(layer, L.ConvTranspose):
        plain = L.Conv(layer.w, None, layer.window, layer.groups)
        priced = _plain_back(plain, layer.out_shape(x_shape), item)
        return Price(item * y, False, (priced.result, *priced.lent), priced.fresh)
    if isinstance(layer, HANDS_ON):
        return Price()
    if isinstance(layer, L.ReLU):
        return Price(item * y, True, aux=-(-y // 8))
    if isinstance(layer, L.BatchNorm):
        return Price(item * y, True)
    if isinstance(layer, L.MaxPool):
        switches = y * (1 if layer.window.taps <= 256 else 4)
        return Price(item * y, True, fresh=_ground(layer.window, x_shape, item), aux=switches)
    if isinstance(layer, L.LRNWithin):
        return Price(item * y, fresh=2 * item * y, aux=item * y)
    if isinstance(layer, L.LRN):
        return Price(item * y, True, fresh=3 * item * min(y, PIECE) * CREW.size, aux=item * y)
    if isinstance(layer, L.AvgPool):
        return Price(item * y, fresh=_ground(layer.window, x_shape, item) + item * y)
    if isinstance(layer, L.Concat | L.Add | L.FC | L.GlobalAvgPool | L.PadChannels):
        return Price(item * y)
    return Price(item * y, fresh=item * y)


def backward(layer: Layer, how: Kernel, x_shapes: Sequence[Shape], y: int, item: int) -> Price:
    """The gradient by the inputs, from that by the output."""
    x_shape, x = x_shapes[0], item * sum(map(prod, x_shapes))
    if isinstance(layer, L.Conv):
        return _conv_back(layer, how, x_shape, item)
    if isinstance(layer, L.ConvTranspose):
        plain = L.Conv(layer.w, None, layer.window, layer.groups)
        return _plain(plain, layer.out_shape(x_shape), item)
    if isinstance(layer, HANDS_BACK):
        return Price()
    if isinstance(layer, L.ReLU | L.BatchNorm):
        return Price(x, True)
    if isinstance(layer, L.MaxPool | L.MaxUnpool):
        whole = item * x_shape[0] * prod(layer.window.padded_size(*x_shape[1:3])) * x_shape[3]
        return Price(whole, True, fresh=(1 + item * layer.window.overlaps) * min(y, CREW.size * IN_CACHE))
    if isinstance(layer, L.LRNWithin):
        return Price(x, fresh=4 * x)
    if isinstance(layer, L.LRN):
        return Price(x, True, fresh=x + 5 * item * min(y, PIECE) * CREW.size)  # x: where dzdy is a view
    if isinstance(layer, L.AvgPool):
        return Price(x + _ground(layer.window, x_shape, item), fresh=item * y)
    if isinstance(layer, Cut | L.FC | L.GlobalAvgPool | L.GradientReversal):
        return Price(x)
    return Price(x, fresh=x)


def _name(layer: L.Conv, how: Kernel, x_shape: Shape) -> str:
    return how.algorithm(x_shape, layer.w, layer.window, layer.groups)


def _by_rows(layer: L.Conv, how: Kernel, x_shape: Shape) -> bool:
    """Whether what is behind is done while the rows are in the cache."""
    is_cut = layer.groups == 1 and layer.out_channels % 8 == 0
    return is_cut and _name(layer, how, x_shape) in ("chunked", *winograd.TRANSFORMS)


def _conv(layer: L.Conv, how: Kernel, x_shape: Shape, item: int) -> Price:
    name, k = _name(layer, how, x_shape), layer.out_channels
    if name in winograd.TRANSFORMS:
        return _winograd(name, x_shape, layer.window, k, item)
    if name == "im2col":
        return _plain(layer, x_shape, item)
    ground, y = _ground(layer.window, x_shape, item), item * prod(layer.out_shape(x_shape))
    chunks = _chunks(layer, x_shape, item)
    if x_shape[3] // layer.groups < chunked.FEW:
        return Price(y, True, (ground or item * prod(x_shape), *chunks))
    return Price(y, True, chunks, ground)


def _conv_back(layer: L.Conv, how: Kernel, x_shape: Shape, item: int) -> Price:
    name = _name(layer, how, x_shape)
    if name in winograd.TRANSFORMS:
        return _winograd(name, layer.out_shape(x_shape), winograd.turned(layer.window), x_shape[3], item)
    if name == "im2col":
        return _plain_back(layer, x_shape, item)
    h, w = layer.window.padded_size(*x_shape[1:3])
    ground, chunks = item * x_shape[0] * h * w * x_shape[3], _chunks(layer, x_shape, item)
    if x_shape[3] // layer.groups < chunked.FEW:
        return Price(item * prod(x_shape), True, (ground, *chunks))
    return Price(ground, True, chunks)


def _winograd(name: str, x_shape: Shape, window: Window, k: int, item: int) -> Price:
    n, h, w, c = x_shape
    cut = winograd.tiling((h, w), c, k, winograd.panel_of(k), window, winograd.TRANSFORMS[name])
    y, prepared, lent = item * n * prod(cut.size) * k, item * cut.p**2 * c * k, list[int]()
    if cut.in_blocks(n):
        parts = needs(cut, cut.blocks(n)[0].shape)
    else:
        images = min(n, cut.at_once)
        parts = needs(cut, cut.parts(images)[0].shape)
        parts[Middle] = {}
        lent += [item * size for size in needs(cut, (images, cut.rows, cut.columns))[Middle].values()]
    desk = dict[str, int]()
    for part in parts.values():
        desk |= {room: max(item * size, desk.get(room, 0)) for room, size in part.items()}
    return Price(y, True, tuple(lent), prepared=prepared, desk=desk)


def _plain(layer: L.Conv, x_shape: Shape, item: int) -> Price:
    n, oh, ow, k = layer.out_shape(x_shape)
    at_once, row = _at_once(layer, x_shape), item * oh * ow
    rows, y = row * at_once * layer.window.taps * layer.w.shape[2], row * n * k
    fresh = _ground(layer.window, x_shape, item) + row * at_once * k // layer.groups
    return Price(y, True, (rows,), fresh)


def _plain_back(layer: L.Conv, x_shape: Shape, item: int) -> Price:
    _, oh, ow, _ = layer.out_shape(x_shape)
    at_once, dzdx = _at_once(layer, x_shape), item * prod(x_shape)
    rows = item * at_once * oh * ow * layer.window.taps * layer.w.shape[2]
    h, w = layer.window.padded_size(*x_shape[1:3])
    return Price(dzdx, True, (rows,), fresh=item * at_once * h * w * layer.w.shape[2])


def _at_once(layer: L.Conv, x_shape: Shape) -> int:
    """The images that the plain way lays out at once."""
    _, oh, ow, _ = layer.out_shape(x_shape)
    return min(x_shape[0], max(1, ROWS_AT_ONCE // (oh * ow * layer.window.taps * layer.w.shape[2])))


def _chunks(layer: L.Conv, x_shape: Shape, item: int) -> tuple[int, ...]:
    n, oh, ow, k = layer.out_shape(x_shape)
    images, rows = chunked.parts(n, (oh, ow), layer.window, layer.w)
    per_place = layer.window.taps * layer.w.shape[2] + 1 + k // layer.groups  # 1: for the bias
    return (item * images * rows * ow * per_place,) * CREW.size


def _ground(window: Window, x_shape: Shape, item: int) -> int:
    """The image with its pads, where it has any."""
    n, h, w, c = x_shape
    ph, pw = window.padded_size(h, w)
    return item * n * ph * pw * c if (ph, pw) != (h, w) else 0
