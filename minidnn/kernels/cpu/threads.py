"""Our own threads, and BLAS held to one while they work: two crews would get in each other's way.

Work comes as a list of tasks, cut the same way however many threads there are: the bits do not depend on it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from threadpoolctl import ThreadpoolController

from minidnn.errors import UsageError


def available() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


LITTLE = 12_000_000  # multiplications: fewer are done before a helper would be there


class Crew:
    """Helpers, hired when first needed. The process has one crew; `resize` says how many may work at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = Lock()
        self._helpers: list[_Helper] = []  # those who are free
        self._hired = 0
        self._blas: Any = None  # what threadpoolctl found when so many modules were there
        self._modules = 0
        self._inside = set[object]()  # who wants BLAS to have one thread
        self._before: list[tuple[Any, int]] = []  # the libraries that are held to it, and their threads

    def resize(self, size: int) -> None:
        """Runs that are under way end with the threads that they began with."""
        with self._lock:
            self.size = max(1, size)
            while self._helpers and self._hired >= self.size:
                self._dismiss(self._helpers.pop())

    def run(self, tasks: Iterable[Callable[[], None]], multiplications: int = LITTLE) -> None:
        """Do all tasks, some here and, if there is much to do, some by helpers; come back when all are done.

        The first error is raised when no task runs any more; those not yet begun are dropped.
        """
        todo = list(tasks)
        job, helpers = _Job(todo), list[_Helper]()
        try:
            for _ in range(min(self.size, len(todo)) - 1 if multiplications >= LITTLE else 0):
                if (helper := self._hire()) is None:
                    break
                helpers.append(helper)
                helper.inbox.put(job)
            job.work()
        except BaseException as error:  # Ctrl-C arrives in this thread, between two tasks
            job.stop(error, helpers)
        while helpers:
            try:
                while helpers[-1].finished is not job.name:
                    helpers[-1].outbox.get()
                self._take_back(helpers.pop())
            except BaseException as error:  # Ctrl-C while waiting
                job.errors.append(error)
        if job.errors:
            try:
                raise job.errors[0]
            finally:
                del job  # or the error would hold what holds the error

    def forget(self) -> None:
        """In a process that was forked: the helpers stayed behind in the other."""
        self.__init__(self.size)  # type: ignore[misc]

    def _hire(self) -> _Helper | None:
        """One who is free, or a new one if there may be more."""
        with self._lock:
            if self._helpers:
                return self._helpers.pop()
            if self._hired >= self.size - 1:
                return None
            helper = _Helper()
            self._hired += 1
        return helper

    def _take_back(self, helper: _Helper) -> None:
        with self._lock:
            if self._hired >= self.size:
                self._dismiss(helper)
            else:
                self._helpers.append(helper)

    def _dismiss(self, helper: _Helper) -> None:
        helper.inbox.put(None)
        self._hired -= 1

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
            if not self._before:  # or who was stopped on the way out has not yet put all back
                libraries = self._controller().select(user_api="blas").lib_controllers
                self._before = [(library, library.num_threads) for library in libraries]
            self._inside.add(someone)
            for library, _ in self._before if first else ():
                _set_threads(library, 1)

    def _leave(self, someone: object) -> None:
        """Also for one who was stopped on the way in, and twice for one who was stopped here."""
        with self._lock:
            self._inside.discard(someone)
            for library, count in () if self._inside else self._before:
                _set_threads(library, count)
            if not self._inside:
                self._before = []

    def blas_limit(self, size: int) -> Any:
        """A context in which BLAS has at most so many threads also where it works by itself."""
        with self._lock:
            return self._controller().limit(limits=size, user_api="blas")

    def _controller(self) -> Any:
        if self._modules != len(sys.modules):  # an import may have brought a BLAS of its own, as SciPy does
            self._blas, self._modules = ThreadpoolController(), len(sys.modules)
        return self._blas


def _set_threads(library: Any, count: int) -> None:
    """By whichever thread: threadpoolctl listens to the one that asked first, until it is told to forget."""
    forget = getattr(library, "clear_controlling_thread", lambda force: None)
    forget(force=True)
    library.set_num_threads(count)
    forget(force=True)


class _Job:
    """Tasks that whoever has time takes one by one."""

    def __init__(self, todo: list[Callable[[], None]]) -> None:
        self.name, self.errors = object(), list[BaseException]()
        self._queue, self._taking = iter(todo), Lock()

    def work(self) -> None:
        while not self.errors:
            with self._taking:
                task = next(self._queue, None)
            if task is None:
                return
            try:
                task()
            except BaseException as error:
                self.errors.append(error)

    def stop(self, error: BaseException, helpers: list[_Helper]) -> None:
        """Nobody begins another task; and all are told, for the error may have come before they were."""
        self.errors.append(error)
        for helper in helpers:
            helper.inbox.put(self)


class _Helper:
    """A thread that works off what comes into its inbox, holds on to nothing of it, and then says so."""

    def __init__(self) -> None:
        self.inbox, self.outbox = SimpleQueue[_Job | None](), SimpleQueue[None]()
        self.finished: object = None  # the name of the last job
        Thread(target=self._work, name="minidnn", daemon=True).start()

    def _work(self) -> None:
        while (job := self.inbox.get()) is not None:
            job.work()
            name = job.name
            del job
            self.finished = name
            self.outbox.put(None)


class Desks:
    """As many of something as there are workers at a time, made when there is none free."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._free = make, list[Any]()

    @contextmanager
    def one(self) -> Iterator[Any]:
        """For one task. Who fails keeps it."""
        try:
            desk = self._free.pop()
        except IndexError:
            desk = self._make()
        yield desk
        self._free.append(desk)

    @property
    def nbytes(self) -> int:
        return sum(desk.nbytes for desk in self._free)


CREW = Crew(available())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CREW.forget)


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
