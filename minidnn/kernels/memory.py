"""Memory that is used again. Fresh memory is slow: the system hands it out page by page, full of zeros."""

from __future__ import annotations

import sys
from bisect import insort
from collections.abc import Iterator
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from minidnn.arrays import Array, xp_of

ALIGN = 64  # bytes: a cache line, and the widest vector
LEAST = 6  # a block is not cut for less than such a part of it: that would hold back all the rest


class Arena:
    """Blocks of host memory, lent out in pieces as arrays; a piece is free again when nobody holds its array.

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
        nbytes = prod(shape) * kind.itemsize
        with self._lock:
            raw = self._cut(rounded(nbytes))
        return raw[:nbytes].view(kind).reshape(shape)

    def begin(self) -> None:
        """A new run: let go of the blocks that the last one had no use for."""
        with self._lock:
            self._blocks = [b for b in self._blocks if b.last_run == self._run or b.held()]
            self._run += 1

    @property
    def nbytes(self) -> int:
        """What lies ready, lent to nobody."""
        with self._lock:
            ready = sum(stop - start for block in self._blocks for start, stop in block.free())
        return ready + sum(desks.nbytes for desks in self.kept.values())

    def _cut(self, need: int) -> Array:
        """From the smallest room that is large enough, or from a new block."""
        rooms = [
            (stop - start, start, number)
            for number, block in enumerate(self._blocks)
            if need <= block.nbytes <= LEAST * need
            for start, stop in block.free()
            if stop - start >= need
        ]
        if not rooms:
            self._blocks.append(_Block(need))
        _, start, number = min(rooms, default=(need, 0, len(self._blocks) - 1))
        self._blocks[number].last_run = self._run
        return self._blocks[number].lend(start, need)


class _Block:
    """One piece of memory of the system's, and the arrays that lie in it."""

    def __init__(self, nbytes: int) -> None:
        raw = np.empty(nbytes + ALIGN, np.uint8)
        self.nbytes, self.last_run = nbytes, 0
        self._start = -raw.ctypes.data % ALIGN
        self._memory = raw.data
        self._lent: list[list[Any]] = []  # [start, stop, array], in order

    def lend(self, start: int, nbytes: int) -> Array:
        """All that is cut from this array holds on to it, and so shows that it is in use."""
        at = self._start + start
        raw = np.frombuffer(self._memory[at : at + nbytes], np.uint8)
        insort(self._lent, [start, start + nbytes, raw], key=lambda piece: piece[0])
        return raw

    def held(self) -> list[list[Any]]:
        """The pieces that somebody holds; the others are forgotten."""
        self._lent = [piece for piece in self._lent if sys.getrefcount(piece[2]) > UNHELD]
        return self._lent

    def free(self) -> Iterator[tuple[int, int]]:
        """From where to where nothing is lent."""
        start = 0
        for piece in self.held():
            if piece[0] > start:
                yield start, piece[0]
            start = piece[1]
        if start < self.nbytes:
            yield start, self.nbytes


def rounded(nbytes: int) -> int:
    """What so many bytes take here."""
    return max(1, -(-nbytes // ALIGN)) * ALIGN


def _holders_of_what_is_lent_to_nobody() -> int:
    piece = [0, 0, np.empty(1)]
    return sys.getrefcount(piece[2])


UNHELD = _holders_of_what_is_lent_to_nobody()
Mem = Arena | None  # None: no run, so no memory to use again


def fresh(shape: tuple[int, ...], like: Array, mem: Mem, dtype: Any = None) -> Array:
    """Room in the memory of the run where there is a run, else new memory."""
    return mem.empty(shape, like, dtype) if mem is not None else xp_of(like).empty(shape, dtype or like.dtype)
