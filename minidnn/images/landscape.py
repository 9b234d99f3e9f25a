"""The built-in picture: a landscape drawn by formulas, for all who have no photograph at hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidnn.images.files import resize


def clouds_over_hills(height: int = 240, width: int = 320, seed: int = 0) -> np.ndarray:
    """A landscape (1, H, W, 3) drawn by these lines alone, for all who have no photograph at hand.

    All is value noise: random numbers on coarse grids, smoothly enlarged and added up. The seed is the place;
    a larger picture shows more of its detail.
    """
    rng, size = np.random.default_rng(seed), (height, width)
    rows, columns = np.arange(height), np.arange(width)
    y, x = (rows[:, None, None] + 0.5) / height, (columns[:, None] + 0.5) / width
    sky = _blend(_blend((40, 92, 165), (150, 198, 228), y / 0.45), (255, 222, 180), (y - 0.28) / 0.4)
    from_sun = np.hypot((x - 0.74) * 4 / 3, y - 0.36)
    glow = 0.7 * np.exp(-((from_sun / 0.05) ** 2)) + 0.33 * np.exp(-from_sun / 0.2)
    sky = sky + glow * np.array((255, 215, 150))

    vapour = _noise(rng, 5, 4, size)
    above, beside = (rows - height // 40).clip(0), (columns + width // 40).clip(0, width - 1)
    in_shade = 0.42 + 5 * (vapour[above][:, beside] - vapour)  # more vapour towards the sun
    cloud = _blend((255, 250, 240), (140, 150, 182), in_shade) + 35 * np.exp(-from_sun / 0.15)
    picture = _blend(sky, cloud, (vapour - 0.5 - 0.2 * (y - 0.3)) / 0.15)

    for near in np.linspace(0, 1, 6):
        skyline = _noise(rng, 1, round(3 + 4 * near), (1, width))
        depth = y - 0.55 - 0.34 * near**1.3 + 0.28 * (skyline - 0.5)  # below the skyline of this hill
        woods = _noise(rng, 48, 24, size) - 0.5
        hill = _blend((142, 168, 198), (26, 58, 34), near**0.7) * (1 + (0.2 + 1.1 * near) * woods)
        evening_light = near * np.exp(-depth.clip(0) / 0.05)
        mist = 0.62 * (1 - near) * (depth / 0.14).clip(0, 1)
        hill = _blend(hill + evening_light * np.array((54, 42, 10)), (222, 222, 214), mist)
        picture = _blend(picture, hill, depth * height + 0.5)
    return picture[None].clip(0, 255).astype(np.float32)


def _noise(rng: np.random.Generator, rows: int, columns: int, size: tuple[int, int]) -> np.ndarray:
    """Soft blotches (h, w, 1) around 0.5: each octave has twice the detail and half the weight."""
    octaves = range((512 // columns).bit_length())
    total = sum(resize(rng.random((1, rows << k, columns << k, 1)), size)[0] / 2**k for k in octaves)
    return total / sum(1 / 2**k for k in octaves)


def _blend(here: Any, there: Any, share: Any) -> np.ndarray:
    """From one colour to another as `share` goes from 0 to 1, with a soft start and end."""
    t = np.clip(share, 0, 1)
    return np.asarray(here) + (np.asarray(there) - np.asarray(here)) * (t * t * (3 - 2 * t))
