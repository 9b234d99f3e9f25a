"""How far a net's features carry to other pictures: heads on every layer and every pooling, compared.

The test pictures are looked at once for each head, and never to choose anything by.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path

import numpy as np

from minidnn.errors import UsageError
from minidnn.files import replacing
from minidnn.train.curves import figure_of, svg
from minidnn.train.featurefile import Features
from minidnn.train.heads import Choice, Judged, choose_head, held_back, judged

KINDS = ("svm", "softmax")
TESTED = 0.25  # the share to test by, where the data bring no test set


@dataclass(frozen=True, eq=False)
class Row:
    """One head on one kind of features of one net."""

    file: Path
    net: str
    layer: str
    pool: str
    width: int
    kind: str
    choice: Choice = field(repr=False)
    judged: Judged = field(repr=False)

    @property
    def validation(self) -> float:
        return self.choice.validation

    @property
    def test(self) -> float:
        return self.judged.accuracy


def compared(
    features: Features,
    *,
    kinds: Sequence[str] = KINDS,
    normalise: str = "standard",
    seed: int = 0,
    keys: Sequence[str] | None = None,
) -> Iterator[Row]:
    """A head of each kind for each kind of features in the file (or for those of these `keys`)."""
    learned, tested = _parts(features, seed)
    for key in features.keys if keys is None else keys:
        x, labels = _rows(features, key, learned)
        x_test, labels_test = _rows(features, key, tested)
        layer, _, pool = key.rpartition(":")
        for kind in kinds:
            choice = choose_head(x, labels, features.classes, kind=kind, normalise=normalise, seed=seed)
            found = judged(choice.head, x_test, labels_test)
            yield Row(features.path, features.about["net"], layer, pool, x.shape[1], kind, choice, found)


def best(rows: Sequence[Row]) -> Row:
    """By the pictures held back, not by those to test; of equals the one with the fewest numbers."""
    return max(rows, key=lambda row: (row.validation, -row.width))


def table(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """A line for each layer, a column for each pooling and kind of head: % right of the test set."""
    columns = list(dict.fromkeys((row.pool, row.kind) for row in rows))
    layers = list(dict.fromkeys((row.net, row.layer) for row in rows))
    found = {(row.net, row.layer, row.pool, row.kind): row for row in rows}
    several = len({row.net for row in rows}) > 1
    lines = [["net"] * several + ["layer", *(f"{pool} {kind}" for pool, kind in columns)]]
    for net, layer in layers:
        cells = [found.get((net, layer, *column)) for column in columns]
        shown = [f"{100 * cell.test:.1f}" if cell else "" for cell in cells]
        lines.append([net] * several + [layer, *shown])
    names = 1 + several
    if markdown:
        rule = ["---"] * names + ["--:"] * len(columns)
        return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < names else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def told(row: Row, classes: Sequence[str]) -> str:
    """The best head in words, with what it takes for what most often."""
    right, count = row.test, int(row.judged.confusion.sum())
    wrong = row.judged.confusion - np.diag(row.judged.confusion.diagonal())
    most = np.argsort(-wrong, axis=None, kind="stable")[:5]
    pairs = [np.unravel_index(at, wrong.shape) for at in most if wrong.flat[at]]
    mistakes = ", ".join(f"{classes[a]} for {classes[b]} ({wrong[a, b]})" for a, b in pairs)
    return (
        f"chosen by the pictures held back ({row.validation:.1%} there): {row.net} {row.layer}, {row.pool}, "
        f"{row.kind}, penalty {row.choice.head.penalty:g}\n"
        f"of {count:,} test pictures {right:.1%} right (± {sqrt(right * (1 - right) / count):.1%}); "
        f"by guessing {1 / len(classes):.1%}\n"
        f"taken most often: {mistakes or 'nothing for anything else'}"
    )


def confusion_text(found: Judged, classes: Sequence[str]) -> str:
    """A line for what a picture is, a column for what was said."""
    wide = max(len(name) for name in classes)
    marks = [f"{number:>4}" for number in range(len(classes))]
    lines = [" " * (wide + 4) + "".join(marks)]
    for number, (name, row) in enumerate(zip(classes, found.confusion, strict=True)):
        lines.append(f"{number:>3} {name:<{wide}}" + "".join(f"{n:>4}" if n else "   ·" for n in row))
    return "\n".join(lines)


def save_plot(path: str | Path, rows: Sequence[Row], *, kind: str = "svm") -> None:
    """Right answers over the depth, a line for each pooling, a plot for each net; .svg or .png."""
    path = Path(path)
    if path.suffix.lower() not in (".svg", ".png"):
        raise UsageError(f"{path}: plots are written as .svg or .png")
    shown = [row for row in rows if row.kind == kind] or list(rows)
    nets = list(dict.fromkeys(row.net for row in shown))
    figure, plots = figure_of(len(nets), share_x=False)
    figure.set_size_inches(8, 1 + 3 * len(nets))
    low = min(row.test for row in shown)
    for axes, net in zip(plots, nets, strict=True):
        own = [row for row in shown if row.net == net]
        layers = list(dict.fromkeys(row.layer for row in own))
        for pool in dict.fromkeys(row.pool for row in own):
            line = {row.layer: 100 * row.test for row in own if row.pool == pool}
            axes.plot([layers.index(name) for name in line], list(line.values()), marker=".", label=pool)
        axes.set_xticks(range(len(layers)), [name.replace("$", r"\$") for name in layers], fontsize=6)
        axes.tick_params(axis="x", rotation=90)
        axes.set_ylim(100 * low - 3, 100)
        axes.set_ylabel("% right")
        axes.set_title(f"{net}: {own[0].kind} on each layer".replace("$", r"\$"), fontsize=9)
        axes.legend(fontsize=7, loc="lower right", ncols=4)
    if path.suffix.lower() == ".svg":
        content = svg(figure)
    else:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        content = buffer.getvalue()
    with replacing(path) as partial:
        partial.write_bytes(content)


def _parts(features: Features, seed: int) -> tuple[list[tuple[str, np.ndarray | None]], ...]:
    """What to learn from and what to test by: [(part, which of it, None for all)] for each."""
    names = features.parts
    if "test" in names:
        return [(name, None) for name in names if name != "test"], [("test", None)]
    (whole,) = names
    learned, tested = held_back(features.labels(whole), TESTED, seed)
    return [(whole, learned)], [(whole, tested)]


def _rows(
    features: Features, key: str, parts: Sequence[tuple[str, np.ndarray | None]]
) -> tuple[np.ndarray, np.ndarray]:
    """The features and labels of these parts together."""
    rows, labels = [], []
    for part, which in parts:
        chosen = slice(None) if which is None else which
        rows.append(features.rows(key, part)[chosen])
        labels.append(features.labels(part)[chosen])
    return np.concatenate(rows), np.concatenate(labels)
