"""MATLAB files, the two kinds in use: version 5 (`save`), and 7.3 (`save -v7.3`), which is HDF5."""

from __future__ import annotations

import os
from pathlib import Path

from minidnn.errors import DamagedFileError, FileFormatError, UnsupportedError
from weights_tools import mat5, mat73
from weights_tools.detect import HDF5, MAT4, is_version_4, opened
from weights_tools.matvalues import Value


def load(path: str | os.PathLike) -> dict[str, Value]:
    """The variables of a MATLAB file by name."""
    path = Path(path)
    head = opened(path)
    if HDF5 in (head[:8], head[512:520]):
        return mat73.load(path)
    if 0 not in head[:4] and head[126:128] in (b"IM", b"MI"):  # with a 0 there scipy would see version 4
        return mat5.load(path)
    if head.startswith((b"MATLAB 5.0", b"MATLAB 7.3")):
        raise DamagedFileError(f"{path}: the header of a MATLAB file, and then it is damaged; fetch it again")
    if not any(head):
        raise DamagedFileError(f"{path}: nothing but zeros where a file begins; fetch it again")
    if is_version_4(head):
        raise UnsupportedError(f"{path}: {MAT4}")
    raise FileFormatError(f"{path}: not a MATLAB file (begins {head[:16]!r}); name one saved by MATLAB")
