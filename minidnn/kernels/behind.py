"""A ReLU behind a convolution, and perhaps a pooling behind that, done on the way while the cache has all.

What lies between is never in memory: outputs are taken as they come, and gradients given as they are asked
for, some rows at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidnn.arrays import Array
from minidnn.kernels.cpu.pointwise import rectify
from minidnn.kernels.memory import Mem, fresh
from minidnn.kernels.pointwise import positive, relu, relu_backward
from minidnn.kernels.pool import max_pool, take_largest, unpool
from minidnn.window import Window


class ReluPool(NamedTuple):
    """max(y, 0), and pooled if there is a window; after the way forward with what the way back wants."""

    pool: Window | None = None
    bits: Array = None  # of the ReLU
    switches: Array = None  # of the pooling

    def forward(self, y: Array, mem: Mem, *, is_rectified: bool = False) -> tuple[Array, Behind]:
        y, bits = (y, positive(y, mem)) if is_rectified else relu(y, mem)
        y, switches = (y, None) if self.pool is None else max_pool(y, self.pool, mem)
        return y, ReluPool(self.pool, bits, switches)

    def backward(self, dzdy: Array, y_shape: tuple[int, ...], mem: Mem) -> Array:
        """dz/dy of the convolution's y, from that by what comes of it here."""
        if self.pool is not None:
            dzdy = unpool(dzdy, self.switches, y_shape, self.pool, mem)
        return relu_backward(dzdy, self.bits, mem)


Behind = ReluPool | None  # None: nothing is done on the way


class Taken:
    """The outputs of a convolution, filled in by `take` in any order."""

    def __init__(
        self, shape: tuple[int, ...], like: Array, behind: Behind, mem: Mem, *, may_pool: bool = False
    ) -> None:
        """What is behind is done on the way where pixels are whole bytes of bits; else by `finished`."""
        n, h, w, k = shape
        self.behind, self.mem, self.pool = behind, mem, None if behind is None else behind.pool
        self.rectifies = behind is not None and k % 8 == 0
        self.pools = self.rectifies and may_pool and is_halved(shape, self.pool)
        self.y = fresh((n, h // 2, w // 2, k) if self.pools else shape, like, mem)
        self.bits: Array = fresh((n, h, w * k // 8), like, mem, np.uint8) if self.rectifies else None
        self.switches: Array = fresh(self.y.shape, like, mem, np.uint8) if self.pools else None

    def take(self, found: Array, images: slice, top: int, left: int) -> None:
        """(n, rows, columns, K), from that row and column of these images on."""
        _, rows, columns, k = found.shape
        ys, xs = slice(top, top + rows), slice(left, left + columns)
        if not self.rectifies:
            self.y[images, ys, xs] = found
            return
        out = found if self.pools else self.y[images, ys, xs]
        rectify(_in_rows(found), _in_rows(out))
        self.bits[images, ys, left * k // 8 : xs.stop * k // 8] = np.packbits(_in_rows(out) > 0, axis=2)
        if self.pools and self.pool is not None:
            at = images, slice(top // 2, ys.stop // 2), slice(left // 2, xs.stop // 2)
            take_largest(self.pool, found, self.y[at], self.switches[at])

    def finished(self) -> tuple[Array, Behind]:
        """All of them, with what is behind, and what that remembers."""
        if self.behind is None or not self.rectifies:
            return (self.y, None) if self.behind is None else self.behind.forward(self.y, self.mem)
        y, switches = self.y, self.switches
        if self.pool is not None and not self.pools:
            y, switches = max_pool(y, self.pool, self.mem)
        return y, ReluPool(self.pool, self.bits.reshape(-1), switches)


class Given(NamedTuple):
    """Pixels that `give` hands out some at a time: those of an array, or gradients through what is behind."""

    x: Array
    shape: tuple[int, ...]
    behind: Behind = None

    @classmethod
    def through(cls, dzdy: Array, shape: tuple[int, ...], behind: Behind, mem: Mem) -> Given:
        """The gradient of that shape by a convolution's output, from that by what comes of it behind."""
        if behind is None:
            return cls(dzdy, shape)
        if shape[3] % 8 or not (behind.pool is None or is_halved(shape, behind.pool)):
            return cls(behind.backward(dzdy, shape, mem), shape)
        return cls(dzdy, shape, behind)

    def rows(self, images: slice, ys: slice, mem: Mem) -> Array:
        """Whole rows of these images."""
        if self.behind is None:
            return self.x[images, ys]
        n, _, w, k = self.shape
        out = fresh((len(range(n)[images]), ys.stop - ys.start, w, k), self.x, mem)
        self.give(images, ys, slice(0, w), out)
        return out

    def give(self, images: slice, ys: slice, xs: slice, out: Array) -> None:
        """The pixels of these images, rows and columns."""
        if self.behind is None:
            out[...] = self.x[images, ys, xs]
            return
        n, k = self.shape[0], self.shape[3]
        eighth = slice(xs.start * k // 8, xs.stop * k // 8)
        bits = self.behind.bits.reshape(n, self.shape[1], -1)[images, ys, eighth]
        is_positive = np.unpackbits(bits, axis=2).view(bool)
        if self.behind.pool is None:
            np.multiply(_in_rows(self.x[images, ys, xs]), is_positive, out=_in_rows(out))
            return
        is_positive = is_positive.reshape(out.shape)
        for tap in range(4):
            (down, rows), (along, columns) = _tap_of_pairs(ys, tap // 2), _tap_of_pairs(xs, tap % 2)
            won = self.behind.switches[images, down, along] == tap
            won &= is_positive[:, rows, columns]
            np.multiply(self.x[images, down, along], won, out=out[:, rows, columns])


def _tap_of_pairs(pixels: slice, tap: int) -> tuple[slice, slice]:
    """Along one side: the windows of 2 whose first or second pixel is among these, and those among them."""
    first, end = (pixels.start - tap + 1) // 2, (pixels.stop - tap + 1) // 2
    return slice(first, end), slice(2 * first + tap - pixels.start, None, 2)


def is_halved(shape: tuple[int, ...], pool: Window | None) -> bool:
    """Whether there is pooling, and every pixel has its window, of 2 x 2 side by side."""
    return (
        pool is not None
        and pool.in_pairs
        and pool.padded_size(*shape[1:3]) == shape[1:3]
        and not (shape[1] % 2 or shape[2] % 2)
    )


def _in_rows(pixels: Array) -> Array:
    """The same numbers, a row of pixels as one long row."""
    n, rows, columns, k = pixels.shape
    return pixels.reshape(n, rows, columns * k)
