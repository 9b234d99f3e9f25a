"""Two results of one benchmark: what became faster, what slower, and what is only noise."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEASURES = ("ms", "MB", "GB/s", "GFLOP/s")
MORE_IS_BETTER = ("GB/s", "GFLOP/s")
NOISE = 0.15  # on machines that others use too
SAME_MACHINE = ("cpu", "cores", "threads", "blas", "packages")

Key = tuple[tuple[str, str], ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", help="a file of benchmarks/results")
    parser.add_argument("after", help="another")
    parser.add_argument("--noise", type=float, default=NOISE, help=f"what does not count ({NOISE})")


def run(args: argparse.Namespace) -> None:
    print(compared(_read(args.before), _read(args.after), noise=args.noise))


def compared(before: dict[str, Any], after: dict[str, Any], *, noise: float = NOISE) -> str:
    """A line for each number that both have, the largest changes first."""
    lines = [
        f"not the same machine: {fact} was {before['machine'].get(fact)}, is {after['machine'].get(fact)}"
        for fact in SAME_MACHINE
        if before["machine"].get(fact) != after["machine"].get(fact)
    ]
    old, new = (dict(measured(found["results"])) for found in (before, after))
    changes = []
    for key in old.keys() & new.keys():
        (was, spread), (now, other), unit = old[key], new[key], dict(key)["measure"]
        if was > 0 and now > 0:
            ratio = now / was if unit in MORE_IS_BETTER else was / now
            changes.append((ratio, max(noise, spread, other), key, was, now, unit))
    for ratio, limit, key, was, now, unit in sorted(changes, key=lambda c: (-abs(c[0] - 1), c[2])):
        verdict = "faster" if ratio > 1 + limit else "slower" if ratio < 1 / (1 + limit) else "as before"
        if unit == "MB":
            verdict = {"faster": "less", "slower": "more"}.get(verdict, verdict)
        words = " ".join(value for name, value in key if name != "measure")
        lines.append(f"{verdict:10} {ratio:5.2f}  {was:10.2f} → {now:10.2f} {unit:8} {words}")
    lines += [f"only in the {which}: {_words(key)}" for which, key in _alone(old, new)]
    return "\n".join(lines) if changes else "\n".join([*lines, "no number is in both"])


def measured(rows: list[dict[str, Any]]) -> Iterator[tuple[Key, tuple[float, float]]]:
    """Every measure of every row by what it is of, and how far its rounds lay apart (0 where not known)."""
    for row in rows:
        about = [(name, str(value)) for name, value in row.items() if isinstance(value, str | int)]
        spreads = row.get("spread", {})
        for name, value in row.items():
            unit = next((unit for unit in MEASURES if name.endswith(unit)), None)
            if unit is None:
                continue
            whose = name.removesuffix(unit).strip()
            for runner, number in value.items() if isinstance(value, dict) else [("", value)]:
                if isinstance(number, float):
                    key = (*about, ("of", f"{whose} {runner}".strip()), ("measure", unit))
                    yield key, (number, spreads.get(runner, 0.0))


def _alone(old: dict[Key, Any], new: dict[Key, Any]) -> Iterator[tuple[str, Key]]:
    yield from (("first", key) for key in sorted(old.keys() - new.keys()))
    yield from (("second", key) for key in sorted(new.keys() - old.keys()))


def _words(key: Key) -> str:
    return " ".join(value for _, value in key)


def _read(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise SystemExit(f"{path}: not the results of a benchmark ({error})") from None
    if not isinstance(found, dict) or not {"machine", "results"} <= found.keys():
        raise SystemExit(f"{path}: not the results of a benchmark (no machine, no results)")
    return found
