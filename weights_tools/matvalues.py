"""MATLAB's values in Python: text as str, numbers as arrays with MATLAB's axes, cells and structs as lists.

Arrays have at least two axes, and none of size 1 at the end beyond those: MATLAB drops them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_ARRAYS = 200_000  # in one file, those within cells and structs counted too
MAX_DEPTH = 32  # of cells within structs within cells
SLACK = 256 << 20  # bytes that a small file may unpack to


class Cell(list["Value"]):
    """A cell array, column by column."""


class Struct(list[dict[str, "Value"]]):
    """A struct array, column by column; most have one element."""


class Opaque(NamedTuple):
    """What is no data: a function, or an object of a class."""

    kind: str


Value = str | np.ndarray | Cell | Struct | Opaque


def most_bytes(size: int) -> int:
    """What a file of `size` bytes may hold when unpacked: weights hardly shrink when packed."""
    return SLACK + 3 * size
