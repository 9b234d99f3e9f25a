"""Numbers to test with: no ties, nothing near 0, and no two sizes equal, so that no two can be mistaken."""

from __future__ import annotations

from math import prod

import numpy as np

from minidnn.window import Window


def distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A scaled permutation with an offset, between -1 and 1: all numbers differ, in size as well as in sign.

    Any two are at least 2/size apart, and the smallest is 0.6/size away from 0.
    """
    size = prod(shape)
    return (rng.permutation(size) - size // 2 + 0.3).reshape(shape) * (2 / max(1, size))


def two(rng: np.random.Generator, least: int, most: int) -> tuple[int, int]:
    """Two different whole numbers from least to most."""
    a, b = rng.choice(np.arange(least, most + 1), 2, replace=False)
    return int(a), int(b)


def geometry(
    rng: np.random.Generator,
    *,
    dilated: bool = True,
    padded: bool = True,
    pooling: bool = False,
    ceil: bool = False,
) -> tuple[Window, int, int]:
    """A window, and an image of h by w pixels that it fits on; h ≠ w, kh ≠ kw, sy ≠ sx, four different pads.

    Under `pooling` every window sees a pixel of the image: pads are less than the window, and no gap between
    taps is wider than the image.
    """
    while True:
        window = Window.of(
            two(rng, 2 if pooling else 1, 4),
            stride=two(rng, 1, 3),
            dilation=two(rng, 1, 3) if dilated else 1,
            pad=[int(pad) for pad in rng.permutation(5)[:4]] if padded else 0,
            ceil=ceil,
        )
        h, w = two(rng, 6, 10)
        (eh, ew), (top, bottom, left, right) = window.extent, window.pad
        fits = eh <= h + top + bottom and ew <= w + left + right
        if fits and not (pooling and (max(top, bottom) >= eh or max(left, right) >= ew)):
            return window, h, w


def batch_and_channels(rng: np.random.Generator) -> tuple[int, int]:
    """How many images, and of how many channels: two different small numbers."""
    return two(rng, 1, 4)


def grouped(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """How many images, groups, channels in (c) and out (k): c ≠ k, and the groups share both evenly."""
    groups = int(rng.integers(1, 4))
    a, b = two(rng, 1, 3)
    return int(rng.integers(1, 4)), groups, groups * a, groups * b
