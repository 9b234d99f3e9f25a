"""Which of a net's layers learn, where not all do."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from minidnn.errors import UnknownLayerError, UsageError, did_you_mean
from minidnn.net import Net
from minidnn.params import sharers


class Learning(NamedTuple):
    """What moves: arrays by their names in net.params; and the layers that stay, in front of those that move.

    Nothing that lies before those walls needs a gradient, nor to know that it is being trained on.
    """

    arrays: frozenset[str]
    walls: tuple[str, ...]


def learning(net: Net, patterns: Iterable[str], end: str) -> Learning:
    """Layers by name or pattern (`conv10`, `fire9/*`); what they share with others moves for these too."""
    able = [node.name for node in net.nodes if node.layer.params]
    chosen: set[str] = set()
    for pattern in patterns:
        matching = [name for name in able if name == pattern or fnmatchcase(name, pattern)]
        if not matching:
            near = did_you_mean(pattern, able)
            raise UnknownLayerError(f"no layer {pattern!r} that has weights to learn{near}")
        chosen.update(matching)
    shared = [
        holders for holders, _ in sharers(net.nodes, "params") if chosen & {name for name, _ in holders}
    ]
    arrays = frozenset("/".join(holders[0]) for holders in shared)
    holding = {name for holders in shared for name, _ in holders}
    moving = (holding | net.descendants(holding)) & net.ancestors([end])
    if not moving:
        raise UsageError(f"{', '.join(sorted(chosen))}: not on the way to {end!r}; nothing would be learned")
    read = {name for node in net.nodes if node.name in moving for name in node.inputs} - moving
    return Learning(arrays, tuple(name for name in net.names if name in read))
