"""The one door to HDF5 files. Nothing in a file that HDF5 would follow elsewhere is followed.

Links to other names and files, data kept in other files, and compressed data are refused; sizes are compared
with the file's own before anything is allocated. h5py is used nowhere else to read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import h5py
import numpy as np

from minidnn.errors import (
    DamagedFileError,
    FileError,
    FileFormatError,
    MismatchError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedError,
    did_you_mean,
)

MAX_NODES = 200_000  # groups and datasets in one file
MAX_DEPTH = 64
MAX_RANK = 8
MAX_ATTRIBUTE = 64 << 20  # bytes


class Info(NamedTuple):
    """What is known of a dataset before a byte of it is read; `offset` is where its bytes lie in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int
    offset: int | None  # None: not in one piece


class Guarded:
    """`with Guarded(path) as file: file.read("params/conv1/w")`.

    `allow_filters` lets compressed data pass, up to `max_bytes` when unpacked (foreign files have it often).
    """

    def __init__(
        self, path: str | os.PathLike, *, allow_filters: bool = False, max_bytes: int | None = None
    ) -> None:
        self.path, self.allow_filters = Path(path), allow_filters
        self.size = self._checked_size()
        self.max_bytes = self.size if max_bytes is None else max_bytes
        try:
            self._file = h5py.File(self.path, "r", locking="best-effort")
        except OSError as error:
            raise self._unopened(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def names(self, group: str = "/") -> list[str]:
        """What lies in a group, in the order of its names."""
        return sorted(self._group(group))

    def walk(self, group: str = "/") -> Iterator[str]:
        """The paths of all datasets below, each once; a group that holds itself ends in an error."""
        stack, found = [(group.strip("/"), 0)], 0
        while stack:
            path, depth = stack.pop()
            for name in reversed(self.names(path or "/")):
                inner = f"{path}/{name}" if path else name
                found += 1
                if depth >= MAX_DEPTH or found > MAX_NODES:
                    raise UnsafeFileError(
                        f"{self.path}: groups within groups without end at {inner[:60]!r}; fetch it again"
                    )
                if isinstance(self._object(inner), h5py.Group):
                    stack.append((inner, depth + 1))
                else:
                    yield inner

    def __contains__(self, path: str) -> bool:
        *groups, last = path.strip("/").split("/")
        at = "/"
        for name in groups:
            if name not in self._group(at) or not self.is_group(f"{at}/{name}"):
                return False
            at = f"{at}/{name}"
        return last == "" or last in self._group(at)

    def is_group(self, path: str) -> bool:
        return isinstance(self._object(path), h5py.Group)

    def attributes(self, path: str = "/") -> dict[str, Any]:
        """The attributes of a group or dataset, as Python and NumPy values."""
        attrs = self._object(path).attrs
        found = {}
        for name in attrs:
            held = attrs.get_id(name)
            if (
                held.get_storage_size() > MAX_ATTRIBUTE
                or prod(held.shape) * held.dtype.itemsize > MAX_ATTRIBUTE
            ):
                raise TooLargeError(
                    f"{self.path}: attribute {name!r} of {path!r} is too large; fetch it again"
                )
            try:
                found[name] = attrs[name]
            except (OSError, TypeError, ValueError, RuntimeError) as error:
                raise DamagedFileError(f"{self.path}: attribute {name!r} of {path!r}: {error}") from None
        return found

    def info(self, path: str) -> Info:
        """Shape and type of a dataset that is safe to read, or why it is not."""
        data = self._dataset(path)
        nbytes = prod(data.shape) * data.dtype.itemsize
        return Info(data.shape, data.dtype, nbytes, data.id.get_offset())

    def read(self, path: str) -> np.ndarray:
        """A dataset as it lies there; object references come as they are, for `resolve`."""
        data = self._dataset(path)
        try:
            return np.asarray(data[()])
        except (OSError, ValueError, RuntimeError) as error:
            raise DamagedFileError(
                f"{self.path}: {path!r} cannot be read ({error}); fetch it again"
            ) from None

    def resolve(self, reference: h5py.Reference) -> str:
        """The path of what a reference within this file leads to (MATLAB's cells are made of them)."""
        try:
            name = self._file[reference].name
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise DamagedFileError(f"{self.path}: a reference leads nowhere ({error})") from None
        if name is None:
            raise DamagedFileError(f"{self.path}: a reference leads to something without a name")
        return str(name).strip("/")

    def _object(self, path: str) -> Any:
        """Walk down by hard links only."""
        here: Any = self._file
        for name in filter(None, path.split("/")):
            if not isinstance(here, h5py.Group):
                raise MismatchError(f"{self.path}: {path!r} goes through a dataset")
            link = here.get(name, getlink=True)
            if link is None:
                raise MismatchError(f"{self.path}: {path!r} is missing{did_you_mean(name, here)}")
            if not isinstance(link, h5py.HardLink):
                raise UnsafeFileError(
                    f"{self.path}: {path!r} is a {type(link).__name__} to elsewhere; links are not followed"
                )
            try:
                here = here[name]
            except (OSError, KeyError, RuntimeError) as error:
                raise DamagedFileError(f"{self.path}: {path!r} cannot be opened ({error})") from None
        return here

    def _group(self, path: str) -> Any:
        found = self._object(path)
        if not isinstance(found, h5py.Group):
            raise MismatchError(f"{self.path}: {path!r} is a dataset, a group was expected")
        return found

    def _dataset(self, path: str) -> Any:
        data, what = self._object(path), f"{self.path}: {path!r}"
        if not isinstance(data, h5py.Dataset):
            raise MismatchError(f"{what} is a group, a dataset was expected")
        if data.is_virtual or data.external:
            raise UnsafeFileError(
                f"{what} keeps its data in other files, which are not read; merge them into one"
            )
        if data.shape is None or len(data.shape) > MAX_RANK:
            raise UnsupportedError(f"{what} has no shape, or more than {MAX_RANK} axes; save it as an array")
        filters = data.id.get_create_plist().get_nfilters()
        if filters and not self.allow_filters:
            raise UnsafeFileError(
                f"{what} is compressed; filters are not allowed in weights: write it without"
            )
        nbytes = prod(data.shape) * data.dtype.itemsize
        if nbytes > self.max_bytes:
            raise TooLargeError(
                f"{what} claims {nbytes:,} bytes, the limit is {self.max_bytes:,}; nothing was read"
            )
        if not filters and data.id.get_storage_size() != nbytes and not data.dtype.hasobject:
            stored = data.id.get_storage_size()
            raise DamagedFileError(f"{what} claims {nbytes:,} bytes and stores {stored:,}; fetch it again")
        return data

    def _checked_size(self) -> int:
        path = self.path
        try:
            if path.is_dir():
                raise FileFormatError(f"{path}: is a directory; name a file in it")
            if not path.exists():
                near = [other.name for other in path.parent.glob("*") if other.is_file()]
                raise FileFormatError(f"{path}: no such file{did_you_mean(path.name, near)}")
            if not path.is_file():
                raise UnsafeFileError(f"{path}: not a regular file; copy its content to one")
            size = path.stat().st_size
        except OSError as error:
            raise FileFormatError(f"{path}: {error.strerror}") from None
        if not size:
            raise DamagedFileError(f"{path}: 0 bytes; fetch it again")
        return size

    def _unopened(self, error: OSError) -> FileError:
        words = str(error)
        if isinstance(error, PermissionError):
            return FileFormatError(f"{self.path}: permission denied; look at its owner and mode")
        if "lock" in words or "already open" in words:
            return FileFormatError(f"{self.path}: is locked, in use by another program; wait for it to end")
        if "truncated" in words:
            return DamagedFileError(f"{self.path}: truncated, {self.size:,} bytes are left; fetch it again")
        with self.path.open("rb") as file:
            is_hdf5 = b"\x89HDF\r\n\x1a\n" in file.read(4096)
        if is_hdf5:
            return DamagedFileError(f"{self.path}: damaged HDF5 file ({words}); fetch it again")
        return FileFormatError(f"{self.path}: not an HDF5 file; minidnn weights convert takes other formats")
