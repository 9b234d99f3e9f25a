"""What happened in a dream: which units rose most, what the net now takes the picture for, what is burnt out.

"Why castles in the sky?" Because the units that had castles to see in training rose most; here is which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidnn.arrays import Array, to_host
from minidnn.dream.octaves import sized
from minidnn.errors import ShapeError
from minidnn.graph import Handle
from minidnn.images import Preprocess
from minidnn.layers import Softmax
from minidnn.net import Net


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


def look(
    net: Net, before: Array, after: Array, layers: Sequence[Handle], *, count: int = 10
) -> list[Finding]:
    """All findings on a dream from `before` to `after`."""
    found = [rises(net, before, after, layer, count=count) for layer in layers]
    if classified := classes_between(net, before, after, count=count):
        found.append(classified)
    return [*found, saturation(before, after)]


def rises(net: Net, before: Array, after: Array, layer: Handle, *, count: int = 10) -> Finding:
    """The channels whose mean response grew most, in units of how much all channels vary."""
    old, new = (_response(net, picture, layer).mean(axis=(0, 1, 2)) for picture in (before, after))
    spread = float(old.std()) or 1.0
    order = np.argsort(old - new)[:count]
    rows = [
        (str(k), f"{old[k]:.3g}", f"{new[k]:.3g}", f"{(new[k] - old[k]) / spread:+.1f}")
        for k in map(int, order)
    ]
    heads = ("channel", "before", "after", "rise in deviations")
    return Finding(f"What rose most in {net.name_of(layer)}", heads, rows)


def classes_between(net: Net, before: Array, after: Array, *, count: int = 10) -> Finding | None:
    """What the net took the picture for, and takes it for now; None for a net that does not classify."""
    old, new = probabilities(net, before), probabilities(net, after)
    if old is None or new is None:
        return None
    order = np.argsort(-np.maximum(old, new))[:count]
    names = net.classes or [f"class {k}" for k in range(len(old))]
    rows = [(names[k], f"{old[k]:.1%}", f"{new[k]:.1%}") for k in map(int, order)]
    return Finding("What the net takes it for", ("class", "before", "after"), rows)


def probabilities(net: Net, picture: Array) -> np.ndarray | None:
    """The net's opinion of a picture (1, H, W, 3), squeezed to the size it knows; None if it has none."""
    if not isinstance(net.nodes[-1].layer, Softmax) or net.input_shape is None:
        return None
    preprocess = net.preprocess or Preprocess()
    shown = sized(picture, net.input_shape[:2])
    try:
        scores = net.forwardto(net.init_res(), net.nodes[-1].name, preprocess.to_net(shown), keep="needed")
    except ShapeError:
        return None
    return to_host(scores).mean(axis=(0, 1, 2))


def saturation(before: Array, after: Array) -> Finding:
    """How many pixels are as dark or as bright as they can be."""
    rows = [
        (words, f"{float((picture <= 0.5).mean()):.1%}", f"{float((picture >= 254.5).mean()):.1%}")
        for words, picture in (("before", before), ("after", after))
    ]
    return Finding("Pixels at the end of their range", ("", "black", "white"), rows)


def _response(net: Net, picture: Array, layer: Handle) -> np.ndarray:
    preprocess = net.preprocess or Preprocess()
    return to_host(net.forwardto(net.init_res(), layer, preprocess.to_net(picture), keep="needed"))
