"""Arrays in .npz files, those of strangers too: sizes are checked before room is made, and no pickle runs.

A tree of values (dicts, lists, numbers, arrays) goes into one as well: its arrays as arrays, the rest as JSON
in one more array called "told". So a run or a dream is kept, to go on with it.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from minidnn.arrays import to_host
from minidnn.errors import DamagedFileError, FileFormatError, TooLargeError, UnsafeFileError
from minidnn.files import replacing

MAX_BYTES = 1 << 34  # of all arrays together
MAX_ARRAYS = 100_000
MAX_DEPTH = 20  # of a tree
SLACK = 1 << 16  # bytes that a header may take


def read(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """All arrays by name."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check(path, archive, max_bytes)
            return {
                info.filename.removesuffix(".npy"): _array(archive, info, path) for info in archive.infolist()
            }
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file") from None
    except zipfile.BadZipFile as error:
        kind = DamagedFileError if path.is_file() and _begins_as_zip(path) else FileFormatError
        raise kind(f"{path}: no whole .npz file ({error}); write or fetch it again") from None
    except (ValueError, OSError, EOFError, zlib.error, NotImplementedError, SyntaxError) as error:
        raise DamagedFileError(f"{path}: damaged ({error}); write or fetch it again") from None


def write(path: str | Path, told: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """What is told, in JSON's own kinds, and the arrays that it speaks of; whole or not at all."""
    words = np.frombuffer(json.dumps(told).encode(), np.uint8)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, told=words)


def reopen(path: str | Path) -> tuple[Any, dict[str, np.ndarray]]:
    """(told, arrays) as `write` wrote them. Nothing is compressed, so no more than the file's size."""
    path = Path(path)
    try:
        arrays = read(path, max_bytes=path.stat().st_size if path.is_file() else 0)
        return json.loads(arrays.pop("told").tobytes()), arrays
    except TooLargeError:
        raise DamagedFileError(f"{path}: claims to hold more than it has; take another one") from None
    except (KeyError, ValueError, RecursionError):
        raise DamagedFileError(f"{path}: no whole checkpoint (nothing is told of it); take another") from None


def packed(part: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A tree in JSON's own kinds; its arrays go into `arrays`, and their names stay here."""
    if isinstance(part, Mapping):
        return {"dict": {name: packed(inner, arrays) for name, inner in part.items()}}
    if isinstance(part, list | tuple):
        return {"tuple" if isinstance(part, tuple) else "list": [packed(inner, arrays) for inner in part]}
    if part is None or isinstance(part, int | float | str):
        return part
    name = f"array{len(arrays)}"
    arrays[name] = to_host(part)
    return {"array": name}


def unpacked(part: Any, arrays: Mapping[str, Any], depth: int = 0) -> Any:
    """The tree again; a ValueError says what is none."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if not isinstance(part, dict):
        return part
    kind, inner = next(iter(part.items()), ("nothing", None))
    if len(part) == 1 and kind == "array" and isinstance(inner, str) and inner in arrays:
        return arrays[inner]
    if len(part) == 1 and kind == "dict" and isinstance(inner, dict):
        return {name: unpacked(one, arrays, depth + 1) for name, one in inner.items()}
    if len(part) == 1 and kind in ("list", "tuple") and isinstance(inner, list):
        items = [unpacked(one, arrays, depth + 1) for one in inner]
        return tuple(items) if kind == "tuple" else items
    raise ValueError(f"no part of a tree: {part!s:.60}")


def _check(path: Path, archive: zipfile.ZipFile, max_bytes: int) -> None:
    infos = archive.infolist()
    total = sum(info.file_size for info in infos)
    if len(infos) > MAX_ARRAYS or total > max_bytes:
        found = f"{len(infos):,} arrays of {total:,} bytes"
        raise TooLargeError(f"{path}: {found}, the limit is {MAX_ARRAYS:,} of {max_bytes:,}; split it")
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise DamagedFileError(f"{path}: two arrays of one name; write or fetch it again")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    with archive.open(info) as file:
        shape, fortran, dtype = _header(file)
        if dtype.hasobject:
            what = f"{path}: {info.filename!r} holds Python objects"
            raise UnsafeFileError(f"{what}, and reading those can run code; save plain arrays")
        size = prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or not 0 <= info.file_size - size <= SLACK:
            told = f"{info.filename!r} tells of {shape} {dtype}"
            raise DamagedFileError(
                f"{path}: {told}, and has {info.file_size:,} bytes; write or fetch it again"
            )
        content = file.read(size)
        if len(content) != size:
            raise EOFError(f"{info.filename!r} is cut short")
        if file.read(1):  # to its end, where the checksum is looked at
            raise ValueError(f"{info.filename!r} goes on after its end")
    array = np.frombuffer(bytearray(content), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"arrays in format {version}")


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
