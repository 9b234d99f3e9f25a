"""Pickles, read by a machine of our own that can only put things down, never run them.

A pickle is a program: Python's own machine imports whatever it names and calls it with whatever it says. This
one knows the few names it is told; for all others it sets down a blank, and at the end refuses them together.
Everything it makes is flat or shared, and nothing here follows it: no depth can exhaust the stack.
"""

from __future__ import annotations

import struct
from codecs import escape_decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, Protocol, runtime_checkable

from minidnn.errors import DamagedFileError, FileError, UnsafeFileError, UnsupportedError
from weights_tools.pickle_instructions import instructions

MAX_MEMO = 1_000_000
MAX_MARKS = 200
MAX_NUMBER = 16  # bytes of a whole number
MAX_TEXT = 1 << 20  # bytes up to which a string of Python 2 may be text
SHOWN = 6  # names in a refusal

Allowed = Mapping[str, Callable[..., Any] | None]  # what a name makes when it is called; None: it never is
Refusal = Callable[[str, list[str]], FileError]

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
NUMBERS = {"BININT": "<i", "BININT1": "<B", "BININT2": "<H", "BINFLOAT": ">d"}
BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
STRINGS = {"SHORT_BINSTRING", "BINSTRING"}  # of Python 2: text or bytes, nobody knows
TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
PUTS = {"BINPUT": "<B", "LONG_BINPUT": "<I"}
GETS = {"BINGET": "<B", "LONG_BINGET": "<I"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
KEYS = (str, int, float, type(None))  # what is hashed in no time; bool is an int


@dataclass(frozen=True)
class Name:
    """What a pickle calls by name: 'torch.FloatStorage'."""

    name: str


class Blank:
    """What a name that is not known would have made."""


@runtime_checkable
class Buildable(Protocol):
    """A stand-in that takes the state a pickle gives it."""

    def build(self, state: Any) -> None: ...


class Ordered(dict[Any, Any]):
    """Stands in for collections.OrderedDict; what else is hung on it (a version) is dropped."""

    def build(self, state: Any) -> None:
        pass


def ordered(entries: Any = ()) -> Ordered:
    """collections.OrderedDict; its old way of pickling hands over a list of pairs."""
    found = Ordered()
    for entry in entries if isinstance(entries, list | tuple) else ():
        key, value = entry if isinstance(entry, list | tuple) else (None, None)
        if not isinstance(key, str):
            raise ValueError("makes a mapping of what are no named things")
        found[key] = value
    return found


def refusal(what: str, names: list[str]) -> FileError:
    """Names beyond those that arrays need."""
    return UnsafeFileError(f"{what}: asks for {listed(names)}, and arrays need none of it; nothing was run")


def listed(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def load(
    data: bytes | mmap,
    allowed: Allowed,
    what: str,
    *,
    at: int = 0,
    persistent: Callable[[Any], Any] | None = None,
    refuse: Refusal = refusal,
) -> tuple[Any, int]:
    """The value of the pickle that begins at that byte, and where it ends.

    `persistent` makes what the pickle only points to (torch's storages).
    """
    machine = Machine(allowed, what, persistent)
    end = at
    for name, argument, end in instructions(data, at, what):
        try:
            machine.step(name, argument)
        except (IndexError, ValueError, struct.error) as error:  # also text that is none
            cause = "takes what is not there" if isinstance(error, IndexError) else str(error)[:80]
            raise DamagedFileError(f"{what}: {name} before byte {end} {cause}; fetch it again") from None
        except FileError:
            if machine.unknown:  # says more than what went wrong because of it
                raise refuse(what, list(machine.unknown)) from None
            raise
        if name == "STOP":
            break
    if machine.unknown:
        raise refuse(what, list(machine.unknown))
    return machine.value, end


@dataclass
class Machine:
    """The stack, what was put aside to be used again, and the names that are not known."""

    allowed: Allowed
    what: str
    persistent: Callable[[Any], Any] | None
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)
    value: Any = None

    def step(self, name: str, argument: memoryview) -> None:
        """One instruction."""
        stack = self.stack
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in NUMBERS:
            stack.extend(struct.unpack(NUMBERS[name], argument))
        elif name in TEXTS:
            stack.append(str(argument, "utf-8", "surrogatepass"))
        elif name in BYTES:
            stack.append(argument)
        elif name in STRINGS:
            stack.append(_string(argument))
        elif name in PUTS:
            self._put(struct.unpack(PUTS[name], argument)[0])
        elif name in GETS:
            stack.append(self._get(struct.unpack(GETS[name], argument)[0]))
        elif name in TUPLES:
            self._reach(TUPLES[name])
            stack[-TUPLES[name] :] = [tuple(stack[-TUPLES[name] :])]
        elif (act := getattr(self, f"_do_{name.lower()}", None)) is not None:
            act(argument)
        else:
            raise UnsafeFileError(
                f"{self.what}: the instruction {name}, of which arrays have no need; nothing was run"
            )

    # Marks, and what stands above the last one.

    def _reach(self, count: int) -> None:
        """That many things lie above the last mark."""
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise IndexError

    def _pop(self) -> Any:
        self._reach(1)
        return self.stack.pop()

    def _top(self) -> Any:
        self._reach(1)
        return self.stack[-1]

    def _above(self) -> list[Any]:
        """All above the last mark, which is taken away with it."""
        mark = self.marks.pop()
        above = self.stack[mark:]
        del self.stack[mark:]
        return above

    def _do_mark(self, _: memoryview) -> None:
        if len(self.marks) >= MAX_MARKS:
            raise UnsafeFileError(f"{self.what}: more than {MAX_MARKS} levels of nesting; arrays have few")
        self.marks.append(len(self.stack))

    def _do_pop(self, _: memoryview) -> None:
        self._pop()

    def _do_pop_mark(self, _: memoryview) -> None:
        self._above()

    def _do_dup(self, _: memoryview) -> None:
        self.stack.append(self._top())

    def _do_stop(self, _: memoryview) -> None:
        self.value = self._pop()

    # What was put aside.

    def _put(self, index: int) -> None:
        if not 0 <= index < MAX_MEMO:
            raise UnsafeFileError(f"{self.what}: memo number {index:,}, the limit is {MAX_MEMO:,}")
        self.memo[index] = self._top()

    def _get(self, index: int) -> Any:
        if index not in self.memo:
            raise IndexError
        return self.memo[index]

    def _do_memoize(self, _: memoryview) -> None:
        self._put(len(self.memo))

    def _do_put(self, argument: memoryview) -> None:
        self._put(int(bytes(argument)))

    def _do_get(self, argument: memoryview) -> None:
        self.stack.append(self._get(int(bytes(argument))))

    # Plain values.

    def _do_proto(self, argument: memoryview) -> None:
        if argument[0] > 5:
            raise UnsupportedError(f"{self.what}: a pickle of protocol {argument[0]}, we know 0 to 5")

    def _do_frame(self, _: memoryview) -> None:
        pass

    def _do_int(self, argument: memoryview) -> None:
        text = bytes(argument)
        self.stack.append(text == b"01" if text in (b"00", b"01") else int(text))  # these two are truths

    def _do_long(self, argument: memoryview) -> None:
        self.stack.append(int(bytes(argument).rstrip(b"L")))

    def _do_long1(self, argument: memoryview) -> None:
        if len(argument) > MAX_NUMBER:
            raise UnsafeFileError(f"{self.what}: a whole number of {len(argument):,} bytes; arrays have none")
        self.stack.append(int.from_bytes(argument, "little", signed=True))

    _do_long4 = _do_long1

    def _do_float(self, argument: memoryview) -> None:
        self.stack.append(float(bytes(argument)))

    def _do_unicode(self, argument: memoryview) -> None:
        self.stack.append(str(argument, "raw-unicode-escape"))

    def _do_string(self, argument: memoryview) -> None:
        text = bytes(argument).strip()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise ValueError("holds no quoted string")
        self.stack.append(_string(memoryview(escape_decode(text[1:-1])[0])))

    # Lists, tuples, mappings; a set is a list here, since nothing of a file is hashed but keys.

    def _do_empty_list(self, _: memoryview) -> None:
        self.stack.append([])

    _do_empty_set = _do_empty_list

    def _do_list(self, _: memoryview) -> None:
        self.stack.append(self._above())

    _do_frozenset = _do_list

    def _do_tuple(self, _: memoryview) -> None:
        self.stack.append(tuple(self._above()))

    def _do_append(self, _: memoryview) -> None:
        self._extend([self._pop()])

    def _do_appends(self, _: memoryview) -> None:
        self._extend(self._above())

    _do_additems = _do_appends

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Blank):
            raise ValueError("adds to what is no list")

    def _do_empty_dict(self, _: memoryview) -> None:
        self.stack.append({})

    def _do_dict(self, _: memoryview) -> None:
        values = self._above()
        self.stack.append({})
        self._update(values)

    def _do_setitem(self, _: memoryview) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def _do_setitems(self, _: memoryview) -> None:
        self._update(self._above())

    def _update(self, pairs: list[Any]) -> None:
        target = self._top()
        if len(pairs) % 2 or not isinstance(target, dict | Blank):
            raise ValueError("sets what is no mapping, or half an entry")
        if isinstance(target, Blank):
            return
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(key, memoryview):
                key = bytes(key)
            elif not isinstance(key, KEYS):
                raise UnsupportedError(
                    f"{self.what}: a mapping by a {type(key).__name__}; save one by names or numbers"
                )
            target[key] = value

    # Names, and what Python would have called.

    def _do_global(self, argument: memoryview) -> None:
        module, name = str(argument, "utf-8").split("\n")
        self._name(module.strip(), name.strip())

    def _do_stack_global(self, _: memoryview) -> None:
        name, module = self._pop(), self._pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("names what is no text")
        self._name(module, name)

    def _do_inst(self, argument: memoryview) -> None:
        self._above()
        self._do_global(argument)

    def _name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.allowed:
            self.unknown[full] = None
        self.stack.append(Name(full))

    def _do_reduce(self, _: memoryview) -> None:
        arguments, maker = self._pop(), self._pop()
        self.stack.append(self._made(maker, arguments))

    _do_newobj = _do_reduce

    def _made(self, maker: Any, arguments: Any) -> Any:
        if isinstance(maker, Blank) or (isinstance(maker, Name) and maker.name in self.unknown):
            return Blank()
        make = self.allowed.get(maker.name) if isinstance(maker, Name) else None
        if make is None or not isinstance(arguments, tuple):
            raise ValueError("calls what cannot be called")
        try:
            return make(*arguments)
        except TypeError:
            raise ValueError(f"calls {maker.name} with what it does not take") from None

    def _do_build(self, _: memoryview) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Buildable):
            target.build(state)
        elif not (isinstance(target, Blank) or (isinstance(target, Name) and target.name in self.unknown)):
            raise ValueError("gives a state to what has none")

    def _do_binpersid(self, _: memoryview) -> None:
        key = self._pop()
        if self.persistent is None:
            raise UnsafeFileError(f"{self.what}: points to things outside itself; only torch's files may")
        self.stack.append(self.persistent(key))


def _string(data: memoryview) -> str | memoryview:
    """Text where it can be text."""
    if len(data) > MAX_TEXT:
        return data
    try:
        return str(data, "ascii")
    except UnicodeDecodeError:
        return data
