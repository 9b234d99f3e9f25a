"""Objectives in words: `norm`, `channel:12`, `0.5*norm(conv3_3) + class:bee eater`.

A term is  [number *] kind [: argument] [(layer)];  without a layer it stands for each of those asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import numpy as np

from minidnn.arrays import Array
from minidnn.dream import objectives as z
from minidnn.dream.objectives import Objective
from minidnn.errors import UsageError, did_you_mean
from minidnn.graph import Handle
from minidnn.layers import Softmax
from minidnn.net import Net

TERM = re.compile(
    r"\s*(?:(?P<factor>-?[\d.]+(?:e-?\d+)?)\s*\*\s*)?(?P<kind>[a-z-]+)"
    r"(?:\s*:\s*(?P<argument>[^()+*]+?))?\s*(?:\(\s*(?P<layer>[^()]+?)\s*\))?\s*"
)
Respond = Callable[[Handle], Array]  # a layer's response to the guide, or to the first picture

# kind: what it makes grow. The text is the help of the command line.
KINDS = {
    "norm": "all of a layer, squared",
    "strongest": "strongest:10, the ten channels that are strongest just now",
    "channel": "channel:12, one feature map; channel:12,40 several",
    "neuron": "neuron:12 in the middle of the map, neuron:12@3,5 at row 3, column 5",
    "direction": "direction:3,7,12, where these channels rise together",
    "class": "class:bee eater, before the softmax",
    "probability": "probability:bee eater, behind it",
    "guide": "likeness to the guide picture, place by place",
    "match": "likeness to whatever suits best on the guide picture",
    "caricature": "more of how it is",
    "diversity": "that the pictures of a batch differ",
}


def parsed(
    text: str,
    net: Net,
    layers: Sequence[Handle],
    *,
    guide: Respond | None = None,
    original: Respond | None = None,
) -> Objective:
    """The objective that a text asks for; `guide` and `original` say how layers respond to those pictures."""
    terms = [_term(part, net, layers, guide, original) for part in re.split(r"\+(?![^(]*\))", text)]
    return reduce(add, terms)


def _term(
    text: str, net: Net, layers: Sequence[Handle], guide: Respond | None, original: Respond | None
) -> Objective:
    found = TERM.fullmatch(text)
    if found is None:
        raise UsageError(
            f"objective {text.strip()!r}: say it as norm, channel:12 or 0.5*class:bee eater; "
            f"there are {', '.join(KINDS)}"
        )
    kind, argument, factor = found["kind"], found["argument"], float(found["factor"] or 1)
    if kind not in KINDS:
        raise UsageError(f"no objective {kind!r}; there are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    where = [named(net, found["layer"])] if found["layer"] else [net.name_of(layer) for layer in layers]
    if kind in ("class", "probability"):
        where = [scores_of(net, after_softmax=kind == "probability")]
    parts = [_of(kind, argument, net, layer, guide, original) for layer in where]
    whole = reduce(add, parts)
    return whole if factor == 1 else factor * whole


def _of(
    kind: str, argument: str | None, net: Net, layer: str, guide: Respond | None, original: Respond | None
) -> Objective:
    """One kind of objective at one layer."""
    if kind in ("guide", "match"):
        if guide is None:
            raise UsageError(f"objective {kind!r} wants a guide picture: --guide PHOTO")
        return (z.guide_dot if kind == "guide" else z.best_match)(layer, guide(layer))
    if kind == "caricature":
        if original is None:
            raise UsageError("objective 'caricature' wants a first picture to start from")
        return z.caricature(layer, original(layer))
    if kind in ("norm", "diversity"):
        if argument:
            raise UsageError(f"objective {kind!r} takes nothing behind the colon, found {argument!r}")
        return z.squared_norm(layer) if kind == "norm" else z.diversity(layer)
    if argument is None:
        raise UsageError(f"objective {kind!r} lacks its argument: {KINDS[kind]}")
    if kind in ("class", "probability"):
        return z.score(layer, class_number(net, argument))
    if kind == "neuron":
        k, _, place = argument.partition("@")
        at = tuple(_whole(place, kind, 2)) if place else None
        return z.neuron(layer, _whole(k, kind, 1)[0], at)  # type: ignore[arg-type]
    numbers = _whole(argument, kind)
    if kind == "strongest":
        return z.strongest(layer, numbers[0])
    if kind == "channel":
        return reduce(add, [z.channel(layer, k) for k in numbers])
    towards = np.zeros(channels_of(net, layer), net.dtype)
    towards[numbers] = 1
    return z.direction(layer, towards, cosine=1)


def named(net: Net, layer: str | int) -> str:
    """A layer by its name or number, as people type it."""
    return net.name_of(int(layer) if isinstance(layer, str) and layer.strip().isdigit() else layer)


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
    if wanted.isdigit():
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
        raise UsageError(f"{len(found)} classes are called {wanted!r}: {some}; say which, by number or name")
    near = did_you_mean(wanted.lower(), [part.strip() for name in words.values() for part in name.split(",")])
    raise UsageError(f"no class {wanted!r}{near}")


def channels_of(net: Net, layer: str) -> int:
    """How many channels a layer has."""
    if net.input_shape is None:
        raise UsageError("the net does not know its input_shape: ask for channel:… instead of direction:…")
    return net.shapes((1, *net.input_shape), upto=[layer])[layer][3]


def _whole(text: str, kind: str, count: int | None = None) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or (count is not None and len(numbers) != count):
        raise UsageError(f"objective {kind}:{text}: give whole numbers, as in {KINDS[kind]}")
    return numbers
