"""Sums and products by channel in pieces that fit into the cache, as many at once as there are threads.

A number for each channel is repeated over a whole piece first: NumPy is slow where rows are short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from minidnn.arrays import Array
from minidnn.kernels.cpu.threads import CREW
from minidnn.kernels.memory import Mem, fresh

PIECE = 1 << 17  # numbers


def moments(x: Array) -> tuple[Array, Array]:
    """Twice over x, the mean first: exact also where the mean is far from 0."""
    pixels = x.reshape(-1, x.shape[3])
    mean = (_column_sums(lambda _, part: part, pixels) / len(pixels)).astype(x.dtype)
    middle = _repeated(mean, pixels).reshape(-1, len(mean))

    def squared(_: slice, part: Array) -> Array:
        part = part - middle[: len(part)]
        part *= part
        return part

    return mean, (_column_sums(squared, pixels) / len(pixels)).astype(x.dtype)


def sums(dzdy: Array, x: Array, mean: Array) -> tuple[Array, Array]:
    """Of each channel the sum of dzdy, and that of dzdy * (x - mean)."""
    pixels, grads = (array.reshape(-1, x.shape[3]) for array in (x, dzdy))
    middle = _repeated(mean, pixels).reshape(-1, len(mean))

    def term(rows: slice, part: Array) -> Array:
        part = part - middle[: len(part)]
        part *= grads[rows]
        return part

    total, along = _column_sums(lambda _, part: part, grads), _column_sums(term, pixels)
    return total.astype(x.dtype), along.astype(x.dtype)


def scaled(x: Array, scale: Array, shift: Array, mem: Mem) -> Array:
    y, (scale, shift) = fresh(x.shape, x, mem), (_repeated(a, x) for a in (scale, shift))

    def work(x: Array, y: Array) -> None:
        np.multiply(x, scale[: x.size], out=y)
        y += shift[: x.size]

    _each_piece(work, x, y)
    return y


def blended(x: Array, a: Array, y: Array, b: Array, c: Array, mem: Mem) -> Array:
    out, (a, b, c) = fresh(x.shape, x, mem), (_repeated(each, x) for each in (a, b, c))

    def work(x: Array, y: Array, out: Array) -> None:
        np.multiply(x, a[: x.size], out=out)
        part = y * b[: x.size]
        part += c[: x.size]
        out += part

    _each_piece(work, x, y, out)
    return out


def by_pixel(formula: Callable[..., Any], arrays: Sequence[Array], results: int, mem: Mem) -> Any:
    """formula(*arrays), filled in piece by piece."""
    x, first = arrays[0], len(arrays)
    found = [fresh(x.shape, x, mem) for _ in range(results)]

    def work(*pieces: Array) -> None:
        pixels = [piece.reshape(1, 1, -1, x.shape[3]) for piece in pieces]
        parts = formula(*pixels[:first])
        for part, out in zip(parts if results > 1 else [parts], pixels[first:], strict=True):
            out[...] = part

    _each_piece(work, *arrays, *found)
    return tuple(found) if results > 1 else found[0]


def _column_sums(term: Callable[[slice, Array], Array], x: Array) -> Array:
    """Of each column the sum of term(rows, x[rows]), in double precision.

    A piece is summed up by BLAS, the pieces one after the other: the bits do not depend on the threads.
    """
    count = _rows(x)
    ones, starts = np.ones(count, x.dtype), range(0, len(x), count)
    found = np.empty((len(starts), x.shape[1]))

    def task(i: int, at: int) -> None:
        rows = slice(at, min(at + count, len(x)))
        found[i] = ones[: rows.stop - at] @ term(rows, x[rows])

    with CREW.alone():
        CREW.run(partial(task, i, at) for i, at in enumerate(starts))
    return found.sum(axis=0)


def _each_piece(work: Callable[..., None], *arrays: Array) -> None:
    """work(*pieces) for every piece of the arrays, which have one shape: whole pixels, laid flat."""
    c, flat = arrays[0].shape[3], [array.reshape(-1) for array in arrays]
    step = _rows(arrays[0]) * c

    def task(at: int) -> None:
        work(*(array[at : at + step] for array in flat))

    CREW.run(partial(task, at) for at in range(0, flat[0].size, step))


def _rows(x: Array) -> int:
    """Rows of channels in one piece."""
    return max(1, min(PIECE, x.size) // x.shape[-1])


def _repeated(numbers: Array, x: Array) -> Array:
    return np.tile(numbers, _rows(x))
