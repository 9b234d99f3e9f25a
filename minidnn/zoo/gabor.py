"""A net that nobody had to train: edges, and curls made of edges, all filters written down as formulas.

conv1   24 Gabor filters: eight directions, as an edge, as a line, and as an edge between colours
conv2   12 curls: around their middle the edges run in rings, in rays, or in spirals in between
"""

from __future__ import annotations

import numpy as np

from minidnn.images import Preprocess
from minidnn.layers import Conv, MaxPool, ReLU
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window

DIRECTIONS = np.arange(8) * np.pi / 8  # of the stripes: half a turn, for a stripe has no front
TWISTS = np.arange(6) * np.pi / 6  # between ring (0) and ray (a quarter turn), both ways round
COLOURS = {"edge": (1, 1, 1), "line": (1, 1, 1), "colour": (1, -0.5, -0.5)}


def gabor(rng: Rng = None) -> Net:
    """conv1, relu1, pool1, conv2, relu2, for images of any size. It needs no rng."""
    return Net.chain(
        {
            "conv1": Conv(_stripes(9), np.zeros(24, "float32"), Window.of(9, pad=4)),
            "relu1": ReLU(),
            "pool1": MaxPool(Window.of(2, stride=2, ceil=True)),
            "conv2": Conv(_curls(9), np.zeros(12, "float32"), Window.of(9, pad=4)),
            "relu2": ReLU(),
        },
        preprocess=Preprocess(mean=(128.0, 128.0, 128.0)),
    )


def _stripes(size: int) -> np.ndarray:
    """exp(-r²/2s²) times a sine (edge) or cosine (line) across the stripes: (size, size, 3, 24)."""
    y, x = _offsets(size)
    filters = []
    for kind, colour in COLOURS.items():
        for direction in DIRECTIONS:
            across = x * np.sin(direction) - y * np.cos(direction)
            wave = np.cos if kind == "line" else np.sin
            blob = np.exp(-(x * x + y * y) / (2 * (size / 4.5) ** 2))
            stripe = blob * wave(across * 2 * np.pi / (size / 1.5))
            filters.append((stripe - stripe.mean())[:, :, None] * colour)
    return _level(np.stack(filters, axis=3))


def _curls(size: int) -> np.ndarray:
    """At each offset, a wish for the direction that a curl has there: (size, size, 24, 12)."""
    y, x = _offsets(size)
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    ring = np.exp(-((radius - size / 3) ** 2) / (2 * (size / 6) ** 2))
    filters = []
    for kinds in [(1, 1, 0), (0, 0, 1)]:  # out of edges and lines, out of colours
        for twist in TWISTS:
            wish = (angle + np.pi / 2 + twist)[:, :, None]
            along = np.cos(2 * (wish - DIRECTIONS))  # 1: just so, -1: across
            filters.append(ring[:, :, None] * np.concatenate([along * wanted for wanted in kinds], axis=2))
    return _level(np.stack(filters, axis=3))


def _offsets(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:size, :size] - size // 2
    return y.astype("float64"), x.astype("float64")


def _level(filters: np.ndarray) -> np.ndarray:
    """Every filter of length one, so that none is louder than another."""
    return (filters / np.sqrt((filters**2).sum(axis=(0, 1, 2)))).astype("float32")
