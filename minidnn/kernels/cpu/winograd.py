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

from functools import lru_cache, partial

import numpy as np

from minidnn.arrays import Array
from minidnn.kernels.behind import Behind, Given, Taken
from minidnn.kernels.cpu.desk import Inward, Middle, Outward, desks_of
from minidnn.kernels.cpu.threads import CREW, Desks
from minidnn.kernels.cpu.tiling import Block, Tiling, Transform, tiling
from minidnn.kernels.memory import Mem, fresh
from minidnn.window import Window

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
    (_, _, c, k), panel = w.shape, panel_of(w.shape[3])
    both = np.kron(transform.g, transform.g).astype(w.dtype)  # (p², 9)
    u = np.empty((len(both), k // panel, c, panel), w.dtype)
    for at in range(k // panel):
        filters = w[..., at * panel : (at + 1) * panel].reshape(9, c * panel)
        u[:, at] = (both @ filters).reshape(-1, c, panel)
    return u


def prepared_backward(w: Array, transform: Transform) -> Array:
    """The filters of the way back: turned by half a turn, inputs and outputs exchanged."""
    return prepared(w[::-1, ::-1].transpose(0, 1, 3, 2), transform)


def conv(
    x: Array | Given,
    u: Array,
    b: Array | None,
    window: Window,
    transform: Transform,
    mem: Mem,
    behind: Behind,
) -> tuple[Array, Behind]:
    """(N, H, W, C) → (N, oh, ow, K) by the prepared filters u, and on through what is behind."""
    given = x if isinstance(x, Given) else Given(x, x.shape)
    n, (_, panels, c, panel) = given.shape[0], u.shape
    cut = tiling(given.shape[1:3], c, panels * panel, panel, window, transform)
    y, desks = Taken((n, *cut.size, cut.k), given.x, behind, mem, may_pool=True), desks_of(mem, u.dtype)
    with CREW.alone():
        if cut.in_blocks(n):
            _by_blocks(given, y, cut, u, b, desks)
        else:
            for first in range(0, n, cut.at_once):
                _by_phases(given, y, cut, u, b, desks, slice(first, min(n, first + cut.at_once)))
    return y.finished()


def _by_blocks(given: Given, y: Taken, cut: Tiling, u: Array, b: Array | None, desks: Desks) -> None:
    """Where there are tiles enough: every task takes a block of them all the way, within the cache."""

    def task(block: Block) -> None:
        with desks.one() as desk:
            middle = desk.at(Middle, cut, block.shape)
            desk.at(Inward, cut, block.shape).run(given, block, middle.points)
            middle.run(u, slice(0, len(u)))
            desk.at(Outward, cut, block.shape).run(middle.products, b, block, y)

    blocks = cut.blocks(given.shape[0])
    CREW.run((partial(task, block) for block in blocks), given.shape[0] * cut.multiplications)


def _by_phases(
    given: Given, y: Taken, cut: Tiling, u: Array, b: Array | None, desks: Desks, some: slice
) -> None:
    """For few tiles: all of some images into points, point by point, and all out again."""
    shape = (some.stop - some.start, cut.rows, cut.columns)
    middle = Middle(lambda name, *shape: fresh(shape, u, y.mem), cut, shape)

    def into_points(block: Block) -> None:
        with desks.one() as desk:
            desk.at(Inward, cut, block.shape).run(given, block.of(some), middle.points[block.which])

    def out(block: Block) -> None:
        with desks.one() as desk:
            desk.at(Outward, cut, block.shape).run(middle.products[block.which], b, block.of(some), y)

    parts = cut.parts(shape[0])
    points, much = (slice(at, at + cut.p) for at in range(0, len(u), cut.p)), shape[0] * cut.multiplications
    CREW.run((partial(into_points, block) for block in parts), much)
    CREW.run((partial(middle.run, u, part) for part in points), much)
    CREW.run((partial(out, block) for block in parts), much)


def conv_backward(dzdy: Array | Given, u: Array, window: Window, transform: Transform, mem: Mem) -> Array:
    """The gradient by x is a convolution too, by the turned filters."""
    return conv(dzdy, u, None, turned(window), transform, mem, None)[0]


@lru_cache(maxsize=64)
def turned(window: Window) -> Window:
    """With 2 - pad where pad was."""
    top, bottom, left, right = (2 - pad for pad in window.pad)
    return Window.of(3, pad=(top, bottom, left, right))


def conv_backward_w(dzdy: Array, x: Array, window: Window, transform: Transform, mem: Mem) -> Array:
    """(3, 3, C, K). Some images at a time: first all into points, then at each point one product."""
    (n, *_, k), c, p = dzdy.shape, x.shape[3], len(transform.b)
    cut, desks = tiling(x.shape[1:3], c, k, k, window, transform), desks_of(mem, x.dtype)
    some, tiles = min(n, cut.at_once), cut.tiles
    v, m = (fresh((p, p, some, cut.rows, cut.columns, d), x, mem) for d in (c, k))
    sums = fresh((p * p, c, k), x, mem)
    sums.fill(0)

    def into_points(block: Block) -> None:
        with desks.one() as desk:
            desk.at(Inward, cut, block.shape).run(Given(images, images.shape), block, v[:, :, block.images])
        _back_into_points(answers[block.images], m[:, :, block.images], cut, mem)

    def multiply(point: int, count: int) -> None:
        left, right = (a.reshape(p * p, some * tiles, -1)[point, : count * tiles] for a in (v, m))
        sums[point] += left.T @ right

    with CREW.alone():
        for first in range(0, n, some):
            images, answers = x[first : first + some], dzdy[first : first + some]
            CREW.run(partial(into_points, block) for block in cut.parts(len(images), cut.rows))
            CREW.run(partial(multiply, point, len(images)) for point in range(p * p))
    both = np.kron(transform.g, transform.g).astype(x.dtype)  # (p², 9)
    return (both.T @ sums.reshape(len(both), c * k)).reshape(3, 3, c, k)


def _back_into_points(dzdy: Array, points: Array, cut: Tiling, mem: Mem) -> None:
    """Aᵀ dzdy A: every tile of a gradient, with zeros where the last tiles have too much."""
    n, m, p, k, (h, w) = len(dzdy), cut.m, cut.p, cut.k, cut.size
    ground, a = dzdy, cut.a.T.astype(dzdy.dtype)
    if (h, w) != (cut.rows * m, cut.columns * m):
        ground = fresh((n, cut.rows * m, cut.columns * m, k), dzdy, mem)
        ground[:, :h, :w], ground[:, h:], ground[:, :h, w:] = dzdy, 0, 0
    tall = ground.reshape(n, cut.rows, m, -1)
    half = fresh((n, cut.rows, p, tall.shape[3]), dzdy, mem)
    np.matmul(a, tall, out=half)
    wide = half.reshape(n, cut.rows, p, cut.columns, m, k)
    np.matmul(a, wide, out=points.transpose(2, 3, 0, 4, 1, 5))


def panel_of(k: int) -> int:
    """How many outputs go into one panel: a divisor of k, at most 64, but no sliver."""
    return next((size for size in range(64, 15, -1) if k % size == 0), k)
