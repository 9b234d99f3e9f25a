"""Settings from the command line: the options by name, a TOML file, and --set name=value for the rest."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from minidnn.errors import FileFormatError, UsageError, did_you_mean

Settings = TypeVar("Settings")


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The same settings but for these; what is None was not asked for."""
    known = {f.name: f for f in fields(settings)}  # type: ignore[arg-type]
    for name in changes:
        if name not in known:
            raise UsageError(f"no setting {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    asked = {name: value for name, value in changes.items() if value is not None}
    like = {name: _like(getattr(settings, name), str(known[name].type)) for name in asked}
    return replace(settings, **{name: _as(like[name], name, value) for name, value in asked.items()})  # type: ignore[type-var]


def from_words(assignments: Iterable[str]) -> dict[str, str]:
    """["tv=0.01", ...] as a dict."""
    found = {}
    for words in assignments:
        name, equals, value = words.partition("=")
        if not equals:
            raise UsageError(f"--set {words}: give it as name=value, e.g. --set tv=0.01")
        found[name.strip().replace("-", "_")] = value.strip()
    return found


def from_toml(path: str) -> dict[str, Any]:
    """The settings in a TOML file."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: not TOML ({error}); a line is name = value") from None


def size_of(text: str | None) -> tuple[int, int] | None:
    """ "480x640" as (h, w), "224" as a square."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if found is None or "0" in (found[1], found[2]):
        raise UsageError(f"--size {text}: give it as 480x640, height first, or 224 for a square")
    return int(found[1]), int(found[2] or found[1])


def _like(before: Any, annotation: str) -> Any:
    """An example of what a setting may be: the value it has, or if that is nothing one of the right kind."""
    if before in ((), None) and "float" in annotation:
        return (0.5,) if before == () else 0.5
    return before


def _as(before: Any, name: str, value: Any) -> Any:
    """The value as the kind that this setting has."""
    try:
        if isinstance(before, tuple):
            parts = value.split(",") if isinstance(value, str) else value
            kind = type(before[0]) if before else str
            return tuple(kind(part) for part in parts if part != "")
        if isinstance(value, bool) and not isinstance(before, bool):
            raise ValueError
        if isinstance(before, bool):
            if str(value).lower() not in ("true", "false"):
                raise ValueError
            return str(value).lower() == "true"
        if isinstance(before, int) and int(value) != float(value):
            raise ValueError
        return type(before)(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name}={value}: give it like its default, {name}={_told(before)}") from None


def _told(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
