"""Weights as a folder of raw float32 files with a MANIFEST.csv: file,bytes,sha256. Inception v3 comes so.

weights_mixed_4_conv.dat holds the filters of mixed_4/conv as (K, kh, kw, C), bias_mixed_4_conv.dat its bias.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from pathlib import Path

import numpy as np

from minidnn.arrays import Array
from minidnn.errors import DamagedFileError, FileFormatError, MismatchError, UnsafeFileError
from minidnn.net import Net

MANIFEST = "MANIFEST.csv"
LONGEST_MANIFEST = 1 << 20


def is_raw(path: str | os.PathLike) -> bool:
    """Whether this is such a folder, or its list of files."""
    return Path(path).is_dir() or Path(path).name == MANIFEST


def load_raw(net: Net, path: str | os.PathLike) -> Net:
    """The net with the arrays of that folder; every file has the size and the checksum that are listed."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    listed = _manifest(folder / MANIFEST)
    files = {name: _file_of(name) for name in net.params}
    missing = sorted(set(files.values()) - set(listed))
    if missing:
        raise MismatchError(f"{folder / MANIFEST}: lists no {', '.join(missing)}; is it that of another net?")
    unequal = [
        f"{files[name]} has {listed[files[name]][0]} bytes, {name!r} as {array.shape} takes {4 * array.size}"
        for name, array in net.params.items()
        if listed[files[name]][0] != 4 * array.size
    ]
    if unequal:
        raise MismatchError(f"{folder}: {'; '.join(unequal)}; is it that of another net?")
    arrays = {
        name: _array(folder / file, *listed[file], net.params[name].shape) for name, file in files.items()
    }
    filled = net.replacing(arrays)
    return filled.with_nodes(filled.nodes, source={"file": str(folder), "format": "raw float32"})


def _file_of(name: str) -> str:
    node, _, array = name.rpartition("/")
    return f"{'weights' if array == 'w' else 'bias'}_{node.replace('/', '_')}.dat"


def _manifest(path: Path) -> dict[str, tuple[int, str]]:
    """{file: (bytes, sha256)}, each a plain name in the same folder."""
    text = _read(path, LONGEST_MANIFEST + 1)
    if len(text) > LONGEST_MANIFEST:
        raise FileFormatError(f"{path}: over {LONGEST_MANIFEST:,} bytes long; a list of files is shorter")
    try:
        rows = list(csv.reader(text.decode("utf-8").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(f"{path}: not a table of text ({error})") from error
    if not rows or rows[0] != ["file", "bytes", "sha256"]:
        raise FileFormatError(f"{path}: its first line is not file,bytes,sha256; is it such a list?")
    found: dict[str, tuple[int, str]] = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != 3 or not re.fullmatch(r"\d{1,12}", row[1], re.ASCII):
            raise DamagedFileError(f"{path}: line {line} is not a name, a size and a checksum; get it anew")
        if not re.fullmatch(r"\w[\w.-]{0,199}", row[0], re.ASCII):
            raise UnsafeFileError(f"{path}: line {line} names {row[0]!r}, not a plain file in its folder")
        if row[0] in found:
            raise DamagedFileError(f"{path}: names {row[0]!r} twice; get it anew")
        found[row[0]] = int(row[1]), row[2]
    return found


def _array(path: Path, size: int, sha256: str, shape: tuple[int, ...]) -> Array:
    """The array of that shape, in our order; `size` is known to be its bytes."""
    data = _read(path, size + 1)
    if len(data) != size:
        found = f"over {size:,}" if len(data) > size else f"{len(data):,}"
        raise DamagedFileError(f"{path}: has {found} bytes, {MANIFEST} says {size:,}; get it anew")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedFileError(f"{path}: its checksum is not that of {MANIFEST}; get it anew")
    array = np.frombuffer(data, "<f4")
    if not np.isfinite(array).all():
        raise DamagedFileError(f"{path}: holds numbers that are not finite; get it anew")
    if len(shape) == 1:
        return array.astype("float32")
    kh, kw, c, k = shape
    return np.ascontiguousarray(array.reshape(k, kh, kw, c).transpose(1, 2, 3, 0), "float32")


def _read(path: Path, most: int) -> bytes:
    """The first bytes of a plain file, at most so many."""
    if path.is_symlink():
        raise UnsafeFileError(f"{path}: a link, which may lead anywhere; put the file itself there")
    if not path.is_file():
        raise FileFormatError(f"{path}: no such file; give the folder that holds all of them")
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
