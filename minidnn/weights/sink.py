"""A file that HDF5 can write to without harm: a full disk is told when all is over.

HDF5 does not survive a write that fails: closing the file, it ends the process (SIGSEGV, seen with HDF5 2.0).
"""

from __future__ import annotations

import io
import os
from types import TracebackType
from typing import Self


class Sink(io.RawIOBase):
    """`with Sink(path) as sink, h5py.File(sink, "w") as file:` takes all; its first error comes last."""

    def __init__(self, path: str | os.PathLike) -> None:
        self._file = io.FileIO(path, "r+")
        self.error: BaseException | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        super().__exit__(kind, error, trace)
        if self.error is not None and (kind is None or issubclass(kind, Exception)):
            raise self.error

    def __enter__(self) -> Self:
        return self

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        left = memoryview(data).cast("B")
        try:
            while self.error is None and len(left):
                left = left[self._file.write(left) or 0 :]
        except BaseException as error:  # a Ctrl-C too: HDF5 would take it for a write that failed
            self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                self._file.truncate(size)
        except BaseException as error:
            self.error = error
        return size or 0

    def readinto(self, into) -> int:  # type: ignore[no-untyped-def]
        view = memoryview(into).cast("B")
        count = self._file.readinto(view) or 0
        view[count:] = bytes(len(view) - count)  # what could not be written
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
