"""Our layers as MatConvNet's records, back by the ways that the reader came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minidnn.arrays import Array, to_host
from minidnn.graph import Node
from minidnn.layers import (
    FC,
    LRN,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dropout,
    GlobalAvgPool,
    LeakyReLU,
    LRNWithin,
    MaxPool,
    ReLU,
    Sigmoid,
    Softmax,
)
from minidnn.net import Net
from minidnn.window import Window

Fields = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """A record: its type in SimpleNN, its block in DagNN, its settings and its arrays (None: absent).

    `sources` are our arrays that these were made of, by which sharing is known.
    """

    type: str
    block: str
    fields: Fields = field(default_factory=dict)
    arrays: dict[str, np.ndarray | None] = field(default_factory=dict)
    sources: dict[str, Array | None] = field(default_factory=dict)


# What a DagNN calls otherwise than a SimpleNN.
BLOCKS = {("Pooling", "pool"): "poolSize"}
PLAIN = {
    ReLU: Made("relu", "ReLU", {"leak": 0.0}),
    Sigmoid: Made("sigmoid", "Sigmoid"),
    Softmax: Made("softmax", "SoftMax"),
    Concat: Made("concat", "Concat", {"dim": 3.0}),
    Add: Made("sum", "Sum"),
}


def lacking(net: Net) -> list[str]:
    """Everything in the net that MatConvNet does not do, with the names of the layers."""
    names: dict[str, list[str]] = {}
    for node in net.nodes:
        if why := _lacking(node, net):
            names.setdefault(why, []).append(node.name)
    return [f"{why} ({', '.join(layers)})" for why, layers in names.items()]


def _lacking(node: Node, net: Net) -> str | None:
    layer = node.layer
    if type(layer) in PLAIN or isinstance(layer, FC | LeakyReLU | BatchNorm):
        return None
    if isinstance(layer, Conv):
        return "convolution that rounds up" if layer.window.ceil else None
    if isinstance(layer, ConvTranspose):
        cropped = all(
            after >= extra for after, extra in zip(layer.window.pad[1::2], layer.extra, strict=True)
        )
        dilated = layer.window.dilation != (1, 1)
        return (
            None
            if cropped and not dilated
            else "transposed convolution with dilation, or extra beyond its pad"
        )
    if isinstance(layer, GlobalAvgPool):
        return (
            None
            if net.input_shape
            else "global pooling of maps of unknown size: give the net its input_shape"
        )
    if isinstance(layer, MaxPool | AvgPool):
        return _lacking_of_pool(layer)
    if isinstance(layer, LRN) and not isinstance(layer, LRNWithin):
        return None
    if isinstance(layer, Dropout):
        return None if layer.frozen is None else "dropout with a frozen mask"
    return type(layer).__name__


def _lacking_of_pool(layer: MaxPool | AvgPool) -> str | None:
    window = layer.window
    if window.dilation != (1, 1):
        return "pooling with dilation"
    floor = rounded_down(window)
    if floor is None:
        return "pooling with as much pad as window"
    pads_count = isinstance(layer, AvgPool) and layer.divisor != "real"
    return "average that counts the padding" if pads_count and any(floor.pad) else None


def rounded_down(window: Window) -> Window | None:
    """A window that rounds down and sees the same, by more pad at the bottom and right, as import-caffe does.

        bottom = min(bottom + stride - 1, kernel - 1)

    The first of the two is rounding up, the second that no window starts beyond the image. None, where there
    is as much pad as window, which MatConvNet does not take.
    """
    (top, bottom, left, right), (kh, kw), (sy, sx) = window.pad, window.kernel, window.stride
    if max(top, bottom) >= kh or max(left, right) >= kw:
        return None
    pad = top, min(bottom + sy - 1, kh - 1), left, min(right + sx - 1, kw - 1)
    return replace(window, pad=pad, ceil=False) if window.ceil else window


def record(node: Node, net: Net) -> Made:
    """The record of a layer that MatConvNet has."""
    layer: Any = node.layer
    if type(layer) in PLAIN:
        return PLAIN[type(layer)]
    if isinstance(layer, LeakyReLU):
        return Made("relu", "ReLU", {"leak": float(layer.leak)})
    if isinstance(layer, Dropout):
        return Made("dropout", "DropOut", {"rate": float(layer.rate)})
    if isinstance(layer, LRN):
        param = layer.size, layer.kappa, layer.alpha, layer.beta
        return Made("normalize", "LRN", {"param": numbers(param)})
    if isinstance(layer, BatchNorm):
        return _bnorm(layer)
    if isinstance(layer, MaxPool | AvgPool | GlobalAvgPool):
        return _pool(layer, node, net)
    return _convt(layer) if isinstance(layer, ConvTranspose) else _conv(layer)


def _conv(layer: Conv | FC) -> Made:
    window = layer.window if isinstance(layer, Conv) else Window.of(layer.w.shape[:2])
    fields = {"pad": window.pad, "stride": window.stride, "dilate": window.dilation}
    return _bank("conv", "Conv", layer, fields)


def _convt(layer: ConvTranspose) -> Made:
    """What is extra at the bottom and right is not cropped."""
    (top, bottom, left, right), (extra_y, extra_x) = layer.window.pad, layer.extra
    crop = top, bottom - extra_y, left, right - extra_x
    fields = {"crop": crop, "upsample": layer.window.stride, "numGroups": (layer.groups,)}
    return _bank("convt", "ConvTranspose", layer, fields)


def _bank(type: str, block: str, layer: Conv | ConvTranspose | FC, fields: dict[str, Any]) -> Made:
    sources = {"w": layer.w, "b": layer.b}
    b = None if layer.b is None else _host(layer.b).reshape(1, -1)
    held = {name: numbers(value) for name, value in fields.items()}
    return Made(type, block, held, {"w": _host(layer.w), "b": b}, sources)


def _bnorm(layer: BatchNorm) -> Made:
    """MatConvNet keeps sigma = sqrt(var + eps), as a column beside the mean."""
    sigma = np.sqrt(_host(layer.var) + layer.eps)
    arrays: dict[str, np.ndarray | None] = {
        "gamma": _host(layer.gamma).reshape(-1, 1),
        "beta": _host(layer.beta).reshape(-1, 1),
        "moments": np.stack([_host(layer.mean), sigma], axis=1),
    }
    sources = {"gamma": layer.gamma, "beta": layer.beta, "moments": layer.mean}
    return Made("bnorm", "BatchNorm", {"epsilon": float(layer.eps)}, arrays, sources)


def _pool(layer: MaxPool | AvgPool | GlobalAvgPool, node: Node, net: Net) -> Made:
    method = "max" if isinstance(layer, MaxPool) else "avg"
    if isinstance(layer, GlobalAvgPool):
        shapes = net.shapes((1, *(net.input_shape or ())), upto=node.inputs)
        window: Window | None = Window.of(shapes[node.inputs[0]][1:3])
    else:
        window = rounded_down(layer.window)
    if window is None:
        raise TypeError(f"{node.name!r} was not looked at")
    geometry = {"pool": window.kernel, "pad": window.pad, "stride": window.stride}
    return Made("pool", "Pooling", {"method": method} | {k: numbers(v) for k, v in geometry.items()})


def numbers(values: Iterable[float]) -> np.ndarray:
    """A row of doubles, as MATLAB has all its numbers."""
    return np.array([list(values)], "float64")


def cell(items: Iterable[Any]) -> np.ndarray:
    """A cell of one row."""
    held = list(items)
    array = np.empty((1, len(held)), dtype=object)
    for number, item in enumerate(held):
        array[0, number] = item
    return array


def _host(array: Array) -> np.ndarray:
    return np.asarray(to_host(array), "float32")
