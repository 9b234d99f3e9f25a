"""CuPy's memory pool by its own rules, for arrays that only say how large they are.

Sizes are rounded up to 512 bytes; a request takes the smallest free piece that is large enough and leaves the
rest; freed pieces join free neighbours; what is not there is asked of the card, and never given back.
"""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager

import numpy as np

from tests import fakedevice

UNIT = 512


class OutOfMemoryError(MemoryError):
    """As CuPy calls it."""


class Piece:
    def __init__(self, size):
        self.size, self.is_free, self.before, self.behind = size, False, None, None


class Pool:
    """What `cupy.cuda.MemoryPool` does; `total` is what the card sees."""

    def __init__(self, limit=None):
        self.free, self.total, self.used, self.peak, self.limit = [], 0, 0, 0, limit

    def malloc(self, nbytes):
        size = -(-nbytes // UNIT) * UNIT
        fits = [piece for piece in self.free if piece.size >= size]
        if fits:
            piece = min(fits, key=lambda found: found.size)
            self.free.remove(piece)
            self._leave_the_rest(piece, size)
        else:
            if fakedevice.TAPES:
                raise RuntimeError(
                    "cudaErrorStreamCaptureUnsupported: cudaMalloc while the stream is capturing"
                )
            if self.limit is not None and self.total + size > self.limit:
                raise OutOfMemoryError(
                    f"Out of memory allocating {size:,} bytes (allocated so far: {self.used:,} bytes)."
                )
            piece = Piece(size)
            self.total += size
        piece.is_free = False
        self.used += size
        self.peak = max(self.peak, self.total)
        return piece

    def _leave_the_rest(self, piece, size):
        if piece.size > size:
            rest = Piece(piece.size - size)
            piece.size, rest.is_free = size, True
            rest.before, rest.behind, piece.behind = piece, piece.behind, rest
            if rest.behind is not None:
                rest.behind.before = rest
            self.free.append(rest)

    def give_back(self, piece):
        self.used -= piece.size
        piece.is_free = True
        for left, right in ((piece, piece.behind), (piece.before, piece)):
            if left is not None and right is not None and left.is_free and right.is_free:
                if right in self.free:
                    self.free.remove(right)
                if left in self.free:
                    self.free.remove(left)
                left.size, left.behind = left.size + right.size, right.behind
                if left.behind is not None:
                    left.behind.before = left
                piece = left
        self.free.append(piece)


POOLS = [Pool()]  # the one in force is the last


@contextmanager
def counting(limit=None):
    """A pool that counts all arrays made on the fake device as long as this lasts; it may have a limit.

    An array is gone when the device's code holds neither it nor a view; recordings hold addresses alone. What
    lay there before is not counted, and neither are views of it.
    """
    holders, pool = {}, Pool(limit)
    before = {id(owner): owner for owner in map(_owner, gc.get_objects()) if owner is not None}

    def made(array):
        owner = _owner(array)
        if id(owner) not in holders and id(owner) not in before and owner.nbytes:
            holders[id(owner)] = [0, POOLS[-1], POOLS[-1].malloc(owner.nbytes)]
        if id(owner) in holders:
            holders[id(owner)][0] += 1
            weakref.finalize(array, gone, id(owner))

    def gone(at):
        holders[at][0] -= 1
        if not holders[at][0]:
            _, own, piece = holders.pop(at)
            own.give_back(piece)

    POOLS.append(pool)
    fakedevice.MADE.append(made)
    try:
        yield pool
    finally:
        fakedevice.MADE.remove(made)
        POOLS.remove(pool)


def _owner(thing):
    """The array of the host whose memory a fake array shows; None for all else."""
    if type(thing) is not fakedevice.FakeArray:
        return None
    owner = thing.host
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner
