"""Our own threads, and BLAS held to one while they work: two crews would get in each other's way.

Work comes as a list of tasks, cut the same way however many threads there are: the bits do not depend on it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
        self._staff, self._free = set[_Helper](), list[_Helper]()  # all who are hired, and who has no job
        self._blas: Any = None  # what threadpoolctl found when so many modules were there
        self._modules = 0
        self._inside = dict[object, int]()  # who wants BLAS to have at most so many threads
        self._most: int | None = 0  # that it was given; 0 is what it had before, None is not known
        self._before: list[tuple[Any, int]] = []  # the libraries, and their threads before

    def resize(self, size: int) -> None:
        """Runs that are under way end with the threads that they began with."""
        with self._lock:
            self.size = max(1, size)
            while self._free and len(self._staff) >= self.size:
                self._dismiss(self._free.pop())

    def run(self, tasks: Iterable[Callable[[], None]], multiplications: int = LITTLE) -> None:
        """Do all tasks, some here and, if there is much to do, some by helpers; come back when all are done.

        The first error is raised when no task runs any more; those not yet begun are dropped.
        """
        todo = list(tasks)
        job = _Job(todo)
        try:
            for _ in range(min(self.size, len(todo)) - 1 if multiplications >= LITTLE else 0):
                self._hire(job)
            job.work()
        except BaseException as error:  # Ctrl-C arrives in this thread, at any point
            job.stop(error)
        while len(job.finished) < len(job.helpers):
            try:
                job.bell.get()
            except BaseException as error:  # Ctrl-C while waiting
                job.errors.append(error)
        if job.errors:
            try:
                raise job.errors[0]
            finally:
                del job  # or the error would hold what holds the error

    def forget(self) -> None:
        """In a process that was forked: the helpers stayed behind in the other, and who wanted BLAS held."""
        before = self._before
        self.__init__(self.size)  # type: ignore[misc]
        for library, count in before:
            _set_threads(library, count)

    def _hire(self, job: _Job) -> None:
        """Give it to one more, who is free or, if there may be more, new."""
        with self._lock:
            if not self._free and len(self._staff) < self.size - 1:
                self._free.append(_Helper(self._take_back))
                self._staff.add(self._free[-1])
            if self._free and self._free[-1] not in job.helpers:  # or it has come back from it: all is done
                job.helpers.append(self._free[-1])
                self._free[-1].inbox.put(job)
                self._free.pop()

    def _take_back(self, helper: _Helper) -> None:
        """By the helper itself: there Ctrl-C never arrives, and so nobody is lost by it."""
        with self._lock:
            if len(self._staff) >= self.size:
                self._dismiss(helper)
            elif helper not in self._free:
                self._free.append(helper)

    def _dismiss(self, helper: _Helper) -> None:
        self._staff.discard(helper)
        helper.inbox.put(None)

    def alone(self) -> AbstractContextManager[None]:
        """While anyone is in here BLAS has one thread; after the last has left, as many as before."""
        return self.blas_limit(1)

    @contextmanager
    def blas_limit(self, most: int) -> Iterator[None]:
        """While in here BLAS has at most so many threads; fewer if somebody else wants that."""
        someone = object()
        try:
            self._enter(someone, most)
            yield
        finally:
            try:
                self._leave(someone)
            except BaseException:  # Ctrl-C on the way out
                self._leave(someone)
                raise

    def _enter(self, someone: object, most: int) -> None:
        with self._lock:
            if not self._before:  # or who was stopped on the way out has not yet put all back
                libraries = self._controller().select(user_api="blas").lib_controllers
                self._before = [(library, library.num_threads) for library in libraries]
            self._inside[someone] = most
            self._hold()

    def _leave(self, someone: object) -> None:
        """Also for one who was stopped on the way in, and twice for one who was stopped here."""
        with self._lock:
            self._inside.pop(someone, None)
            self._hold()
            if not self._inside:
                self._before = []

    def _hold(self) -> None:
        """Give BLAS the threads that are wanted now."""
        most = min(self._inside.values(), default=0)
        if most != self._most:
            self._most = None
            for library, before in self._before:
                _set_threads(library, most or before)
            self._most = most

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
        self.errors, self.helpers = list[BaseException](), list[_Helper]()
        self.finished, self.bell = set[_Helper](), SimpleQueue[None]()  # who is, and a ring from each of them
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

    def stop(self, error: BaseException) -> None:
        """Nobody begins another task; and all are told, for the error may have come before they were."""
        self.errors.append(error)
        for helper in self.helpers:
            helper.inbox.put(self)


class _Helper:
    """A thread that works off what comes into its inbox, holds on to nothing of it, and then says so."""

    def __init__(self, go_back: Callable[[_Helper], None]) -> None:
        self.inbox, self._go_back = SimpleQueue[_Job | None](), go_back
        Thread(target=self._work, name="minidnn", daemon=True).start()

    def _work(self) -> None:
        while (job := self.inbox.get()) is not None:
            job.work()
            finished, bell = job.finished, job.bell
            del job
            self._go_back(self)
            finished.add(self)
            bell.put(None)


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

    No bit of a pass depends on it.
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
