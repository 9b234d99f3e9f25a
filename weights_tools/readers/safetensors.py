"""safetensors: a JSON list of what is where, then the bytes; all is checked before a number is looked at.

8 bytes: length of the list | {"name": {"dtype", "shape", "data_offsets"}, ...} | the arrays, without gaps
"""

from __future__ import annotations

import json
import os
import re
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from minidnn.errors import DamagedFileError, FileFormatError, TooLargeError, UnsafeFileError, UnsupportedError
from weights_tools.detect import held, opened
from weights_tools.foreign import Foreign
from weights_tools.pickled_arrays import checked_shape
from weights_tools.readers.by_name import foreign_of
from weights_tools.room import give_way

MAX_LIST = 100_000_000  # bytes
HEADS = ("classifier", "fc", "head", "linear", "output")
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


def read(path: str | os.PathLike) -> Foreign:
    """A safetensors file; its remarks about itself are the hint "metadata"."""
    path = Path(path)
    if len(opened(path)) < 8:
        raise FileFormatError(f"{path}: not a safetensors file: less than 8 bytes; fetch it again")
    data = memoryview(held(path))
    listed, begin = _listed(data, path)
    remarks = listed.pop("__metadata__", {})
    if not isinstance(remarks, dict) or not all(isinstance(text, str) for text in remarks.values()):
        raise DamagedFileError(f"{path}: '__metadata__' holds more than texts; fetch it again")
    unread = sorted({str(one["dtype"])[:20] for one in listed.values() if one["dtype"] not in DTYPES})
    if unread:
        raise UnsupportedError(f"{path}: arrays of {', '.join(unread)}, which we do not read; save floats")
    arrays, end = {}, 0
    for name, one in sorted(listed.items(), key=lambda item: item[1]["data_offsets"]):
        arrays[name] = _array(data[begin:], one, end, f"{path}: {name[:80]!r}")
        end = one["data_offsets"][1]
    if end != len(data) - begin:
        left = len(data) - begin - end
        raise DamagedFileError(f"{path}: {left:,} bytes behind the last array; fetch it again")
    ordered = in_order(arrays)
    foreign = foreign_of(ordered, "safetensors", str(path))
    if list(ordered) != list(arrays):
        foreign.warnings.append(
            "the file lists its arrays by the alphabet: their order is that of their numbers"
        )
    foreign.hints = {"metadata": dict(remarks)}
    return foreign


def in_order(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What was put in the order of the alphabet, in that of its numbers, and classifiers at the end."""
    if list(arrays) != sorted(arrays):
        return arrays

    def place(name: str) -> tuple[bool, list[tuple[str, int]]]:
        parts = re.findall(r"(\D*)(\d{0,9})", name.rpartition(".")[0] or name)
        return name.startswith(HEADS), [(word, int(number or 0)) for word, number in parts]

    return {name: arrays[name] for name in sorted(arrays, key=place)}


def _listed(data: memoryview, path: Path) -> tuple[dict[str, Any], int]:
    """What the list says, and where the arrays begin."""
    length = int.from_bytes(data[:8], "little")
    if length > MAX_LIST:
        raise TooLargeError(
            f"{path}: a list of {length:,} bytes, the limit is {MAX_LIST:,}; nothing was read"
        )
    if length > len(data) - 8 or data[8:9] != b"{":
        raise DamagedFileError(f"{path}: no list of {length:,} bytes where it should be; cut short?")
    try:
        listed = json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=_once, parse_constant=_no_number)
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: its list is no JSON ({str(error)[:80]}); fetch it again") from None
    for name, one in listed.items():
        if name != "__metadata__" and not _is_entry(one):
            wanted = '{"dtype", "shape", "data_offsets"}'
            raise DamagedFileError(f"{path}: {name[:80]!r} is not described by {wanted}; fetch it again")
    return listed, 8 + length


def _is_entry(one: Any) -> bool:
    if not isinstance(one, dict) or one.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    offsets = one["data_offsets"]
    return (
        isinstance(one["dtype"], str) and isinstance(offsets, list) and list(map(type, offsets)) == [int] * 2
    )


def _array(data: memoryview, one: dict[str, Any], end: int, what: str) -> np.ndarray:
    """One array, which must begin where the one before ended."""
    begin, stop = one["data_offsets"]
    if begin != end or not begin <= stop <= len(data):
        raise DamagedFileError(
            f"{what} does not lie between the array before it (byte {end:,}) and the end ({len(data):,}): "
            f"an overlap, a gap, or cut short; fetch it again"
        )
    dtype, shape = np.dtype(DTYPES[one["dtype"]]), checked_shape(one["shape"], what)
    if prod(shape) * dtype.itemsize != stop - begin:
        found = f"found {stop - begin:,} bytes, expected {prod(shape) * dtype.itemsize:,}"
        raise DamagedFileError(f"{what} is {shape} of {one['dtype']}: {found}; fetch it again")
    if begin == stop:
        return np.zeros(shape, "<f4" if one["dtype"] == "BF16" else dtype)
    array = np.frombuffer(data[begin:stop], dtype).reshape(shape)
    if one["dtype"] == "BF16":  # the upper half of a float32
        give_way(array)
        wide = array.astype("<u4")
        wide <<= 16
        return wide.view("<f4")
    return array


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping in which no key comes twice: of two, every reader would take another."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise UnsafeFileError(f"{twice[:80]!r} is listed twice; fetch it again")
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")
