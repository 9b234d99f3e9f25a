"""NumPy's arrays in a pickle: what stands in for the names that they are made with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from minidnn.errors import DamagedFileError, UnsafeFileError, UnsupportedError
from weights_tools.pickles import Allowed

MAX_RANK = 8
NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
MAX_COUNT = 1 << 48  # numbers along an axis; a product of eight still is no trouble to Python


@dataclass
class PickledType:
    """numpy.dtype: a code like 'f4', and the order of its bytes, which comes as a state."""

    code: Any
    align: Any = False
    copy: Any = False
    order: Any = "="

    def build(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 4:
            self.order = state[1]
            if state[3] is not None:
                self.code = "a record"

    def dtype(self, what: str) -> np.dtype:
        return plain_dtype(self.code, self.order, what)


def plain_dtype(code: Any, order: Any, what: str) -> np.dtype:
    """A type of numbers by its code; anything else a file may hold is refused."""
    found = re.fullmatch(r"([<>|=]?)([a-zA-Z])(\d{0,3})", code) if isinstance(code, str) else None
    if found and found[2] == "O":
        raise UnsafeFileError(f"{what}: holds Python objects, not numbers; save plain arrays")
    if not found or found[2] + found[3] not in NUMBERS:
        shown = repr(code[:20]) if isinstance(code, str) else f"a {type(code).__name__}"
        raise UnsupportedError(f"{what}: holds numbers of type {shown}; save floats")
    is_big = (found[1] or order) == ">"
    return np.dtype((">" if is_big else "<") + found[2] + found[3])


@dataclass
class PickledArray:
    """numpy.ndarray: empty when it is made, its shape, type and bytes come as a state."""

    shape: Any = ()
    kind: Any = None
    is_fortran: Any = False
    data: Any = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise ValueError("gives an array a state that is none")
        self.shape, self.kind, self.is_fortran, self.data = state[-4:]

    def array(self, what: str) -> np.ndarray:
        """The numbers, as they lie in the file."""
        if not isinstance(self.kind, PickledType) or self.data is None:
            raise DamagedFileError(f"{what}: an array without a type; fetch it again")
        dtype = self.kind.dtype(what)
        data = self.data.encode("latin-1") if isinstance(self.data, str) else self.data
        if not isinstance(data, bytes | memoryview):
            raise UnsafeFileError(f"{what}: holds Python objects, not numbers; save plain arrays")
        shape = checked_shape(self.shape, what)
        if prod(shape) * dtype.itemsize != len(data):
            found = f"found {len(data):,} bytes, expected {prod(shape) * dtype.itemsize:,}"
            raise DamagedFileError(f"{what}: an array {shape} of {dtype}: {found}; fetch it again")
        flat = np.frombuffer(data, dtype) if len(data) else np.zeros(0, dtype)
        return flat.reshape(shape, order="F" if self.is_fortran else "C")


def checked_shape(shape: Any, what: str) -> tuple[int, ...]:
    """A shape that may be believed; what it takes is for the caller to compare with what is there."""
    if not isinstance(shape, tuple | list) or not all(type(n) is int for n in shape):
        raise DamagedFileError(f"{what}: a shape that is no row of whole numbers; fetch it again")
    if len(shape) > MAX_RANK:
        raise UnsupportedError(f"{what}: an array of {len(shape)} axes, we take up to {MAX_RANK}")
    if not all(0 <= n < MAX_COUNT for n in shape):
        raise DamagedFileError(f"{what}: a shape with a side below 0 or beyond all measure; fetch it again")
    return tuple(shape)


def _empty(kind: Any, shape: Any, code: Any) -> PickledArray:
    return PickledArray()


def _scalar(kind: Any, data: Any = None) -> PickledArray:
    return PickledArray((), kind, False, data)


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any, *_: Any) -> PickledArray:
    return PickledArray(shape, kind, order == "F", data)


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("encodes what is no text of bytes")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """Python 3 writes b"" so, in the old protocols."""
    return b""


# Everything that arrays are pickled with, by NumPy 1 and 2 and by Python 2 and 3.
_MAKERS: Allowed = {
    "multiarray._reconstruct": _empty,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
NUMPY: Allowed = {
    "numpy.ndarray": None,
    "numpy.dtype": PickledType,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": _no_bytes,
    **{f"numpy.core.{name}": make for name, make in _MAKERS.items()},
    **{f"numpy._core.{name}": make for name, make in _MAKERS.items()},
}
