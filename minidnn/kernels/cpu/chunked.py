"""The plain convolution, a few rows of windows at a time: within the cache, and shared out among threads.

Images of few channels are turned to planes first, so that there are long rows to copy and to add.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from minidnn.arrays import Array
from minidnn.kernels.cpu.pointwise import rectify
from minidnn.kernels.cpu.threads import CREW
from minidnn.kernels.im2col import each_group, padded
from minidnn.kernels.memory import Mem, fresh
from minidnn.window import Window

IN_CACHE = 400_000  # numbers that one task may work on
LEAST_WINDOWS = 400  # that one task takes
FEW = 8  # channels below which planes are better
SHARES = 8  # of a sum over all windows, which as many threads as there are may take and add up in order


def conv(
    x: Array, w: Array, b: Array | None, window: Window, groups: int, mem: Mem, *, relu: bool = False
) -> Array:
    """(N, H, W, C) → (N, oh, ow, K), as im2col.conv; with `relu`, max(y, 0)."""
    n, h, width, c = x.shape
    (oh, ow), k = window.out_size(h, width), w.shape[3]
    y, planes = fresh((n, oh, ow, k), x, mem), c // groups < FEW
    ground = _layout(padded(x, window), planes, mem)

    def task(image: int, at: int, rows: int, cs: slice, ks: slice) -> None:
        cols = _cols(ground[image], at, (rows, ow), window, cs, planes, mem)  # (rows*ow, taps*C)
        flat = w[..., ks].reshape(cols.shape[1], -1)
        whole = y[image, at : at + rows].reshape(rows * ow, k)
        out = np.matmul(cols, flat, out=whole if groups == 1 else fresh((len(cols), flat.shape[1]), x, mem))
        if b is not None:
            out += b[ks]
        if relu:
            rectify(out)
        if groups > 1:
            y[image, at : at + rows, :, ks] = out.reshape(rows, ow, -1)

    with CREW.alone():
        rows = _rows_at_once(ow, window, w)
        CREW.run(
            partial(task, image, at, min(rows, oh - at), cs, ks)
            for image in range(n)
            for cs, ks in each_group(c, k, groups)
            for at in range(0, oh, rows)
        )
    return y


def conv_backward(
    dzdy: Array, w: Array, window: Window, x_shape: tuple[int, ...], groups: int, mem: Mem
) -> Array:
    """(N, oh, ow, K) → (N, H, W, C), as im2col.conv_backward.

    Neighbouring tasks add to the same rows of pixels, so every other one is done first, and then the rest.
    """
    n, h, width, c = x_shape
    _, oh, ow, k = dzdy.shape
    planes, (top, _, left, _) = c // groups < FEW, window.pad
    gh, gw = window.padded_size(h, width)
    ground = fresh((n, c, gh, gw) if planes else (n, gh, gw, c), dzdy, mem)
    ground.fill(0)

    def task(image: int, at: int, rows: int, cs: slice, ks: slice) -> None:
        out = dzdy[image, at : at + rows, :, ks].reshape(rows * ow, -1)
        flat = w[..., ks].reshape(-1, out.shape[1])  # (taps*C, K)
        shape = (flat.shape[0], len(out)) if planes else (len(out), flat.shape[0])
        back = fresh(shape, dzdy, mem)
        np.matmul(*((flat, out.T) if planes else (out, flat.T)), out=back)
        for part, pixels in _by_tap(back, ground[image], at, (rows, ow), window, cs, planes):
            pixels += part

    with CREW.alone():
        least = -(-window.extent[0] // window.stride[0])
        rows = max(_rows_at_once(ow, window, w), least)
        for first in (0, rows):
            CREW.run(
                partial(task, image, at, min(rows, oh - at), cs, ks)
                for image in range(n)
                for cs, ks in each_group(c, k, groups)
                for at in range(first, oh, 2 * rows)
            )
    if not planes:
        return ground[:, top : top + h, left : left + width]
    dzdx = fresh(x_shape, dzdy, mem)
    dzdx[...] = ground[:, :, top : top + h, left : left + width].transpose(0, 2, 3, 1)
    return dzdx


def conv_backward_w(dzdy: Array, x: Array, window: Window, groups: int, mem: Mem) -> Array:
    """dzdw = rows(x)ᵀ @ dzdy, as im2col.conv_backward_w: (kh, kw, C/groups, K)."""
    (n, oh, ow, k), c = dzdy.shape, x.shape[3]
    planes, taps_c = c // groups < FEW, window.taps * (c // groups)
    ground, sums = _layout(padded(x, window), planes, mem), fresh((SHARES, taps_c, k), x, mem)
    rows = max(1, IN_CACHE // (ow * (taps_c + k)), LEAST_WINDOWS // ow)
    parts = [(image, at, min(rows, oh - at)) for image in range(n) for at in range(0, oh, rows)]

    def task(share: int) -> None:
        sums[share] = 0
        for image, at, count in parts[share::SHARES]:
            for cs, ks in each_group(c, k, groups):
                cols = _cols(ground[image], at, (count, ow), window, cs, planes, mem)  # (count*ow, taps*C)
                sums[share, :, ks] += cols.T @ dzdy[image, at : at + count, :, ks].reshape(len(cols), -1)

    with CREW.alone():
        CREW.run(partial(task, share) for share in range(SHARES))
    return sums.sum(axis=0).reshape(*window.kernel, c // groups, k)


def _cols(
    ground: Array, at: int, size: tuple[int, int], window: Window, cs: slice, planes: bool, mem: Mem
) -> Array:
    """The windows of some rows, one a row of a matrix (rows*ow, taps*C)."""
    rows, ow = size
    c = cs.stop - cs.start
    if window.taps == 1 and window.stride == (1, 1) and not planes and c == ground.shape[2]:
        return ground[at : at + rows, :ow].reshape(rows * ow, c)
    cols = fresh((window.taps * c, rows * ow) if planes else (rows * ow, window.taps * c), ground, mem)
    for part, pixels in _by_tap(cols, ground, at, size, window, cs, planes):
        part[...] = pixels
    return cols.T if planes else cols


def _by_tap(
    cols: Array, ground: Array, at: int, size: tuple[int, int], window: Window, cs: slice, planes: bool
) -> Iterator[tuple[Array, Array]]:
    """For each tap, its part of the matrix and the pixels under it, in one layout."""
    rows, ow = size
    below = at * window.stride[0]
    for tap, ys, xs in window.each_tap(rows, ow):
        down = slice(ys.start + below, ys.stop + below, ys.step)
        if planes:
            yield cols.reshape(window.taps, -1, rows, ow)[tap], ground[cs, down, xs]
        else:
            yield cols.reshape(rows, ow, window.taps, -1)[:, :, tap], ground[down, xs, cs]


def _layout(ground: Array, planes: bool, mem: Mem) -> Array:
    if not planes:
        return ground
    turned = fresh((ground.shape[0], ground.shape[3], *ground.shape[1:3]), ground, mem)
    turned[...] = ground.transpose(0, 3, 1, 2)
    return turned


def _rows_at_once(ow: int, window: Window, w: Array) -> int:
    """As the cache allows; but enough windows that reading the filters anew for each task does not count."""
    return max(1, IN_CACHE // (ow * (window.taps * w.shape[2] + w.shape[3])), LEAST_WINDOWS // ow)
