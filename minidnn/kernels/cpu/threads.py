"""Our own threads, and BLAS held to one while they work: two crews would get in each other's way.

Work comes as a list of tasks, cut the same way however many threads there are: the bits do not depend on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController

from minidnn.errors import UsageError


def available() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Crew:
    """A pool of threads, made when first needed. The process has one; `resize` says how many it may have."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._blas: Any = None  # what threadpoolctl found, looked up once
        self._inside = set[object]()  # who wants BLAS to have one thread
        self._before: list[tuple[Any, int]] = []  # the libraries that are held to it, and their threads

    def resize(self, size: int) -> None:
        """Runs that are under way end with the threads that they began with."""
        with self._lock:
            self.size, self._pool = max(1, size), None  # an old pool ends when its last run lets go of it

    def run(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Do all tasks, some here and some in the pool, and come back when all are done.

        The first error is raised when no task runs any more; those not yet begun are dropped.
        """
        todo = list(tasks)
        queue, taking, errors = iter(todo), Lock(), list[BaseException]()

        def work() -> None:
            while not errors:
                with taking:
                    task = next(queue, None)
                if task is None:
                    return
                try:
                    task()
                except BaseException as error:
                    errors.append(error)

        helpers = list[Future[None]]()
        try:
            size, pool = self._threads()
            helpers.extend(pool.submit(work) for _ in range(min(size, len(todo)) - 1))
            work()
        except BaseException as error:  # Ctrl-C arrives in this thread, between two tasks
            errors.append(error)
        for helper in helpers:
            while not helper.done():
                try:
                    helper.cancel() or wait([helper])  # who has not begun need not come any more
                except BaseException as error:  # Ctrl-C while waiting
                    errors.append(error)
        if errors:
            raise errors[0]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While anyone is in here BLAS has one thread; after the last has left, as many as before."""
        someone = object()
        try:
            self._enter(someone)
            yield
        finally:
            try:
                self._leave(someone)
            except BaseException:  # Ctrl-C on the way out
                self._leave(someone)
                raise

    def _enter(self, someone: object) -> None:
        with self._lock:
            first = not self._inside
            if first:
                libraries = self._controller().select(user_api="blas").lib_controllers
                self._before = [(library, library.num_threads) for library in libraries]
            self._inside.add(someone)
            for library, _ in self._before if first else ():
                library.set_num_threads(1)

    def _leave(self, someone: object) -> None:
        """Also for one who was stopped on the way in, and twice for one who was stopped here."""
        with self._lock:
            self._inside.discard(someone)
            for library, count in () if self._inside else self._before:
                library.set_num_threads(count)
            if not self._inside:
                self._before = []

    def blas_limit(self, size: int) -> Any:
        """A context in which BLAS has at most so many threads also where it works by itself."""
        with self._lock:
            return self._controller().limit(limits=size, user_api="blas")

    def _controller(self) -> Any:
        if self._blas is None:
            self._blas = ThreadpoolController()
        return self._blas

    def _threads(self) -> tuple[int, ThreadPoolExecutor]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.size, thread_name_prefix="minidnn")
            return self.size, self._pool


CREW = Crew(available())


@contextmanager
def limit(size: int | None) -> Iterator[None]:
    """At most `size` threads for the whole process while in here, BLAS's own among them; None: as it is.

    The bits that come out do not depend on it, but for the plain kernels that float64 takes: what BLAS shares
    out by itself it may add up in another order.
    """
    if size is None:
        yield
        return
    if size < 1:
        raise UsageError(f"{size} threads cannot work; give at least 1 (there are {available()} processors)")
    before = CREW.size
    CREW.resize(size)
    try:
        with CREW.blas_limit(size):
            yield
    finally:
        CREW.resize(before)
