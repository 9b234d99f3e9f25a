"""CUDA graphs of the fake device: what was computed is written down, and played again on the same arrays.

As on a card, what is recorded is not computed, no number can be looked at meanwhile, and numbers of the host
stay what they were. Its memory is ordinary: that no one else writes there is not tested here.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from tests import fakedevice


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
    def __init__(self, non_blocking=False):
        self.log = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def synchronize(self):
        pass

    def begin_capture(self):
        self.log = []
        fakedevice.TAPES.append(self.log)

    def end_capture(self):
        fakedevice.TAPES.remove(self.log)
        return Graph(self.log)


class Pool:
    malloc = "the pool's own"


ALLOCATORS = []  # those in force


@contextmanager
def using_allocator(allocator):
    ALLOCATORS.append(allocator)
    yield
    ALLOCATORS.pop()


cuda = SimpleNamespace(
    MemoryPool=Pool, Stream=Stream, using_allocator=using_allocator, get_current_stream=Stream
)


def _arrays(part):
    if isinstance(part, np.ndarray | np.generic):
        return [np.asarray(part)] if isinstance(part, np.generic) else [part]
    if isinstance(part, tuple | list):
        return [array for inner in part for array in _arrays(inner)]
    return []
