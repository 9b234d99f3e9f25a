"""CIFAR-10's batches as Python 2 pickled them, read by a machine that can build nothing else.

A pickle is a program: Python's own machine imports whatever it names and calls it with whatever it says. This
one knows the few instructions and names that such a batch is made of, refuses all others before it begins,
and follows nothing that it has built: no depth can exhaust the stack.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from minidnn.errors import DamagedFileError, TooLargeError, UnsafeFileError, UnsupportedError

MAX_INSTRUCTIONS = 500_000  # a batch of 10,000 pictures has 31,000
LAST_PROTOCOL = 3
SHOWN = 6  # names in a refusal
AGAIN = "fetch cifar-10-python.tar.gz again"


@dataclass(frozen=True)
class Name:
    """What a pickle calls by name."""

    name: str


@dataclass
class Kind:
    """numpy.dtype: its code, 'u1' for pixels; what its state adds makes no difference to a byte."""

    code: Any

    def build(self, state: Any) -> None:
        pass


@dataclass
class Bytes:
    """numpy.ndarray: empty when it is made; its shape, kind and pixels come as a state."""

    shape: Any = None
    kind: Any = None
    is_fortran: Any = False
    data: Any = b""

    def build(self, state: Any) -> None:
        _, self.shape, self.kind, self.is_fortran, self.data = state

    def rows(self, what: str) -> np.ndarray:
        """The array, which has to be one of bytes, a picture in each row."""
        is_bytes = isinstance(self.kind, Kind) and self.kind.code == "u1" and self.is_fortran is False
        shape = self.shape
        if not is_bytes or not isinstance(shape, tuple) or len(shape) != 2:
            raise UnsupportedError(f"{what}: an array that is not one of bytes in rows; {AGAIN}")
        try:
            data = _bytes(self.data)
        except (TypeError, ValueError):
            raise DamagedFileError(f"{what}: pixels that are no bytes; {AGAIN}") from None
        if not all(type(n) is int and 0 <= n <= len(data) for n in shape) or prod(shape) != len(data):
            raise DamagedFileError(f"{what}: {len(data):,} pixels, and their shape {shape!s:.40}; {AGAIN}")
        return np.frombuffer(data, np.uint8).reshape(shape)


def unpickled(data: bytes, what: str) -> dict[str, Any]:
    """The mapping that a batch is: to texts, whole numbers, lists of these, and `Bytes`."""
    try:
        parsed = islice(pickletools.genops(data), MAX_INSTRUCTIONS)
        steps = [(op.name, argument) for op, argument, _ in parsed]
    except ValueError as error:
        raise DamagedFileError(f"{what}: no whole pickle ({error!s:.80}); {AGAIN}") from None
    if len(steps) == MAX_INSTRUCTIONS:
        raise TooLargeError(f"{what}: {MAX_INSTRUCTIONS:,} instructions or more; a batch has few; {AGAIN}")
    _check(steps, what)
    machine = Machine(len(data))
    for name, argument in steps:
        try:
            machine.step(name, argument)
        except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise DamagedFileError(f"{what}: at {name} it breaks ({error!r:.80}); {AGAIN}") from None
    if not isinstance(machine.value, dict):
        raise DamagedFileError(f"{what}: holds no mapping, and a batch is one; {AGAIN}")
    return machine.value


def _check(steps: list[tuple[str, Any]], what: str) -> None:
    """That nothing is asked for that pictures have no need of; all that is, is said."""
    protocol = max((argument for name, argument in steps if name == "PROTO"), default=0)
    if protocol > LAST_PROTOCOL:
        found = f"a pickle of protocol {protocol}, CIFAR-10's batches are of protocol 2"
        raise UnsupportedError(f"{what}: {found}; {AGAIN}")
    names = [argument for name, argument in steps if name == "GLOBAL" and argument not in NAMES]
    wrong = [name.replace(" ", ".") for name in names]
    wrong += [f"the instruction {name}" for name, _ in steps if name not in ACTS]
    if wrong := list(dict.fromkeys(wrong)):
        shown = ", ".join(name[:80] for name in wrong[:SHOWN])
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UnsafeFileError(f"{what}: asks for {shown}{more}; pictures need none of it, nothing was run")


@dataclass
class Machine:
    """The stack, where marks stand in it, and what was put aside to be used again."""

    room: int  # bytes that may still be made of texts: a pickle can name one text again and again
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    value: Any = None

    def step(self, name: str, argument: Any) -> None:
        ACTS[name](self, argument)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def above(self) -> list[Any]:
        """All above the last mark, which goes with it."""
        mark = self.marks.pop()
        above = self.stack[mark:]
        del self.stack[mark:]
        return above

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def make_tuple(self, count: int) -> None:
        self.push(tuple(self.stack.pop() for _ in range(count))[::-1])

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("adds to what is no list")
        self.stack[-1].extend(values)

    def update(self, pairs: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise ValueError("sets what is no mapping")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            self.stack[-1][key if isinstance(key, str) else key.decode("latin-1")] = value

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def name(self, name: str) -> None:
        self.push(Name(name))

    def reduce(self) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        make = NAMES[maker.name] if isinstance(maker, Name) else None
        if make is None:
            raise ValueError("calls what cannot be called")
        self.push(make(self, *arguments))

    def build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Kind | Bytes):
            raise ValueError("gives a state to what has none")
        self.stack[-1].build(state)

    def stop(self) -> None:
        self.value = self.stack.pop()


def _bytes(text: Any) -> bytes:
    """Python 2's strings are bytes, and come as text of as many letters."""
    return text.encode("latin-1") if isinstance(text, str) else bytes(memoryview(text))


def _encoded(machine: Machine, text: str, _: Any = None) -> bytes:
    """_codecs.encode(text, "latin1"), in which Python 3 writes bytes for Python 2."""
    machine.room -= len(text)
    if machine.room < 0:
        raise ValueError("makes more bytes than it has")
    return _bytes(text)


NAMES: dict[str, Callable[..., Any] | None] = {  # and what each makes, if it is called
    "numpy ndarray": None,
    "numpy dtype": lambda _, code, *flags: Kind(code),
    "_codecs encode": _encoded,
    "numpy.core.multiarray _reconstruct": lambda *_: Bytes(),
    "numpy._core.multiarray _reconstruct": lambda *_: Bytes(),
}
ACTS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "STOP": lambda machine, _: machine.stop(),
    "MARK": lambda machine, _: machine.mark(),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.above())),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.above()),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.update(machine.above()),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "GLOBAL": Machine.name,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
}
TEXTS = "SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES"
ACTS |= dict.fromkeys((*TEXTS, "BININT", "BININT1", "BININT2", "LONG1"), Machine.push)
