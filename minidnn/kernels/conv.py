"""The convolution that layers ask for: hands on to the algorithm chosen for the layer."""

from __future__ import annotations

from minidnn.arrays import Array
from minidnn.kernels import im2col
from minidnn.kernels.choice import How
from minidnn.kernels.cpu import winograd
from minidnn.kernels.im2col import Mem
from minidnn.window import Window


def conv(
    x: Array, w: Array, b: Array | None, window: Window, *, groups: int = 1, how: How = None, mem: Mem = None
) -> Array:
    """(N, H, W, C) → (N, oh, ow, K)."""
    transform = _transform(x, x.shape, w, window, groups, how)
    if how is None or transform is None:
        return im2col.conv(x, w, b, window, groups=groups, mem=mem)
    u = how.prepared(f"forward {transform.m}", lambda: winograd.prepared(w, transform))
    return winograd.conv(x, u, b, window, transform, mem)


def conv_backward(
    dzdy: Array,
    w: Array,
    window: Window,
    *,
    x_shape: tuple[int, ...],
    groups: int = 1,
    how: How = None,
    mem: Mem = None,
) -> Array:
    """(N, oh, ow, K) → (N, H, W, C)."""
    transform = _transform(dzdy, x_shape, w, window, groups, how)
    if how is None or transform is None:
        return im2col.conv_backward(dzdy, w, window, x_shape=x_shape, groups=groups, mem=mem)
    u = how.prepared(f"backward {transform.m}", lambda: winograd.prepared_backward(w, transform))
    return winograd.conv_backward(dzdy, u, window, transform, mem)


def _transform(
    data: Array, x_shape: tuple[int, ...], w: Array, window: Window, groups: int, how: How
) -> winograd.Transform | None:
    """The transform to take, or None for the plain way. Mixed dtypes go the plain way."""
    if how is None or data.dtype != w.dtype:
        return None
    return winograd.TRANSFORMS.get(how.algorithm(x_shape, w, window, groups))
