"""A summary written out: as text for the terminal, as Markdown, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from minidnn.summary import Row, Summary

GROUPS: list[list[tuple[str, Callable[[Row], Any]]]] = [
    [("layer", lambda r: r.number), ("type", lambda r: r.type), ("name", lambda r: r.name)],
    [
        ("support", lambda r: r.support),
        ("filt dim", lambda r: r.filt_dim),
        ("filt dilat", lambda r: r.filt_dilat),
        ("num filts", lambda r: r.num_filts),
        ("stride", lambda r: r.stride),
        ("pad", lambda r: r.pad),
    ],
    [
        ("rf size", lambda r: r.rf_size),
        ("rf offset", lambda r: r.rf_offset),
        ("rf stride", lambda r: r.rf_stride),
    ],
    [("data size", lambda r: r.data_size), ("depth", lambda r: r.data_depth), ("num", lambda r: r.data_num)],
    [
        ("data mem", lambda r: memory(r.data_mem)),
        ("param mem", lambda r: memory(r.param_mem) if r.params else None),
        ("back mem", lambda r: memory(r.back_mem)),
        ("work mem", lambda r: memory(r.work_mem) if r.work_mem else None),
    ],
]


def text(summary: Summary) -> str:
    """A row for each layer (MatConvNet has a column), and the totals.

    Dilation is shown where there is some.
    """
    dilated = any(row.filt_dilat not in (None, (1, 1)) for row in summary.rows)
    groups = [
        [
            [name, *(_cell(show(row)) for row in summary.rows)]
            for name, show in group
            if dilated or name != "filt dilat"
        ]
        for group in GROUPS
    ]
    lines = []
    for i in range(len(summary.rows) + 1):
        parts = []
        for number, group in enumerate(groups):
            cells = [
                column[i].ljust(_width(column)) if number == 0 and at else column[i].rjust(_width(column))
                for at, column in enumerate(group)
            ]
            parts.append("  ".join(cells))
        lines.append(" | ".join(parts).rstrip())
    rule = "-+-".join("-" * (sum(map(_width, group)) + 2 * (len(group) - 1)) for group in groups)
    return "\n".join([lines[0], rule, *lines[1:], rule, *totals(summary)])


def totals(summary: Summary) -> list[str]:
    """The last lines: what the net and a run of it take in all."""
    total, first = summary.totals, summary.rows[0]
    size = f"{first.data_size[0]}x{first.data_size[1]}"
    return [
        f"parameters  {memory(total['param_mem'])} ({total['params']:,} numbers{_fc_share(summary)})",
        f"data        {memory(total['data_mem'])} for {first.data_num} of {size} (every x is kept)",
        f"way back    {memory(total['back_mem'])} more (every dzdx, and what the layers remember)",
        f"workspace   {memory(total['work_mem'])} at the most (the plain kernels' scratch)",
    ]


def _fc_share(summary: Summary) -> str:
    inside = sum(row.params for row in summary.rows if row.type == "fc")
    return f", {inside / summary.params:.0%} of them in fc layers" if inside else ""


def markdown(summary: Summary) -> str:
    columns = [column for group in GROUPS for column in group]
    lines = [
        "| " + " | ".join(name for name, _ in columns) + " |",
        "|" + "|".join("---" if name in ("type", "name") else "--:" for name, _ in columns) + "|",
    ]
    lines += ["| " + " | ".join(_cell(show(row)) for _, show in columns) + " |" for row in summary.rows]
    return "\n".join([*lines, "", *(f"* {line}" for line in totals(summary))])


def as_csv(summary: Summary) -> str:
    """Every field of every row, memory in bytes."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(asdict(summary.rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: "" if v is None else _cell(v) for k, v in asdict(row).items()} for row in summary.rows
    )
    return out.getvalue().rstrip("\n")


def as_json(summary: Summary) -> str:
    """Every field of every row, memory in bytes, pairs as lists."""
    return json.dumps({"rows": [asdict(row) for row in summary.rows], "totals": summary.totals}, indent=1)


def memory(count: int) -> str:
    """In the largest unit of which there is at least one, no decimals."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "KB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.0f}{unit}"
    return f"{count}B"


FORMATS: dict[str, Callable[[Summary], str]] = {
    "text": text,
    "markdown": markdown,
    "csv": as_csv,
    "json": as_json,
}


def _cell(value: Any) -> str:
    """n/a for what there is not; equal numbers once, else joined with x."""
    if value is None:
        return "n/a"
    if isinstance(value, tuple):
        parts = [f"{part:g}" for part in value]
        return parts[0] if len(set(parts)) == 1 else "x".join(parts)
    return str(value)


def _width(column: list[str]) -> int:
    return max(map(len, column))
