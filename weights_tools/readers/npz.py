"""NumPy's archives and arrays: numbers only. The header is read here, not by NumPy, which would evaluate it.

An .npz is a zip archive of .npy files; called arr_0, arr_1 …, they are Lasagne's parameters in its order.
"""

from __future__ import annotations

import os
import re
from math import prod
from pathlib import Path

import numpy as np

from minidnn.errors import DamagedFileError, FileFormatError, TooLargeError, UnsupportedError, UsageError
from weights_tools.detect import opened
from weights_tools.foreign import Foreign
from weights_tools.pickled_arrays import checked_shape, plain_dtype
from weights_tools.readers import lasagne
from weights_tools.readers.by_name import foreign_of
from weights_tools.zipped import Archive

MAGIC = b"\x93NUMPY"
MAX_HEADER = 4096  # bytes; that of an array of numbers has 128
FIELD = re.compile(r"'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|\([-\d,\sL]*\))")
NUMBERED = re.compile(r"arr_(\d{1,6})")


def read(path: str | os.PathLike, *, flip_filters: bool | None = None) -> Foreign:
    """An .npz of named arrays; an .npy holds one array, called by the file's name.

    `flip_filters` is for Lasagne's.
    """
    path = Path(path)
    if opened(path).startswith(MAGIC):
        return foreign_of({path.stem: array_of(path.read_bytes(), str(path))}, "NumPy array", str(path))
    arrays = {}
    with Archive(path) as archive:
        for name in archive.names:
            if not name.endswith(".npy"):
                raise FileFormatError(f"{path}: a zip archive, but not of NumPy (it holds {name[:80]!r})")
            data = archive.read(name, archive.size(name))
            arrays[name.removesuffix(".npy")] = array_of(data, f"{path}: {name[:80]!r}")
    if arrays and all(NUMBERED.fullmatch(name) for name in arrays):
        row = sorted(arrays, key=lambda name: int(name.removeprefix("arr_")))
        return lasagne.foreign_of([arrays[name] for name in row], str(path), flip_filters=flip_filters)
    if flip_filters is not None:
        raise UsageError(f"{path}: not Lasagne's; leave --set flip_filters out")
    return foreign_of(arrays, "NumPy archive", str(path))


def array_of(data: bytes, what: str) -> np.ndarray:
    """The array of an .npy file, as a view of its bytes."""
    if not data.startswith(MAGIC) or len(data) < 10:
        raise FileFormatError(f"{what} is not an .npy file; fetch it again")
    if data[6] not in (1, 2, 3):
        raise UnsupportedError(f"{what} is of version {data[6]}, we know 1, 2 and 3")
    begin = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:begin], "little")
    if length > MAX_HEADER:
        raise TooLargeError(f"{what} claims a header of {length:,} bytes, the limit is {MAX_HEADER:,}")
    if length > len(data) - begin:
        raise DamagedFileError(f"{what} ends within its header; cut short? fetch it again")
    fields = _fields(data[begin : begin + length].decode("latin-1"), what)
    dtype = plain_dtype(fields["descr"].strip("'"), "=", what)
    shape = checked_shape(_numbers(fields["shape"]), what)
    if prod(shape) * dtype.itemsize != len(data) - begin - length:
        found = f"found {len(data) - begin - length:,} bytes, expected {prod(shape) * dtype.itemsize:,}"
        raise DamagedFileError(f"{what} is {shape} of {dtype}: {found}; fetch it again")
    flat = np.frombuffer(data, dtype, prod(shape), begin + length) if prod(shape) else np.zeros(0, dtype)
    return flat.reshape(shape, order="F" if fields["fortran_order"] == "True" else "C")


def _fields(header: str, what: str) -> dict[str, str]:
    """The three things a header says, each once and nothing else."""
    found = FIELD.findall(header)
    if len(found) != 3 or len(dict(found)) != 3 or FIELD.sub("", header).strip("{}, \n") != "":
        raise UnsupportedError(f"{what}: no array of plain numbers (a record?); save floats")
    return dict(found)


def _numbers(shape: str) -> list[int]:
    return [int(n) if n.lstrip("-").isdecimal() else -1 for n in re.findall(r"[-\d]+", shape)]
