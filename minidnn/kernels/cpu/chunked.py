"""The plain convolution, a few rows of windows at a time: within the cache, and shared out among threads.

Images of few channels are turned to planes first, so that there are long rows to copy and to add; and one
more row, of ones, makes the bias part of the product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

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


class _Ground(NamedTuple):
    """The padded images that windows are on, seen as (N, C, H, W); of few channels they lie so too."""

    pixels: Array
    window: Window
    planes: bool

    @classmethod
    def blank(cls, x_shape: Sequence[int], window: Window, groups: int, like: Array, mem: Mem) -> _Ground:
        (n, h, w, c), planes = x_shape, x_shape[3] // groups < FEW
        size = window.padded_size(h, w)
        room = fresh((n, c, *size) if planes else (n, *size, c), like, mem)
        room.fill(0)
        return cls(room if planes else room.transpose(0, 3, 1, 2), window, planes)

    @classmethod
    def of(cls, x: Array, window: Window, groups: int, mem: Mem) -> _Ground:
        if x.shape[3] // groups >= FEW:
            return cls(padded(x, window).transpose(0, 3, 1, 2), window, planes=False)
        ground = cls.blank(x.shape, window, groups, x, mem)
        ground.image(x.shape)[...] = x
        return ground

    def image(self, x_shape: Sequence[int]) -> Array:
        """(N, H, W, C): what lies within the pads."""
        (_, h, w, _), (top, _, left, _) = x_shape, self.window.pad
        return self.pixels[:, :, top : top + h, left : left + w].transpose(0, 2, 3, 1)

    def below(self, some: slice, at: int) -> _Ground:
        """Of these images, from that row of windows on."""
        return self._replace(pixels=self.pixels[some, :, at * self.window.stride[0] :])

    def cols(self, size: tuple[int, ...], cs: slice, mem: Mem, ones: bool = False) -> Array:
        """The windows of the first rows, one a row (n*rows*ow, taps*C), and perhaps a 1 behind each."""
        (n, rows, ow), c, taps_c = size, cs.stop - cs.start, self.window.taps * (cs.stop - cs.start)
        if c == taps_c == self.pixels.shape[1] and self.window.stride == (1, 1) and not self.planes:
            return self.pixels[:, :, :rows, :ow].transpose(0, 2, 3, 1).reshape(n * rows * ow, c)
        shape = (n * rows * ow, taps_c + ones)
        cols = fresh(shape[::-1], self.pixels, mem).T if self.planes else fresh(shape, self.pixels, mem)
        for share, pixels in self.by_tap(cols[:, :taps_c], size, cs):
            share[...] = pixels
        cols[:, taps_c:] = 1
        return cols

    def by_tap(self, cols: Array, size: tuple[int, ...], cs: slice) -> Iterator[tuple[Array, Array]]:
        """For each tap its part of the matrix (windows, taps*C) and the pixels under it, as (N, C, H, W)."""
        shares = cols.reshape(*size, self.window.taps, -1)
        for tap, ys, xs in self.window.each_tap(*size[1:]):
            yield shares[:, :, :, tap].transpose(0, 3, 1, 2), self.pixels[:, cs, ys, xs]


def conv(
    x: Array, w: Array, b: Array | None, window: Window, groups: int, mem: Mem, behind: Behind
) -> tuple[Array, Behind]:
    """(N, H, W, C) → (N, oh, ow, K), as im2col.conv, and on through what is behind."""
    (n, c), (oh, ow), k = x.shape[::3], window.out_size(*x.shape[1:3]), w.shape[3]
    y = Taken((n, oh, ow, k), x, behind if groups == 1 else None, mem)
    ground = _Ground.of(x, window, groups, mem)
    ones = ground.planes and b is not None

    def task(some: slice, at: int, cs: slice, ks: slice) -> None:
        part = y.y[some, at : at + rows]
        cols = ground.below(some, at).cols(part.shape[:3], cs, mem, ones)  # (windows, taps*C), and a 1
        flat = w[..., ks].reshape(-1, ks.stop - ks.start)
        if b is not None and ones:
            flat = np.concatenate([flat, b[None, ks]])
        out = part.reshape(len(cols), k) if groups == 1 else fresh((len(cols), flat.shape[1]), x, mem)
        _in_strips(cols, flat, out)
        if b is not None and not ones:
            out += b[ks]
        if groups > 1:
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
    (n, oh, ow, k), c = given.shape, x_shape[3]
    ground = _Ground.blank(x_shape, window, groups, w, mem)
    turned = {ks.start: w[..., ks].reshape(-1, k // groups).T for _, ks in each_group(c, k, groups)}
    if w.size * SLIVER <= SMALL <= n * oh * ow * w.size:
        turned = {start: np.ascontiguousarray(filters) for start, filters in turned.items()}

    def task(some: slice, at: int, cs: slice, ks: slice) -> None:
        part = given.rows(some, slice(at, min(at + rows, oh)), mem)[..., ks]
        out, filters = part.reshape(-1, part.shape[3]), turned[ks.start]  # (K, taps*C)
        back = fresh((len(out), filters.shape[1]), w, mem)
        _in_strips(out, filters, back)
        for share, pixels in ground.below(some, at).by_tap(back, part.shape[:3], cs):
            pixels += share

    with CREW.alone():
        rounds = 2 if window.overlaps else 1
        images, rows = parts(n, (oh, ow), window, w, 2 * rounds)
        rows = max(rows, -(-window.extent[0] // window.stride[0]))
        for begin in range(0, rounds * rows, rows):
            each = _each(n, images, range(begin, oh, rounds * rows), c, k, groups)
            CREW.run((partial(task, *some) for some in each), n * oh * ow * w.size)
    image = ground.image(x_shape)
    if not ground.planes:
        return image
    dzdx = fresh(x_shape, w, mem)
    dzdx[...] = image
    return dzdx


def conv_backward_w(dzdy: Array, x: Array, window: Window, groups: int, mem: Mem) -> Array:
    """dzdw = rows(x)ᵀ @ dzdy, as im2col.conv_backward_w: (kh, kw, C/groups, K)."""
    (n, oh, ow, k), c = dzdy.shape, x.shape[3]
    ground = _Ground.of(x, window, groups, mem)
    sums = fresh((SHARES, window.taps * (c // groups), k), x, mem)
    images, rows = parts(n, (oh, ow), window, np.broadcast_to(x[:1, :1, :1, :1], (1, 1, c // groups, k)))
    todo = list(_each(n, images, range(0, oh, rows), c, k, groups))

    def task(share: int) -> None:
        sums[share] = 0
        for some, at, cs, ks in todo[share::SHARES]:
            out = dzdy[some, at : at + rows, :, ks]
            cols = ground.below(some, at).cols(out.shape[:3], cs, mem)  # (windows, taps*C)
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
    """What one task takes: so many images, if several then whole, and of each so many rows of windows.

    As the cache allows; but enough windows that reading the filters anew for each task does not count, and
    where there is much to multiply so many tasks at least; half as much if half of them are to wait.
    """
    (oh, ow), per_window = size, window.taps * w.shape[2] + w.shape[3]
    windows = max(2 * IN_CACHE // (least * per_window), LEAST_WINDOWS)
    images = max(1, min(windows // (oh * ow), -(-n // SHARES)))
    rows = -(-oh // least) if n == 1 and oh * ow * w.size >= 2 * LITTLE else oh
    return images, max(1, min(rows, windows // ow))
