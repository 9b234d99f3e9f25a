"""Writing files so that nothing is lost: a file appears whole, in one instant, or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minidnn.errors import OutputError

ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your space",
    errno.EFBIG: "allow larger files (ulimit -f), or write to another disk",
    errno.ENOENT: "make the folder first",
    errno.EISDIR: "add a name",
    errno.ENAMETOOLONG: "choose a shorter name",
}
PARTIAL = re.compile(r"\.[0-9a-f]{16}\.part")
STALE = 24 * 3600  # seconds after which nobody is still writing to it


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """`with replacing("net.h5") as partial:` write to `partial`, which then takes the place of the old file.

    Until then the old one stays as it was, also if the disk is full, the power fails or the user has had
    enough. `partial` lies beside its goal, since only within one disk is a renaming one instant. What a
    process that was killed has left there is swept away by the next one, a day later.
    """
    path = Path(path)
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        partial.touch(exist_ok=False)
        _sweep(path.parent)
        yield partial
        with suppress(FileNotFoundError):
            shutil.copymode(path, partial)  # who may not read the old one may not read the new one
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)  # that the name is the new file's must not be lost either
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "choose another place to write to")
        raise OutputError(f"{path}: {error.strerror or error}; {advice}") from error
    finally:
        with suppress(OSError):  # after a success it is not there any more
            partial.unlink()


def _sweep(folder: Path) -> None:
    """Throw away what writers that died long ago left in this folder, files and folders."""
    for left in (folder / name for name in os.listdir(folder) if PARTIAL.fullmatch(name)):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime <= STALE:
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()


def _flush(path: Path) -> None:
    """What was written lies on the disk itself from now on; for a folder, where the system can do that."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
