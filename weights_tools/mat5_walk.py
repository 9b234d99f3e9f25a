"""A walk through a MATLAB file of version 5 before anyone believes it.

Each tag, length and dimension is looked at, also within packed parts, which are unpacked piece by piece for
that. Nothing is kept but counts.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from minidnn.errors import DamagedFileError, TooLargeError, UnsafeFileError, UnsupportedError
from weights_tools.matvalues import MAX_ARRAYS, MAX_DEPTH, most_bytes

# Types of elements, and the bytes of one number or, at least, one letter.
INT8, INT32, UINT32, MATRIX, PACKED, UTF8 = 1, 5, 6, 14, 15, 16
NUMBERS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
LETTERS = {1: 1, 2: 1, 4: 2, 16: 1, 17: 2, 18: 4}

# Classes of arrays.
CELL, STRUCT, OBJECT, CHAR, SPARSE, FUNCTION, OPAQUE = 1, 2, 3, 4, 5, 16, 17
NUMERIC = range(6, 16)
COMPLEX = 0x800  # flag

MAX_RANK = 8
MAX_FIELDS = 4096  # of a struct
MAX_NAME = 4096  # bytes
PIECE = 1 << 16
FIELD = re.compile(rb"[A-Za-z][A-Za-z0-9_]*\0")
AGAIN = "fetch it again"


def check(path: str | os.PathLike) -> list[str]:
    """The names of the variables; or why the file is not safe to be read."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        order = "<" if file.read(128)[126:] == b"IM" else ">"
        walk = Walk(str(path), order, most_bytes(size))
        source = Source(file, 128, size)
        names = []
        while source.at < size:
            kind, nbytes = walk.tag(source)
            if nbytes > size - source.at:
                left = size - source.at
                raise walk.damaged(
                    f"byte {source.at:,} claims {nbytes:,} bytes, {left:,} are left: cut short"
                )
            end = source.at + nbytes
            if kind == PACKED:
                inner = Unpacked(file, source.at, end, walk)
                kind, unpacked = walk.tag(inner)
                names.append(walk.variable(inner, kind, inner.at + unpacked))
                inner.finish()
            else:
                walk.unpacked(nbytes)
                names.append(walk.variable(source, kind, end))
            source.at = end
        return names


class Source:
    """The bytes of a file as they lie there."""

    def __init__(self, file: BinaryIO, at: int, end: int) -> None:
        self.file, self.at, self.end = file, at, end

    def take(self, count: int) -> bytes:
        """The next bytes; fewer, where they end."""
        self.file.seek(self.at)
        data = self.file.read(min(count, self.end - self.at))
        self.at += len(data)
        return data

    def skip(self, count: int) -> None:
        self.at = min(self.at + count, self.end)


class Unpacked:
    """The bytes of a packed part, unpacked a piece at a time; `at` counts them."""

    def __init__(self, file: BinaryIO, at: int, end: int, walk: Walk) -> None:
        self.packed, self.walk, self.at = Source(file, at, end), walk, 0
        self.zlib, self.ready = zlib.decompressobj(), b""

    def take(self, count: int) -> bytes:
        while len(self.ready) < count and self._more():
            pass
        data, self.ready = self.ready[:count], self.ready[count:]
        self.at += len(data)
        return data

    def skip(self, count: int) -> None:
        goal = self.at + count
        while self.at < goal and self.take(min(PIECE, goal - self.at)):
            pass

    def finish(self) -> None:
        """Nothing may be left, and the checksum must be right."""
        if self.take(1) or not self.zlib.eof or self.zlib.unused_data or self.packed.at < self.packed.end:
            raise self.walk.damaged("a packed variable is longer or shorter than it says")

    def _more(self) -> bool:
        if self.zlib.eof:
            return False
        data = self.zlib.unconsumed_tail or self.packed.take(PIECE)
        try:
            piece = self.zlib.decompress(data, PIECE)
        except zlib.error as error:
            raise self.walk.damaged(f"a packed variable cannot be unpacked ({error})") from None
        self.walk.unpacked(len(piece))
        self.ready += piece
        return bool(data or piece)


