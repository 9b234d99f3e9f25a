"""Dataclasses as JSON and back. Going back, every value is held against the type hint of its field."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

T = TypeVar("T")
MAX_NUMBER = 1 << 53  # beyond it JSON of other languages loses digits


def encoded(value: Any, without: Collection[str] = ()) -> Any:
    """What JSON can hold of it; `without` some fields, and without those that are None by default."""
    if is_dataclass(value) and not isinstance(value, type):
        held = {f: getattr(value, f.name) for f in fields(value) if f.name not in without}
        return {f.name: encoded(v) for f, v in held.items() if not (v is None and f.default is None)}
    if isinstance(value, tuple | list):
        return [encoded(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): encoded(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return encoded(value.tolist())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is nothing that JSON holds")


def built(kind: type[T], values: Any, *, limit: int = MAX_NUMBER, **given: Any) -> T:
    """`kind(**given)`, its other fields taken from `values`; a ValueError says which of them does not fit.

    What is not there takes its default, and what `kind` does not know is left out: a later version's.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__} is {_shown(values)}, expected fields by name")
    found = dict(given)
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in given:
            continue
        if field.name in values:
            hint = hints_of(kind)[field.name]
            try:
                found[field.name] = decoded(values[field.name], hint, limit)
            except ValueError as error:
                raise ValueError(f"{field.name} of {kind.__name__}: {error}") from None
        elif _is_needed(field):
            raise ValueError(f"{kind.__name__} has no {field.name}")
    return kind(**found)


def decoded(value: Any, hint: Any, limit: int = MAX_NUMBER) -> Any:
    """The value as that type: lists become tuples, objects dataclasses; whole numbers within the limit."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return _one_of(value, args, limit)
    if origin is tuple and isinstance(value, list):
        if args[1:] == (...,):
            return tuple(decoded(part, args[0], limit) for part in value)
        if len(args) == len(value):
            return tuple(decoded(part, arg, limit) for part, arg in zip(value, args, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: decoded(part, args[1], limit) for name, part in value.items()}
    if is_dataclass(hint) and isinstance(value, dict):
        return built(hint, value, limit=limit)  # type: ignore[arg-type]
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint is int and type(value) is int and abs(value) <= limit:
        return value
    if hint is int and type(value) is int:
        raise ValueError(f"found {_shown(value)}, expected a whole number up to {limit:,}")
    if hint in (bool, str, NoneType) and type(value) is hint:
        return value
    raise ValueError(f"found {_shown(value)}, expected {getattr(hint, '__name__', hint)}")


def _one_of(value: Any, hints: tuple[Any, ...], limit: int) -> Any:
    reasons = []
    for hint in hints:
        try:
            return decoded(value, hint, limit)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(reasons[0])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _is_needed(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def hints_of(kind: Any) -> dict[str, Any]:
    """The types of its fields, as types."""
    return _hints(kind)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
