"""Operations of ONNX that move numbers to other places, or look at them in another way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from minidnn.errors import MismatchError, TooLargeError, UnsupportedError
from minidnn.layers import GlobalAvgPool, Upsample
from weights_tools.readers.onnx_build import Builder
from weights_tools.readers.onnx_fold import new_shape
from weights_tools.readers.onnx_layers import MAX_STEP, image
from weights_tools.readers.onnx_layout import Seen
from weights_tools.readers.onnx_proto import OnnxNode


def reshape(net: Builder, node: OnnxNode) -> Seen:
    x = net.map(node)
    return x.reshaped(new_shape(net, node, x.shape))


def transpose(net: Builder, node: OnnxNode) -> Seen:
    x = net.map(node, padded=False)
    order = tuple(node.integers("perm") or reversed(range(len(x.shape))))
    y = x.transposed(order)
    return y if y.order or not any(y.pad) else net.with_pad(node, x).transposed(order)


def depth_to_space(net: Builder, node: OnnxNode) -> Seen:
    x, (n, c, h, w), size = _blocks(net, node)
    if c % (size * size):
        raise MismatchError(f"{node.where}: {c} channels in blocks of {size}; fetch the file again")
    if node.text("mode", "DCR") == "CRD":
        cut = x.reshaped((n, c // size**2, size, size, h, w)).transposed((0, 1, 4, 2, 5, 3))
    else:
        cut = x.reshaped((n, size, size, c // size**2, h, w)).transposed((0, 3, 4, 1, 5, 2))
    return net.as_image(node, cut.reshaped((n, c // size**2, h * size, w * size)), suffix="")


def space_to_depth(net: Builder, node: OnnxNode) -> Seen:
    x, (n, c, h, w), size = _blocks(net, node)
    if h % size or w % size:
        raise MismatchError(f"{node.where}: a map of {h}x{w} in blocks of {size}; fetch the file again")
    cut = x.reshaped((n, c, h // size, size, w // size, size)).transposed((0, 3, 5, 1, 2, 4))
    return net.as_image(node, cut.reshaped((n, c * size**2, h // size, w // size)), suffix="")


def _blocks(net: Builder, node: OnnxNode) -> tuple[Seen, tuple[int, ...], int]:
    x, size = net.map(node), node.integer("blocksize", 0)
    if len(x.shape) != 4 or not 1 <= size <= MAX_STEP:
        raise MismatchError(f"{node.where}: blocks of {size} in {x.shape}; fetch the file again")
    return x, x.shape, size


def pad(net: Builder, node: OnnxNode) -> Seen:
    """Kept in mind, for the window that comes next to have it among its own pads."""
    x = net.map(node)
    if node.text("mode", "constant") != "constant":
        raise UnsupportedError(f"Pad by {node.text('mode', '')}")
    pads = net.listed(node, "pads", 1) or node.integers("paddings") or []
    fill = node.real("value", 0.0)
    if (found := net.optional(node, 2, "value") if net.opset >= 11 else None) is not None and found.size == 1:
        fill = float(found.reshape(-1)[0])
    rank = len(x.shape)
    axes = net.listed(node, "axes", 3) or list(range(rank))
    if len(pads) != 2 * len(axes) or any(not -rank <= axis < rank for axis in axes):
        raise MismatchError(f"{node.where}: pads {pads} for {x.shape}; fetch the file again")
    if not any(pads):
        return x
    around = {axis % rank: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    at = {letter: i for i, letter in enumerate(x.order or "", start=1)}
    (top, bottom), (left, right) = (around.pop(at.get(letter, -1), (0, 0)) for letter in "hw")
    if x.order is None or any(map(any, around.values())) or min(pads) < 0:
        raise UnsupportedError(f"Pad by {pads} of {x.shape}: only rows and columns can grow")
    if max(pads) > MAX_STEP:
        raise TooLargeError(f"{node.where} by {max(pads):,}, the limit is {MAX_STEP:,}")
    return replace(x, pad=(top, bottom, left, right), fill=fill)


def reduce_mean(net: Builder, node: OnnxNode) -> Seen:
    x = net.map(node)
    rank, axes = len(x.shape), net.listed(node, "axes", 1)
    if not axes and node.integer("noop_with_empty_axes", 0):
        return x
    gone = {axis % rank for axis in axes if -rank <= axis < rank} if axes else set(range(rank))
    over = {atom for i in gone if i > 0 for atom in x.axes[i - 1]}
    if 0 in gone or over != {*x.rows, *x.cols}:
        raise UnsupportedError(f"ReduceMean over the axes {sorted(gone)} of {x.shape}: only rows and columns")
    name = net.emit(node, GlobalAvgPool(), x)
    keep = node.integer("keepdims", 1)
    left = [() if i in gone else axis for i, axis in enumerate(x.axes, start=1) if keep or i not in gone]
    return replace(x, node=name, rows=(), cols=(), axes=tuple(left), sole=True)


def upsample(net: Builder, node: OnnxNode) -> Seen:
    """Upsample and Resize: to a whole multiple of both sizes, where they agree with ours on every pixel."""
    x = net.as_image(node, net.map(node))
    h, w, c = x.size
    found = _wanted(net, node, x)
    factor = found[2] // h
    if found != (1, c, h * factor, w * factor) or not 1 <= factor <= MAX_STEP:
        raise UnsupportedError(f"{node.op} of {x.shape} to {found}: only by one whole factor")
    is_old = node.op == "Upsample" or net.opset < 11
    mode, centre = node.text("mode", "nearest"), "asymmetric" if is_old else "half_pixel"
    centre = node.text("coordinate_transformation_mode", centre)
    rounding = node.text("nearest_mode", "floor" if is_old else "round_prefer_floor")
    is_plain = mode == "nearest" and (centre, rounding) in [
        ("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil"),
    ]  # fmt: skip
    is_bilinear = mode == "linear" and centre in ("half_pixel", "pytorch_half_pixel")
    if not (is_plain or is_bilinear):
        raise UnsupportedError(f"{node.op} {mode}, {centre}, {rounding}")
    layer = Upsample(factor, "nearest" if is_plain else "bilinear")
    return image(net, net.emit(node, layer, x), x)


def _wanted(net: Builder, node: OnnxNode, x: Seen) -> tuple[int, ...]:
    """The shape that Upsample or Resize should give, for one image."""
    old = (1, x.size[2], *x.size[:2])
    at = 1 if node.op == "Upsample" or net.opset < 11 else 2
    scales = net.optional(node, at, "scales")
    if scales is None and "scales" in node.attributes:
        scales = node.attributes["scales"].reals(7)
    sizes = net.listed(node, "sizes", 3) if node.op == "Resize" and net.opset >= 11 else None
    if sizes and len(sizes) == 4:
        return (sizes[0] // x.batch, *sizes[1:])
    if scales is None or scales.size != 4 or not np.all(np.isfinite(scales)):
        raise UnsupportedError(f"{node.op} without a scale for each of four axes")
    return tuple(int(n * float(scale)) for n, scale in zip(old, scales.reshape(-1), strict=True))
