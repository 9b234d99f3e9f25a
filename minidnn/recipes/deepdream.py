"""Deep dreaming: a picture, a layer, and more and more of what that layer sees in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from minidnn.arrays import Array
from minidnn.dream import (
    CPPN,
    Bilateral,
    Blur,
    Canvas,
    Flip,
    Fourier,
    Frame,
    Jitter,
    NaturalColours,
    Objective,
    PNorm,
    Smooth,
    TotalVariation,
    Turn,
    Way,
    Window,
    decay,
    dream_in_octaves,
)
from minidnn.dream.octaves import fitting_sizes, sized
from minidnn.dream.sight import as_seen, seen_shape
from minidnn.errors import UsageError
from minidnn.graph import Handle
from minidnn.layers import BatchNorm, Conv, ReLU
from minidnn.net import Net
from minidnn.optim import LBFGS, SGD, Adam, MeanAbs, Optimiser, UnitNorm
from minidnn.plan import Plan, bytes_of
from minidnn.recipes.goals import named, parsed
from minidnn.recipes.memory import plan_within

STEPS = {"mean-abs": MeanAbs, "unit": UnitNorm, "plain": SGD, "adam": Adam, "lbfgs": LBFGS}
CANVASES = {"pixels": Canvas, "fourier": Fourier, "cppn": CPPN}
# The rule and the rate of a canvas for which nothing else was asked.
SUITED = {"pixels": ("mean-abs", 1.5), "fourier": ("adam", 0.02), "cppn": ("adam", 0.003)}
# L-BFGS learns from how the gradient changes, and takes accidents for curvature. These are on by default, and
# it goes without them; those are asked for, and then it is refused.
CALM: dict[str, Any] = {"jitter": 0, "colours": 0.0, "smooth": ()}
ACCIDENTS = ("turn", "scale", "flip", "window", "blur", "bilateral")
RATE_OF_NEWTON = 0.3  # its steps know how long they should be; a part of that is safer
# Layers that dream well in nets that people have, tried by eye; the first that a net has is its default.
FAVOURITES = ("inception_4c/output", "relu5_2", "conv5_2", "fire8/concat", "mixed_3", "relu8")

WIDEST = 100  # pixels; a wider blur leaves one colour
RANGES = {  # from what to what each setting may be; a note in a stranger's picture may ask for anything
    "steps": (1, 50_000),
    "octaves": (1, 50),
    "factor": (1.01, 10),
    "rate": (1e-20, 1e20),
    "jitter": (0, 10_000),
    "turn": (0, 180),
    "scale": (0, 0.9),
    "colours": (0, 1),
    "tv": (0, 1e9),
    "tv_exponent": (1, 10),
    "norm": (0, 1e9),
    "decay": (0, 1e9),
    "blur": (0, WIDEST),
    "blur_every": (1, 50_000),
    "bilateral": (0, 20),
    "blend": (0, 1),
    "seed": (0, 2**63),
}


@dataclass(frozen=True)
class DeepDream:
    """All that can be set. The defaults are those that looked best; docs/dreaming.md shows what each does."""

    layers: tuple[Handle, ...] = ()  # none: a favourite
    objective: str = "norm"
    steps: int = 15  # in each octave
    octaves: int = 4
    factor: float = 1.4  # from one octave to the next
    rule: str = ""  # how a gradient becomes a step: mean-abs, unit, plain, adam, lbfgs
    rate: float | None = None  # of the rule; for mean-abs the mean change of a pixel in one step
    canvas: str = "pixels"  # or fourier, cppn
    jitter: int = 32  # pixels that the picture is rolled by, at most, in each step
    turn: float = 0.0  # degrees that it is turned by, at most
    scale: float = 0.0  # share that it is zoomed by, at most
    flip: bool = False
    window: str = ""  # random or in-turn: the course's windows
    window_share: tuple[float, float] = (0.4, 0.8)  # of the picture's height and width
    colours: float = 0.75  # 0: as the net says, 1: only as photographs vary
    smooth: tuple[float, ...] = (0.5, 1.0, 2.0)  # widths of the blurs of the gradient
    tv: float = 0.0  # weight of the total variation
    tv_exponent: float = 1.0
    norm: float = 0.0  # weight of the 6-norm, which holds back extreme pixels
    decay: float = 0.0  # weight of the pull towards grey
    blur: float = 0.0  # width of a blur of the picture between steps
    blur_every: int = 1
    blur_border: str = "mirror"  # or matlab, where the rim fades
    bilateral: float = 0.0  # width of a filter that smooths all but edges
    slide: bool = False  # let the fully connected layers slide over a picture larger than trained on
    blend: float = 0.3  # of a folder of frames: the share of the last dream that the next begins with
    seed: int = 0
    max_memory: str = ""  # of the whole process, as 2GB; what takes more goes in tiles. Empty: no bound

    def __post_init__(self) -> None:
        choices = {"rule": ["", *STEPS], "canvas": [*CANVASES], "window": ["", "random", "in-turn"]}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} {getattr(self, name)!r}; there are {', '.join(filter(None, known))}"
                )
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # NaN is in no range
                raise UsageError(f"{name} {value}; give {least:,} to {most:,}")
        if not all(0 < sigma <= WIDEST for sigma in self.smooth):
            raise UsageError(f"smooth {self.smooth}; give widths above 0, up to {WIDEST}")
        if len(self.window_share) != 2:
            raise UsageError(f"window_share {self.window_share}; give two: from and to which share")
        if self.canvas == "cppn" and (self.blur or self.bilateral):
            raise UsageError("canvas cppn paints anew what a blur took away; leave out blur and bilateral")
        accidents = [name for name in ACCIDENTS if getattr(self, name)]
        if self.rule == "lbfgs" and accidents:
            words = " and ".join(accidents)
            raise UsageError(f"rule lbfgs would take {words} for curvature; leave out {words}, or lbfgs")
        if self.max_memory:
            bytes_of(self.max_memory)
        self.way()  # each part checks what is its own

    def way(self, mask: Array | None = None) -> Way:
        """How the dream goes uphill."""
        if self.left_out:
            return replace(self, **{name: CALM[name] for name in self.left_out}).way(mask)
        share = self.window_share
        transforms = [
            Window(share, in_turn=self.window == "in-turn") if self.window else None,
            Jitter(self.jitter) if self.jitter else None,
            Turn(self.turn, (1 - self.scale, 1 + self.scale)) if self.turn or self.scale else None,
            Flip() if self.flip else None,
        ]
        penalties = [
            TotalVariation(self.tv, self.tv_exponent) if self.tv else None,
            PNorm(self.norm) if self.norm else None,
            decay(self.decay) if self.decay else None,
        ]
        filters = [
            Blur(self.blur, self.blur_border) if self.blur else None,
            Bilateral(self.bilateral) if self.bilateral else None,
        ]
        shaping = [
            NaturalColours(self.colours) if self.colours else None,
            Smooth(self.smooth) if self.smooth else None,
        ]
        on_pixels = self.canvas == "pixels"  # other canvases bring their own natural colours and large shapes
        return Way(
            step=self.optimiser(),
            canvas=partial(CPPN, seed=self.seed) if self.canvas == "cppn" else CANVASES[self.canvas],
            transforms=tuple(filter(None, transforms)),
            penalties=tuple(filter(None, penalties)),
            shaping=tuple(filter(None, shaping)) if on_pixels else (),
            filters=tuple(filter(None, filters)),
            filter_every=self.blur_every,
            mask=mask,
        )

    def optimiser(self) -> Optimiser:
        rule, rate = SUITED[self.canvas]
        if self.rule == "lbfgs":
            rate = RATE_OF_NEWTON
        return STEPS[self.rule or rule](rate if self.rate is None else self.rate)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The settings that are switched off because the rule cannot bear them."""
        return tuple(name for name in CALM if getattr(self, name)) if self.rule == "lbfgs" else ()


