"""What happened in a dream: which units rose, what the net took it for on the way, and what burnt out.

"Why castles in the sky?" Because units rose that speak for castles; here is which, when, and how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from minidnn.arrays import Array, to_host
from minidnn.dream.octaves import sized
from minidnn.dream.sight import as_seen, fits
from minidnn.graph import Handle
from minidnn.layers import Softmax
from minidnn.net import Net
from minidnn.recipes.goals import scores_of

LOOKS = 16  # in a dream, beside the first and the last: so looking costs little, however long it is
LARGEST = 640  # pixels of the long side; larger pictures are shrunk to be looked at


class Look(NamedTuple):
    """What was seen of the picture after so many steps."""

    step: int
    before: dict[str, np.ndarray]  # the mean response of each channel to the first picture, in this size
    after: dict[str, np.ndarray]  # and to this one
    classes: np.ndarray | None  # the probability of each, if the net classifies
    black: float  # the share of all numbers that are as small as they can be
    white: float

    def rises(self, layer: str) -> np.ndarray:
        """How far each channel is above what it said of the first picture, in deviations of all channels."""
        before = self.before[layer]
        return (self.after[layer] - before) / (float(before.std()) or 1.0)


class Seen(NamedTuple):
    """All that was seen of a dream."""

    net: Net
    layers: tuple[str, ...]
    looks: list[Look]  # the first picture, some on the way, and the last
    risen: int | None  # the class whose probability rose most
    brought: dict[str, np.ndarray]  # to its score, by each channel of a layer, where that can be said

    @property
    def classes(self) -> np.ndarray | None:
        """The probability of each class at each look; None if the net has no opinion."""
        rows = [look.classes for look in self.looks if look.classes is not None]
        return np.stack(rows) if rows else None


class Microscope:
    """Shown the pictures of a dream, it looks at some of them, and says in the end what it saw."""

    def __init__(self, net: Net, start: Array, layers: Sequence[Handle], *, steps: int) -> None:
        self.net, self.start = net, start
        self.layers = tuple(dict.fromkeys(net.name_of(layer) for layer in layers))
        self.every = max(1, ceil(steps / LOOKS))
        self._plain: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        self._looks: list[Look] = []
        self._look(0, start)

    def show(self, step: int, picture: Array) -> None:
        """The picture after that step; it is looked at every so many steps."""
        if step % self.every == 0:
            self._look(step, picture)

    def seen(self, step: int, picture: Array) -> Seen:
        """All that was seen, this being the last picture."""
        self._look(step, picture)
        first, last = self._looks[0].classes, self._looks[-1].classes
        risen, shares = None, dict[str, np.ndarray]()
        if first is not None and last is not None:
            risen = int((last - first).argmax())
            for layer in self.layers:
                share = brought(self.net, self.start, picture, layer, risen)
                if share is not None:
                    shares[layer] = share
        return Seen(self.net, self.layers, list(self._looks), risen, shares)

    def _look(self, step: int, picture: Array) -> None:
        """Look at it, unless that step has been looked at."""
        if self._looks and self._looks[-1].step == step:
            return
        size = self._size(picture)
        if size not in self._plain:
            self._plain[size] = self._means(sized(self.start, size))
        black, white = (float(part.mean()) for part in (picture <= 0.5, picture >= 254.5))
        after = self._means(sized(picture, size))
        classes = probabilities(self.net, picture)
        self._looks.append(Look(step, self._plain[size], after, classes, black, white))

    def _size(self, picture: Array) -> tuple[int, int]:
        """At which it is looked at: its own, or smaller."""
        n, h, w, c = picture.shape
        share = min(1.0, LARGEST / max(h, w))
        size = max(1, round(h * share)), max(1, round(w * share))
        return size if fits(self.net, self.layers, (n, *size, c)) else (h, w)

    def _means(self, picture: Array) -> dict[str, np.ndarray]:
        x = as_seen(self.net, picture)
        ys = self.net.forwardto(self.net.init_res(), self.layers, x, keep=self.layers)
        return {name: to_host(y.mean(axis=(0, 1, 2))) for name, y in ys.items()}


def probabilities(net: Net, picture: Array) -> np.ndarray | None:
    """The net's opinion of pictures (N, H, W, C), squeezed to the size it knows; None if it has none."""
    last = net.nodes[-1]
    if not isinstance(last.layer, Softmax):
        return None
    x = _as_trained(net, picture)
    if x is None:
        return None
    return to_host(net.forwardto(net.init_res(), last.name, x, keep=last.name).mean(axis=(0, 1, 2)))


def brought(net: Net, before: Array, after: Array, layer: Handle, k: int) -> np.ndarray | None:
    """What the rise of each channel c of a layer brought to the score of class k, about; None if nothing can.

        Σ over places p of  (y_pc after - y_pc before) * (dscore_k/dy_pc before + dscore_k/dy_pc after) / 2

    Both pictures are shown in the size that the net was trained on.
    """
    scores, name = scores_of(net, after_softmax=False), net.name_of(layer)
    if name == scores or name not in net.ancestors([scores]) or _as_trained(net, before) is None:
        return None
    ys, slopes = [], []
    for picture in (before, after):
        res = net.init_res()
        y = net.forwardto(res, scores, _as_trained(net, picture), keep=["needed", name])
        seed = 0 * y
        seed[..., k] = 1 / (y.shape[1] * y.shape[2])
        slopes.append(net.backwardfrom(res, {scores: seed}, to=name))
        ys.append(res[name].x)
    return to_host(((ys[1] - ys[0]) * (slopes[0] + slopes[1]) / 2).sum(axis=(0, 1, 2)))


def _as_trained(net: Net, picture: Array) -> Array | None:
    """The picture as the net sees it in the size that it was trained on, if it knows one and can use it."""
    if net.input_shape is None:
        return None
    shown = sized(picture, net.input_shape[:2])
    return as_seen(net, shown) if fits(net, net.names[-1:], shown.shape) else None
