"""Plots of training, for those who have matplotlib: pip install 'minidnn[plot]'."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidnn.errors import UsageError
from minidnn.files import replacing

History = Sequence[Mapping[str, Any]]


def check_plots() -> None:
    """That there is matplotlib, before the work and not after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("curves want matplotlib: pip install 'minidnn[plot]'") from None


def curves(history: History, *, title: str = "") -> bytes:
    """Loss, error and rate over the epochs, to learn from and to validate by, as an SVG picture."""
    figure, (top, middle, below) = figure_of(3)
    epochs = [row["epoch"] for row in history]
    for axes, own, other in ((top, "loss", "validation_loss"), (middle, "error", "validation_top1")):
        share = 100 if own == "error" else 1
        axes.plot(epochs, [share * row[own] for row in history], marker=".", label="training")
        if history and other in history[0]:
            axes.plot(epochs, [share * row[other] for row in history], marker=".", label="validation")
        axes.legend(fontsize=8)
    top.set_ylabel("loss")
    top.set_title(title, fontsize=10)
    middle.set_ylabel("error, %")
    in_powers(middle)
    below.plot(epochs, [row["rate"] for row in history], marker=".")
    below.set_ylabel("rate at its end")
    below.set_xlabel("epoch")
    below.xaxis.get_major_locator().set_params(integer=True)
    return svg(figure)


def save_plot(path: str | Path, svg: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(svg)


def figure_of(rows: int, *, share_x: bool = True) -> tuple[Any, np.ndarray]:
    """A figure of plots one above the other."""
    check_plots()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.2 + 1.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=share_x, squeeze=False)[:, 0]
    for one in axes:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def in_powers(axes: Any) -> None:
    """The height in powers of ten, with plain numbers beside it; as it is where something is 0 or less."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    heights = np.concatenate([line.get_ydata() for line in axes.lines if len(line.get_ydata())] or [[0.0]])
    if not heights.min() > 0:
        return
    axes.set_yscale("log")
    plain, spread = FuncFormatter(lambda height, _: f"{height:g}"), heights.max() / heights.min()
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5) if spread < 30 else (2, 5)))
    axes.yaxis.set_minor_formatter(plain if spread < 300 else NullFormatter())


def svg(figure: Any) -> bytes:
    """The picture, without the date: so that a plot drawn again differs in its ids only."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
