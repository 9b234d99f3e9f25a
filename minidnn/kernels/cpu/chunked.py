"""The plain convolution, a few rows of windows at a time: within the cache, and shared out among threads.

Images of few channels are turned to planes first, so that there are long rows to copy and to add; and one
more row, of ones, makes the bias part of the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from minidnn.arrays import Array
from minidnn.kernels.behind import Behind, Given, Taken
from minidnn.kernels.cpu.desk import SMALL, strips
from minidnn.kernels.cpu.threads import CREW, LITTLE
from minidnn.kernels.im2col import each_group, padded
from minidnn.kernels.memory import Mem, fresh
from minidnn.window import Window

IN_CACHE = 800_000  # numbers that one task may work on
LEAST_WINDOWS = 400  # that one task takes
FEW = 8  # channels below which planes are better
SLIVER = 10  # rows
SHARES = 8  # that many images are shared out into; and of a sum over all windows, added up in order


def conv(
    x: Array, w: Array, b: Array | None, window: Window, groups: int, mem: Mem, behind: Behind
) -> tuple[Array, Behind]:
    """(N, H, W, C) → (N, oh, ow, K), as im2col.conv, and on through what is behind."""
    n, h, width, c = x.shape
    (oh, ow), k = window.out_size(h, width), w.shape[3]
    y, planes = Taken((n, oh, ow, k), x, behind if groups == 1 else None, mem), c // groups < FEW
    ground, ones = _planes(x, window, mem) if planes else padded(x, window), planes and b is not None

    def task(some: slice, at: int, cs: slice, ks: slice) -> None:
        part = y.y[some, at : at + rows]
        cols = _cols(ground[some], at, part.shape[:3], window, cs, planes, mem, ones)  # (windows, taps*C)
        flat = w[..., ks].reshape(-1, ks.stop - ks.start)
        if b is not None and ones:
            flat = np.concatenate([flat, b[None, ks]])
        whole = groups == 1 and part.flags.c_contiguous
        out = part.reshape(len(cols), k) if whole else fresh((len(cols), flat.shape[1]), x, mem)
        _in_strips(cols, flat, out)
        if b is not None and not ones:
            out += b[ks]
        if not whole:
            part[..., ks] = out.reshape(*part.shape[:3], -1)
        if y.rectifies:
            y.take(part, some, at, 0)

    with CREW.alone():
        images, rows = parts(n, (oh, ow), window, w)
        each = _each(n, images, range(0, oh, rows), c, k, groups)
        CREW.run((partial(task, *some) for some in each), n * oh * ow * w.size)
    return y.finished() if groups == 1 or behind is None else behind.forward(y.y, mem)


def conv_backward(
    dzdy: Array | Given, w: Array, window: Window, x_shape: tuple[int, ...], groups: int, mem: Mem
) -> Array:
    """(N, oh, ow, K) → (N, H, W, C), as im2col.conv_backward.

    Where windows overlap, neighbouring tasks add to the same rows of pixels: so every other task is done
    first, and then the rest.
    """
    given = dzdy if isinstance(dzdy, Given) else Given(dzdy, dzdy.shape)
    n, h, width, c = x_shape
    _, oh, ow, k = given.shape
    planes, (top, _, left, _) = c // groups < FEW, window.pad
    gh, gw = window.padded_size(h, width)
    ground = fresh((n, c, gh, gw) if planes else (n, gh, gw, c), w, mem)
    ground.fill(0)
    turned = {ks.start: w[..., ks].reshape(-1, k // groups).T for _, ks in each_group(c, k, groups)}
    if w.size * SLIVER <= SMALL <= n * oh * ow * w.size:
        turned = {start: np.ascontiguousarray(filters) for start, filters in turned.items()}

    def task(some: slice, at: int, cs: slice, ks: slice) -> None:
        part = given.rows(some, slice(at, min(at + rows, oh)), mem)[..., ks]
        out, filters = part.reshape(-1, part.shape[3]), turned[ks.start]  # (K, taps*C)
        back = fresh((len(out), filters.shape[1]), w, mem)
        _in_strips(out, filters, back)
        for share, pixels in _by_tap(back, ground[some], at, part.shape[:3], window, cs, planes):
            pixels += share

    with CREW.alone():
        rounds = 2 if window.overlaps else 1
        images, rows = parts(n, (oh, ow), window, w, 2 * rounds)
        rows = max(rows, -(-window.extent[0] // window.stride[0]))
        for begin in range(0, rounds * rows, rows):
            each = _each(n, images, range(begin, oh, rounds * rows), c, k, groups)
            CREW.run((partial(task, *some) for some in each), n * oh * ow * w.size)
    if not planes:
        return ground[:, top : top + h, left : left + width]
    dzdx = fresh(x_shape, w, mem)
    dzdx[...] = ground[:, :, top : top + h, left : left + width].transpose(0, 2, 3, 1)
    return dzdx


def conv_backward_w(dzdy: Array, x: Array, window: Window, groups: int, mem: Mem) -> Array:
    """dzdw = rows(x)ᵀ @ dzdy, as im2col.conv_backward_w: (kh, kw, C/groups, K)."""
    (n, oh, ow, k), c = dzdy.shape, x.shape[3]
    planes, taps_c = c // groups < FEW, window.taps * (c // groups)
    ground = _planes(x, window, mem) if planes else padded(x, window)
    sums = fresh((SHARES, taps_c, k), x, mem)
    images, rows = parts(n, (oh, ow), window, np.broadcast_to(x[:1, :1, :1, :1], (1, 1, c // groups, k)))
    todo = list(_each(n, images, range(0, oh, rows), c, k, groups))

    def task(share: int) -> None:
        sums[share] = 0
        for some, at, cs, ks in todo[share::SHARES]:
            out = dzdy[some, at : at + rows, :, ks]
            cols = _cols(ground[some], at, out.shape[:3], window, cs, planes, mem)  # (windows, taps*C)
            sums[share, :, ks] += cols.T @ out.reshape(len(cols), -1)

    with CREW.alone():
        CREW.run(partial(task, share) for share in range(SHARES))
    return sums.sum(axis=0).reshape(*window.kernel, c // groups, k)


def _in_strips(a: Array, b: Array, out: Array) -> None:
    """a @ b in strips that BLAS takes as they lie, where these are no slivers."""
    if b.size * SLIVER > SMALL or not b.flags.c_contiguous:
        np.matmul(a, b, out=out)
        return
    for part, height in strips(len(a), b.size):
        np.matmul(a[part].reshape(-1, height, len(b)), b, out=out[part].reshape(-1, height, b.shape[1]))


def _each(
    n: int, images: int, rows: range, c: int, k: int, groups: int
) -> Iterator[tuple[slice, int, slice, slice]]:
    """Some images, the first row of some windows, and a group's channels and outputs."""
    for first in range(0, n, images):
        for cs, ks in each_group(c, k, groups):
            for at in rows:
                yield slice(first, first + images), at, cs, ks


