"""What a microscope saw of a dream, in tables, in lines to be drawn, and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidnn.net import Net
from minidnn.recipes.microscope import Seen

ROWS = 10  # of a table
LINES = 5  # of a plot
NAMED = 3  # channels in a sentence


class Finding(NamedTuple):
    """A small table with a title."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.heads, *self.rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (self.heads, *self.rows)
        )
        return "\n  ".join([self.title, *lines])


class Panel(NamedTuple):
    """Lines to be drawn over the steps."""

    ylabel: str
    steps: list[int]
    lines: dict[str, list[float]]


def tables(seen: Seen) -> list[Finding]:
    """All findings on a dream."""
    found = [rises(seen, layer) for layer in seen.layers]
    if seen.classes is not None:
        found.append(opinions(seen, seen.classes))
    return [*found, burnt_out(seen)]


def rises(seen: Seen, layer: str) -> Finding:
    """The channels of a layer that rose most; and what that brought to the class that rose most."""
    last, share = seen.looks[-1], seen.brought.get(layer)
    rise = last.rises(layer)
    heads: tuple[str, ...] = ("channel", "before", "after", "rise in deviations")
    if share is not None and seen.risen is not None:
        heads = (*heads, f"brought to {called(seen.net, seen.risen)}")
    rows = []
    for c in map(int, np.argsort(-rise)[:ROWS]):
        row = (str(c), f"{last.before[layer][c]:.3g}", f"{last.after[layer][c]:.3g}", f"{rise[c]:+.1f}")
        rows.append(row if share is None else (*row, f"{share[c]:+.2g}"))
    return Finding(f"What rose most in {layer}", heads, rows)


def opinions(seen: Seen, classes: np.ndarray) -> Finding:
    """What the net took the picture for: in the beginning, when it was surest, and in the end."""
    rows = []
    for k in map(int, np.argsort(-classes.max(axis=0))[:ROWS]):
        most = int(classes[:, k].argmax())
        surest = f"{classes[most, k]:.1%} (step {seen.looks[most].step})"
        rows.append((called(seen.net, k), f"{classes[0, k]:.1%}", surest, f"{classes[-1, k]:.1%}"))
    return Finding("What the net takes it for", ("class", "before", "at most", "after"), rows)


def burnt_out(seen: Seen) -> Finding:
    """How much of the picture is at the end of its range, where no step can push it further."""
    ends = ("before", seen.looks[0]), ("after", seen.looks[-1])
    rows = [(words, f"{look.black:.1%}", f"{look.white:.1%}") for words, look in ends]
    return Finding("Pixels at the end of their range", ("", "black", "white"), rows)


def why(seen: Seen) -> list[str]:
    """Why the picture became what it is, in sentences."""
    told = [_loudest(seen, layer) for layer in seen.layers]
    if seen.classes is None or seen.risen is None:
        return [*told, "The net has no opinion on whole pictures: it cannot say what these stand for."]
    classes, k = seen.classes, seen.risen
    name, first, last = called(seen.net, k), int(classes[0].argmax()), int(classes[-1].argmax())
    then = "for" if first != last else "and still for"
    told.append(
        f"The net took the picture for {called(seen.net, first)} ({classes[0, first]:.1%}) at first, "
        f"{then} {called(seen.net, last)} ({classes[-1, last]:.1%}) in the end."
    )
    half = int((classes[:, k] >= (classes[0, k] + classes[-1, k]) / 2).argmax())
    told.append(
        f"What gained most is {name}: from {classes[0, k]:.1%} to {classes[-1, k]:.1%}, half of it by step "
        f"{seen.looks[half].step} of {seen.looks[-1].step}."
    )
    for layer, share in seen.brought.items():
        most = [int(c) for c in np.argsort(-share)[:NAMED] if share[c] > 0]
        through = ", ".join(f"{c} ({share[c]:+.2g})" for c in most) or "none"
        told.append(f"The channels of {layer} that raised the score of {name} most: {through}.")
    return told


def panels(seen: Seen) -> list[Panel]:
    """What the net took it for, which channels rose, and how much burnt out, step by step."""
    steps, found, classes = [look.step for look in seen.looks], [], seen.classes
    if classes is not None:
        most = map(int, np.argsort(-classes.max(axis=0))[:LINES])
        found.append(Panel("probability", steps, {called(seen.net, k): classes[:, k].tolist() for k in most}))
    for layer in seen.layers:
        rise = np.stack([look.rises(layer) for look in seen.looks])
        most = map(int, np.argsort(-rise[-1])[:LINES])
        lines = {f"channel {c}": rise[:, c].tolist() for c in most}
        found.append(Panel(f"rise in {layer}", steps, lines))
    ends = {"black": [look.black for look in seen.looks], "white": [look.white for look in seen.looks]}
    return [*found, Panel("share burnt out", steps, ends)]


def called(net: Net, k: int) -> str:
    """A class by the first of its names."""
    return net.classes[k].partition(",")[0].strip() if k < len(net.classes) else f"class {k}"


def _loudest(seen: Seen, layer: str) -> str:
    rise = seen.looks[-1].rises(layer)
    most = ", ".join(f"{c} ({rise[c]:+.1f})" for c in map(int, np.argsort(-rise)[:NAMED]))
    return f"The channels of {layer} that rose most, in deviations of all of them: {most}."
