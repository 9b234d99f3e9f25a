"""Memory that is used again. Fresh memory is slow: the system hands it out page by page, full of zeros."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, deque
from math import prod
from threading import Lock
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from minidnn.arrays import Array, xp_of

ALIGN = 64  # bytes: a cache line, and the widest vector
LEAST = 6  # a block is not cut for less than such a part of it: that would hold back all the rest


class Arena:
    """Blocks of host memory, lent out in pieces as arrays; a piece is free again when its array is gone.

    Nothing is given back by hand, and what a user keeps stays as it is: what is cut from an array holds on to
    it. Device arrays come from their own library, which does the like.
    """

    def __init__(self) -> None:
        self.kept = dict[Any, Any]()  # desks of workers
        self._rooms, self._blocks = Rooms(), dict[int, memoryview]()
        self._lent = dict[int, tuple[ref[Any], Room]]()  # by the reference's id
        self._gone = deque[ref[Any]]()  # to arrays that were lent
        self._lock = Lock()

    def empty(self, shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
        """Room of that shape, whose numbers are whatever was there before."""
        kind = np.dtype(dtype or like.dtype)
        if not isinstance(like, np.ndarray):
            return xp_of(like).empty(shape, kind)
        count = prod(shape)
        with self._lock:
            self._take_back()
            room = self._rooms.take(rounded(count * kind.itemsize))
            size = self._rooms.blocks[room.block]
            if len(self._blocks.get(room.block, b"")) != size:  # new, or forgotten by half, by Ctrl-C
                self._blocks[room.block] = aligned(size)
            raw = np.frombuffer(self._blocks[room.block], kind, count, room.start)
            watch = ref(raw, self._gone.append)
            self._lent[id(watch)] = watch, room
        return raw.reshape(shape)

    def begin(self) -> None:
        """A new run: let go of the blocks that the last one had no use for."""
        with self._lock:
            self._take_back()
            self._rooms.begin()
            self._blocks = {n: block for n, block in self._blocks.items() if n in self._rooms.blocks}

    @property
    def nbytes(self) -> int:
        """What lies ready, lent to nobody."""
        with self._lock:
            self._take_back()
            return sum(room.nbytes for room in self._rooms.free) + sum(d.nbytes for d in self.kept.values())

    def _take_back(self) -> None:
        while self._gone:
            watch = self._gone.popleft()
            if id(watch) in self._lent:  # it is not if Ctrl-C came while the array was made
                self._rooms.give_back(self._lent.pop(id(watch))[1])


class Room(NamedTuple):
    """Part of a block."""

    nbytes: int
    start: int
    block: int


class Rooms:
    """Who has which part of which block: the smallest room that is large enough is cut, and what is left of
    it stays free; neighbours that are free become one; what is not there is a new block.
    """

    def __init__(self) -> None:
        self.blocks = dict[int, int]()  # their bytes, by number
        self.free = list[Room]()  # the smallest first
        self._lent = Counter[int]()  # pieces of each block
        self._used = set[int]()  # the blocks that this run had a use for

    def take(self, need: int, least: int = LEAST) -> Room:
        """So many bytes, of a block at least so many-th."""
        at = bisect_left(self.free, (need,))
        while at < len(self.free) and self.blocks[self.free[at].block] > least * need:
            at += 1
        if at < len(self.free):
            room = self.free.pop(at)
        else:
            room = Room(need, 0, 1 + max(self.blocks, default=0))
            self.blocks[room.block] = need
        if room.nbytes > need:
            insort(self.free, Room(room.nbytes - need, room.start + need, room.block))
        self._used.add(room.block)
        self._lent[room.block] += 1
        return Room(need, room.start, room.block)

    def give_back(self, room: Room) -> None:
        self._lent[room.block] -= 1
        _, start, block = room
        ends = start, start + room.nbytes
        for other in [r for r in self.free if r[2] == block and (r[1] == ends[1] or r[0] + r[1] == start)]:
            self.free.remove(other)
            room = Room(room.nbytes + other.nbytes, min(room.start, other.start), block)
        insort(self.free, room)

    def begin(self) -> None:
        """A new run: forget the blocks that the last one had no use for."""
        self.blocks = {n: size for n, size in self.blocks.items() if n in self._used or self._lent[n]}
        self.free = [room for room in self.free if room.block in self.blocks]
        self._used = set()


def rounded(nbytes: int, unit: int = ALIGN) -> int:
    """What so many bytes take."""
    return max(1, -(-nbytes // unit)) * unit


def aligned(nbytes: int) -> memoryview:
    raw = np.empty(nbytes + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw.data[start : start + nbytes]


Mem = Arena | None  # None: no run, so no memory to use again


def fresh(shape: tuple[int, ...], like: Array, mem: Mem, dtype: Any = None) -> Array:
    """Room in the memory of the run where there is a run, else new memory."""
    return mem.empty(shape, like, dtype) if mem is not None else xp_of(like).empty(shape, dtype or like.dtype)
