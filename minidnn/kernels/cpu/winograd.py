"""Convolution by 3x3 filters with fewer multiplications (Winograd 1980; Lavin & Gray 2016).

    for each tile of m x m outputs, over (m+2) x (m+2) pixels x:        y = A [ (G w Gᵀ) * (B x Bᵀ) ] Aᵀ

The product in the middle is by elements, so the sum over channels makes it a matrix product for each of its
(m+2)² points: where 9 m² multiplications were, (m+2)² are left, 2.25 times fewer for tiles of 2 and 4 times
for tiles of 4. The price is some rounding, and that it reaches all outputs of a tile.

What filters get back is the same product the other way round:

                                        dw = Gᵀ [ sum over tiles of (B x Bᵀ) * (Aᵀ dzdy A) ] G

Every transform is a small matrix times rows of an image, so all of it is np.matmul, on matrices so small that
BLAS takes them as they lie; and the tiles of a task are worked off while they are in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minidnn.arrays import Array
from minidnn.kernels.cpu.pointwise import rectify
from minidnn.kernels.cpu.threads import CREW
from minidnn.kernels.cpu.tiling import Block, Tiling
from minidnn.kernels.memory import Mem, fresh
from minidnn.window import Window

SMALL = 1_000_000  # multiplications up to which OpenBLAS takes a matrix product as it lies


class Transform(NamedTuple):
    """The three matrices of F(m x m, 3 x 3), with p = m + 2 points each way."""

    b: Array  # (p, p): from pixels to points
    g: Array  # (p, 3): from filters to points
    a: Array  # (m, p): from points to outputs


F2 = Transform(
    b=np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    g=np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
    a=np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
)
F4 = Transform(
    b=np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
    g=np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
    a=np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
)
TRANSFORMS = {"winograd2": F2, "winograd4": F4}


def fits(window: Window, groups: int) -> bool:
    """Whether it is a convolution of this kind, and its way back too."""
    plain = window.kernel == (3, 3) and window.stride == window.dilation == (1, 1) and not window.ceil
    return plain and groups == 1 and max(window.pad) <= 2


def prepared(w: Array, transform: Transform) -> Array:
    """G w Gᵀ for every filter, in panels of outputs: (3, 3, C, K) → (p², K/panel, C, panel)."""
    _, _, c, k = w.shape
    both = np.kron(transform.g, transform.g).astype(w.dtype)  # (p², 9)
    points = (both @ w.reshape(9, c * k)).reshape(len(both), c, -1, _panel(k))
    return np.ascontiguousarray(points.transpose(0, 2, 1, 3))


def prepared_backward(w: Array, transform: Transform) -> Array:
    """The filters of the way back: turned by half a turn, inputs and outputs exchanged."""
    return prepared(w[::-1, ::-1].transpose(0, 1, 3, 2), transform)


def conv(
    x: Array, u: Array, b: Array | None, window: Window, transform: Transform, mem: Mem, *, relu: bool = False
) -> Array:
    """(N, H, W, C) → (N, oh, ow, K) by the prepared filters u; with `relu`, max(y, 0)."""
    n = len(x)
    work = _Tiles(transform, u, b, relu, window, x.shape[1:3], mem)
    y = fresh((n, work.rows * work.m, work.columns * work.m, work.k), x, mem)
    with CREW.alone():
        if work.in_blocks(n):
            work.by_blocks(x, y)
        else:
            for first in range(0, n, work.at_once):
                work.by_phases(x[first : first + work.at_once], y[first : first + work.at_once])
    return y if y.shape[1:3] == work.size else work.trimmed(y)


def conv_backward(dzdy: Array, u: Array, window: Window, transform: Transform, mem: Mem) -> Array:
    """The gradient by x is a convolution too, by the turned filters, with 2 - pad where pad was."""
    top, bottom, left, right = (2 - pad for pad in window.pad)
    return conv(dzdy, u, None, Window.of(3, pad=(top, bottom, left, right)), transform, mem)


def conv_backward_w(dzdy: Array, x: Array, window: Window, transform: Transform, mem: Mem) -> Array:
    """(3, 3, C, K). Some images at a time: first all into points, then at each point one product."""
    (n, *_, k), c, points = dzdy.shape, x.shape[3], len(transform.b)
    like = fresh((points * points, 1, c, k), x, mem)
    work = _Tiles(transform, like, None, False, window, x.shape[1:3], mem)
    some, tiles = min(n, work.at_once), work.tiles
    v, m = (fresh((points, points, some, work.rows, work.columns, d), x, mem) for d in (c, k))
    sums = like.reshape(points * points, c, k)
    sums.fill(0)

    def into_points(block: Block) -> None:
        work.into_points(images, block, v[:, :, block.images])
        work.back_into_points(answers[block.images], m[:, :, block.images])

    def multiply(point: int, count: int) -> None:
        left, right = (a.reshape(points**2, some * tiles, -1)[point, : count * tiles] for a in (v, m))
        sums[point] += left.T @ right

    with CREW.alone():
        for first in range(0, n, some):
            images, answers = x[first : first + some], dzdy[first : first + some]
            CREW.run(partial(into_points, block) for block in work.parts(len(images), work.rows))
            CREW.run(partial(multiply, point, len(images)) for point in range(points**2))
    both = np.kron(transform.g, transform.g).astype(x.dtype)  # (p², 9)
    return (both.T @ sums.reshape(len(both), c * k)).reshape(3, 3, c, k)


class _Tiles(Tiling):
    """One convolution cut into tiles, and what is done with a block of them."""

    def __init__(
        self,
        transform: Transform,
        u: Array,
        b: Array | None,
        relu: bool,
        window: Window,
        x_size: tuple[int, int],
        mem: Mem,
    ) -> None:
        _, panels, c, panel = u.shape
        super().__init__(x_size, c, panels * panel, window, len(transform.a))
        self.u, self.bias, self.relu, self.mem = u, b, relu, mem
        self.to_points, self.to_outputs = (matrix.astype(u.dtype) for matrix in (transform.b, transform.a))

    def by_blocks(self, x: Array, y: Array) -> None:
        """Where there are tiles enough: every task takes a block of them all the way, within the cache."""

        def task(block: Block) -> None:
            shape = (self.p, self.p, *block.shape)
            points, products = (fresh((*shape, d), self.u, self.mem) for d in (self.c, self.k))
            self.into_points(x, block, points)
            self.multiply(points, products, range(self.p * self.p))
            self.into_outputs(products, y, block)

        CREW.run(partial(task, block) for block in self.blocks(len(x)))

    def by_phases(self, x: Array, y: Array) -> None:
        """For few tiles: all of some images into points, point by point, and all out again."""
        p, shape = self.p, (self.p, self.p, len(x), self.rows, self.columns)
        points, products = (fresh((*shape, d), self.u, self.mem) for d in (self.c, self.k))
        parts = [(block, (..., *block.which, slice(None))) for block in self.parts(len(x), 2)]
        CREW.run(partial(self.into_points, x, block, points[which]) for block, which in parts)
        CREW.run(partial(self.multiply, points, products, range(at, at + p)) for at in range(0, p * p, p))
        CREW.run(partial(self.into_outputs, products[which], y, block) for block, which in parts)

    def trimmed(self, y: Array) -> Array:
        """Without what the last tiles have too much."""
        h, w = self.size
        exact = fresh((len(y), h, w, self.k), y, self.mem)
        exact[...] = y[:, :h, :w]
        return exact

    def pixels(self, x: Array, block: Block) -> Array:
        """What a block of tiles lies on: pixels of x, and zeros where it ends."""
        (_, h, w, c), (pad_y, pad_x), m = x.shape, self.corner, self.m
        size = (block.rows * m + 2, block.columns * m + 2)
        ground = fresh((block.shape[0], *size, c), x, self.mem)
        y0, x0 = block.top * m - pad_y, block.left * m - pad_x  # the pixel of x in the first corner here
        top, bottom = max(0, -y0), min(size[0], h - y0)
        left, right = max(0, -x0), min(size[1], w - x0)
        ground[:, :top] = ground[:, bottom:] = 0
        ground[:, top:bottom, :left] = ground[:, top:bottom, right:] = 0
        ground[:, top:bottom, left:right] = x[block.images, y0 + top : y0 + bottom, x0 + left : x0 + right]
        return ground

    def into_points(self, x: Array, block: Block, points: Array) -> None:
        """B x Bᵀ: down the columns of pixels first, then along the rows. The tiles overlap by two pixels."""
        pixels, m, p, c = self.pixels(x, block), self.m, self.p, self.c
        image, down, across, item = pixels.strides
        shape = (*block.shape[:2], p, pixels.shape[2] * c)
        tall = as_strided(pixels, shape, (image, m * down, down, item))
        half = np.matmul(self.to_points, tall, out=fresh(shape, self.u, self.mem))
        strides = (*half.strides[:3], m * across, across, item)
        wide = as_strided(half, (*block.shape[:2], p, block.columns, p, c), strides)
        np.matmul(self.to_points, wide, out=points.transpose(2, 3, 0, 4, 1, 5))

    def back_into_points(self, dzdy: Array, points: Array) -> None:
        """Aᵀ dzdy A: every tile of a gradient, with zeros where the last tiles have too much."""
        n, m, p, k, (h, w) = len(dzdy), self.m, self.p, self.k, self.size
        ground = dzdy
        if (h, w) != (self.rows * m, self.columns * m):
            ground = fresh((n, self.rows * m, self.columns * m, k), self.u, self.mem)
            ground[:, :h, :w], ground[:, h:], ground[:, :h, w:] = dzdy, 0, 0
        tall = ground.reshape(n, self.rows, m, -1)
        half = fresh((n, self.rows, p, tall.shape[3]), self.u, self.mem)
        np.matmul(self.to_outputs.T, tall, out=half)
        wide = half.reshape(n, self.rows, p, self.columns, m, k)
        np.matmul(self.to_outputs.T, wide, out=points.transpose(2, 3, 0, 4, 1, 5))

    def multiply(self, points: Array, products: Array, which: range) -> None:
        """At each point, one matrix product over the channels, in panels that BLAS takes as they lie."""
        v = points.reshape(self.p**2, -1, self.c)[which.start : which.stop]  # (some, T, C)
        out = products.reshape(self.p**2, -1, self.k)[which.start : which.stop]  # (some, T, K)
        u = self.u[which.start : which.stop]  # (some, K/panel, C, panel)
        for part, height in _strips(v.shape[1], self.c * u.shape[3]):
            a = v[:, None, part].reshape(len(v), 1, -1, height, self.c)
            into = out[:, part].reshape(len(v), -1, height, u.shape[1], u.shape[3])
            np.matmul(a, u[:, :, None], out=into.transpose(0, 3, 1, 2, 4))

    def into_outputs(self, products: Array, y: Array, block: Block) -> None:
        """A (...) Aᵀ, with the bias: added at point (1, 1), it comes out at every output just once."""
        (n, rows, columns), m, p, k = block.shape, self.m, self.p, self.k
        if self.bias is not None:
            products[1, 1] += self.bias
        half = fresh((m, p, n, rows, columns * k), y, self.mem)
        flat = products.reshape(p, p, n, rows, columns * k).transpose(2, 3, 1, 0, 4)
        np.matmul(self.to_outputs, flat, out=half.transpose(2, 3, 1, 0, 4))
        part = y[block.images, block.top * m :, block.left * m :][:, : rows * m, : columns * m]
        tiles = part.reshape(n, rows, m, columns, m, k)
        wide = half.reshape(m, p, n, rows, columns, k).transpose(2, 3, 0, 4, 1, 5)
        np.matmul(self.to_outputs, wide, out=tiles)
        for image in part if self.relu else ():
            rectify(image.reshape(rows * m, columns * m * k))


def _panel(k: int) -> int:
    """How many outputs go into one panel: a divisor of k, at most 64, but no sliver."""
    return next((size for size in range(64, 15, -1) if k % size == 0), k)


def _strips(total: int, per_row: int) -> Iterator[tuple[slice, int]]:
    """Rows in strips of one height whose product is small, and a last strip with what is left."""
    height = -(-total // -(-total * per_row // SMALL))
    whole = total // height * height
    yield slice(0, whole), height
    if whole < total:
        yield slice(whole, total), total - whole
