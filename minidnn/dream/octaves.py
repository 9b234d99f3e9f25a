"""Octaves: the same dream small first, then larger and larger, each with the details of the one before.

What fills a small picture is large on the whole: so a dream gets coarse shapes as well as fine ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice

import numpy as np

from minidnn import images
from minidnn.arrays import Array
from minidnn.dream.loop import Frame, Way, dream
from minidnn.dream.objectives import Objective
from minidnn.errors import ShapeError, UsageError
from minidnn.net import Net

Size = tuple[int, int]


def dream_in_octaves(
    net: Net,
    picture: Array,
    objective: Objective,
    way: Way,
    *,
    steps: int,
    octaves: int = 4,
    factor: float = 1.4,
    rng: np.random.Generator,
    resume: Frame | None = None,
) -> Iterator[Frame]:
    """`steps` in each octave; what came out is enlarged for the next one (Mordvintsev et al. 2015).

        start of octave k = picture at size k + enlarged(dream of octave k-1 - picture at size k-1)

    Octaves too small for the net are left out. To go on from a frame, give it as `resume`.
    """
    if steps < 1:
        raise UsageError(f"{steps} steps in each octave; give at least 1")
    sizes = fitting_sizes(net, objective, picture, octaves, factor)
    res, detail, state, first = net.init_res(), None, None, 0
    if resume is not None:
        first, state = resume.octave, resume.state
        if first >= len(sizes) or state is None or state.start.shape[1:3] != sizes[first]:
            raise UsageError(f"octave {first} of that dream is not one of {sizes}; resume it as it was begun")
    for octave, size in enumerate(sizes[first:], start=first):
        base = sized(picture, size)
        start = base if detail is None else base + sized(detail, size)
        there = replace(way, mask=None if way.mask is None else sized(way.mask, size).clip(0, 1))
        dreamed = None if state is None else there.canvas(size).paint(state.numbers)
        left = steps if state is None else steps - state.number
        frames = dream(net, start.clip(0, 255), objective, there, rng=rng, res=res, state=state)
        for frame in islice(frames, left):
            dreamed = frame.picture
            yield replace(frame, octave=octave)
        detail, state = dreamed - base, None


def octave_sizes(size: Size, octaves: int, factor: float = 1.4) -> list[Size]:
    """The (h, w) of each octave, smallest first: size / factor^(octaves-1) … size."""
    if octaves < 1 or not factor > 1:
        raise UsageError(f"{octaves} octaves of factor {factor}; give at least 1, and a factor above 1")
    shares = [factor**-k for k in reversed(range(octaves))]
    return [(max(1, round(size[0] * share)), max(1, round(size[1] * share))) for share in shares]


def fitting_sizes(
    net: Net, objective: Objective, picture: Array, octaves: int, factor: float = 1.4
) -> list[Size]:
    """Those of the octaves at which the objective's layers still see something."""
    layers, c = net.names_of(objective.layers), picture.shape[3]
    net.shapes((1, *picture.shape[1:3], net_channels(net, c)), upto=layers)  # at least the last one must fit
    fitting = []
    for size in octave_sizes(picture.shape[1:3], octaves, factor):
        with suppress(ShapeError):
            net.shapes((1, *size, net_channels(net, c)), upto=layers)
            fitting.append(size)
    return fitting


def net_channels(net: Net, channels: int) -> int:
    """How many channels a picture has once it is in the net."""
    return net.preprocess.channels if net.preprocess is not None else channels


def sized(picture: Array, size: Size) -> Array:
    return picture if picture.shape[1:3] == size else images.resize(picture, size)
