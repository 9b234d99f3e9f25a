"""Pooling: the largest or the mean pixel of each window. Padding never wins a maximum.

A switch is the number of the tap that won; ties go to the first tap, row by row (MatConvNet takes the first
column by column).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.kernels.cpu.threads import CREW
from minidnn.kernels.cuda import pool as cuda
from minidnn.kernels.cuda.source import ready
from minidnn.kernels.im2col import padded
from minidnn.kernels.memory import Mem, fresh
from minidnn.window import Window

IN_CACHE = 1 << 19  # numbers of an image that one task may work on


def max_pool(x: Array, window: Window, mem: Mem = None) -> tuple[Array, Array]:
    """The largest pixel of each window (N, oh, ow, C), and the switches: which tap it was."""
    if ready(x):
        return cuda.max_pool(x, window, mem)
    n, h, w, c = x.shape
    shape = (n, *window.out_size(h, w), c)
    y, switches = fresh(shape, x, mem), fresh(shape, x, mem, np.uint8 if window.taps <= 256 else np.int32)
    in_blocks(partial(take_largest, window), window, padded(x, window, fill=-np.inf), y, switches)
    return y, switches


def take_largest(window: Window, ground: Array, y: Array, switches: Array) -> None:
    """Of each row of a window the largest pixel first, and then of its rows.

    NumPy goes from pixel to pixel slowly, and along a row fast; so little is left to do pixel by pixel.
    """
    xp, number, (_, oh, ow, _) = xp_of(ground), switches.dtype.type, y.shape
    (kh, kw), (sy, sx), (dy, dx) = window.kernel, window.stride, window.dilation
    rows = ground[:, : (oh - 1) * sy + (kh - 1) * dy + 1]
    wide = rows[:, :, : (ow - 1) * sx + 1 : sx]
    taps: Array = xp.zeros(wide.shape, switches.dtype) if kw == 1 else None
    for j in range(1, kw):
        pixel = rows[:, :, j * dx : j * dx + (ow - 1) * sx + 1 : sx]
        better = (pixel > wide) * number(j)
        taps = better if taps is None else xp.maximum(taps, better)  # of those that won, the last
        wide = xp.maximum(wide, pixel)
    best, won = wide[:, : (oh - 1) * sy + 1 : sy], taps[:, : (oh - 1) * sy + 1 : sy]
    if kh == 1:
        y[...], switches[...] = best, won
    for i in range(1, kh):
        down = slice(i * dy, i * dy + (oh - 1) * sy + 1, sy)
        row, below = wide[:, down], taps[:, down] + number(i * kw)
        below *= row > best
        best, won = xp.maximum(best, row, out=y), xp.maximum(won, below, out=switches)


def unpool(y: Array, switches: Array, x_shape: tuple[int, ...], window: Window, mem: Mem = None) -> Array:
    """Every value goes back to the pixel its switch names, and what meets there adds up."""
    xp_of(y, switches)
    if ready(y) and switches.flags.c_contiguous:
        return cuda.unpool(y, switches, x_shape, window, mem)
    n, h, w, c = x_shape
    top, _, left, _ = window.pad
    ground = fresh((n, *window.padded_size(h, w), c), y, mem)
    if not window.in_pairs or ground.shape[1:3] != (2 * y.shape[1], 2 * y.shape[2]):
        ground.fill(0)
    work, rounds = (_add_back, 2) if window.overlaps else (_put_back, 1)
    in_blocks(partial(work, window), window, ground, y, switches, rounds=rounds)
    return ground[:, top : top + h, left : left + w]


def _add_back(window: Window, ground: Array, y: Array, switches: Array) -> None:
    for tap, ys, xs in window.each_tap(*y.shape[1:3]):
        ground[:, ys, xs] += y * (switches == tap)


def _put_back(window: Window, ground: Array, y: Array, switches: Array) -> None:
    for tap, ys, xs in window.each_tap(*y.shape[1:3]):
        xp_of(y).multiply(y, switches == tap, out=ground[:, ys, xs])


def in_blocks(
    work: Callable[..., None], window: Window, ground: Array, *by_window: Array, rounds: int = 1
) -> None:
    """work(ground, *by_window); on the host on what the cache holds: some rows, or some images.

    In two rounds every other block is done first: neighbours may add to the same pixels.
    """
    if not isinstance(ground, np.ndarray):
        work(ground, *by_window)
        return
    n, oh, ow, c = by_window[0].shape
    down, row = window.stride[0], ow * c * window.stride[0] * window.stride[1]
    rows, images = max(1, min(oh, IN_CACHE // row)), max(1, IN_CACHE // (row * oh))
    rows = max(rows, -(-window.extent[0] // down))

    def task(first: int, at: int) -> None:
        some, below = slice(first, first + images), at * down
        seen = ground[some, below : below + (rows - 1) * down + window.extent[0]]
        work(seen, *(array[some, at : at + rows] for array in by_window))

    for begin in range(0, rounds * rows, rows):
        each = ((first, at) for first in range(0, n, images) for at in range(begin, oh, rounds * rows))
        CREW.run(partial(task, *some) for some in each)


def pool_by_switch(x: Array, switches: Array, window: Window) -> Array:
    """The pixel that each switch names: the adjoint of `unpool`."""
    xp = xp_of(x, switches)
    ground = padded(x, window)
    y = xp.zeros(switches.shape, x.dtype)
    for tap, ys, xs in window.each_tap(*switches.shape[1:3]):
        y += ground[:, ys, xs] * (switches == tap)
    return y


def avg_pool(x: Array, window: Window, divisor: str) -> Array:
    """The sum of each window over its divisor (see `divisors`): (N, oh, ow, C)."""
    n, h, w, c = x.shape
    oh, ow = window.out_size(h, w)
    ground = padded(x, window)
    y = xp_of(x).zeros((n, oh, ow, c), x.dtype)
    for _, ys, xs in window.each_tap(oh, ow):
        y += ground[:, ys, xs]
    return y / divisors(h, w, window, divisor, xp_of(x)).astype(x.dtype)


def avg_pool_backward(dzdy: Array, x_shape: tuple[int, ...], window: Window, divisor: str) -> Array:
    """Every pixel of a window gets the same share of its gradient."""
    n, h, w, c = x_shape
    top, _, left, _ = window.pad
    share = dzdy / divisors(h, w, window, divisor, xp_of(dzdy)).astype(dzdy.dtype)
    ground = xp_of(dzdy).zeros((n, *window.padded_size(h, w), c), dzdy.dtype)
    for _, ys, xs in window.each_tap(*window.out_size(h, w)):
        ground[:, ys, xs] += share
    return ground[:, top : top + h, left : left + w]


def divisors(h: int, w: int, window: Window, divisor: str, xp: Any = np) -> Array:
    """(oh, ow, 1): of each window the taps on 'real' pixels, on the 'padded' image, or 'all' of them."""
    top, bottom, left, right = window.pad
    first, last = {
        "real": ((top, left), (top + h, left + w)),
        "padded": ((0, 0), (top + h + bottom, left + w + right)),
        "all": ((0, 0), (1 << 62, 1 << 62)),
    }[divisor]
    along = []
    for axis, count in enumerate(window.out_size(h, w)):
        starts, taps = xp.arange(count) * window.stride[axis], xp.arange(window.kernel[axis])
        at = starts[:, None] + taps * window.dilation[axis]  # (windows, taps) along this axis
        along.append(((at >= first[axis]) & (at < last[axis])).sum(axis=1))
    return (along[0][:, None] * along[1])[:, :, None]
