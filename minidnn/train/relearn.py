"""A trained net for other pictures: the same layers, and a new end with answers for other classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from minidnn.errors import MismatchError, UsageError
from minidnn.graph import Handle, Node
from minidnn.layers import FC, Conv, GlobalAvgPool, Softmax
from minidnn.net import Net
from minidnn.train.featurefile import Features
from minidnn.train.heads import Head
from minidnn.weights import digest

Rng = np.random.Generator | None


def replace_head(net: Net, classes: Sequence[str], *, after: Handle | None = None, rng: Rng = None) -> Net:
    """The net with other answers: its last layer with filters made anew, for these classes.

    With `after` all behind that layer goes, and what comes instead is the mean over the map, one layer of
    weights, a softmax. The weights are drawn by `rng`, by default always the same.
    """
    _check_classes(classes)
    rng = np.random.default_rng(0) if rng is None else rng
    if after is not None:
        kept, channels = _upto(net, after)
        return _ended(net, kept, FC.random(rng, (1, 1, channels), len(classes)), classes)
    able = [(i, node.layer) for i, node in enumerate(net.nodes) if isinstance(node.layer, FC | Conv)]
    if not able:
        raise UsageError("the net has no layer with filters to replace; say behind which a new end comes")
    number, layer = able[-1]
    last, behind = net.nodes[number], net.nodes[number + 1 :]
    if bound := [node.name for node in behind if node.layer.params or node.layer.buffers]:
        found = f"{bound[0]!r} behind {last.name!r} has weights for its old answers"
        raise UsageError(f"{found}; say behind which layer a new end comes")
    nodes = [*net.nodes[:number], last._replace(layer=_anew(layer, len(classes), rng)), *behind]
    return net.with_nodes(nodes, classes=tuple(classes))


def with_head(net: Net, features: Features, key: str, head: Head) -> Net:
    """The net that says what the head on its features said: layer, mean, the head's weights, softmax.

        w' = scale * w          b' = b - (mean * scale) w

    So `minidnn classify` can use it, and training can begin with it.
    """
    layer, _, pool = key.rpartition(":")
    if pool != "mean" or head.normalise != "standard":
        found = f"pooled by {pool!r}, normalised by {head.normalise!r}"
        raise UsageError(
            f"a net takes heads on the mean of standard features, found {found}; make such a one"
        )
    if digest(net, upto=features.about["layers"]) != features.about["digest"]:
        raise MismatchError(
            f"{features.path}: features of {features.about['net']}, another net than this one"
        )
    kept, channels = _upto(net, layer)
    if channels != len(head.w):
        raise MismatchError(
            f"the head reads {len(head.w):,} features, {layer!r} has {channels:,}; name its layer"
        )
    w = (head.scale[:, None] * head.w).astype(net.dtype)
    b = (head.b - head.mean.astype(float) @ (head.scale[:, None] * head.w)).astype(net.dtype)
    made = _ended(net, kept, FC(w[None, None], b), features.classes)
    size = tuple(features.about["size"])
    seen = replace(net.preprocess, size=size, resize=min(size))  # as the pictures were brought to it
    return made.with_nodes(made.nodes, preprocess=seen, input_shape=(*size, seen.channels))


def _anew(layer: FC | Conv, count: int, rng: np.random.Generator) -> FC | Conv:
    kh, kw, c, _ = layer.w.shape
    if isinstance(layer, FC):
        return FC.random(rng, (kh, kw, c), count)
    fresh = FC.random(rng, (kh, kw, c * layer.groups), count)
    return Conv(fresh.w, fresh.b, layer.window)


def _upto(net: Net, layer: Handle) -> tuple[list[Node], int]:
    """What a layer is computed from, it too, and how many channels it has."""
    name = net.name_of(layer)
    if net.input_shape is None:
        raise UsageError("made for images of no particular size: give the net its input_shape=(h, w, c)")
    needed = net.ancestors([name])
    channels = net.shapes((1, *net.input_shape), upto=[name])[name][3]
    kept = [node for node in net.nodes if node.name in needed]
    if not kept or kept[-1].name != name:
        raise UsageError(f"{name!r} is the input of the net; name a layer")
    return kept, channels


def _ended(net: Net, kept: list[Node], head: FC, classes: Sequence[str]) -> Net:
    """The nodes, then the mean over the map, the head, a softmax."""
    taken, before = {net.input, *(node.name for node in kept)}, kept[-1].name
    for name, layer in (("mean", GlobalAvgPool()), ("head", head), ("prob", Softmax())):
        while name in taken:
            name += "_new"
        kept.append(Node(name, layer, (before,)))
        before = name
    aliases = {other: name for other, name in net.aliases.items() if name in taken}
    return net.with_nodes(kept, classes=tuple(classes), aliases=aliases)


def _check_classes(classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise UsageError(f"{len(classes)} classes to tell apart; give two or more")
    if isinstance(classes, str):
        raise UsageError(f"classes {classes!r}: give a list of names")
