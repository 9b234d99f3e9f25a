"""CUDA graphs of the fake device: what was computed is written down, and played again on the same arrays.

As on a card, what is recorded is not computed, no number can be looked at meanwhile, and numbers of the host
stay what they were. Its pool counts, and gives nothing new while a stream records. Where arrays lie is up to
NumPy: that no one else writes there is not tested here.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from tests import fakedevice
from tests.fakepool import POOLS, Pool


class Graph:
    launches = 0

    def __init__(self, steps):
        self.steps = steps
        for step in steps:
            for array in _made(*step):
                array.fill(np.nan if array.dtype.kind == "f" else 1)  # nothing was computed

    def launch(self):
        Graph.launches += 1
        for function, args, kwargs, found in self.steps:
            again = _arrays(function(*args, **kwargs))
            for array in _made(function, args, kwargs, found):
                array[...] = again[0]
                assert len(again) == 1


def _made(function, args, kwargs, found):
    """Of the arrays that were found those that are no views of what was there before."""
    sources = _arrays([args, *kwargs.values(), getattr(function, "__self__", None)])
    return [new for new in _arrays(found) if not any(np.may_share_memory(new, old) for old in sources)]


class Stream:
    count = 0

    def __init__(self, non_blocking=False):
        Stream.count += 1
        self.ptr, self.log, self.non_blocking = Stream.count, None, non_blocking

    def __enter__(self):
        STREAMS.append(self)
        return self

    def __exit__(self, *_):
        STREAMS.pop()

    def synchronize(self):
        if self.log is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: nobody can wait for a stream that records")

    def begin_capture(self, mode=None):
        assert self.non_blocking and STREAMS[-1] is self
        self.log = []
        fakedevice.TAPES.append(self.log)

    def end_capture(self):
        fakedevice.TAPES.remove(self.log)
        log, self.log = self.log, None
        return Graph(log)


STREAMS = [Stream()]  # the default, and those that are entered; the one in force is the last


@contextmanager
def using_allocator(allocator=None):
    POOLS.append(allocator.__self__)
    try:
        yield
    finally:
        POOLS.pop()


cuda = SimpleNamespace(
    MemoryPool=Pool, Stream=Stream, using_allocator=using_allocator, get_current_stream=lambda: STREAMS[-1]
)


def _arrays(part):
    if isinstance(part, np.ndarray | np.generic):
        return [np.asarray(part)] if isinstance(part, np.generic) else [part]
    if isinstance(part, tuple | list):
        return [array for inner in part for array in _arrays(inner)]
    return []
