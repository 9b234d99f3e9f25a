"""Where a worker has a block of tiles on its way: room, and all of it as the small matrix products see it.

Only one thread at a time is let into Python, so what is done there between two products holds up the others.
So a run keeps its desks, each with room for the largest block yet, and with the views of every kind of block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minidnn.arrays import Array
from minidnn.kernels.behind import Given, Taken
from minidnn.kernels.cpu.threads import Desks
from minidnn.kernels.cpu.tiling import Block, Shape, Tiling
from minidnn.kernels.memory import Mem, aligned

SMALL = 1_000_000  # multiplications up to which OpenBLAS takes a matrix product as it lies


class Desk:
    """Room for one worker, and the views of it that were laid out before."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.around: list[object] = [None]  # what zeros were last laid around
        self._flat = dict[str, Array]()
        self._made = dict[tuple[type, Tiling, Shape], Any]()

    def at(self, kind: type, cut: Tiling, shape: Shape) -> Any:
        """An Inward, Middle or Outward for blocks of that shape."""
        key = kind, cut, shape
        if key not in self._made:
            for name, size in needs(cut, shape)[kind].items():
                if name not in self._flat or self._flat[name].size < size:
                    self._flat[name] = np.frombuffer(aligned(size * self.dtype.itemsize), self.dtype)
                    self._made.clear()
            self._made[key] = kind(self, cut, shape)
        return self._made[key]

    def __call__(self, name: str, *shape: int) -> Array:
        return self._flat[name][: prod(shape)].reshape(shape)

    @property
    def nbytes(self) -> int:
        return sum(flat.nbytes for flat in self._flat.values())


def needs(cut: Tiling, shape: Shape) -> dict[type, dict[str, int]]:
    """The numbers that each of the three needs room for. What one has read up is room for the next."""
    (n, rows, columns), m, p, c, k = shape, cut.m, cut.p, cut.c, cut.k
    tiles, wide = n * rows * columns, columns * m + 2
    return {
        Inward: {"pixels": n * (rows * m + 2) * wide * c, "products": n * rows * p * wide * c},
        Middle: {"points": tiles * p * p * c, "products": tiles * p * p * k},
        Outward: {"points": tiles * m * (p + m) * k},
    }


class Inward:
    """From pixels to points, B x Bᵀ: down the columns of pixels first, then along the rows."""

    def __init__(self, desk: Desk, cut: Tiling, shape: Shape) -> None:
        (n, rows, columns), m, p, c = shape, cut.m, cut.p, cut.c
        self.cut, self.b, self.around = cut, cut.b.astype(desk.dtype), desk.around
        self.ground = desk("pixels", n, rows * m + 2, columns * m + 2, c)
        image, down, across, item = self.ground.strides
        tall = (n, rows, p, self.ground.shape[2] * c)  # the tiles overlap by two pixels
        self.tall = as_strided(self.ground, tall, (image, m * down, down, item))
        self.half = desk("products", *tall)
        strides = (*self.half.strides[:3], m * across, across, item)
        self.wide = as_strided(self.half, (n, rows, p, columns, p, c), strides)

    def run(self, given: Given, block: Block, points: Array) -> None:
        """Into points (p, p, images, rows, columns, C)."""
        self._lay_out(given, block)
        np.matmul(self.b, self.tall, out=self.half)
        np.matmul(self.b, self.wide, out=points.transpose(2, 3, 0, 4, 1, 5))

    def _lay_out(self, given: Given, block: Block) -> None:
        """What the tiles lie on: pixels that are given, and zeros where they end."""
        (_, h, w, _), (pad_y, pad_x), ground, m = given.shape, self.cut.corner, self.ground, self.cut.m
        y0, x0 = block.top * m - pad_y, block.left * m - pad_x  # the pixel of x in the first corner here
        top, bottom = max(0, -y0), min(ground.shape[1], h - y0)
        left, right = max(0, -x0), min(ground.shape[2], w - x0)
        inside = (ground.shape, top, bottom, left, right)
        if self.around[0] != inside:
            ground[:, :top] = ground[:, bottom:] = 0
            ground[:, top:bottom, :left] = ground[:, top:bottom, right:] = 0
            self.around[0] = inside
        ys, xs = slice(y0 + top, y0 + bottom), slice(x0 + left, x0 + right)
        given.give(block.images, ys, xs, ground[:, top:bottom, left:right])


