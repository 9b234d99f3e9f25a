"""The list of the arrays in a file, and the fingerprints of arrays.

A digest is taken over names, shapes and numbers as the net holds them, so a net has the same one whether it
was drawn, trained or read, and a float16 file that of the float32 numbers it becomes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from minidnn.arrays import Array, xp_of

NAME = re.compile(r"[A-Za-z0-9_./-]{1,200}")
NAME_RULE = "up to 200 of A-Z a-z 0-9 _ . / - with no empty part and no '.' or '..' between slashes"
AT_ONCE = 1 << 18  # numbers looked at in one go


@dataclass(frozen=True)
class Tensor:
    """One array: `path` in the file, and sha256 of its bytes there (and as float32, if it is float16)."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    sha256: str
    sha256_as_float32: str | None = None

    @property
    def name(self) -> str:
        """As in net.params: "conv1_1/w"."""
        return self.path.removeprefix("params/")

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.name, "<f4", self.shape, self.sha256_as_float32 or self.sha256)


class Fingerprint(NamedTuple):
    """What one array adds to a digest."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str


def digest_of(fingerprints: Iterable[Fingerprint]) -> str:
    """One number for all of them, in whatever order they come."""
    lines = sorted(f"{f.name} {f.dtype} {f.shape} {f.sha256}\n" for f in fingerprints)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def pieces(array: Array) -> Iterator[Array]:
    """All its numbers in rows that fit into the cache: what is made of one takes no memory to speak of."""
    flat = array.reshape(-1)
    return (flat[at : at + AT_ONCE] for at in range(0, flat.size, AT_ONCE))


def sha256_of(array: np.ndarray, dtype: str | None = None) -> str:
    """Of its bytes, or of what they are as another dtype, row by row, the lowest byte of a number first."""
    kind, total = np.dtype(dtype or array.dtype).newbyteorder("<"), hashlib.sha256()
    for piece in pieces(array):
        total.update(np.ascontiguousarray(piece, kind).view(np.uint8).data)
    return total.hexdigest()


def non_finite(array: Array) -> int:
    """How many of its numbers are NaN or infinite."""
    return sum(piece.size - int(xp_of(piece).isfinite(piece).sum()) for piece in pieces(array))


def is_allowed(name: str) -> bool:
    """Whether a layer or an array may be called so in a file."""
    return NAME.fullmatch(name) is not None and not {"", ".", ".."} & set(name.split("/"))


def in_the_way(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of which one would have to be a group and a dataset at once: 'a/w' and 'a/w/b'."""
    ordered = sorted(name + "/" for name in names)  # what begins with another one comes right behind it
    return [(a[:-1], b[:-1]) for a, b in pairwise(ordered) if b.startswith(a)]
