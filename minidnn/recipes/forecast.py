"""What a dream will cost, from one trial step at the smallest size: the arithmetic grows with the pixels."""

from __future__ import annotations

import os
from functools import reduce
from operator import add
from time import perf_counter
from typing import NamedTuple

from minidnn.arrays import device_of
from minidnn.dream import Objective, squared_norm
from minidnn.dream.loop import climb
from minidnn.dream.octaves import sized
from minidnn.errors import ShapeError, TooLargeError
from minidnn.net import Net
from minidnn.recipes.job import Opened

TRIAL = 160  # pixels of the short side at which it is tried, or the whole picture if that is smaller
OVERHEAD = 1.3  # pictures, optimiser and workspaces beside what a run holds: measured 1.1 to 1.3


class Forecast(NamedTuple):
    """Seconds for all steps, and bytes at the largest size."""

    seconds: float
    nbytes: float

    def __str__(self) -> str:
        return f"about {in_words(self.seconds)}, {self.nbytes / 1e9:.2f} GB at its largest"


def forecast(opened: Opened) -> Forecast:
    """Try one step small, and scale it up."""
    net, picture = opened.net, opened.picture
    objective = reduce(add, map(squared_norm, opened.objective.layers))  # as costly as the real one
    h, w = picture.shape[1:3]
    small = (round(h * TRIAL / min(h, w)), round(w * TRIAL / min(h, w)))
    size = small if min(h, w) > TRIAL and fits(net, objective, small) else (h, w)
    trial, res = sized(picture, size), net.init_res()
    climb(net, res, trial, objective)  # the first time, weights are prepared as well
    began = perf_counter()
    climb(net, res, trial, objective)
    seconds, pixels = perf_counter() - began, size[0] * size[1]
    to_do = sum(rows * columns for rows, columns in opened.sizes) * opened.job.settings.steps
    weights = sum(array.nbytes for array in net.params.values()) + net.prepared.nbytes
    return Forecast(seconds * to_do / pixels, OVERHEAD * res.nbytes * h * w / pixels + weights)


def fits(net: Net, objective: Objective, size: tuple[int, int]) -> bool:
    """Whether the layers can be run on a picture of that size."""
    channels = net.preprocess.channels if net.preprocess is not None else 3
    try:
        net.shapes((1, *size, channels), upto=net.names_of(objective.layers))
    except ShapeError:
        return False
    return True


def check_memory(opened: Opened, expected: Forecast) -> None:
    """That it fits, before it starts to swap."""
    free = free_memory()
    if device_of(opened.picture) == "cpu" and free is not None and expected.nbytes > free:
        h, w = opened.picture.shape[1:3]
        shrink = (free / expected.nbytes) ** 0.5 * 0.9
        raise TooLargeError(
            f"a dream of {w}x{h} needs about {expected.nbytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: "
            f"dream it smaller, --size {round(h * shrink)}x{round(w * shrink)}"
        )


def free_memory() -> int | None:
    """The bytes that nobody uses now, where the system says so."""
    try:
        with open("/proc/meminfo") as file:
            told = dict(line.split(":") for line in file)
        return int(told["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
