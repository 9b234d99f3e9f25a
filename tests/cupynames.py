"""What CuPy has: `python -m tests.cupynames` writes it to cupy_names.txt where CuPy is installed, GPU or not.

A line is a name, and then how it may be called: its arguments by name, `*` for any number of them, `**` for
any others by name. The array's own methods begin with a dot.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).parent / "cupy_names.txt"
MODULES = ("fft", "linalg")


class Call(NamedTuple):
    """The arguments of one function."""

    names: tuple[str, ...]

    def refuses(self, args, kwargs) -> str:
        """Why it cannot be called so, or nothing."""
        plain = [name for name in self.names if name[0] != "*"]
        if len(args) > len(plain) and not any(name[0] == "*" and name != "**" for name in self.names):
            return f"takes {len(plain)} arguments, not {len(args)}"
        unknown = sorted(set(kwargs) - set(plain)) if "**" not in self.names else []
        return f"knows no {', '.join(unknown)}" if unknown else ""


def known() -> dict[str, Call | None]:
    """Of each name how it is called; None for what is no function, or does not tell."""
    lines = [line.split() for line in PATH.read_text().splitlines()]
    return {name: Call(tuple(rest)) if rest else None for name, *rest in lines}


def lines(cupy) -> list[str]:
    """All that is to be known."""
    there = {name: getattr(cupy, name) for name in dir(cupy) if name[0] != "_"}
    for module in MODULES:
        there |= {f"{module}.{n}": f for n, f in vars(getattr(cupy, module)).items() if n[0] != "_"}
    there |= {f".{name}": getattr(cupy.ndarray, name) for name in dir(cupy.ndarray) if name[0] != "_"}
    return [" ".join([name, *arguments(cupy, thing)]) for name, thing in sorted(there.items())]


def arguments(cupy, function) -> list[str]:
    if isinstance(function, cupy.ufunc):
        return [f"x{i + 1}" for i in range(function.nin)] + ["out", "casting", "dtype"]
    if isinstance(function, type) or not callable(function):
        return []
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # in C: the first line of its text tells
        found = re.match(r"[\w.]+\((.*?)\)", function.__doc__ or "")
        words = [part.strip() for part in found[1].split(",")] if found else []
        named = [re.split("[=:]", word)[0].split() for word in words]  # "int axis=0" is axis
        return [name[-1] for name in named if name and name[-1] not in ("self", "/", "*")]
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [marks.get(p.kind, p.name) for p in parameters if p.name != "self"]


if __name__ == "__main__":
    import cupy

    PATH.write_text("\n".join(lines(cupy)) + "\n")
