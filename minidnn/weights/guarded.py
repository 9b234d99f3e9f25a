"""The one door to HDF5 files. Nothing in a file that HDF5 would follow elsewhere is followed.

Links to other names and files, data kept in other files, filters that HDF5 would load as plugins, and without
`allow_filters` all compressed data are refused; sizes are compared with the file's own before anything is
allocated. h5py is used nowhere else to read.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Iterator
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
from minidnn.weights.frugal import little_memory

MAX_NODES = 200_000  # groups and datasets in one file
MAX_DEPTH = 64
MAX_RANK = 8
MAX_ATTRIBUTE = 64 << 20  # bytes
MAX_STRINGS = 65_536  # of no fixed length, in one attribute: each may claim as much as the file is long

ROOM = 32 << 20  # bytes for HDF5 itself while it reads such strings

SIGNATURE = b"\x89HDF\r\n\x1a\n"
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # built in; others are code to be loaded
BROKEN = (
    OSError,
    KeyError,
    RuntimeError,
    ValueError,
    TypeError,
    OverflowError,
)  # what h5py meets damage with


class Info(NamedTuple):
    """What is known of a dataset before a byte of it is read; `offset` is where its bytes lie in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int
    offset: int | None  # None: not in one piece


class Guarded:
    """`with Guarded(path) as file: file.read("params/conv1/w")`.

    `allow_filters` lets compressed data pass, up to `max_bytes` when unpacked (foreign files have it often);
    `allow_texts` lets attributes be texts of no fixed length, as foreign files have them too.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        allow_filters: bool = False,
        allow_texts: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        self.path, self.allow_filters, self.allow_texts = Path(path), allow_filters, allow_texts
        self.size = self._checked_size()
        self.max_bytes = self.size if max_bytes is None else max_bytes
        try:
            self._file = h5py.File(self.path, "r", locking="best-effort")
            self._handle = self._file.id.get_vfd_handle()
            self.size = os.fstat(self._handle).st_size  # of what was opened: the name may be another's by now
        except BROKEN as error:
            raise self._unopened(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def names(self, group: str = "/") -> list[str]:
        """What lies in a group, in the order of its names."""
        return sorted(self._listed(self._group(group), group))

    def walk(self, group: str = "/") -> Iterator[str]:
        """The paths of all datasets below, by their names; a group that holds itself is an error."""
        stack, found = [(group.strip("/"), 0)], 0
        while stack:
            path, depth = stack.pop()
            if depth and not self.is_group(path):
                yield path
                continue
            inside = self.names(path)
            found += len(inside)
            if depth >= MAX_DEPTH or found > MAX_NODES:
                raise UnsafeFileError(
                    f"{self.path}: groups within groups without end at {path[:60]!r}; fetch it again"
                )
            stack += [(f"{path}/{name}".lstrip("/"), depth + 1) for name in reversed(inside)]

    def __contains__(self, path: str) -> bool:
        *groups, last = path.strip("/").split("/")
        at = "/"
        for name in groups:
            if name not in self._listed(self._group(at), at) or not self.is_group(f"{at}/{name}"):
                return False
            at = f"{at}/{name}"
        return last == "" or last in self._listed(self._group(at), at)

    def is_group(self, path: str) -> bool:
        return isinstance(self._object(path), h5py.Group)

    def attributes(self, path: str = "/", only: Collection[str] | None = None) -> dict[str, Any]:
        """The attributes of a group or dataset, as Python and NumPy values; or `only` those of them.

        Texts of no fixed length are left out without `allow_texts`: what they claim, HDF5 believes.
        """
        found: dict[str, Any] = {}
        name, held = "", self._object(path)
        try:
            attrs = held.attrs
            for name in attrs if only is None else [one for one in only if one in attrs]:
                held = attrs.get_id(name)
                if _claimed(held) > MAX_ATTRIBUTE or (held.dtype.hasobject and _count(held) > MAX_STRINGS):
                    raise TooLargeError(
                        f"{self.path}: attribute {name!r} of {path!r} is too large; fetch it again"
                    )
                if not held.dtype.hasobject:
                    found[name] = attrs[name]
                elif self.allow_texts:  # in files of ours there are none
                    with little_memory(self.size + ROOM):
                        found[name] = attrs[name]
        except (*BROKEN, MemoryError) as error:
            words = f"{self.path}: attribute {name!r} of {path!r}: {error}; fetch it again"
            raise DamagedFileError(words) from None
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
        except BROKEN as error:
            raise DamagedFileError(
                f"{self.path}: {path!r} cannot be read ({error}); fetch it again"
            ) from None

    def mapped(self) -> np.ndarray:
        """All bytes of the file, not writeable, each page read when it is first looked at.

        They stay after the file is closed. Who shortens the file meanwhile ends this process (SIGBUS): files
        are replaced, never rewritten.
        """
        try:
            return np.frombuffer(mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ), np.uint8)
        except (OSError, ValueError) as error:
            raise FileFormatError(
                f"{self.path}: cannot be mapped ({error}); copy it to a local disk"
            ) from None

    def resolve(self, reference: h5py.Reference) -> str:
        """The path of what a reference within this file leads to (MATLAB's cells are made of them)."""
        try:
            name = self._file[reference].name
        except BROKEN as error:
            words = f"{self.path}: a reference leads nowhere ({error}); fetch it again"
            raise DamagedFileError(words) from None
        if name is None:
            raise DamagedFileError(f"{self.path}: a reference leads to what has no name; fetch it again")
        return str(name).strip("/")

    def _object(self, path: str) -> Any:
        """Walk down by hard links only."""
        here: Any = self._file
        for name in filter(None, path.split("/")):
            if not isinstance(here, h5py.Group):
                raise MismatchError(f"{self.path}: {path!r} goes through a dataset; fetch it again")
            try:
                link = here.get(name, getlink=True)
            except BROKEN as error:
                raise self._unreachable(path, error) from None
            if link is None:
                near = did_you_mean(name, self._listed(here, path))
                raise MismatchError(f"{self.path}: {path!r} is missing{near}; fetch it again")
            if not isinstance(link, h5py.HardLink):
                kind = f"{self.path}: {path!r} only leads elsewhere ({type(link).__name__})"
                raise UnsafeFileError(f"{kind}; links are not followed: write the data itself there")
            try:
                here = here[name]
            except BROKEN as error:
                raise self._unreachable(path, error) from None
        return here

    def _listed(self, group: Any, path: str) -> list[str]:
        """The names in a group; where they are damaged, that too is told in words."""
        try:
            names = list(group)
        except BROKEN as error:
            raise self._unreachable(path, error) from None
        if not all(isinstance(name, str) for name in names):  # h5py gives what is no UTF-8 as bytes
            raise DamagedFileError(f"{self.path}: {path!r} holds a name that is no text; fetch it again")
        return names

    def _unreachable(self, path: str, error: BaseException) -> DamagedFileError:
        return DamagedFileError(f"{self.path}: {path!r} cannot be opened ({error}); fetch it again")

    def _group(self, path: str) -> Any:
        found = self._object(path)
        if not isinstance(found, h5py.Group):
            raise MismatchError(f"{self.path}: {path!r} is no group, a group was expected; fetch it again")
        return found

    def _dataset(self, path: str) -> Any:
        data, what = self._object(path), f"{self.path}: {path!r}"
        if not isinstance(data, h5py.Dataset):
            raise MismatchError(f"{what} is no dataset, a dataset was expected; fetch it again")
        try:
            self._check(data, what)
        except BROKEN as error:
            raise DamagedFileError(f"{what} is damaged ({error}); fetch it again") from None
        return data

    def _check(self, data: Any, what: str) -> None:
        """That its data are in this file and no more than it says, before a byte of them is read."""
        if data.is_virtual or data.external:
            raise UnsafeFileError(
                f"{what} keeps its data in other files, which are not read; merge them into one"
            )
        if data.shape is None or len(data.shape) > MAX_RANK:
            raise UnsupportedError(f"{what} has no shape, or more than {MAX_RANK} axes; save it as an array")
        if data.dtype.hasobject and h5py.check_ref_dtype(data.dtype) is None:
            raise UnsupportedError(
                f"{what} holds things of no fixed length, not numbers; save it as an array"
            )
        nbytes = prod(data.shape) * data.dtype.itemsize
        self._check_filters(data, what)
        if nbytes > self.max_bytes:
            raise TooLargeError(
                f"{what} claims {nbytes:,} bytes, the limit is {self.max_bytes:,}; nothing was read"
            )
        if not data.id.get_create_plist().get_nfilters():
            stored, offset = data.id.get_storage_size(), data.id.get_offset()
            if stored != nbytes and not data.dtype.hasobject:
                found = f"{what} claims {nbytes:,} bytes and stores {stored:,}"
                raise DamagedFileError(f"{found}; fetch it again")
            if offset is not None and offset + nbytes > self.size:
                raise DamagedFileError(
                    f"{what} ends {offset + nbytes - self.size:,} bytes behind the file; fetch it again"
                )

    def _check_filters(self, data: Any, what: str) -> None:
        made = data.id.get_create_plist()
        codes = [made.get_filter(number)[0] for number in range(made.get_nfilters())]
        if codes and not self.allow_filters:
            raise UnsafeFileError(
                f"{what} is compressed; filters are not allowed in weights: write it without"
            )
        if unknown := set(codes) - FILTERS.keys():
            known = ", ".join(FILTERS.values())
            raise UnsupportedError(
                f"{what} is packed by filter {min(unknown)}; write it plain, or by {known}"
            )
        if data.chunks is not None and prod(data.chunks) * data.dtype.itemsize > self.max_bytes:
            raise TooLargeError(
                f"{what} has chunks larger than the limit of {self.max_bytes:,} bytes; rewrite it"
            )

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

    def _unopened(self, error: BaseException) -> FileError:
        words = str(error)
        if isinstance(error, PermissionError):
            return FileFormatError(f"{self.path}: permission denied; look at its owner and mode")
        if isinstance(error, BlockingIOError) or "unable to lock" in words or "already open" in words:
            return FileFormatError(f"{self.path}: is locked, in use by another program; wait for it to end")
        with self.path.open("rb") as file:
            head = file.read(4096)
        start = next((at for at in (0, 512, 1024, 2048) if head[at:].startswith(SIGNATURE)), None)
        if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
            said = f"{self.path}: looks like a web page: the download failed"
            return FileFormatError(f"{said}; fetch it again")
        if start is None:
            said = f"{self.path}: not an HDF5 file"
            return FileFormatError(f"{said}; other formats: minidnn weights convert {self.path}")
        promised = _promised(head[start:])
        if promised is None or start + promised > self.size:
            whole = "at least 48" if promised is None else f"{start + promised:,}"
            said = f"{self.path}: truncated: {self.size:,} of {whole} bytes"
            return DamagedFileError(f"{said}; fetch it again")
        return DamagedFileError(f"{self.path}: damaged HDF5 file ({words}); fetch it again")


def _promised(header: bytes) -> int | None:
    """The size of the file by its own header (the end-of-file address); None if even that is cut off."""
    first = {0: 24, 1: 28, 2: 12, 3: 12}.get(header[8]) if len(header) > 14 else None
    if first is None:
        return None
    width = header[13 if header[8] < 2 else 9]  # of an address, in bytes
    end = header[first + 2 * width : first + 3 * width]
    return int.from_bytes(end, "little") if len(end) == width else None


def _count(attribute: Any) -> int:
    """How many values an attribute holds; one without any shape holds none."""
    return 0 if attribute.shape is None else prod(attribute.shape)


def _claimed(attribute: Any) -> int:
    """The bytes that an attribute says it has; HDF5 fails if it is asked about one that has none."""
    nbytes = _count(attribute) * attribute.dtype.itemsize
    return max(nbytes, attribute.get_storage_size()) if nbytes else 0
