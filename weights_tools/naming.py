"""A net that its file wires itself gets the names that the zoo gives its layers: conv1_1 … conv5_3, fc6.

The file's own geometry stays as it is, and its own names go on to work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minidnn import zoo
from minidnn.errors import MismatchError, UsageError
from minidnn.graph import Node
from minidnn.layers import FC, Conv, Dropout, Flatten
from minidnn.net import Net
from minidnn.weights.index import is_allowed

Settings = Mapping[str, str]
NOTHING: Settings = {}
MAX_NAME = 190  # characters: our files allow 200
PASSING_ON = (Dropout, Flatten)  # what one file has and another has not, with the same result


@dataclass(frozen=True)
class Match:
    """A net with weights, the name of the net in the zoo that it is, if any, and how that was found."""

    net: Net
    arch: str | None
    steps: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def shapes_of(name: str, settings: Settings = NOTHING) -> Net:
    """A net of the zoo without its weights; its settings as they were said: {"pool": "max"}."""
    known = zoo.options_of(name)
    options: dict[str, Any] = {}
    for option, words in settings.items():
        like = known.get(option)
        if isinstance(like, bool) and words in ("true", "false"):
            options[option] = words == "true"
        elif isinstance(like, int) and not isinstance(like, bool) and words.isdecimal() and len(words) < 6:
            options[option] = int(words)
        elif like is None or isinstance(like, str):  # None: no option of this net, as zoo.get will say
            options[option] = words
        else:
            wanted = "true or false" if isinstance(like, bool) else "a whole number"
            raise UsageError(f"--set {option}={words}: {wanted} is wanted")
    return zoo.get(name, seed=None, **options)


def named_like_the_zoo(net: Net, arch: str | None = None, settings: Settings = NOTHING) -> Match:
    """The same net with the zoo's names where its convolutions are those of one; its own names still work."""
    candidates = [arch] if arch is not None else list(zoo.NETS)
    best: tuple[int, str, dict[str, str]] | None = None
    for name in candidates:
        found = _counterparts(net, shapes_of(name, settings))
        if found and (best is None or len(found) > best[0]):
            best = len(found), name, found
    if best is None and arch is not None:
        raise MismatchError(f"not {arch}: {_first_unlike(net, shapes_of(arch, settings))}; leave --arch out")
    if best is None:
        return Match(net, None, ("no net of the zoo has these convolutions: the file's own names stay",))
    _, name, names = best
    renamed = _renamed(net, names)
    step = f"the convolutions are those of {name}; {len(names) - 1} of {len(net.nodes)} layers have its names"
    return Match(renamed, name, (step,))


def _counterparts(net: Net, like: Net) -> dict[str, str] | None:
    """{this net's name: the other's}, if all convolutions of the other are the first of this one."""
    ours, wanted = _filters(net), _filters(like)
    convs = [layer for _, layer in wanted if isinstance(layer, Conv)]
    if len(ours) < len(convs) or len(convs) < 2:
        return None
    if any(mine.w.shape != theirs.w.shape for (_, mine), theirs in zip(ours, convs, strict=False)):
        return None
    names = {net.input: like.input}
    for (own_name, mine), (name, theirs) in zip(ours, wanted, strict=False):
        if mine.w.size != theirs.w.size or mine.w.shape[3] != theirs.w.shape[3]:
            break
        names[own_name] = name
    return names | _between(net, like, names)


def _between(net: Net, like: Net, banks: Mapping[str, str]) -> dict[str, str]:
    """The layers without weights: of the same kind, and reading the same."""
    names, ours, theirs = dict(banks), _sources(net), _sources(like)
    places: dict[tuple[type, tuple[str, ...]], list[str]] = {}
    for node in like.nodes:
        if node.name not in banks.values() and not isinstance(node.layer, Conv | FC):
            place = type(node.layer), tuple(theirs[name] for name in node.inputs)
            places.setdefault(place, []).append(node.name)
    for node in net.nodes:
        if node.name not in banks and not isinstance(node.layer, PASSING_ON):
            place = type(node.layer), tuple(names.get(ours[name], "") for name in node.inputs)
            if free := places.get(place):
                names[node.name] = free.pop(0)
    return names


def _sources(net: Net) -> dict[str, str]:
    """For each layer the one whose numbers it hands on: itself, but for dropout and the like."""
    found = {net.input: net.input}
    for node in net.nodes:
        found[node.name] = found[node.inputs[0]] if isinstance(node.layer, PASSING_ON) else node.name
    return found


def _first_unlike(net: Net, like: Net) -> str:
    ours, wanted = _filters(net), _filters(like)
    for (own_name, mine), (name, theirs) in zip(ours, wanted, strict=False):
        if mine.w.shape != theirs.w.shape:
            return f"{own_name!r} has filters {mine.w.shape}, {name!r} {theirs.w.shape}"
    return f"the file has {len(ours)} layers with filters, the net has {len(wanted)}"


def _renamed(net: Net, names: Mapping[str, str]) -> Net:
    taken = set(names.values())
    full = dict(names)
    for node in net.nodes:  # a name that now means another layer
        if node.name not in full:
            full[node.name] = _free(node.name, taken)
            taken.add(full[node.name])
    nodes = [
        Node(full[node.name], node.layer, tuple(full[name] for name in node.inputs)) for node in net.nodes
    ]
    new = {full[name] for name in net.names}
    aliases = {old: name for old, name in full.items() if old != name and old not in new}
    about = {**net.about, "aliases": aliases | {old: full[name] for old, name in net.aliases.items()}}
    return Net(nodes, full[net.input], **about)


def storable(net: Net) -> Net:
    """The same net under names that our files allow: other letters become `_`. The old names still work."""
    names = {name: re.sub(r"[^A-Za-z0-9_./-]", "_", name)[:MAX_NAME] for name in net.names}
    wrong = {name: new for name, new in names.items() if not is_allowed(name)}
    if not wrong:
        return net
    taken = set(net.names) - wrong.keys()
    for name, new in wrong.items():
        parts = [part for part in new.split("/") if part not in ("", ".", "..")]
        names[name] = _free("/".join(parts) or "layer", taken)
        taken.add(names[name])
    return _renamed(net, names)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _filters(net: Net) -> list[tuple[str, Conv | FC]]:
    return [(node.name, node.layer) for node in net.nodes if isinstance(node.layer, Conv | FC)]
