"""Our own threads, and BLAS held to one while they work: two crews would get in each other's way.

Work comes as a list of tasks, cut the same way however many threads there are: the bits do not depend on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController


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
        self._limit: Any = None
        self._busy = 0

    def resize(self, size: int) -> None:
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False)
            self.size, self._pool = max(1, size), None

    def run(self, tasks: Iterable[Callable[[], None]]) -> None:
        """Do all tasks, some here and some in the pool, and come back when all are done.

        The first error is raised when no task runs any more; those not yet begun are dropped.
        """
        queue: Iterator[Callable[[], None]] = iter(tasks)
        taking, errors = Lock(), list[BaseException]()

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

        helpers = [self._threads().submit(work) for _ in range(self.size - 1)]
        try:
            work()
        except BaseException as error:  # Ctrl-C arrives in this thread, between two tasks
            errors.append(error)
        for helper in helpers:
            helper.result()
        if errors:
            raise errors[0]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While anyone is in here BLAS has one thread; after the last has left, as many as before."""
        with self._lock:
            if self._blas is None:
                self._blas = ThreadpoolController()
            if self._busy == 0:
                self._limit = self._blas.limit(limits=1, user_api="blas")
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                if self._busy == 0:
                    self._limit.restore_original_limits()

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.size, thread_name_prefix="minidnn")
            return self._pool


CREW = Crew(available())
