"""Operations of ONNX that slide a window, normalise, or bend number by number: each one layer of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from minidnn.errors import DamagedFileError, MismatchError, TooLargeError, UnsupportedError
from minidnn.layers import (
    LRN,
    Add,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dropout,
    GlobalAvgPool,
    Layer,
    LeakyReLU,
    MaxPool,
    PReLU,
    ReLU,
    Sigmoid,
    Softmax,
)
from minidnn.window import Window
from weights_tools.readers.onnx_build import Builder
from weights_tools.readers.onnx_layout import Seen
from weights_tools.readers.onnx_proto import FLOATS, OnnxNode

MAX_STEP = 1024  # of a window's numbers: kernel, stride, pad, dilation
LOWEST = -3e38  # what exporters pad with to say minus infinity


# Windows.


def conv(net: Builder, node: OnnxNode) -> Seen:
    x = net.as_image(node, net.map(node, padded=False))
    w, groups = _filters(net, node), node.integer("group", 1)
    if any(x.pad) and x.fill != 0:
        raise UnsupportedError(f"Pad with {x.fill:g} before Conv")
    if w.shape[1] * groups != x.size[2]:
        found = f"filters for {w.shape[1]} x {groups} channels, {x.size[2]} come"
        raise MismatchError(f"{node.where}: {found}; fetch the file again")
    kept = net.final(w, ("OIHW",), lambda w: w.transpose(2, 3, 1, 0))
    layer = Conv(kept, _bias(net, node), _window(net, node, x, w.shape[2:]), groups)
    return image(net, net.emit(node, layer, x), x)


def conv_transpose(net: Builder, node: OnnxNode) -> Seen:
    x = net.as_image(node, net.map(node))
    w, groups = _filters(net, node), node.integer("group", 1)
    if node.text("auto_pad", "NOTSET") not in ("NOTSET", "") or node.integers("output_shape"):
        raise UnsupportedError("ConvTranspose whose pads follow from its output's size")
    extra = _pair(node, "output_padding", 0)
    kept = net.final(w, ("OIHW",), lambda w: w.transpose(2, 3, 1, 0))
    layer = ConvTranspose(kept, _bias(net, node), _window(net, node, x, w.shape[2:]), groups, extra)
    return image(net, net.emit(node, layer, x), x)


def _filters(net: Builder, node: OnnxNode) -> np.ndarray:
    w = net.constant(node, 1, "filters")
    if w.ndim != 4:
        raise UnsupportedError(
            f"{node.op} of {w.ndim - 2} dimensions" if w.ndim > 2 else f"{node.op} of a matrix"
        )
    stated = node.integers("kernel_shape")
    if stated and tuple(stated) != w.shape[2:]:
        raise MismatchError(f"{node.where}: kernel_shape {stated}, filters {w.shape}; fetch the file again")
    return w


def _bias(net: Builder, node: OnnxNode) -> np.ndarray | None:
    b = net.optional(node, 2, "bias")
    return None if b is None else net.final(b, (), lambda b: b)


def max_pool(net: Builder, node: OnnxNode) -> Seen:
    x = net.as_image(node, net.map(node, padded=False))
    never_wins = x.fill <= LOWEST or (x.fill == 0 and isinstance(net.layer(x), ReLU | Sigmoid))
    if any(x.pad) and not never_wins:
        x = net.as_image(node, net.with_pad(node, x))
    return image(net, net.emit(node, MaxPool(_window(net, node, x)), x), x)


def average_pool(net: Builder, node: OnnxNode) -> Seen:
    x = net.as_image(node, net.map(node, padded=False))
    counts_pads = bool(node.integer("count_include_pad", 0))
    own_pads = any(node.integers("pads") or ()) or node.text("auto_pad", "NOTSET").startswith("SAME")
    if any(x.pad) and (x.fill != 0 or (own_pads and not counts_pads)):
        x = net.as_image(node, net.with_pad(node, x))
    divisor = "padded" if counts_pads or any(x.pad) else "real"
    return image(net, net.emit(node, AvgPool(_window(net, node, x), divisor), x), x)


def global_average(net: Builder, node: OnnxNode) -> Seen:
    x = net.as_image(node, net.map(node))
    return image(net, net.emit(node, GlobalAvgPool(), x), x)


def global_max(net: Builder, node: OnnxNode) -> Seen:
    x = net.as_image(node, net.map(node))
    net.warnings[
        f"{node.op} became a window of the whole map: images must keep the size {x.size[:2]} there"
    ] = None
    return image(net, net.emit(node, MaxPool(Window.of(x.size[:2])), x), x)


def image(net: Builder, name: str, x: Seen) -> Seen:
    """A new map with the axes (c, h, w)."""
    return Seen.of(name, x.batch, net.sizes[name], "chw")


def _window(net: Builder, node: OnnxNode, x: Seen, kernel: tuple[int, ...] | None = None) -> Window:
    """The window, with the pads that are pending on x and its own."""
    size = kernel or node.integers("kernel_shape")
    if not size or len(size) != 2:
        raise UnsupportedError(f"{node.op} with a window of {len(size or ())} sizes")
    stride, dilation = _pair(node, "strides", 1), _pair(node, "dilations", 1)
    pads = [a + b for a, b in zip(x.pad, _pads(net, node, x, size, stride, dilation), strict=True)]
    if max(*size, *stride, *dilation, *pads) > MAX_STEP:
        raise TooLargeError(f"{node.where}: a window of more than {MAX_STEP:,}; not a net that we could run")
    ceil = bool(node.integer("ceil_mode", 0))
    return Window.of(tuple(size), stride=stride, pad=pads, dilation=dilation, ceil=ceil)


def _pair(node: OnnxNode, name: str, default: int) -> tuple[int, int]:
    found = node.integers(name) or [default, default]
    if len(found) != 2:
        raise MismatchError(f"{node.where}: {name} {found} for two axes; fetch the file again")
    return found[0], found[1]


def _pads(
    net: Builder, node: OnnxNode, x: Seen, size: list[int] | tuple[int, ...], stride: tuple, dilation: tuple
) -> list[int]:
    """(top, bottom, left, right); the file has (top, left, bottom, right), or a word for what fits."""
    word = node.text("auto_pad", "NOTSET") or "NOTSET"
    if word == "VALID":
        return [0, 0, 0, 0]
    if word == "NOTSET":
        found = node.integers("pads") or [0, 0, 0, 0]
        if len(found) != 4:
            raise MismatchError(f"{node.where}: pads {found} for two axes; fetch the file again")
        if min(found) < 0:
            raise UnsupportedError(f"{node.op} with pads {found} that crop")
        top, left, bottom, right = found
        return [top, bottom, left, right]
    if word not in ("SAME_UPPER", "SAME_LOWER") or min(stride) < 1:
        raise DamagedFileError(f"{node.where}: auto_pad {word!r}, strides {stride}; fetch the file again")
    if max(stride) > 1:
        net.warnings["windows padded to fit (auto_pad) keep the pads that fit images of this size"] = None
    pads: list[int] = []
    around = (sum(x.pad[:2]), sum(x.pad[2:]))
    for n, more, k, step, apart in zip(x.size, around, size, stride, dilation, strict=False):
        total = ((n + more - 1) // step) * step + (k - 1) * apart + 1 - n - more
        if total < -1:  # TensorFlow then takes no pads, ONNX Runtime crops
            raise UnsupportedError(f"{node.op} with auto_pad and strides {stride} beyond its window")
        total = max(0, total)
        less = total // 2
        pads += [less, total - less] if word == "SAME_UPPER" else [total - less, less]
    return pads


# Normalisation.


def lrn(net: Builder, node: OnnxNode) -> Seen:
    x, size = net.as_image(node, net.map(node)), node.integer("size", 0)
    if not 1 <= size <= MAX_STEP:
        raise MismatchError(f"{node.where} over {size} channels; fetch the file again")
    alpha = node.real("alpha", 1e-4) / size  # the file states it for the whole window
    return x.on(net.emit(node, LRN(size, node.real("bias", 1.0), alpha, node.real("beta", 0.75)), x))


def batch_norm(net: Builder, node: OnnxNode) -> Seen:
    if node.integer("training_mode", 0) or not node.integer("spatial", 1):
        raise UnsupportedError("BatchNormalization in training, or by place")
    x = net.map(node)
    arrays = [
        net.constant(node, i, what) for i, what in enumerate(("scale", "shift", "mean", "variance"), start=1)
    ]
    if len(x.shape) < 2 or any(array.shape != (x.shape[1],) for array in arrays):
        found = [array.shape for array in arrays]
        raise MismatchError(f"{node.where}: {found} for the shape {x.shape}; fetch the file again")
    if set(x.axes[0]) != set(x.chans):
        x = net.as_vector(node, x)
    if set(x.axes[0]) != set(x.chans):
        raise UnsupportedError("BatchNormalization whose second axis is not the channels")
    gamma, beta, mean, var = (net.final(array, x.turn, x.along_first) for array in arrays)
    layer = BatchNorm(gamma, beta, mean, var, node.real("epsilon", 1e-5))
    return x.on(net.emit(node, layer, x))


def softmax(net: Builder, node: OnnxNode) -> Seen:
    """Until opset 12 over all axes from `axis` on, by default 1; since then over one, by default the last."""
    x = net.map(node)
    rank, is_old = len(x.shape), net.opset < 13
    axis = node.integer("axis", 1 if is_old else -1)
    if not -rank <= axis < rank:
        raise MismatchError(f"{node.where} along axis {axis} of {x.shape}; fetch the file again")
    axis %= rank
    over = {
        atom for one in (x.axes[max(0, axis - 1) :] if is_old else x.axes[axis - 1 : axis]) for atom in one
    }
    if axis == 0 and not (is_old and x.batch == 1):
        raise UnsupportedError("Softmax over the images of a batch")
    if over != set(x.chans):
        if over != set(x.ours):
            raise UnsupportedError(f"Softmax over axis {axis} of {x.shape}, which is not the channels")
        x = net.as_vector(node, x)
    return x.on(net.emit(node, Softmax(), x))


# Number by number.


def pointwise(layer: type[Layer]) -> Callable[[Builder, OnnxNode], Seen]:
    def made(net: Builder, node: OnnxNode) -> Seen:
        x = net.map(node)
        return x.on(net.emit(node, layer(), x))

    return made


def leaky_relu(net: Builder, node: OnnxNode) -> Seen:
    x = net.map(node)
    return x.on(net.emit(node, LeakyReLU(node.real("alpha", 0.01)), x))


def prelu(net: Builder, node: OnnxNode) -> Seen:
    x, slope = net.map(node), net.constant(node, 1, "slope")
    if net.opset < 7 and slope.ndim == 1 and slope.size > 1:
        slope = slope.reshape(-1, *[1] * (len(x.shape) - 2))
    told = x.per_channel(slope)
    if told is None:
        raise UnsupportedError("PRelu with a slope for each place")
    return x.on(net.emit(node, PReLU(net.final(told, (), lambda s: s)), x))


def clip(net: Builder, node: OnnxNode) -> Seen:
    x = net.map(node)
    low, high = (_bound(net, node, *one) for one in (("min", 1, -np.inf), ("max", 2, np.inf)))
    if low == 0 and high > -LOWEST:
        return x.on(net.emit(node, ReLU(), x))
    if low < LOWEST and high > -LOWEST:
        return x
    if low != 0 or high <= 0:
        raise UnsupportedError(f"Clip from {low:g} to {high:g}")
    above = net.scaled(node, replace(x, sole=False), None, np.array([-high]))
    above = x.on(net.emit(node, ReLU(), above, suffix="_above"))
    minus = net.scaled(node, replace(above, sole=False), np.array([-1.0]), None)
    below = x.on(net.emit(node, ReLU(), x, suffix="_below"))
    net.done[f"made a clip from 0 to {high:g} of two ReLUs: relu(x) - relu(x - {high:g})"] += 1
    return x.on(net.emit(node, Add(), below, minus))


def _bound(net: Builder, node: OnnxNode, name: str, i: int, default: float) -> float:
    if net.opset < 11:
        return node.real(name, default)
    found = net.optional(node, i, name)
    if found is None:
        return default
    if found.size != 1:
        raise MismatchError(f"{node.where}: {name} of shape {found.shape}; fetch the file again")
    return float(found.reshape(-1)[0])


def dropout(net: Builder, node: OnnxNode) -> Seen:
    x, rate = net.map(node), node.real("ratio", 0.5)
    if net.opset >= 12 and (found := net.optional(node, 1, "ratio")) is not None and found.size == 1:
        rate = float(found.reshape(-1)[0])
    return x.on(net.emit(node, Dropout(rate), x))


def cast(net: Builder, node: OnnxNode) -> Seen:
    if node.integer("to", 1) not in FLOATS:
        raise UnsupportedError("Cast of the image to whole numbers")
    return net.map(node)