def parts(n: int, size: tuple[int, int], window: Window, w: Array, least: int = 2) -> tuple[int, int]:
    """What one task takes: so many images, and of each so many rows of windows.

    As the cache allows; but enough windows that reading the filters anew for each task does not count, and
    where there is much to multiply so many tasks at least.
    """
    (oh, ow), per_window = size, window.taps * w.shape[2] + w.shape[3]
    windows = max(IN_CACHE // per_window, LEAST_WINDOWS)
    images = max(1, min(windows // (oh * ow), -(-n // SHARES)))
    rows = -(-oh // least) if n == 1 and oh * ow * w.size >= 2 * LITTLE else oh
    return images, max(1, min(rows, windows // ow))


def _cols(
    ground: Array,
    at: int,
    size: tuple[int, ...],
    window: Window,
    cs: slice,
    planes: bool,
    mem: Mem,
    ones: bool = False,
) -> Array:
    """The windows of some rows, one a row of a matrix (n*rows*ow, taps*C), and perhaps a 1 behind each."""
    n, rows, ow = size
    c = cs.stop - cs.start
    if window.taps == 1 and window.stride == (1, 1) and not planes and c == ground.shape[3]:
        return ground[:, at : at + rows, :ow].reshape(n * rows * ow, c)
    taps_c, shape = window.taps * c, (window.taps * c + ones, n * rows * ow)
    cols = fresh(shape, ground, mem).T if planes else fresh(shape[::-1], ground, mem)
    for share, pixels in _by_tap(cols[:, :taps_c], ground, at, size, window, cs, planes):
        share[...] = pixels
    cols[:, taps_c:] = 1
    return cols


def _by_tap(
    cols: Array, ground: Array, at: int, size: tuple[int, ...], window: Window, cs: slice, planes: bool
) -> Iterator[tuple[Array, Array]]:
    """For each tap, its part of the matrix (windows, taps*C) and the pixels under it."""
    n, rows, ow = size
    below, by_tap = at * window.stride[0], cols.reshape(n, rows, ow, window.taps, -1)
    for tap, ys, xs in window.each_tap(rows, ow):
        down, share = slice(ys.start + below, ys.stop + below, ys.step), by_tap[:, :, :, tap]
        if planes:
            yield share.transpose(0, 3, 1, 2), ground[:, cs, down, xs]
        else:
            yield share, ground[:, down, xs, cs]


def _planes(x: Array, window: Window, mem: Mem) -> Array:
    """The padded images, (N, C, H, W)."""
    (n, h, w, c), (top, _, left, _) = x.shape, window.pad
    ground = fresh((n, c, *window.padded_size(h, w)), x, mem)
    ground.fill(0)
    ground[:, :, top : top + h, left : left + w] = x.transpose(0, 3, 1, 2)
    return ground
