"""Memory that is used again. Fresh memory is slow: the system hands it out page by page, full of zeros."""

from __future__ import annotations

import sys
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from minidnn.arrays import Array, xp_of

ALIGN = 64  # bytes: a cache line, and the widest vector
SLACK = 1 << 16  # bytes that a block may be too large by, whatever is asked


class Arena:
    """Blocks of host memory, lent out as arrays; a block is free again when nobody holds its array.

    Nothing is given back by hand, and what a user keeps stays as it is: the interpreter counts who holds
    what. Device arrays come from their own library, which does the like.
    """

    def __init__(self) -> None:
        self.kept = dict[Any, Any]()  # desks of workers
        self._blocks: list[_Block] = []
        self._lock = Lock()
        self._run = 0

    def empty(self, shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
        """Room of that shape, whose numbers are whatever was there before."""
        kind = np.dtype(dtype or like.dtype)
        if not isinstance(like, np.ndarray):
            return xp_of(like).empty(shape, kind)
        need = prod(shape) * kind.itemsize
        with self._lock:
            block = self._best(need)
            block.last_run = self._run
            return block.room(need).view(kind).reshape(shape)

    def begin(self) -> None:
        """A new run: let go of the blocks that the last one had no use for."""
        with self._lock:
            self._blocks = [b for b in self._blocks if b.last_run == self._run or not b.is_free]
            self._run += 1

    @property
    def nbytes(self) -> int:
        """What lies ready, lent to nobody."""
        kept = sum(desks.nbytes for desks in self.kept.values())
        return kept + sum(block.nbytes for block in self._blocks if block.is_free)

    def _best(self, need: int) -> _Block:
        """The smallest free block that is large enough but not far too large, or a new one."""
        fits = [b for b in self._blocks if need <= b.nbytes <= need + need // 4 + SLACK and b.is_free]
        if fits:
            return min(fits, key=lambda block: block.nbytes)
        self._blocks.append(_Block(need))
        return self._blocks[-1]


class _Block:
    """One piece of memory. Every array lent out holds on to `raw`, and so shows that it is in use."""

    def __init__(self, nbytes: int) -> None:
        self.raw = np.empty(nbytes + ALIGN, np.uint8)
        self.nbytes, self.last_run = nbytes, 0
        self.start = -self.raw.ctypes.data % ALIGN

    def room(self, nbytes: int) -> Array:
        return self.raw[self.start : self.start + nbytes]

    @property
    def is_free(self) -> bool:
        return sys.getrefcount(self.raw) <= UNHELD


def _holders_of_a_free_block() -> int:
    block = _Block(0)
    return sys.getrefcount(block.raw)


UNHELD = _holders_of_a_free_block()
Mem = Arena | None  # None: no run, so no memory to use again


def fresh(shape: tuple[int, ...], like: Array, mem: Mem, dtype: Any = None) -> Array:
    """Room in the memory of the run where there is a run, else new memory."""
    return mem.empty(shape, like, dtype) if mem is not None else xp_of(like).empty(shape, dtype or like.dtype)
