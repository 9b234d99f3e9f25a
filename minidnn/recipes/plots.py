"""Plots of a run, for those who have matplotlib: pip install 'minidnn[plot]'."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from minidnn.errors import UsageError
from minidnn.files import replacing

History = Sequence[Mapping[str, Any]]  # what was noted of each frame
Lines = Mapping[str, Sequence[float]]  # by name


def plot_run(history: History, *, title: str = "") -> bytes:
    """Value, share of the gradient, and effective step against the count of steps, as an SVG picture.

    The value of a sum over a map grows with the map, so octaves are drawn apart. The gradient's share is
    |dz| / (|dz| + |dpenalty|): how much of the way the net decides, and how much the taste for smoothness.
    """
    figure, (top, middle, below) = _figure(3)
    octaves = sorted({row["octave"] for row in history})
    count = 0
    for octave in octaves:
        rows = [row for row in history if row["octave"] == octave]
        steps = range(count + 1, count + len(rows) + 1)
        count += len(rows)
        name = f"octave {octave + 1}" if len(octaves) > 1 else None
        top.plot(steps, [row["value"] for row in rows], marker=".", label=name)
        shares = [row["gradient_norm"] / (row["gradient_norm"] + row["penalty_norm"] or 1) for row in rows]
        middle.plot(steps, shares, marker=".")
        below.plot(steps, [row["step_norm"] for row in rows], marker=".")
    top.set_ylabel("value z")
    top.set_title(_plain(title), fontsize=10)
    if len(octaves) > 1:
        top.legend(fontsize=8)
    middle.set_ylabel("gradient's share")
    middle.set_ylim(-0.05, 1.05)
    below.set_ylabel("|step| in pixels")
    below.set_xlabel("step")
    return _svg(figure)


def plot_lines(lines: Lines, *, xlabel: str, ylabel: str, title: str = "", log: bool = False) -> bytes:
    """Several lines against the count 1, 2, 3 …, as an SVG picture."""
    figure, (axes,) = _figure(1)
    for name, values in lines.items():
        axes.plot(range(1, len(values) + 1), values, marker=".", label=_plain(name))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(_plain(title), fontsize=10)
    if log:
        axes.set_yscale("log")
    axes.legend(fontsize=8)
    return _svg(figure)


def plot_panels(panels: Sequence[tuple[str, Sequence[float], Lines]], *, xlabel: str) -> bytes:
    """One plot below the other, each of (ylabel, where its points lie, its lines), as an SVG picture."""
    figure, rows = _figure(len(panels))
    for axes, (ylabel, where, lines) in zip(rows, panels, strict=True):
        for name, values in lines.items():
            axes.plot(where, values, marker=".", label=_plain(name))
        axes.set_ylabel(_plain(ylabel))
        axes.legend(fontsize=8)
    rows[-1].set_xlabel(xlabel)
    return _svg(figure)


def save_plot(path: str | Path, svg: bytes) -> None:
    """An SVG as it is."""
    if Path(path).suffix.lower() != ".svg":
        raise UsageError(f"{path}: plots are written as .svg, which every browser shows")
    with replacing(path) as partial:
        partial.write_bytes(svg)


def check_plots() -> None:
    """That there is matplotlib, before the work and not after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("plots want matplotlib: pip install 'minidnn[plot]'") from None


def _figure(rows: int) -> tuple[Any, Any]:
    check_plots()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.2 + 1.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for one in axes:
        one.grid(alpha=0.3)
        one.xaxis.get_major_locator().set_params(integer=True)  # there is no step 2.5
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plain(words: str) -> str:
    """As it is, in lines: names of layers come from files, and between two dollars would be mathematics."""
    return "\n".join(wrap(words, 90)).replace("$", r"\$")


def _svg(figure: Any) -> bytes:
    import matplotlib

    buffer, nobody = io.BytesIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": "minidnn"}):  # so that the same plot has the same bytes
        figure.savefig(buffer, format="svg", metadata=nobody)
    return buffer.getvalue()
