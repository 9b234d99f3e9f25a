"""What a step takes on a card: CuPy's pool by its own rules, and what our kernels for a card ask of it.

Not counted is what the driver takes for itself before any array is there, some 300 to 600 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from minidnn import layers as L
from minidnn.arrays import device_of
from minidnn.kernels.choice import Kernel
from minidnn.kernels.cuda.blas import WORKSPACE
from minidnn.layers.base import Layer, Shape, is_placeholder
from minidnn.net import Net
from minidnn.plan import prices
from minidnn.plan.prices import Price
from minidnn.plan.rehearsal import Memory

__all__ = ["WORKSPACE", "Pool", "backward", "forward", "is_on_card"]


class Pool(Memory):
    """Here all is lent, every block may be cut for anything, and none is ever given back."""

    unit = 512  # bytes
    least = 1 << 40
    lends_all = True

    def begin(self) -> None:
        """It keeps all that it has."""


def is_on_card(net: Net) -> bool:
    """Whether its weights lie on a device."""
    return any(device_of(array) != "cpu" for array in net.params.values() if not is_placeholder(array))


def step(layers: Sequence[Any], how: Kernel, x_shape: Shape, item: int) -> list[Price]:
    """As `prices.step`: a shifted convolution rectifies its outputs as it crops them."""
    conv, relu, *pool = layers
    shape = conv.out_shape(x_shape)
    found = forward(conv, how, [x_shape], prod(shape), item)
    if not _is_shifted(conv, how, x_shape):  # both outputs, and the gap that rows leave between them
        found = found._replace(lent=(found.result, *found.lent), is_first=False)
    after = [forward(each, how, [shape], prod(each.out_shape(shape)), item) for each in pool]
    return [found, Price(aux=forward(relu, how, [shape], prod(shape), item).aux), *after]


def step_back(layers: Sequence[Any], how: Kernel, x_shape: Shape, item: int) -> list[Price]:
    """As `prices.step_back`."""
    conv, relu, *pool = layers
    shape = conv.out_shape(x_shape)
    before = [backward(each, how, [shape], prod(each.out_shape(shape)), item) for each in pool]
    return [
        *before,
        backward(relu, how, [shape], prod(shape), item),
        backward(conv, how, [x_shape], prod(shape), item),
    ]


def forward(layer: Layer, how: Kernel, x_shapes: Sequence[Shape], y: int, item: int) -> Price:
    """As `prices.forward`, where the two differ."""
    x_shape = x_shapes[0]
    if isinstance(layer, L.Conv) and _is_shifted(layer, how, x_shape):
        ground, wide = _grounds(layer, x_shape, item)
        is_padded = layer.window.padded_size(*x_shape[1:3]) != x_shape[1:3]
        is_cropped = item * y != wide
        return Price(item * y, lent=(ground,) * is_padded + (wide,) * is_cropped)
    if isinstance(layer, L.Conv):
        return _plain(layer, x_shape, item)
    if isinstance(layer, L.MaxPool):
        return Price(item * y, aux=y * (1 if layer.window.taps <= 256 else 4))
    if isinstance(layer, L.LRN):
        return Price(item * y, fresh=2 * item * y, aux=item * y)
    return prices.forward(layer, how, x_shapes, y, item)


def backward(layer: Layer, how: Kernel, x_shapes: Sequence[Shape], y: int, item: int) -> Price:
    """As `prices.backward`, likewise."""
    x_shape = x_shapes[0]
    if isinstance(layer, L.Conv) and _is_shifted(layer, how, x_shape):
        ground, wide = _grounds(layer, x_shape, item)
        is_cropped = layer.window.padded_size(*x_shape[1:3]) != x_shape[1:3]
        return Price(item * prod(x_shape), lent=(wide,) * (item * y != wide) + (ground,) * is_cropped)
    if isinstance(layer, L.Conv):
        rows, shares = _rows(layer, x_shape, item)[0], prices._plain_back(layer, x_shape, item).fresh
        return Price(item * prod(x_shape), True, (rows, shares), is_first=True)
    if isinstance(layer, L.MaxPool):
        return Price(item * prod(x_shape))
    if isinstance(layer, L.LRN):
        return Price(item * prod(x_shape), lent=(item * prod(x_shape),) * 5)  # one by one: they leave gaps
    return prices.backward(layer, how, x_shapes, y, item)


def _plain(layer: L.Conv, x_shape: Shape, item: int) -> Price:
    """Of the padded images and the product only one is there at a time."""
    rows, part = _rows(layer, x_shape, item)
    y = item * prod(layer.out_shape(x_shape))
    beside = max(prices._ground(layer.window, x_shape, item), part)
    return Price(y, True, (rows, beside), is_first=True)


def _rows(layer: L.Conv, x_shape: Shape, item: int) -> tuple[int, int]:
    """The windows as rows, of as many images as go at once, and what comes of them."""
    _, oh, ow, k = layer.out_shape(x_shape)
    places = item * prices._at_once(layer, x_shape) * oh * ow
    return places * layer.window.taps * layer.w.shape[2], places * k // layer.groups


def _is_shifted(layer: L.Conv, how: Kernel, x_shape: Shape) -> bool:
    return how.algorithm(x_shape, layer.w, layer.window, layer.groups) == "shifted"


def _grounds(layer: L.Conv, x_shape: Shape, item: int) -> tuple[int, int]:
    """The padded images, and as many places with all outputs."""
    places = x_shape[0] * prod(layer.window.padded_size(*x_shape[1:3]))
    return item * places * x_shape[3], item * places * layer.out_channels
