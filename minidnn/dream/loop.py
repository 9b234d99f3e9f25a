"""The dream itself: look, ask which way the net would like more, step that way, and look again.

A generator of frames. Whoever takes them decides what to do with each: draw a bar, keep a strip, stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite, sqrt
from time import perf_counter
from typing import Any

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.dream.canvas import Canvas
from minidnn.dream.objectives import Objective
from minidnn.dream.priors import Filter, Penalty
from minidnn.dream.shaping import NaturalColours, Smooth
from minidnn.dream.sight import eye_of
from minidnn.dream.transforms import Jitter, Transform, drawn_together
from minidnn.errors import DivergedError, ShapeError, UsageError
from minidnn.net import Net
from minidnn.optim import LBFGS, MeanAbs, Optimiser
from minidnn.plan import Plan, whole
from minidnn.res import Res

LEAP = 64.0  # when the pixels that move do so by more on average, that was no step but a jump


@dataclass(frozen=True, eq=False)
class Way:
    """How a dream goes uphill: everything but the net, the picture and the objective."""

    step: Optimiser = field(default_factory=lambda: MeanAbs(1.5))
    canvas: Callable[[tuple[int, int]], Canvas] = Canvas  # or Fourier, or CPPN
    transforms: tuple[Transform, ...] = (Jitter(32),)
    penalties: tuple[Penalty, ...] = ()
    shaping: tuple[Filter, ...] = (NaturalColours(), Smooth())  # of the gradient, before the step
    filters: tuple[Filter, ...] = ()  # of the picture, after every `filter_every` steps
    filter_every: int = 1
    mask: Array | None = None  # (N, H, W, 1) of 0..1: how far each pixel may leave the first picture
    plan: Plan | None = None  # how the net looks at pictures that are large for the memory there is

    def __post_init__(self) -> None:
        if self.filter_every < 1:
            raise UsageError(f"filters every {self.filter_every} steps; give 1 or more")
        if isinstance(self.step, LBFGS) and (self.transforms or self.shaping or self.filters):
            raise UsageError(
                "LBFGS learns curvature from how the gradient changes, and takes accidents for it: give "
                "transforms=(), shaping=() and filters=()"
            )


@dataclass(frozen=True, eq=False)
class State:
    """Where a dream is: enough to go on as if it had never stopped."""

    start: Array  # the first picture
    numbers: Array  # of the canvas
    memory: Any  # of the optimiser
    rng: Mapping[str, Any]
    number: int  # of the last step


@dataclass(frozen=True, eq=False)
class Frame:
    """One step of a dream. The picture is that after the step; all else was measured on the one before."""

    picture: Array  # (N, H, W, C), 0..255, red green blue
    value: float  # z, without the penalties
    penalty: float
    gradient_norm: float  # |dz/dpixels|
    penalty_norm: float  # |dpenalty/dpixels|
    step_norm: float  # how far the picture moved
    layer_norms: dict[str, float]  # |y| of the layers that the objective reads
    seconds: float
    number: int  # of the step, from 1
    state: State = field(repr=False)
    octave: int = 0


def dream(
    net: Net,
    picture: Array,
    objective: Objective,
    way: Way,
    *,
    rng: np.random.Generator,
    res: Res | None = None,
    state: State | None = None,
) -> Iterator[Frame]:
    """Step without end from this picture (N, H, W, C), 0..255; or go on from the `state` of a frame.

    pixels = paint(numbers),    x = preprocess(transform(pixels)),    z(layers of x) - penalties(pixels) grows
    """
    picture = in_floats(picture)
    canvas, res = way.canvas(picture.shape[1:3]), net.init_res() if res is None else res
    if way.filters and not canvas.begins_anywhere:
        raise UsageError(f"{type(canvas).__name__} cannot go on from a filtered picture; give no filters")
    mask = fitting_mask(way.mask, picture)
    if state is None:
        state = State(picture, canvas.begin(picture), None, rng.bit_generator.state, 0)
    rng.bit_generator.state = dict(state.rng)

    def painted(numbers: Array) -> Array:
        pixels = canvas.paint(numbers)
        return pixels if mask is None else state.start + mask * (pixels - state.start)

    numbers, memory, number = state.numbers, state.memory, state.number
    pixels = painted(numbers)
    while True:
        began, number = perf_counter(), number + 1
        chain = drawn_together(way.transforms, rng, pixels.shape, number - 1)
        value, dpixels, norms = climb(net, res, chain(pixels), objective, way.plan)
        dpixels = chain.adjoint(dpixels)
        gradient_norm = checked_norm(objective, value, dpixels, number)
        penalty, dpenalty = _penalised(way.penalties, pixels)
        for shape in way.shaping:
            dpixels = shape(dpixels)
        dpixels = dpixels - dpenalty
        dnumbers = canvas.adjoint(numbers, dpixels if mask is None else dpixels * mask)
        step, memory = way.step.step(-dnumbers, memory)
        numbers = canvas.settle(numbers + step)
        if way.filters and number % way.filter_every == 0:
            filtered = canvas.paint(numbers)
            for smooth in way.filters:
                filtered = smooth(filtered)
            numbers = canvas.begin(filtered)
        before, pixels = pixels, painted(numbers)
        yield Frame(
            pixels,
            value,
            penalty,
            gradient_norm,
            _norm(dpenalty),
            checked_move(pixels - before, number),
            norms,
            perf_counter() - began,
            number,
            state=State(state.start, numbers, memory, rng.bit_generator.state, number),
        )
        del before, dpixels, dpenalty, dnumbers, step  # a picture may be large, and the net needs the room


def climb(
    net: Net, res: Res, pixels: Array, objective: Objective, plan: Plan | None = None
) -> tuple[float, Array, dict[str, float]]:
    """z of these pixels, dz/dpixels, and how loud the layers are that z reads."""
    eye, plan = eye_of(net, pixels.shape), plan or whole(net, objective.layers)
    value, dzdx, ys = plan.gradient(res, eye.to_net(pixels), objective)
    return value, eye.gradient_to_pixels(dzdx), {name: _norm(y) for name, y in ys.items()}


def checked_norm(objective: Objective, value: float, dpixels: Array, number: int) -> float:
    """|dz/dpixels|, or why a dream cannot go on from here."""
    norm = _norm(dpixels)
    if not isfinite(value) or not isfinite(norm):
        raise DivergedError(
            f"step {number}: {objective} is {value:g} and its gradient {norm:g}; the last picture was good: "
            "go on from it with smaller steps"
        )
    if norm == 0 and number == 1:
        raise DivergedError(
            f"{objective} has no gradient on this picture: nothing there speaks to "
            f"{' or '.join(map(repr, objective.layers))}; take another picture, or a layer before"
        )
    return norm


def checked_move(move: Array, number: int) -> float:
    """How far the picture moved, or that this was too far."""
    xp = xp_of(move)
    mean = float(xp.abs(move).sum()) / max(1, int(xp.count_nonzero(move)))
    if not mean <= LEAP:
        raise DivergedError(
            f"step {number} moved the pixels by {mean:.0f} of 255 on average; the picture before was good: "
            "go on from it with smaller steps"
        )
    return _norm(move)


def _penalised(penalties: tuple[Penalty, ...], pixels: Array) -> tuple[float, Array]:
    value, grad = 0.0, xp_of(pixels).zeros_like(pixels)
    for penalty in penalties:
        cost, dcost = penalty(pixels)
        value, grad = value + cost, grad + dcost
    return value, grad


def fitting_mask(mask: Array | None, picture: Array) -> Array | None:
    """The mask as numbers like those of the picture, or why it does not fit."""
    if mask is None:
        return None
    if mask.shape not in ((1, *picture.shape[1:3], 1), (*picture.shape[:3], 1)):
        raise ShapeError(
            f"the mask is {mask.shape}, the picture {picture.shape}; give it as (1, H, W, 1) in that size"
        )
    if not (float(mask.min()) >= 0 and float(mask.max()) <= 1):
        raise UsageError(f"the mask goes from {mask.min()} to {mask.max()}; give numbers from 0 to 1")
    return xp_of(picture).asarray(mask, dtype=picture.dtype)


def in_floats(picture: Array) -> Array:
    """The picture in numbers that can have parts and signs, as steps and masks do."""
    return picture if picture.dtype.kind == "f" else picture.astype(np.float32)


def _norm(x: Array) -> float:
    return sqrt(float((x * x).sum()))
