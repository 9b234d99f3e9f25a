"""How Winograd's convolution is cut into tiles, and the tiles into tasks: never by the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from minidnn.arrays import Array
from minidnn.window import Window

IN_CACHE = 1_000_000  # numbers that one task may work on
AT_ONCE = 4_000_000  # numbers that images taken together may have at points
ENOUGH = 64  # tiles at least that make it worth reading all filters for them alone
MANY = 512  # tiles of one image: too many to have all at points at a time
TASKS = 8  # that many images are at least shared out into
Shape = tuple[int, int, int]  # images, and the rows and columns of tiles of each


@dataclass(frozen=True, eq=False)
class Transform:
    """The three matrices of F(m x m, 3 x 3), with p = m + 2 points each way."""

    b: Array  # (p, p): from pixels to points
    g: Array  # (p, 3): from filters to points
    a: Array  # (m, p): from points to outputs


class Block(NamedTuple):
    """Some of the tiles: of some images, from the first row and column so many."""

    images: slice
    top: int
    rows: int
    left: int
    columns: int

    @property
    def shape(self) -> Shape:
        return self.images.stop - self.images.start, self.rows, self.columns

    @property
    def which(self) -> tuple[Any, ...]:
        """Where it is among all points or products (p, p, images, rows, columns, …)."""
        rows, columns = slice(self.top, self.top + self.rows), slice(self.left, self.left + self.columns)
        return ..., self.images, rows, columns, slice(None)

    def of(self, some: slice) -> Block:
        """The same of those images, counted from the first of all."""
        images = slice(some.start + self.images.start, some.start + self.images.stop)
        return self._replace(images=images)


class Tiling:
    """The outputs of every image as `rows` x `columns` tiles of m x m, each known at p x p points."""

    def __init__(
        self, x_size: tuple[int, int], c: int, k: int, panel: int, window: Window, transform: Transform
    ) -> None:
        self.b, self.a, (self.m, self.p) = transform.b, transform.a, transform.a.shape
        self.c, self.k, self.panel = c, k, panel  # so many outputs together
        self.size, self.corner = window.out_size(*x_size), (window.pad[0], window.pad[2])
        self.rows, self.columns = (-(-side // self.m) for side in self.size)
        self.tiles = self.rows * self.columns  # of one image
        self.multiplications = self.tiles * self.p**2 * c * k  # for one image
        per_tile = self.p**2 * (c + k)
        self.in_cache = max(1, IN_CACHE // per_tile)  # tiles
        self.enough = max(ENOUGH, self.p**2 * c * k // (96 * (c + k)))  # tiles: more for larger filters
        self.at_once = max(1, AT_ONCE // (self.tiles * per_tile))  # images
        self._blocks = dict[int, tuple[Block, ...]]()

    def in_blocks(self, n: int) -> bool:
        """Whether a task takes some tiles all the way, or many filters are read once for all tiles."""
        few_filters = self.in_cache >= ENOUGH // 2 or self.tiles > MANY
        return few_filters and n * self.tiles >= 2 * ENOUGH

    def blocks(self, n: int) -> tuple[Block, ...]:
        """Parts of a large map, or as many small maps as the cache holds. The first is the largest."""
        if n not in self._blocks:
            images = max(1, min(self.in_cache // self.tiles, -(-n // TASKS)))
            columns = -(-self.columns // -(-self.columns // max(64, self.in_cache // 4)))
            rows = max(min(4, self.in_cache // columns), -(-self.enough // columns))
            self._blocks[n] = tuple(self._each(n, images, self.rows if images > 1 else rows, columns))
        return self._blocks[n]

    def parts(self, n: int, rows: int = 2) -> tuple[Block, ...]:
        """Some whole images, or of one image some rows. The first is the largest."""
        images = -(-n // TASKS)
        return tuple(self._each(n, images, self.rows if images > 1 else rows, self.columns))

    def _each(self, n: int, images: int, rows: int, columns: int) -> Iterator[Block]:
        """About so many rows, in parts alike that 2 or 4 threads can share out."""
        parts = -(-self.rows // rows)
        parts = parts if parts <= 2 else min(self.rows, 4 * max(1, round(parts / 4)))
        edges = [-(-self.rows * part // parts) for part in range(parts + 1)]
        for first in range(0, n, images):
            some = slice(first, min(first + images, n))
            for top, bottom in pairwise(edges):
                for left in range(0, self.columns, columns):
                    yield Block(some, top, bottom - top, left, min(columns, self.columns - left))


tiling = lru_cache(maxsize=512)(Tiling)  # the same one for the same convolution, step after step