class Element(NamedTuple):
    """A type and a size; and the content, where that is so small that it lies within the tag."""

    kind: int
    nbytes: int
    small: bytes | None = None


class Walk:
    """One walk through all arrays of a file: what it has met so far, and the rules of the format."""

    def __init__(self, path: str, order: str, most: int) -> None:
        self.path, self.order, self.most = path, order, most
        self.bytes = self.arrays = 0

    def damaged(self, what: str) -> DamagedFileError:
        return DamagedFileError(f"{self.path}: {what}; {AGAIN}")

    def unpacked(self, nbytes: int) -> None:
        """Count bytes that will be held in memory."""
        self.bytes += nbytes
        if self.bytes > self.most:
            most = f"{self.most:,} bytes, the limit for a file of this size"
            raise TooLargeError(f"{self.path}: unpacks to more than {most}; save it without compression")

    def met(self, arrays: int) -> None:
        """Count arrays within cells and structs before anyone makes room for them."""
        self.arrays += arrays
        if self.arrays > MAX_ARRAYS:
            raise TooLargeError(f"{self.path}: more than {MAX_ARRAYS:,} arrays; not a net that we could run")

    def variable(self, source: Any, kind: int, end: int) -> str:
        """Walk over an array and all that is in it, without recursion; its name."""
        name = self._begin(source, kind, end, waiting := [(0, end)])
        while waiting:
            left, end = waiting.pop()  # how many arrays are still to come within one, and where it ends
            if left:
                waiting.append((left - 1, end))
                kind, nbytes = self.tag(source)
                if kind != MATRIX or nbytes > end - source.at:
                    self._no_array(kind, nbytes, end - source.at)
                if nbytes:
                    self._begin(source, kind, source.at + nbytes, waiting)
            elif source.at != end:
                raise self.damaged(f"an array ends at byte {source.at:,}, its length says {end:,}")
        return name

    def _begin(self, source: Any, kind: int, end: int, waiting: list[tuple[int, int]]) -> str:
        """The name of the array that begins here; what lies within it is put on the list of what waits."""
        if kind != MATRIX:
            self._no_array(kind, end - source.at, end - source.at)
        if len(waiting) > MAX_DEPTH:
            raise UnsafeFileError(f"{self.path}: arrays within arrays, more than {MAX_DEPTH} deep; {AGAIN}")
        own, dims, name = self._header(source)
        inner = self._inner(source, own, prod(dims))
        self.met(inner)
        waiting.append((inner, end))
        return name

    def _no_array(self, kind: int, nbytes: int, left: int) -> None:
        found = f"an element of type {kind} that claims {nbytes:,} bytes"
        raise self.damaged(f"{found}, where an array ({MATRIX}) of at most {left:,} should be")

    def _header(self, source: Any) -> tuple[int, tuple[int, ...], str]:
        """Class, dimensions and name of an array."""
        flags = self._numbers(source, UINT32, 2, 2)[0]
        own = flags & 0xFF
        if own == SPARSE:
            raise UnsupportedError(f"{self.path}: has a sparse array; save it as full(x)")
        if flags & COMPLEX:
            raise UnsupportedError(f"{self.path}: has complex numbers; save their real part")
        if own not in (CELL, STRUCT, OBJECT, CHAR, FUNCTION, OPAQUE, *NUMERIC):
            raise self.damaged(f"no array has class {own}")
        dims = () if own == OPAQUE else self._numbers(source, INT32, 2, MAX_RANK)
        if any(dim < 0 for dim in dims):
            raise self.damaged(f"an array has dimensions {dims}")
        return own, dims, self._text(source).decode("ascii")

    def _inner(self, source: Any, own: int, count: int) -> int:
        """How many arrays come next, within this one; numbers and letters are passed over."""
        if own in NUMERIC:
            element = self._element(source, NUMBERS)
            if element.nbytes != count * NUMBERS[element.kind]:
                raise self.damaged(f"an array of {count:,} numbers has {element.nbytes:,} bytes of data")
            self._pass_over(source, element)
        elif own == CHAR:
            element = self._element(source, LETTERS)
            if count > max(element.nbytes // LETTERS[element.kind], 0 if element.nbytes else MAX_NAME):
                raise self.damaged(f"a text of {count:,} letters has {element.nbytes:,} bytes of data")
            self._pass_over(source, element)
        elif own in (STRUCT, OBJECT):
            if own == OBJECT:
                self._text(source)  # its class
            self.met(count)
            return count * self._fields(source)
        elif own == OPAQUE:
            self._text(source)  # its type system
            self._text(source)  # its class
            return 1
        elif own == FUNCTION:
            return 1
        return count if own == CELL else 0

    def _fields(self, source: Any) -> int:
        """How many fields a struct has."""
        (width,) = self._numbers(source, INT32, 1, 1)
        names = self._text(source, most=MAX_FIELDS * 64)
        if not 1 <= width <= 64 or len(names) % width:
            raise self.damaged(f"{len(names):,} bytes of names of {width} bytes each")
        fields = [names[at : at + width] for at in range(0, len(names), width)]
        for field in fields:
            if not FIELD.match(field):
                raise self.damaged(f"a field cannot be called {field!r}")
        if len({field.partition(b"\0")[0] for field in fields}) < len(fields):
            raise self.damaged("two fields of a struct have one name")
        return len(fields)

    # The parts of which an array is made.

    def tag(self, source: Any) -> tuple[int, int]:
        """Type and size of what comes next."""
        kind, nbytes = struct.unpack(f"{self.order}2I", self._all(source, 8))
        return kind, nbytes

    def _element(self, source: Any, kinds: Collection[int]) -> Element:
        """The tag of a part of one of these types; the size of a small one shares the number of its type."""
        first, second = self._all(source, 4), self._all(source, 4)
        (kind,) = struct.unpack(f"{self.order}I", first)
        element = Element(kind, *struct.unpack(f"{self.order}I", second))
        if kind >> 16:
            element = Element(kind & 0xFFFF, kind >> 16, second[: kind >> 16])
        if element.kind not in kinds or (element.small is not None and element.nbytes > 4):
            what = f"data of type {element.kind} in {element.nbytes:,} bytes"
            raise self.damaged(f"{what}, where there should be one of {', '.join(map(str, kinds))}")
        return element

    def _pass_over(self, source: Any, element: Element) -> None:
        if element.small is None:
            source.skip(element.nbytes + -element.nbytes % 8)  # all begins at a multiple of 8

    def _content(self, source: Any, element: Element, most: int) -> bytes:
        if element.nbytes > most:
            raise self.damaged(f"{element.nbytes:,} bytes where at most {most:,} have a meaning")
        if element.small is not None:
            return element.small
        data = self._all(source, element.nbytes)
        source.skip(-element.nbytes % 8)
        return data

    def _numbers(self, source: Any, kind: int, least: int, most: int) -> tuple[int, ...]:
        data = self._content(source, self._element(source, [kind]), 4 * most)
        if len(data) % 4 or len(data) < 4 * least:
            raise self.damaged(f"{len(data)} bytes are not {least} to {most} numbers of 4")
        return struct.unpack(f"{self.order}{len(data) // 4}{'i' if kind == INT32 else 'I'}", data)

    def _text(self, source: Any, most: int = MAX_NAME) -> bytes:
        text = self._content(source, self._element(source, [INT8, UTF8]), most)
        if not text.isascii():
            raise self.damaged(f"a name {text[:64]!r}")
        return text

    def _all(self, source: Any, count: int) -> bytes:
        data = source.take(count)
        if len(data) < count:
            raise self.damaged(f"cut short at byte {source.at:,}")
        return data
