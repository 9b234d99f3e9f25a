"""Operations of ONNX on numbers as such: dense layers, sums and products, and maps laid side by side.

A constant that is added goes into the bias before it; a constant that multiplies becomes a batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidnn.errors import MismatchError, UnsupportedError
from minidnn.layers import FC, Add, Concat, Conv
from minidnn.window import Window
from weights_tools.readers.onnx_build import Builder
from weights_tools.readers.onnx_fold import aligned
from weights_tools.readers.onnx_layout import Seen
from weights_tools.readers.onnx_proto import OnnxNode

SIDE_BY_SIDE = ("chw", "hwc", "whc", "cwh", "hcw", "wch")  # orders in which two maps may lie alike


def gemm(net: Builder, node: OnnxNode) -> Seen:
    """y = alpha * x @ w + beta * b"""
    x, w = net.map(node), net.constant(node, 1, "weights")
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    if node.integer("transA", 0):
        raise UnsupportedError("Gemm that transposes the image")
    if w.ndim != 2:
        raise MismatchError(f"{node.where}: weights of shape {w.shape}; fetch the file again")
    y = _dense(net, node, x, w.T if node.integer("transB", 0) else w, alpha)
    b = net.optional(node, 2, "bias")
    if b is None or beta == 0:
        return y
    told = _told(net, node, y, b)
    return net.scaled(node, y, None, told if beta == 1 else told * beta)


def matmul(net: Builder, node: OnnxNode) -> Seen:
    if not isinstance(net.value(node, 0), Seen) or isinstance(net.value(node, 1), Seen):
        raise UnsupportedError("MatMul of other than the image by weights")
    x, w = net.map(node), net.constant(node, 1, "weights")
    if w.ndim != 2:
        raise UnsupportedError(f"MatMul by weights of shape {w.shape}")
    return _dense(net, node, x, w, 1.0)


def _dense(net: Builder, node: OnnxNode, x: Seen, w: np.ndarray, alpha: float) -> Seen:
    """One vector for each image, or one for each pixel: then it is a convolution by 1x1."""
    if w.shape[0] != x.shape[-1]:
        raise MismatchError(f"{node.where}: weights {w.shape} for {x.shape}; fetch the file again")
    last = x.axes[-1] if x.axes else ()
    if len(x.axes) == 1:
        kept = net.final(w, (x.turn, x.size, alpha), lambda w: times(x.dense(w), alpha))
        name = net.emit(node, FC(kept, None), x)
        return Seen.of(name, x.batch, net.sizes[name], "c")
    if last != x.chans:
        raise UnsupportedError(f"{node.op} along the last axis of {x.shape}, which is not the channels")
    kept = net.final(w, ("1x1", alpha), lambda w: times(w[None, None], alpha))
    name = net.emit(node, Conv(kept, None, Window.of(1)), x)
    return x.with_channels(name, net.sizes[name], len(x.axes) - 1)


def times(w: np.ndarray, alpha: float) -> np.ndarray:
    return w if alpha == 1 else w * alpha


def add(net: Builder, node: OnnxNode) -> Seen:
    """Add, and Sum of however many."""
    values = [net.value(node, i) for i in range(len(node.inputs))]
    maps = [net.map(node, i) for i, value in enumerate(values) if isinstance(value, Seen)]
    total = maps[0] if len(maps) == 1 else _sum(net, node, maps)
    for i, value in enumerate(values):
        if isinstance(value, np.ndarray):
            total = _shifted(net, node, total, aligned(net, node, value, len(total.shape)) if i else value)
    return total


def subtract(net: Builder, node: OnnxNode) -> Seen:
    a, b = net.value(node, 0), net.value(node, 1)
    if isinstance(b, np.ndarray):
        x = net.map(node)
        return _shifted(net, node, x, -aligned(net, node, _real(b), len(x.shape)))
    minus_b = net.scaled(node, net.map(node, 1), -np.ones(1), None)
    if isinstance(a, np.ndarray):
        return _shifted(net, node, minus_b, a)
    return _sum(net, node, [net.map(node), minus_b])


def multiply(net: Builder, node: OnnxNode) -> Seen:
    a, b = net.value(node, 0), net.value(node, 1)
    if isinstance(a, Seen) and isinstance(b, Seen):
        raise UnsupportedError("Mul of two maps")
    at = 0 if isinstance(a, Seen) else 1
    x, constant = net.map(node, at), net.constant(node, 1 - at, "factor")
    if at == 0:
        constant = aligned(net, node, constant, len(x.shape))
    return _times(net, node, x, constant)


def divide(net: Builder, node: OnnxNode) -> Seen:
    if isinstance(net.value(node, 1), Seen):
        raise UnsupportedError("Div by what is computed from the image")
    x, constant = net.map(node), _real(net.constant(node, 1, "divisor"))
    return _times(net, node, x, 1 / aligned(net, node, constant, len(x.shape)))


def _times(net: Builder, node: OnnxNode, x: Seen, constant: np.ndarray) -> Seen:
    x = _as_told(net, node, x, constant)
    return net.scaled(node, x, _told(net, node, x, constant), None)


def _shifted(net: Builder, node: OnnxNode, x: Seen, constant: np.ndarray) -> Seen:
    x = _as_told(net, node, x, constant)
    return net.scaled(node, x, None, _told(net, node, x, constant))


def _as_told(net: Builder, node: OnnxNode, x: Seen, constant: np.ndarray) -> Seen:
    """x as a vector, if only then each number of the constant belongs to a channel."""
    return net.as_vector(node, x) if len(x.axes) == 1 and x.per_channel(constant) is None else x


def _told(net: Builder, node: OnnxNode, x: Seen, constant: np.ndarray) -> np.ndarray:
    net.source.take(8 * x.size[2], node.where)
    told = x.per_channel(_real(constant))
    if told is None:
        raise UnsupportedError(f"{node.op} of a constant {constant.shape} that differs from place to place")
    return told


def _real(constant: np.ndarray) -> np.ndarray:
    return constant.astype(np.float64)


def _sum(net: Builder, node: OnnxNode, maps: Sequence[Seen]) -> Seen:
    if not maps:
        raise UnsupportedError(f"{node.op} of nothing")
    if len({x.shape for x in maps}) != 1:
        raise UnsupportedError(f"{node.op} of maps of different shapes: {[x.shape for x in maps]}")
    maps = _alike(net, node, maps)
    return maps[0].on(net.emit(node, Add(), *maps))


def _alike(net: Builder, node: OnnxNode, maps: Sequence[Seen]) -> Sequence[Seen]:
    """The maps, lying all in the same order: as they are, or as far as the first kind of order goes."""
    rank = len(maps[0].axes)
    if rank == 1:
        return (
            maps
            if all(x.lies_as("c") for x in maps)
            else [net.rearranged(node, x, (), (), x.axes[0]) for x in maps]
        )
    if rank == 3:
        for order in SIDE_BY_SIDE:
            if all(x.lies_as(order) for x in maps):
                return maps
        return [net.as_image(node, x) for x in maps]
    raise UnsupportedError(f"{node.op} of maps of {rank + 1} axes")


def concat(net: Builder, node: OnnxNode) -> Seen:
    maps = [net.map(node, i) for i in range(len(node.inputs))]
    if not maps:
        raise UnsupportedError("Concat of nothing")
    axis, rank = node.integer("axis", 1), len(maps[0].shape)
    if not -rank <= axis < rank or any(len(x.shape) != rank for x in maps):
        raise MismatchError(
            f"{node.where} along axis {axis} of {[x.shape for x in maps]}; fetch the file again"
        )
    axis %= rank
    maps = list(_alike(net, node, maps))
    if axis == 0 or any(x.axes[axis - 1] != x.chans for x in maps):
        raise UnsupportedError(f"Concat along axis {axis} of {rank}, which is not the channels")
    if len(maps) == 1:
        return maps[0]
    name = net.emit(node, Concat(), *maps)
    return maps[0].with_channels(name, net.sizes[name], axis - 1)