def deepdream(
    net: Net,
    picture: Array,
    settings: DeepDream,
    *,
    guide: Array | None = None,
    mask: Array | None = None,
    resume: Frame | None = None,
) -> Iterator[Frame]:
    """Dream of this picture (N, H, W, 3), 0..255. The guide has any size, the mask is (1, H, W, 1), 0..1."""
    net = prepared(net, slide=settings.slide)
    at_size, way = partial(objective_at, net, picture, settings, guide), settings.way(mask)
    if settings.max_memory:
        way = replace(way, plan=planned_within(net, picture, settings, at_size(picture.shape[1:3])))
    return dream_in_octaves(
        net,
        picture,
        at_size,
        way,
        steps=settings.steps,
        octaves=settings.octaves,
        factor=settings.factor,
        rng=np.random.default_rng(settings.seed),
        resume=resume,
    )


def planned_within(net: Net, picture: Array, settings: DeepDream, objective: Objective) -> Plan:
    """How the net looks at pictures up to this one within the memory that the settings allow."""
    limit, canvas, rule = settings.max_memory or None, settings.canvas, settings.optimiser()
    return plan_within(net, picture, objective.layers, max_memory=limit, canvas=canvas, rule=rule)


def prepared(net: Net, *, slide: bool = False) -> Net:
    """The net for pictures of any size: a mean picture becomes a mean colour, and what can slide does."""
    mean = getattr(net.preprocess, "mean", ())
    if isinstance(mean, np.ndarray) and mean.ndim == 3:
        net = net.with_nodes(
            net.nodes, preprocess=replace(net.preprocess, mean=tuple(mean.mean(axis=(0, 1))))
        )
    return net.as_convolutional() if slide else net


