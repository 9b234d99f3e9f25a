"""JSON that a stranger wrote: its size, depth and grammar are checked before it becomes anything.

In the file it lies as bytes in a dataset of its own, and holds nothing that HDF5 would look for elsewhere.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from math import isfinite
from typing import Any

import numpy as np

from minidnn.errors import DamagedFileError, TooLargeError

MAX_BYTES = 8 << 20
MAX_DEPTH = 32

STRING = re.compile(
    rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL
)  # one that never ends is taken to the end: linear time
CONTROL = re.compile(r"(?<!\\)(\\\\)*\\u00[01][0-9a-f]|[\x7f-\x9f]")  # as json.dumps shows them
STEP = np.zeros(256, np.int8)
STEP[list(b"[{")], STEP[list(b"]}")] = 1, -1


def dumped(value: Any) -> np.ndarray:
    """The bytes of it, always the same for the same value; a ValueError or TypeError if JSON has no words."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return np.frombuffer(text.encode("utf-8"), np.uint8)


def parsed(data: np.ndarray, what: str) -> Any:
    """The value, or a DamagedFileError that begins with `what`."""
    check_size(data.nbytes, what)
    text = data.tobytes()
    if (depth := _depth(text)) > MAX_DEPTH:
        raise DamagedFileError(f"{what} is nested {depth:,} deep, the limit is {MAX_DEPTH}; fetch it again")
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite
        )
        _check_printable(json.dumps(value, ensure_ascii=False))
    except ValueError as error:
        raise DamagedFileError(f"{what} is not JSON as we write it ({error}); fetch it again") from None
    return value


def check_size(nbytes: int, what: str) -> None:
    """That it is small enough to be read at all."""
    if nbytes > MAX_BYTES:
        raise TooLargeError(f"{what} has {nbytes:,} bytes, the limit is {MAX_BYTES:,}; nothing was read")


def _check_printable(text: str) -> None:
    """Its words may end up on a terminal, which obeys control characters."""
    text.encode("utf-8")  # a ValueError for half a surrogate pair
    if found := CONTROL.search(text):
        raise ValueError(f"control character {found[0]!r}")


def _depth(text: bytes) -> int:
    """How deep its brackets go, counted without going down."""
    outside = np.frombuffer(STRING.sub(b"", text), np.uint8)
    return int(np.cumsum(STEP[outside], dtype=np.int64).max(initial=0))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name[:60]!r} is there twice")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    number = float(word)
    return number if isfinite(number) else _no_number(word)
