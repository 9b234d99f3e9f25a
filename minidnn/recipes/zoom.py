"""A flight into a dream: dream, go a little nearer, dream on (the last film of Mordvintsev et al. 2015)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from minidnn.arrays import Array
from minidnn.dream.transforms import Sample
from minidnn.errors import UsageError
from minidnn.recipes.job import Opened


def nearer(picture: Array, share: float = 0.05) -> Array:
    """The middle of the picture, enlarged to its size so that `share` of it is lost at the border."""
    h, w = picture.shape[1:3]
    rows, columns = ((np.arange(n) + 0.5 - n / 2) * (1 - share) + n / 2 - 0.5 for n in (h, w))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return Sample(y, x, (h, w))(picture)


def flight(opened: Opened, frames: int, *, share: float = 0.05, seed_step: int = 1) -> Iterator[Array]:
    """So many pictures, each dreamed from a nearer view of the one before, the first from the photo."""
    if frames < 1:
        raise UsageError(f"a film of {frames} frames; give at least 1")
    if not 0 < share < 1:
        raise UsageError(f"zoom by {share}; give a share above 0 and below 1, as 0.05")
    return _flight(opened, frames, share, seed_step)


def _flight(opened: Opened, frames: int, share: float, seed_step: int) -> Iterator[Array]:
    picture, settings = opened.picture, opened.job.settings
    for number in range(frames):
        there = replace(opened.job, settings=replace(settings, seed=settings.seed + seed_step * number))
        for frame in opened._replace(job=there, picture=picture).frames():
            dreamed = frame.picture
        yield dreamed
        picture = nearer(dreamed, share)
