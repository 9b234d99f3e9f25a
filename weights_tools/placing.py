"""Results appear whole: made behind the wall in a private folder beside their place, and then renamed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minidnn.errors import OutputError, UsageError
from weights_tools import isolation
from weights_tools.detect import opened


def check_output(output: Path, inputs: Sequence[Path], *, forced: bool = True) -> None:
    """That what is read is there, and that none of it would be written over."""
    for path in inputs:
        opened(path)
        if is_there(output) and output.samefile(path):
            raise UsageError(f"{output}: would overwrite what it is made from; name another output")
    check_may_write(output, forced=forced)


def check_may_write(output: Path, *, forced: bool) -> None:
    if is_there(output) and not forced:
        raise UsageError(f"{output}: is there already; --force writes over it, in one instant")


def is_there(path: Path) -> bool:
    """Whether there is anything of that name, if there can be."""
    try:
        return path.exists()
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; choose another name") from None


@contextmanager
def folder_beside(output: Path, inputs: Sequence[Path]) -> Iterator[Path]:
    """A private folder on the same disk, gone in the end; what a kill leaves is swept as `replacing` does."""
    folder = output.resolve().parent / f".{secrets.token_hex(8)}.part"
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        advice = "make the folder first" if isinstance(error, FileNotFoundError) else "choose another place"
        raise OutputError(f"{output}: {error.strerror}; {advice}") from None
    try:
        needed, free = sum(path.stat().st_size for path in inputs), shutil.disk_usage(folder).free
        if free < needed:
            raise OutputError(
                f"{output}: {free:,} bytes are free, about {needed:,} are needed; free some space"
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def done_in(folder: Path, job: dict[str, Any], output: Path, limits: dict[str, int] | None) -> dict[str, Any]:
    """Do the job, whose own output lies in the folder; without limits, in this process.

    What cannot be written is told by the name that the user gave.
    """
    from weights_tools import jobs  # which knows of everything else here

    try:
        return jobs.do(job) if limits is None else isolation.run_job(job, folder, limits)
    except OutputError as error:
        words = str(error).replace(job["output"], str(output)).replace(str(folder), str(output))
        raise OutputError(words) from error
