"""Zip archives, member by member and never unpacked: names and sizes are looked at before a byte is read.

What belongs to weights is there once, under a plain name, in one piece of the file, and no larger than said.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

from minidnn.errors import DamagedFileError, FileFormatError, TooLargeError, UnsafeFileError, UnsupportedError

MAX_MEMBERS = 100_000
ROOMY = 16 << 20  # bytes that any archive may unpack to
LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"  # how a member begins, and its line in the directory
HEADER = 30  # bytes before a member's name


class Archive:
    """`with Archive(path) as archive: archive.read("config.json", limit=1000)`.

    `max_bytes` bounds what all members unpack to, together; by default four times the file, for floats hardly
    shrink.
    """

    def __init__(self, path: str | os.PathLike, *, max_bytes: int | None = None) -> None:
        self.path = Path(path)
        try:
            size = self.path.stat().st_size
            self._count_members(size)
            self._file = zipfile.ZipFile(self.path)
        except OSError as error:
            raise FileFormatError(f"{self.path}: {error.strerror or error}") from None
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise DamagedFileError(f"{self.path}: a damaged zip archive ({error}); fetch it again") from None
        try:
            self._members = {info.filename: info for info in self._checked(self._file.infolist())}
            self._check_sizes(max(ROOMY, 4 * size) if max_bytes is None else max_bytes)
            self._check_places()
        except BaseException:
            self._file.close()
            raise

    @property
    def names(self) -> list[str]:
        """The members in the order of the archive, without folders."""
        return list(self._members)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def size(self, name: str) -> int:
        """The bytes that a member unpacks to, as the archive says."""
        return self._info(name).file_size

    def read(self, name: str, limit: int) -> bytes:
        """A whole member of at most so many bytes."""
        info = self._info(name)
        if info.file_size > limit:
            claims = f"claims {info.file_size:,} bytes, the limit is {limit:,}"
            raise TooLargeError(f"{self.path}: {name!r} {claims}; nothing was read")
        try:
            with self._file.open(info) as member:
                data = member.read()
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise DamagedFileError(f"{self.path}: {name!r} is damaged ({error}); fetch it again") from None
        if len(data) != info.file_size:
            raise DamagedFileError(
                f"{self.path}: {name!r} has {len(data):,} bytes, expected {info.file_size:,}; fetch it again"
            )
        return data

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise DamagedFileError(f"{self.path}: {name!r} is missing from the archive; fetch it again")
        return self._members[name]

    def _count_members(self, size: int) -> None:
        """Before Python makes an object of each line of the directory."""
        if not size:
            raise DamagedFileError(f"{self.path}: 0 bytes; fetch it again")
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            count, at = 0, data.find(CENTRAL)
            while at >= 0:
                count, at = count + 1, data.find(CENTRAL, at + 1)
                if count > MAX_MEMBERS:
                    raise TooLargeError(
                        f"{self.path}: more than {MAX_MEMBERS:,} members; no archive of weights has so many"
                    )

    def _checked(self, infos: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
        """The members that are files, if all have plain names and none comes twice."""
        seen: set[str] = set()
        for info in infos:
            name = info.orig_filename
            parts = name.removesuffix("/").split("/")
            if {"", ".", ".."} & set(parts) or "\\" in name or "\0" in name or ":" in parts[0]:
                raise UnsafeFileError(
                    f"{self.path}: a member called {name[:80]!r}, which leads out of the archive"
                )
            if name in seen:
                raise UnsafeFileError(f"{self.path}: two members are called {name[:80]!r}; fetch it again")
            seen.add(name)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise UnsafeFileError(f"{self.path}: {name!r} is a link to elsewhere; links are not followed")
            if info.flag_bits & 1:
                raise UnsupportedError(f"{self.path}: {name!r} is encrypted; save it without a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UnsupportedError(
                    f"{self.path}: {name!r} is packed by method {info.compress_type}; save it with deflate"
                )
        return [info for info in infos if not info.is_dir()]

    def _check_sizes(self, limit: int) -> None:
        total = sum(info.file_size for info in self._file.infolist())
        if total > limit:
            raise TooLargeError(
                f"{self.path}: unpacks to {total:,} bytes, the limit is {limit:,}; nothing was read"
            )
        for info in self._members.values():
            if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
                raise DamagedFileError(f"{self.path}: {info.filename!r} has two sizes; fetch it again")

    def _check_places(self) -> None:
        """No two members share bytes: else a small file could be as large as one likes."""
        end_before, name_before = 0, ""
        with self.path.open("rb") as file:
            for info in sorted(self._file.infolist(), key=lambda info: info.header_offset):
                file.seek(max(0, info.header_offset))
                header = file.read(HEADER)
                if len(header) < HEADER or not header.startswith(LOCAL):
                    raise DamagedFileError(f"{self.path}: {info.filename!r} is not where it should be")
                name_length, extra_length = struct.unpack_from("<HH", header, 26)
                if info.header_offset < end_before:
                    both = f"{name_before!r} and {info.filename!r}"
                    raise UnsafeFileError(f"{self.path}: {both} lie in the same bytes; fetch it again")
                end_before = info.header_offset + HEADER + name_length + extra_length + info.compress_size
                name_before = info.filename
        if end_before > self._file.start_dir:
            raise DamagedFileError(f"{self.path}: {name_before!r} reaches into the directory; cut short?")
