"""Where a command writes: looked at before the work, for what cannot be written is better known then."""

from __future__ import annotations

import argparse
import errno
import secrets
from contextlib import suppress
from pathlib import Path

from minidnn import images
from minidnn.errors import OutputError, UsageError
from minidnn.recipes.job import FILES, Job
from minidnn.recipes.plots import check_plots

ENDINGS = {
    "output": images.WRITABLE,
    "plot": (".svg",),
    "strip": images.WRITABLE,
    "report": (".html", ".htm"),
    "checkpoint": (),  # any
}


def check_outputs(args: argparse.Namespace, job: Job) -> None:
    """That each file that is asked for can be written, and is nobody else's."""
    asked = {name: getattr(args, name, None) for name in ENDINGS}
    outputs = {name: Path(path) for name, path in asked.items() if path is not None}
    for name, path in outputs.items():
        if ENDINGS[name] and path.suffix.lower() not in ENDINGS[name]:
            raise UsageError(f"--{name} {path}: end the name in {' or '.join(ENDINGS[name])}")
    if "plot" in outputs or "report" in outputs:
        check_plots()
    paths = list(outputs.values())
    for number, path in enumerate(paths):
        check_apart(path, job)
        try_out(path)
        if path.resolve() in [other.resolve() for other in paths[:number]]:
            raise UsageError(f"{path} is asked for twice: give each output a name of its own")


def check_apart(path: Path, job: Job) -> None:
    """That nothing is written over what is read."""
    for name in ("net", *FILES):
        source = Path(getattr(job, name) or "")
        if source.is_file() and path.exists() and path.samefile(source):
            raise UsageError(f"{path} is the {name} itself: write the dream to another file")


def try_out(path: Path) -> None:
    """Make its folder, write a trial there, and leave nothing else."""
    try:
        if path.parent.exists() and not path.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{path.parent} is a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.with_name(f".{secrets.token_hex(8)}.part")
        trial.touch(exist_ok=False)
        trial.unlink()
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory")
        with suppress(FileNotFoundError):
            path.lstat()  # a name that is too long
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; choose another place to write to") from None
