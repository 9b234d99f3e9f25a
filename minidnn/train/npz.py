"""Reading .npz files of strangers: sizes are checked before room is made, and no pickle runs."""

from __future__ import annotations

import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from minidnn.errors import DamagedFileError, FileFormatError, TooLargeError, UnsafeFileError

MAX_BYTES = 1 << 34  # of all arrays together
MAX_ARRAYS = 100_000
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
