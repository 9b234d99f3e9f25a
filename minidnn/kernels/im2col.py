"""Convolution as one matrix product: lay every window of the image out as a row, multiply by the filters.

`col2im` is the adjoint of `im2col`: <im2col(x), r> = <x, col2im(r)>. That is all there is to the gradient of
a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minidnn.arrays import Array, xp_of
from minidnn.kernels.memory import Mem, fresh
from minidnn.kernels.product import product
from minidnn.window import Window

# Numbers in one matrix of windows; a batch that needs more is worked off in parts.
ROWS_AT_ONCE = 1 << 26


def padded(x: Array, window: Window, fill: float = 0.0) -> Array:
    """The image with its pads, and as much more at the bottom and right as the last windows overhang."""
    top, bottom, left, right = window.pad
    over_y, over_x = window.overhang(*x.shape[1:3])
    pads = ((0, 0), (top, bottom + over_y), (left, right + over_x), (0, 0))
    return xp_of(x).pad(x, pads, constant_values=fill) if any(map(any, pads)) else x


def im2col(x: Array, window: Window, *, fill: float = 0.0, mem: Mem = None) -> Array:
    """(N, H, W, C) → (N, oh, ow, taps, C): every window of every image, tap by tap."""
    n, h, w, c = x.shape
    oh, ow = window.out_size(h, w)
    cols = fresh((n, oh, ow, window.taps, c), x, mem)
    ground = padded(x, window, fill)
    for tap, ys, xs in window.each_tap(oh, ow):
        cols[:, :, :, tap] = ground[:, ys, xs]
    return cols


def col2im(cols: Array, x_shape: tuple[int, ...], window: Window) -> Array:
    """(N, oh, ow, taps, C) → (N, H, W, C): every tap goes back to its pixel, and what meets there adds up."""
    n, h, w, c = x_shape
    top, _, left, _ = window.pad
    ground = xp_of(cols).zeros((n, *window.padded_size(h, w), c), cols.dtype)
    for tap, ys, xs in window.each_tap(*window.out_size(h, w)):
        ground[:, ys, xs] += cols[:, :, :, tap]
    return ground[:, top : top + h, left : left + w]


def conv(x: Array, w: Array, b: Array | None, window: Window, *, groups: int = 1, mem: Mem = None) -> Array:
    """y = rows(x) @ w + b, with w (kh, kw, C/groups, K) seen as one matrix: (N, H, W, C) → (N, oh, ow, K)."""
    xp = xp_of(x, w, b)
    n, oh, ow = x.shape[0], *window.out_size(*x.shape[1:3])
    y = fresh((n, oh, ow, w.shape[3]), x, mem, xp.result_type(x, w))
    for some in _blocks(x, window, groups):
        for cs, ks in each_group(x.shape[3], w.shape[3], groups):
            rows = _rows(x[some, :, :, cs], window, mem)  # (n*oh*ow, taps*C)
            y[some, :, :, ks] = product(rows, _flat(w[..., ks])).reshape(-1, oh, ow, ks.stop - ks.start)
    if b is not None:
        y += b
    return y


def conv_backward(
    dzdy: Array, w: Array, window: Window, *, x_shape: tuple[int, ...], groups: int = 1, mem: Mem = None
) -> Array:
    """dzdx = col2im(dzdy @ wᵀ): (N, oh, ow, K) → (N, H, W, C)."""
    xp = xp_of(dzdy, w)
    _, oh, ow, k = dzdy.shape
    dzdx = fresh(x_shape, dzdy, mem, xp.result_type(dzdy, w))
    for some in _blocks(dzdx, window, groups):
        for cs, ks in each_group(x_shape[3], k, groups):
            out = dzdy[some, :, :, ks].reshape(-1, ks.stop - ks.start)  # (n*oh*ow, K)
            drows = fresh((len(out), window.taps * (cs.stop - cs.start)), dzdx, mem)
            product(out, _flat(w[..., ks]).T, drows)
            part = (dzdx[some].shape[0], *x_shape[1:3], cs.stop - cs.start)
            dzdx[some, :, :, cs] = col2im(drows.reshape(-1, oh, ow, window.taps, part[3]), part, window)
    return dzdx


def conv_backward_w(dzdy: Array, x: Array, window: Window, *, groups: int = 1, mem: Mem = None) -> Array:
    """dzdw = rows(x)ᵀ @ dzdy, summed over images and places: (kh, kw, C/groups, K)."""
    xp = xp_of(dzdy, x)
    c, k = x.shape[3], dzdy.shape[3]
    dzdw = xp.zeros((*window.kernel, c // groups, k), xp.result_type(dzdy, x))
    for some in _blocks(x, window, groups):
        for cs, ks in each_group(c, k, groups):
            rows = _rows(x[some, :, :, cs], window, mem)
            out = dzdy[some, :, :, ks].reshape(-1, ks.stop - ks.start)
            dzdw[..., ks] += product(rows.T, out).reshape(*window.kernel, c // groups, -1)
    return dzdw


def each_group(c: int, k: int, groups: int) -> Iterator[tuple[slice, slice]]:
    """Group g reads its share of the c channels and makes its share of the k outputs."""
    dc, dk = c // groups, k // groups
    for g in range(groups):
        yield slice(g * dc, (g + 1) * dc), slice(g * dk, (g + 1) * dk)


def _blocks(x: Array, window: Window, groups: int) -> Iterator[slice]:
    """As many images at once as ROWS_AT_ONCE allows, at least one."""
    n, h, w, c = x.shape
    oh, ow = window.out_size(h, w)
    step = max(1, ROWS_AT_ONCE // (oh * ow * window.taps * (c // groups)))
    for at in range(0, n, step):
        yield slice(at, min(at + step, n))


def _rows(x: Array, window: Window, mem: Mem) -> Any:
    """The windows of x, one a row."""
    return im2col(x, window, mem=mem).reshape(-1, window.taps * x.shape[3])


def _flat(w: Array) -> Any:
    return w.reshape(-1, w.shape[3])  # (kh*kw*C, K): a filter a column, in the order of a row of windows
