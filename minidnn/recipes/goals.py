"""Objectives in words: `norm`, `channel:12`, `0.5*norm(conv3_3) + class:bee eater`.

A term is  [number *] kind [: argument] [(layer)];  without a layer it stands for each of those asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import reduce
from math import isfinite
from operator import add
from typing import NamedTuple

import numpy as np

from minidnn.arrays import Array, to_device
from minidnn.dream import objectives as z
from minidnn.dream.objectives import Objective
from minidnn.errors import UsageError, did_you_mean
from minidnn.graph import Handle
from minidnn.layers import Softmax
from minidnn.net import Net

TERM = re.compile(
    r"\s*(?:(?P<factor>-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)\s*\*\s*)?(?P<kind>[a-z-]+)"
    r"(?:\s*:\s*(?P<argument>[^()+*\s][^()+*]*?))?\s*(?:\(\s*(?P<layer>[^()\s][^()]*?)\s*\))?\s*"
)
FEW = 12  # classes that are named to those who asked for one that there is not
LONGEST = 1000  # characters of an objective; nobody types more, and a stranger's note shall not keep us busy
Shape = tuple[int, ...]
Respond = Callable[[Handle], Array]  # a layer's response to the guide, or to the first picture

# kind: what it makes grow. The text is the help of the command line.
KINDS = {
    "norm": "all of a layer, squared",
    "strongest": "strongest:10, the ten channels that are strongest just now",
    "channel": "channel:12, one feature map; channel:12,40 several",
    "neuron": "neuron:12 in the middle of the map, neuron:12@3,5 at row 3, column 5 of the largest",
    "direction": "direction:3,7,12, where these channels rise together",
    "class": "class:bee eater, before the softmax",
    "probability": "probability:bee eater, behind it",
    "guide": "likeness to the guide picture, place by place",
    "match": "likeness to whatever suits best on the guide picture",
    "caricature": "more of how it is",
    "diversity": "that the pictures of a batch differ",
}
PLAIN = ("norm", "guide", "match", "caricature", "diversity")  # nothing to say behind a colon


def parsed(
    text: str,
    net: Net,
    layers: Sequence[Handle],
    *,
    shape: Shape | None = None,
    whole: Shape | None = None,
    guide: Respond | None = None,
    original: Respond | None = None,
) -> Objective:
    """The objective that a text asks for; `guide` and `original` say how layers respond to those pictures.

    With the `shape` of the images that the net will see, numbers of channels are checked before the dream;
    places count on the map of the largest octave, of images of the shape `whole`.
    """
    if len(text) > LONGEST:
        raise UsageError(f"an objective of {len(text):,} characters; give at most {LONGEST:,}")
    about = _About(net, shape, whole or shape, guide, original)
    return reduce(add, [_term(part, about, layers) for part in re.split(r"\+(?![^(]*\))", text)])


class _About(NamedTuple):
    """What the words of an objective are about."""

    net: Net
    shape: Shape | None
    whole: Shape | None
    guide: Respond | None
    original: Respond | None

    def channels(self, layer: str) -> int | None:
        return None if self.shape is None else self.net.shapes(self.shape, upto=[layer])[layer][3]


def _term(text: str, about: _About, layers: Sequence[Handle]) -> Objective:
    found = TERM.fullmatch(text)
    if found is None:
        raise UsageError(
            f"objective {text.strip()!r}: say it as norm, channel:12 or 0.5*class:bee eater; "
            f"there are {', '.join(KINDS)}"
        )
    kind, argument, factor, net = found["kind"], found["argument"], float(found["factor"] or 1), about.net
    if not isfinite(factor):
        raise UsageError(f"objective {text.strip()!r}: its factor is {factor}; give a finite one")
    if kind not in KINDS:
        raise UsageError(f"no objective {kind!r}; there are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    where = [named(net, found["layer"])] if found["layer"] else [net.name_of(layer) for layer in layers]
    if kind in ("class", "probability"):
        where = [scores_of(net, after_softmax=kind == "probability")]
    whole = reduce(add, [_of(kind, argument, about, layer) for layer in where])
    return whole if factor == 1 else factor * whole


def _of(kind: str, argument: str | None, about: _About, layer: str) -> Objective:
    """One kind of objective at one layer."""
    if kind in PLAIN:
        if argument:
            raise UsageError(f"objective {kind!r} takes nothing behind the colon, found {argument!r}")
        return _plain(kind, about, layer)
    if argument is None:
        raise UsageError(f"objective {kind!r} lacks its argument: {KINDS[kind]}")
    channels = about.channels(layer)
    if kind in ("class", "probability"):
        k = class_number(about.net, argument)
        _check_channels([k], channels, kind, layer)
        return z.score(layer, k)
    number, _, place = argument.partition("@") if kind == "neuron" else (argument, "", "")
    numbers = _whole(number, kind, 1 if kind in ("neuron", "strongest") else None)
    if kind == "strongest":
        _check_channels([numbers[0] - 1], channels, kind, layer)
        return z.strongest(layer, numbers[0])
    _check_channels(numbers, channels, kind, layer)
    if kind == "neuron":
        return z.neuron(layer, numbers[0], _place(place, about, layer) if place else None)
    if kind == "channel":
        return reduce(add, [z.channel(layer, k) for k in numbers])
    towards = np.zeros(channels_of(about.net, layer) if channels is None else channels, about.net.dtype)
    towards[numbers] = 1
    return z.direction(layer, to_device(towards, about.net.device), cosine=1)


def _place(text: str, about: _About, layer: str) -> tuple[int, int]:
    """Row and column of a neuron: they count on the map of the whole picture, and mean a point of it.

    row there = floor((row + 1/2) * rows there / rows of the whole)
    """
    i, j = _whole(text, "neuron", 2)
    if about.shape is None or about.whole is None:
        return i, j
    h, w = about.net.shapes(about.whole, upto=[layer])[layer][1:3]
    if i >= h or j >= w:
        found = f"{layer!r} is a map of {h}x{w} for a picture of {about.whole[1]}x{about.whole[2]}"
        raise UsageError(f"objective neuron: {found}, it has no place {i},{j}")
    there = about.net.shapes(about.shape, upto=[layer])[layer]
    return int((i + 0.5) * there[1] / h), int((j + 0.5) * there[2] / w)


def _plain(kind: str, about: _About, layer: str) -> Objective:
    """One that takes no argument."""
    if kind == "norm":
        return z.squared_norm(layer)
    if kind == "diversity":
        if about.shape is not None and about.shape[0] < 2:
            raise UsageError("objective 'diversity' of one picture; only a batch of two or more can differ")
        return z.diversity(layer)
    if kind == "caricature":
        if about.original is None:
            raise UsageError("objective 'caricature' wants a first picture to start from")
        return z.caricature(layer, about.original(layer))
    if about.guide is None:
        raise UsageError(f"objective {kind!r} wants a guide picture: --guide PHOTO")
    return (z.guide_dot if kind == "guide" else z.best_match)(layer, about.guide(layer))


def named(net: Net, layer: str | int) -> str:
    """A layer by its name or number, as people type it."""
    return net.name_of(int(layer) if isinstance(layer, str) and layer.strip().isdecimal() else layer)


def scores_of(net: Net, *, after_softmax: bool) -> str:
    """The layer with one number for each class."""
    last = net.nodes[-1]
    if after_softmax:
        if not isinstance(last.layer, Softmax):
            raise UsageError(f"the net ends in {last.name!r}, which is no softmax: ask for class:… instead")
        return last.name
    return last.inputs[0] if isinstance(last.layer, Softmax) else last.name


def class_number(net: Net, wanted: str) -> int:
    """The number of a class by its number or by (part of) its name."""
    wanted = wanted.strip()
    if wanted.isdecimal():
        return int(wanted)
    if not net.classes:
        raise UsageError(f"the net knows no names of classes: ask for {wanted!r} by its number")
    words = {number: name.lower() for number, name in enumerate(net.classes)}
    exact = [k for k, name in words.items() if wanted.lower() in (part.strip() for part in name.split(","))]
    within = [k for k, name in words.items() if wanted.lower() in name]
    found = exact or within
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(f"{k} {net.classes[k]!r}" for k in found[:8])
        raise UsageError(f"{len(found)} classes are called {wanted!r}: {some}; say which, by its number")
    near = did_you_mean(wanted.lower(), [part.strip() for name in words.values() for part in name.split(",")])
    firsts = [name.partition(",")[0].strip() for name in net.classes[:FEW]]
    known = ", ".join(firsts) + ", …" * (len(net.classes) > FEW)
    raise UsageError(f"no class {wanted!r}{near or f'; there are {len(net.classes):,}: {known}'}")


def channels_of(net: Net, layer: str) -> int:
    """How many channels a layer has."""
    if net.input_shape is None:
        raise UsageError("the net does not know its input_shape: ask for channel:… instead of direction:…")
    return net.shapes((1, *net.input_shape), upto=[layer])[layer][3]


def _check_channels(numbers: Sequence[int], channels: int | None, kind: str, layer: str) -> None:
    if channels is not None and not 0 <= min(numbers) <= max(numbers) < channels:
        raise UsageError(f"objective {kind!r}: {layer!r} has {channels} channels, 0 to {channels - 1}")


def _whole(text: str, kind: str, count: int | None = None) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or (count is not None and len(numbers) != count):
        raise UsageError(f"objective {kind}:{text}: give whole numbers, as in {KINDS[kind]}")
    return numbers
