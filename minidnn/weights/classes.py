"""The names of a net's classes from a text file: one a line, in the order of its answers."""

from __future__ import annotations

import os
from pathlib import Path

from minidnn.errors import FileFormatError, did_you_mean

MAX_BYTES = 8 << 20


def class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """One name a line; an identifier of WordNet in front of it (n01440764 tench) is left out."""
    path = Path(path)
    if not path.is_file():
        near = [other.name for other in path.parent.glob("*.txt")]
        raise FileFormatError(f"{path}: no such file with names of classes{did_you_mean(path.name, near)}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FileFormatError(f"{path}: too long for names of classes; give a text file, a name a line")
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise FileFormatError(f"{path}: not a text file; give one name a line") from None
    except OSError as error:
        raise FileFormatError(f"{path}: {error.strerror}; give one name a line") from None
    names = tuple(_without_id(line.strip()) for line in lines if line.strip())
    if not names:
        raise FileFormatError(f"{path}: no names in it; give one a line")
    return names


def _without_id(line: str) -> str:
    first, _, rest = line.partition(" ")
    return rest.strip() if len(first) == 9 and first[0] == "n" and first[1:].isdigit() and rest else line
