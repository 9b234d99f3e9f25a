"""The names of a net's classes from a text file, in the order of its answers.

    n01440764 tench, Tinca tinca          a line for each, with WordNet's identifier or without
    {0: 'tench, Tinca tinca', 1: …}       Python's words, as in imagenet1000_clsidx_to_labels
    {"0": ["n01440764", "tench"], …}      JSON, as Keras' imagenet_class_index; also a plain list

Python's words are read by a grammar of our own; nothing in them is run.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from minidnn.errors import FileFormatError, did_you_mean

MAX_BYTES = 8 << 20
SYNSET = re.compile(r"n\d{8}")
ENTRY = re.compile(r"""\s*(\d{1,6})\s*:\s*(?:'((?:[^'\\\n]|\\.)*+)'|"((?:[^"\\\n]|\\.)*+)")\s*(?:,|(?=\}))""")
FORMS = "give a name a line, or {0: 'tench', 1: 'goldfish'}"


class Classes(NamedTuple):
    """What the answers are called, and their identifiers in WordNet (n01440764), where the file has them."""

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()


def class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The names alone."""
    return read_classes(path).names


def read_classes(path: str | os.PathLike) -> Classes:
    """What the file says, in any of the three forms."""
    path = Path(path)
    text = _text(path).strip()
    if text[:1] in ("{", "["):
        found = _numbered(text, path)
    else:
        found = [_split(line.strip()) for line in text.splitlines() if line.strip()]
    if not found:
        raise FileFormatError(f"{path}: no names in it; {FORMS}")
    ids = tuple(id for id, _ in found)
    return Classes(tuple(name for _, name in found), ids if all(map(SYNSET.fullmatch, ids)) else ())


def _text(path: Path) -> str:
    if not path.is_file():
        near = [other.name for other in path.parent.glob("*.txt")]
        raise FileFormatError(f"{path}: no such file with names of classes{did_you_mean(path.name, near)}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FileFormatError(f"{path}: too long for names of classes; {FORMS}")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise FileFormatError(f"{path}: not a text file; {FORMS}") from None
    except OSError as error:
        raise FileFormatError(f"{path}: {error.strerror}; {FORMS}") from None


def _split(line: str) -> tuple[str, str]:
    """(identifier, name); without one, the identifier is empty."""
    first, _, rest = line.partition(" ")
    return (first, rest.strip()) if SYNSET.fullmatch(first) and rest.strip() else ("", line)


def _numbered(text: str, path: Path) -> list[tuple[str, str]]:
    """A mapping from 0, 1, 2 … to names, or a list of names."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = _python_words(text, path)
    if isinstance(said, list):
        said = dict(enumerate(said))
    by_number = {str(number): _one(entry) for number, entry in said.items()}
    names = [by_number.get(str(number)) for number in range(len(by_number))]
    found = [name for name in names if name is not None]
    if len(found) < len(said):
        raise FileFormatError(
            f"{path}: numbers or names are missing among its {len(said):,} entries; {FORMS}"
        )
    return found


def _one(entry: Any) -> tuple[str, str] | None:
    """A name, or a pair of identifier and name; None, if it is neither."""
    if isinstance(entry, str) and entry.strip():
        return _split(entry.strip())
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry):
        return entry[0], entry[1]
    return None


def _python_words(text: str, path: Path) -> dict[str, str]:
    """{0: 'tench', 1: "great white's"} as a dict."""
    found: dict[str, str] = {}
    at = 1
    while entry := ENTRY.match(text, at):
        found[entry[1]] = re.sub(r"\\(.)", r"\1", entry[2] if entry[2] is not None else entry[3])
        at = entry.end()
    if text[at:].strip() != "}" or text[0] != "{":
        begins = text[at : at + 40].strip()
        raise FileFormatError(f"{path}: neither JSON nor names by their numbers (at {begins!r}); {FORMS}")
    return found
