"""A dream within the memory that it is given: what stands around a step, for the plan of the step.

Counted in pictures of the dream's size, and measured: in the step the first picture, this one and what the
net is shown; between two steps also gradients, and what smooths them.
"""

from __future__ import annotations

import os

from minidnn.arrays import Array
from minidnn.dream.sight import seen_shape
from minidnn.errors import TooLargeError
from minidnn.graph import Handle
from minidnn.net import Net
from minidnn.optim import LBFGS, Adam, Optimiser
from minidnn.plan import Plan, choose
from minidnn.plan.choice import PROCESS

HELD = {"pixels": 4, "fourier": 7, "cppn": 40}  # by the canvas, while the net looks
BETWEEN = {"pixels": 12, "fourier": 18, "cppn": 260}
REMEMBERED = {Adam: 2, LBFGS: 22}  # by the rule


def plan_within(
    net: Net,
    picture: Array,
    layers: tuple[Handle, ...],
    *,
    max_memory: str | None,
    canvas: str,
    rule: Optimiser,
) -> Plan:
    """How the net looks at this picture, and at smaller ones, in a process that stays below max_memory."""
    kept = REMEMBERED.get(type(rule), 0)
    pictures, between = HELD[canvas] + kept, BETWEEN[canvas] + kept
    return choose(net, seen_shape(net, picture.shape), layers, max_memory, pictures=pictures, between=between)


def check_pictures(size: tuple[int, int], canvas: str) -> None:
    """That there is room for the pictures that stand around a step, whatever the net takes."""
    colours = 12  # bytes of a pixel
    check_room(size, BETWEEN[canvas] * colours * size[0] * size[1], is_bound=True)


def check_room(size: tuple[int, int], need: float, *, is_bound: bool) -> None:
    """That a dream of this size fits into what is free; tiles can help, unless that is their need already."""
    free = free_memory()
    if free is not None and need > free:
        shrink = (free / need) ** 0.5 * 0.9
        smaller = f"--size {round(size[0] * shrink)}x{round(size[1] * shrink)}"
        room = 0.8 * free
        tiles = (
            f", or in tiles, --max-memory {room / 1e9:.2g}GB" if not is_bound and room > 2 * PROCESS else ""
        )
        raise TooLargeError(
            f"a dream of {size[1]}x{size[0]} needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: "
            f"dream it smaller, {smaller}{tiles}"
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
