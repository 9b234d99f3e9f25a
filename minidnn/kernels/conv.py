"""The convolution that layers ask for: handed on to the algorithm chosen for the layer."""

from __future__ import annotations

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.kernels import im2col
from minidnn.kernels.behind import Behind, Given
from minidnn.kernels.choice import How
from minidnn.kernels.cpu import chunked, winograd
from minidnn.kernels.cuda import shifted
from minidnn.kernels.memory import Mem
from minidnn.window import Window


def conv(
    x: Array,
    w: Array,
    b: Array | None,
    window: Window,
    behind: Behind = None,
    *,
    groups: int = 1,
    how: How = None,
    mem: Mem = None,
) -> tuple[Array, Behind]:
    """(N, H, W, C) → (N, oh, ow, K), and on through what is behind while the cache has it.

    With the result comes what is behind, now with all that its way back wants.
    """
    name = _name(x, x.shape, w, window, groups, how)
    if name == "chunked":
        return chunked.conv(x, w, b, window, groups, mem, behind)
    if how is not None and name in winograd.TRANSFORMS:
        transform = winograd.TRANSFORMS[name]
        u = how.prepared(f"{name} forward", lambda: winograd.prepared(w, transform))
        return winograd.conv(x, u, b, window, transform, mem, behind)
    if how is not None and name == "shifted":
        return shifted.conv(x, w, b, window, groups, mem, behind, how.factors)
    y = im2col.conv(x, w, b, window, groups=groups, mem=mem)
    return (y, None) if behind is None else behind.forward(y, mem)


def conv_backward(
    dzdy: Array,
    w: Array,
    window: Window,
    *,
    x_shape: tuple[int, ...],
    groups: int = 1,
    how: How = None,
    mem: Mem = None,
    behind: Behind = None,
) -> Array:
    """(N, oh, ow, K), or what is like what comes of it behind, → (N, H, W, C)."""
    name = _name(dzdy, x_shape, w, window, groups, how)
    y_shape = (x_shape[0], *window.out_size(*x_shape[1:3]), w.shape[3])
    if behind is not None and groups > 1:  # or every group would go through it again
        dzdy, behind = behind.backward(dzdy, y_shape, mem), None
    if name == "chunked":
        return chunked.conv_backward(
            Given.through(dzdy, y_shape, behind, mem), w, window, x_shape, groups, mem
        )
    if how is not None and name in winograd.TRANSFORMS:
        transform = winograd.TRANSFORMS[name]
        u = how.prepared(f"{name} backward", lambda: winograd.prepared_backward(w, transform))
        return winograd.conv_backward(Given.through(dzdy, y_shape, behind, mem), u, window, transform, mem)
    if behind is not None:
        dzdy = behind.backward(dzdy, y_shape, mem)
    if how is not None and name == "shifted":
        return shifted.conv_backward(dzdy, w, window, x_shape, groups, mem, how.factors)
    return im2col.conv_backward(dzdy, w, window, x_shape=x_shape, groups=groups, mem=mem)


def conv_backward_w(
    dzdy: Array, x: Array, window: Window, *, groups: int = 1, how: How = None, mem: Mem = None
) -> Array:
    """(N, oh, ow, K) and (N, H, W, C) → (kh, kw, C/groups, K)."""
    shape = (*window.kernel, x.shape[3] // groups, dzdy.shape[3])
    xp = xp_of(x)
    w = xp.broadcast_to(xp.empty((), x.dtype), shape)  # filters to choose by: they take no memory
    name = _name(dzdy, x.shape, w, window, groups, how)
    if name == "chunked":
        return chunked.conv_backward_w(dzdy, x, window, groups, mem)
    if how is not None and name == "shifted":
        return shifted.conv_backward_w(dzdy, x, window, groups, mem, how.factors)
    if how is None or name == "im2col":
        return im2col.conv_backward_w(dzdy, x, window, groups=groups, mem=mem)
    return winograd.conv_backward_w(dzdy, x, window, winograd.TRANSFORMS[name], mem)


def _name(data: Array, x_shape: tuple[int, ...], w: Array, window: Window, groups: int, how: How) -> str:
    """The algorithm to take. Mixed dtypes go the plain way, and other libraries that or the shifted one."""
    if how is None or data.dtype != w.dtype:
        return "im2col"
    name = how.algorithm(x_shape, w, window, groups)
    return name if isinstance(data, np.ndarray) or name == "shifted" else "im2col"
