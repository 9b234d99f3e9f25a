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
        axes.plot(epochs, [row[own] for row in history], marker=".", label="training")
        if history and other in history[0]:
            axes.plot(epochs, [row[other] for row in history], marker=".", label="validation")
        axes.legend(fontsize=8)
    top.set_ylabel("loss")
    top.set_title(title, fontsize=10)
    middle.set_ylabel("error")
    middle.set_yscale("log")
    below.plot(epochs, [row["rate"] for row in history], marker=".")
    below.set_ylabel("rate at its end")
    below.set_xlabel("epoch")
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


def svg(figure: Any) -> bytes:
    """The picture, without the date: so that a plot drawn again differs in its ids only."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