def layers_of(net: Net, settings: DeepDream) -> tuple[str, ...]:
    """The layers asked for; or the favourite; or what is behind a convolution three quarters up."""
    if settings.layers:
        return tuple(named(net, layer) for layer in settings.layers)
    for name in FAVOURITES:
        if name in net.names:
            return (name,)
    convolutions = [node.name for node in net.nodes if isinstance(node.layer, Conv)]
    if not convolutions:
        raise UsageError(
            f"a net without convolutions has no favourite layer: choose of {', '.join(net.names)}"
        )
    return (rectified(net, convolutions[len(convolutions) * 3 // 4]),)


def rectified(net: Net, name: str) -> str:
    """The ReLU behind a convolution, perhaps with a norm between; without one, the convolution itself."""
    reached = {name}
    for node in net.nodes:
        if reached & set(node.inputs):
            if isinstance(node.layer, ReLU):
                return node.name
            if isinstance(node.layer, BatchNorm):
                reached.add(node.name)
    return name


def objective_of(
    net: Net,
    picture: Array,
    settings: DeepDream,
    guide: Array | None = None,
    *,
    whole: tuple[int, ...] | None = None,
) -> Objective:
    """The objective that the settings ask for, at layers that the picture is large enough for.

    `whole` is the shape of the whole picture, if this is an octave of it.
    """

    def response(to: Array) -> Any:
        def of(layer: Handle) -> Array:
            return net.forwardto(net.init_res(), layer, as_seen(net, to), keep="needed")

        return of

    alike = "guide" in settings.objective and guide is not None
    shown = sized(guide, picture.shape[1:3]) if alike and guide is not None else guide
    return parsed(
        settings.objective,
        net,
        layers_of(net, settings),
        shape=seen_shape(net, picture.shape),
        whole=seen_shape(net, whole or picture.shape),
        guide=None if shown is None else response(shown),
        original=response(picture),
    )


def objective_at(
    net: Net, picture: Array, settings: DeepDream, guide: Array | None, size: tuple[int, int]
) -> Objective:
    """The same for the octave of that size: guides must have the size of the picture."""
    return objective_of(net, sized(picture, size), settings, guide, whole=picture.shape)


def planned(net: Net, picture: Array, settings: DeepDream, objective: Objective) -> Sequence[tuple[int, int]]:
    """The sizes of the octaves that will be dreamed."""
    return fitting_sizes(net, objective, picture, settings.octaves, settings.factor)
