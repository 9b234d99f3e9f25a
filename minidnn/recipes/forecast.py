"""What a dream will cost, from trial steps at small sizes: the arithmetic grows with the pixels."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from operator import add
from time import perf_counter
from typing import NamedTuple

import numpy as np

from minidnn.arrays import device_of
from minidnn.dream import Objective, dream, squared_norm
from minidnn.dream.octaves import sized
from minidnn.dream.sight import fits
from minidnn.errors import DivergedError
from minidnn.plan import Plan
from minidnn.recipes import memory
from minidnn.recipes.deepdream import planned_within
from minidnn.recipes.job import Opened

TRIALS = (160, 320)  # pixels of the short side at which it is tried, or the picture if that is smaller
LARGE = 512 * 512  # pixels; smaller pictures fit everywhere, and the trial would take long beside the dream
OVERHEAD = 1.2  # what the system hands out beside what was asked for


class Forecast(NamedTuple):
    """Seconds for all steps, and bytes at the largest size."""

    seconds: float
    nbytes: float

    def __str__(self) -> str:
        return f"about {in_words(self.seconds)}, {self.nbytes / 1e9:.2f} GB at its largest"


def forecast(opened: Opened) -> Forecast:
    """What all steps will take; where a bound was given, by the plan that keeps it."""
    if not opened.job.settings.max_memory:
        return _straight_on(opened, None)
    plan = planned_within(opened.net, opened.picture, opened.job.settings, opened.objective)
    return Forecast(_straight_on(opened, plan).seconds * plan.work, plan.need)


def _straight_on(opened: Opened, plan: Plan | None) -> Forecast:
    """Try it at two small sizes, and go on in a line: some memory grows with the pixels, some not."""
    net, picture = opened.net, opened.picture
    h, w = picture.shape[1:3]
    smaller, small = ((round(h * side / min(h, w)), round(w * side / min(h, w))) for side in TRIALS)
    objective = reduce(add, map(squared_norm, opened.objective.layers))  # as costly as the real one
    known = sum(array.nbytes for array in net.params.values()) + net.prepared.nbytes
    if h * w <= small[0] * small[1] or not fits(net, objective.layers, (1, *smaller, picture.shape[3])):
        _tried(opened, objective, (h, w), plan)  # the first time, weights are prepared as well
        seconds, nbytes = _tried(opened, objective, (h, w), plan)
        return Forecast(_for_all(opened, seconds / (h * w)), nbytes + known)
    _tried(opened, objective, smaller, plan)
    _, least = _tried(opened, objective, smaller, plan)
    seconds, nbytes = _tried(opened, objective, small, plan)
    pixels = small[0] * small[1]
    for_each = max(0.0, (nbytes - least) / (pixels - smaller[0] * smaller[1]))
    return Forecast(_for_all(opened, seconds / pixels), nbytes + for_each * (h * w - pixels) + known)


def _tried(
    opened: Opened, objective: Objective, size: tuple[int, int], plan: Plan | None
) -> tuple[float, float]:
    """The seconds of one step at that size, and the bytes of two."""
    net, res, settings = opened.net, opened.net.init_res(), opened.job.settings
    picture, rng = sized(opened.picture, size), np.random.default_rng(settings.seed)
    frames = dream(net, picture, objective, replace(settings.way(), plan=plan), rng=rng, res=res)
    was_tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        with suppress(DivergedError):  # that shall be told when it is dreamed, not now
            next(frames)
        began = perf_counter()
        with suppress(DivergedError, StopIteration):
            next(frames)
        seconds, peak = perf_counter() - began, tracemalloc.get_traced_memory()[1]
    finally:
        if not was_tracing:
            tracemalloc.stop()
    on_host = device_of(opened.picture) == "cpu"
    return seconds, OVERHEAD * (peak - before if on_host else res.nbytes)


def _for_all(opened: Opened, seconds_for_each: float) -> float:
    """Seconds for all pixels of all steps."""
    pixels = sum(h * w for h, w in opened.sizes)
    return seconds_for_each * pixels * opened.job.settings.steps


def check_cost(opened: Opened) -> None:
    """The same for pictures that are large enough to ask; the trial takes time."""
    h, w = opened.picture.shape[1:3]
    if h * w > LARGE:
        check_memory(opened, forecast(opened))


def check_memory(opened: Opened, expected: Forecast) -> None:
    """That it fits, before it starts to swap."""
    if device_of(opened.picture) == "cpu":
        is_bound = bool(opened.job.settings.max_memory)
        memory.check_room(opened.picture.shape[1:3], expected.nbytes, is_bound=is_bound)


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