class Outward:
    """From points to outputs, A (...) Aᵀ, with the bias."""

    def __init__(self, desk: Desk, cut: Tiling, shape: Shape) -> None:
        (n, rows, columns), m, p, k = shape, cut.m, cut.p, cut.k
        self.cut, self.a, self.in_tiles = cut, cut.a.astype(desk.dtype), (n, rows, m, columns, m, k)
        room = desk("points", m * (p + m), n * rows * columns * k)
        half = room[: m * p].reshape(m, p, n, rows, columns * k)
        self.half = half.transpose(2, 3, 1, 0, 4)
        self.wide = half.reshape(m, p, n, rows, columns, k).transpose(2, 3, 0, 4, 1, 5)
        self.tiles = room[m * p :].reshape(n, rows * m, columns * m, k)

    def run(self, products: Array, bias: Array | None, block: Block, y: Taken) -> None:
        """From products (p, p, images, rows, columns, K)."""
        if bias is not None:  # at point (1, 1) it comes out at every output just once
            products[1, 1] += bias
        p, p, n, rows, columns, k = products.shape
        flat = products.reshape(p, p, n, rows, columns * k)
        np.matmul(self.a, flat.transpose(2, 3, 1, 0, 4), out=self.half)
        m, (_, tall, wide, _), (h, w) = self.cut.m, self.tiles.shape, self.cut.size
        top, left = block.top * m, block.left * m
        h, w = min(tall, h - top), min(wide, w - left)
        if not y.rectifies and (h, w) == (tall, wide):
            there = y.y[block.images, top : top + h, left : left + w]
            np.matmul(self.a, self.wide, out=there.reshape(self.in_tiles))
        else:
            np.matmul(self.a, self.wide, out=self.tiles.reshape(self.in_tiles))
            y.take(self.tiles[:, :h, :w], block.images, top, left)


class Middle:
    """At each point a matrix product over the channels, in strips and panels that BLAS takes as they lie."""

    def __init__(self, room: Callable[..., Array], cut: Tiling, shape: Shape) -> None:
        (n, rows, columns), p, c, k = shape, cut.p, cut.c, cut.k
        self.points = room("points", p, p, n, rows, columns, c)
        self.products = room("products", p, p, n, rows, columns, k)
        total, self.parts = n * rows * columns, list[tuple[Array, Array]]()
        points, products = self.points.reshape(p * p, total, c), self.products.reshape(p * p, total, k)
        for part, height in strips(total, c * cut.panel):
            some = points[:, None, part].reshape(p * p, 1, -1, height, c)
            into = products[:, part].reshape(p * p, -1, height, k // cut.panel, cut.panel)
            self.parts.append((some, into.transpose(0, 3, 1, 2, 4)))

    def run(self, u: Array, some: slice) -> None:
        """At some of the points."""
        filters = u[some, :, None]
        for points, products in self.parts:
            np.matmul(points[some], filters, out=products[some])


def strips(total: int, per_row: int) -> Iterator[tuple[slice, int]]:
    """Rows in strips of one height whose product is small, and a last strip with what is left."""
    height = -(-total // -(-total * per_row // SMALL))
    whole = total // height * height
    yield slice(0, whole), height
    if whole < total:
        yield slice(whole, total), total - whole


def desks_of(mem: Mem, dtype: np.dtype) -> Desks:
    """Those of this run, which stay; or new ones where there is no run."""
    desks = Desks(lambda: Desk(dtype))
    return desks if mem is None else mem.kept.setdefault(dtype, desks)
