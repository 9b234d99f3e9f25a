"""MATLAB files of version 7.3: HDF5, in which a cell is a list of references, and the axes are reversed."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from minidnn.errors import DamagedFileError, TooLargeError, UnsafeFileError, UnsupportedError
from minidnn.weights.guarded import Guarded
from weights_tools.matvalues import MAX_ARRAYS, MAX_DEPTH, Cell, Opaque, Struct, Value, most_bytes

NUMERIC = {"double", "single", "logical", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))}
KNOWN = ("MATLAB_class", "MATLAB_empty", "MATLAB_sparse", "MATLAB_object_decode")


def load(path: Path) -> dict[str, Value]:
    """The variables by name; what MATLAB keeps for itself, under #, is left out."""
    most = most_bytes(path.stat().st_size)
    with Guarded(path, allow_filters=True, allow_texts=True, max_bytes=most) as file:
        values = Values(file, most)
        return {name: values.at(name, depth=0) for name in file.names() if not name.startswith("#")}


class Values:
    """What lies in a file, as values; an array that several references lead to is read once."""

    def __init__(self, file: Guarded, most: int) -> None:
        self.file, self.most = file, most
        self.arrays = self.bytes = 0
        self.read: dict[str, np.ndarray] = {}

    def at(self, path: str, depth: int) -> Value:
        """The value at a path; `depth` bounds the recursion, as the number of arrays bounds its breadth."""
        self._met(1)
        if depth > MAX_DEPTH:
            raise UnsafeFileError(f"{self._what(path)}: cells within cells, more than {MAX_DEPTH} deep")
        about = self.file.attributes(path, KNOWN)
        kind = _text(about.get("MATLAB_class", b""))
        if "MATLAB_sparse" in about:
            raise UnsupportedError(f"{self._what(path)}: a sparse array; save it as full(x)")
        if "MATLAB_object_decode" in about:
            return Opaque(kind or "object")
        if self.file.is_group(path):
            return self._struct(path, depth) if kind in ("struct", "") else Opaque(kind)
        if "MATLAB_empty" in about and np.any(about["MATLAB_empty"]):
            return self._empty(path, kind)
        if kind == "cell":
            return Cell(self.at(inner, depth + 1) for inner in self._references(path))
        if kind == "char":
            return self._letters(path)
        return self._numbers(path) if kind in NUMERIC else Opaque(kind or "object")

    def _struct(self, path: str, depth: int) -> Struct:
        """A group with a dataset for each field: in a struct array one of references, without class."""
        one: dict[str, Value] = {}
        several: dict[str, list[Value]] = {}
        for name in self.file.names(path):
            inner = f"{path}/{name}"
            if "MATLAB_class" in self.file.attributes(inner, KNOWN) or self.file.is_group(inner):
                one[name] = self.at(inner, depth + 1)
            else:
                several[name] = [self.at(ref, depth + 1) for ref in self._references(inner)]
        counts = {len(values) for values in several.values()} | ({1} if one or not several else set())
        if len(counts) != 1:
            raise DamagedFileError(
                f"{self._what(path)}: its fields have {sorted(counts)} elements; fetch it again"
            )
        single = {name: [value] for name, value in one.items()}
        fields = single | several
        return Struct({name: fields[name][i] for name in fields} for i in range(counts.pop()))

    def _empty(self, path: str, kind: str) -> Value:
        """Where an array is empty, its dimensions are kept in its place."""
        dims = self._all(path).astype(np.int64).ravel() if self.file.info(path).dtype.kind in "iuf" else ()
        count = prod(map(int, dims)) if len(dims) else 0
        if kind == "struct":  # without fields
            if not 0 <= count <= MAX_ARRAYS:
                raise TooLargeError(f"{self._what(path)}: a struct of {count:,} elements; not a net")
            self._met(count)
            return Struct({} for _ in range(count))
        if count:
            raise DamagedFileError(f"{self._what(path)}: is empty and has {count:,} elements; fetch it again")
        return Cell() if kind == "cell" else "" if kind == "char" else np.zeros((0, 0))

    def _references(self, path: str) -> list[str]:
        """Where the elements of a cell lie, column by column."""
        info = self.file.info(path)
        if "ref" not in (info.dtype.metadata or {}):
            raise UnsupportedError(f"{self._what(path)}: a cell or struct of {info.dtype}, not of references")
        self._met(prod(info.shape))
        self.arrays -= prod(info.shape)  # each is counted again where it is read
        return [self.file.resolve(ref) for ref in self.file.read(path).ravel()]

    def _letters(self, path: str) -> Value:
        codes = self._all(path)
        if codes.dtype.kind != "u" or codes.ndim != 2:
            raise DamagedFileError(
                f"{self._what(path)}: a text of {codes.dtype} {codes.shape}; fetch it again"
            )
        rows = ["".join(map(_letter, row)) for row in codes.T]
        return rows[0] if len(rows) == 1 else Cell(rows)

    def _numbers(self, path: str) -> np.ndarray:
        dtype = self.file.info(path).dtype
        if dtype.kind not in "fiu":
            raise UnsupportedError(f"{self._what(path)}: numbers of type {dtype}; save real ones")
        numbers = self._all(path)
        return numbers.T if numbers.ndim > 1 else np.atleast_2d(numbers)

    def _all(self, path: str) -> Any:
        if path not in self.read:
            info = self.file.info(path)
            if info.dtype.kind not in "fiu":
                raise DamagedFileError(f"{self._what(path)}: has {info.dtype}, not numbers; fetch it again")
            self.bytes += info.nbytes
            if self.bytes > self.most:
                what = f"unpacks to more than {self.most:,} bytes, the limit for a file of this size"
                raise TooLargeError(f"{self._what(path)}: {what}; save it without compression")
            self.read[path] = self.file.read(path)
        return self.read[path]

    def _met(self, arrays: int) -> None:
        self.arrays += arrays
        if self.arrays > MAX_ARRAYS:
            raise TooLargeError(
                f"{self.file.path}: more than {MAX_ARRAYS:,} arrays; not a net that we could run"
            )

    def _what(self, path: str) -> str:
        return f"{self.file.path}: {path!r}"


def _text(held: Any) -> str:
    return held.decode("latin1") if isinstance(held, bytes) else str(held)


def _letter(code: int) -> str:
    return chr(code) if code < 0xD800 or 0xE000 <= code < 0x110000 else "\ufffd"
