"""How large is the map after each layer? The calculator of the course, with what is chosen and what follows
told apart; and the course's guess at how many parameters there are in all.

    after a window of f pixels, moved by s, on n pixels padded by p on both sides:   (n + 2p - f) / s + 1

rounded down, as most layers do, or up, as Caffe pools; both are shown, side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from minidnn.errors import ShapeError, UsageError
from minidnn.window import Window

STEP = re.compile(r"(?P<kind>[a-z_]+)?(?P<f>\d+)(?:/(?P<s>\d+))?(?:p(?P<p>\d+))?(?P<ceil>\^)?")


class Step(NamedTuple):
    """One layer as the user chose it: f, s, p, and which way to round for the layers after it."""

    kind: str
    f: int
    s: int = 1
    p: int = 0
    ceil: bool = False

    @classmethod
    def parse(cls, text: str) -> Step:
        """'conv7/2p1' is a convolution of 7 pixels, stride 2, pad 1; 'pool3/2^' a pool of 3, stride 2,
        rounding up."""
        found = STEP.fullmatch(text)
        if found is None:
            raise UsageError(
                f"{text!r} is no layer; write e.g. conv7/2p1 (7 pixels, stride 2, pad 1), or pool3/2^"
            )
        kind = found["kind"] or "conv"
        return cls(kind, int(found["f"]), int(found["s"] or 1), int(found["p"] or 0), bool(found["ceil"]))


class Size(NamedTuple):
    """A step with the size before it, and after it by either rounding."""

    step: Step
    n: int
    floor: int
    ceil: int

    @property
    def after(self) -> int:
        return self.ceil if self.step.ceil else self.floor


def sizes(n: int, steps: Iterable[Step]) -> list[Size]:
    """Every step in turn, from images of n pixels."""
    if n < 1:
        raise UsageError(f"an image of {n} pixels; give at least 1")
    found = []
    for step in steps:
        window = {way: Window.of(step.f, stride=step.s, pad=step.p, ceil=way) for way in (False, True)}
        try:
            floor, ceil = (window[way].out_size(n, n)[0] for way in (False, True))
        except ShapeError as error:
            error.add_note(f"at {step.kind}{step.f}, the size being {n}")
            raise
        found.append(Size(step, n, floor, ceil))
        n = found[-1].after
    return found


def total_from_fc(fc: int, *, percent: int = 85, give: int = 5) -> tuple[int, int]:
    """How many parameters a net has at the least and at the most, if its fc layers hold 85 % ± 5 of them.

    That is a rule of thumb; those of VGG-16 hold 89 %.
    """
    return 100 * fc // (percent + give), 100 * fc // (percent - give)


def table(found: Sequence[Size]) -> str:
    """As text. Columns under "chosen" are the user's, those under "follows" come out of them."""
    head = ["layer", "n", "f", "s", "p", "floor", "ceil", "goes on"]
    rows = [
        [
            size.step.kind,
            *map(str, (size.n, size.step.f, size.step.s, size.step.p, size.floor, size.ceil)),
            f"{size.after}{'  (up)' if size.step.ceil else ''}",
        ]
        for size in found
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 7)), row[7]]
        return "  ".join(cells[:2]) + " | " + "  ".join(cells[2:5]) + " | " + "  ".join(cells[5:])

    left = widths[0] + 2 + widths[1]
    chosen = sum(widths[2:5]) + 4
    over = f"{'':{left}} | {'chosen':^{chosen}} | follows: (n + 2p - f) / s + 1"
    notes = []
    if any(size.floor != size.ceil for size in found):
        notes = ["where floor and ceil differ, ^ after a layer takes the larger"]
    return "\n".join([over, line(head), *map(line, rows), *notes])
