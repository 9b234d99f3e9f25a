"""Work on each number by itself, in pieces that fit into the cache, one thread a piece."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minidnn.arrays import Array
from minidnn.kernels.cpu.threads import CREW
from minidnn.kernels.memory import Mem, fresh

PIECE = 1 << 17  # numbers
NOTHING = np.zeros(PIECE, "float32")


def relu(x: Array, mem: Mem) -> Array:
    """max(x, 0), against an array of zeros: NumPy is three times as fast with it as with the number 0."""
    y, nothing = fresh(x.shape, x, mem), NOTHING.astype(x.dtype, copy=False)
    _in_pieces(lambda x, y: np.maximum(x, nothing[: x.size], out=y), x, y)
    return y


def rectify(y: Array) -> None:
    """max(y, 0) in place, for one who has the rows of y in the cache."""
    nothing = NOTHING.astype(y.dtype, copy=False)
    for at in range(0, y.shape[1], PIECE):
        piece = y[:, at : at + PIECE]
        np.maximum(piece, nothing[: piece.shape[1]], out=piece)


def relu_backward(dzdy: Array, y: Array, mem: Mem) -> Array:
    """dzdy where y > 0, else 0."""
    dzdx = fresh(y.shape, dzdy, mem)
    _in_pieces(lambda dzdy, y, dzdx: np.multiply(dzdy, y > 0, out=dzdx), dzdy, y, dzdx)
    return dzdx


def _in_pieces(work: Callable[..., Any], *arrays: Array) -> None:
    """work(*pieces) for every piece of the arrays, which have one shape; the last is written to."""
    flat = [array.reshape(-1) for array in arrays]
    starts = range(0, flat[0].size, PIECE)
    if len(starts) < 2:
        work(*flat)
        return

    def task(at: int) -> None:
        work(*(array[at : at + PIECE] for array in flat))

    CREW.run(partial(task, at) for at in starts)
