"""Octaves: the same dream small first, then larger and larger, each with the details of the one before.

What fills a small picture is large on the whole: so a dream gets coarse shapes as well as fine ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from minidnn import images
from minidnn.arrays import Array
from minidnn.dream.loop import Frame, State, Way, dream, fitting_mask, in_floats
from minidnn.dream.objectives import Objective
from minidnn.dream.priors import Anchor
from minidnn.dream.sight import check_fit, fits
from minidnn.errors import UsageError
from minidnn.net import Net

Size = tuple[int, int]


def dream_in_octaves(
    net: Net,
    picture: Array,
    objective: Objective | Callable[[Size], Objective],
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
    whole = picture.shape[1:3]
    sizes = fitting_sizes(net, at_size(objective, whole), picture, octaves, factor)
    picture = in_floats(picture)
    mask, res, last, first = fitting_mask(way.mask, picture), net.init_res(), resume, 0
    if resume is not None:
        first, state = resume.octave, resume.state
        if first >= len(sizes) or state.start.shape[1:3] != sizes[first]:
            raise UsageError(f"octave {first} of that dream is not one of {sizes}; resume it as it was begun")
        rng.bit_generator.state = dict(state.rng)
    for octave, size in enumerate(sizes[first:], start=first):
        there = way_at_size(way, mask, size)
        if last is None or last.octave != octave:
            state = begun(picture, size, last, there, rng)
        frames = dream(net, state.start, at_size(objective, size), there, rng=rng, res=res, state=state)
        for frame in islice(frames, max(0, steps - state.number)):
            last = replace(frame, octave=octave)
            yield last


def begun(picture: Array, size: Size, last: Frame | None, way: Way, rng: np.random.Generator) -> State:
    """An octave before its first step: the picture in this size, with what the octave before added to it."""
    start, canvas = sized(picture, size), way.canvas(size)
    if last is not None:
        detail = sized(last.picture - sized(picture, last.picture.shape[1:3]), size)
        start = start + (detail if way.mask is None else detail * (way.mask > 0))
    start = start.clip(0, 255)
    numbers = canvas.begin(start) if last is None or canvas.begins_anywhere else last.state.numbers
    return State(start, numbers, None, rng.bit_generator.state, 0)


def way_at_size(way: Way, mask: Array | None, size: Size) -> Way:
    """The way in an octave: what was given as a picture is brought to its size."""
    penalties = (one.at_size(size) if isinstance(one, Anchor) else one for one in way.penalties)
    small = None if mask is None else sized(mask, size).clip(0, 1)
    return replace(way, mask=small, penalties=tuple(penalties))


def at_size(objective: Objective | Callable[[Size], Objective], size: Size) -> Objective:
    """An objective that depends on the size of the picture, as one with a guide does, for this size."""
    return objective if isinstance(objective, Objective) else objective(size)


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
    layers, c = objective.layers, picture.shape[3]
    check_fit(net, layers, (1, *picture.shape[1:3], c))  # at least the last one must fit
    sizes = octave_sizes(picture.shape[1:3], octaves, factor)
    return [size for size in sizes if fits(net, layers, (1, *size, c))]


def sized(picture: Array, size: Size) -> Array:
    return picture if picture.shape[1:3] == size else images.resize(picture, size)
