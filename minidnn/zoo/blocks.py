"""The pieces that several nets are made of. They return layers by name, ready to be one part of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minidnn.graph import Node
from minidnn.layers import FC, BatchNorm, Conv, Dropout, Layer, MaxPool, ReLU, Softmax
from minidnn.layers.base import Rng, drawn
from minidnn.layers.conv import Pair
from minidnn.window import Window

POOL_3_2 = MaxPool(Window.of(3, stride=2, ceil=True))  # as Caffe pools: windows overlap, the size rounds up


def follow(nodes: list[Node], before: str, layers: Mapping[str, Layer]) -> str:
    """Append a chain of layers that begins behind `before`; the name of its last one."""
    for name, layer in layers.items():
        nodes.append(Node(name, layer, (before,)))
        before = name
    return before


def conv_relu(rng: Rng, number: int | str, kernel: Pair, c: int, k: int, **geometry: Any) -> dict[str, Layer]:
    """conv<number> and relu<number>: k filters over c channels."""
    return {f"conv{number}": Conv.random(rng, kernel, c, k, **geometry), f"relu{number}": ReLU()}


def classifier(rng: Rng, x_size: Sequence[int], *, hidden: int, k: int, dropout: bool) -> dict[str, Layer]:
    """fc6, fc7, fc8 and prob for k classes, as AlexNet has them; drop6 and drop7 only if asked for."""
    layers: dict[str, Layer] = {
        "fc6": FC.random(rng, x_size, hidden),
        "relu6": ReLU(),
        "drop6": Dropout(0.5),
        "fc7": FC.random(rng, (1, 1, hidden), hidden),
        "relu7": ReLU(),
        "drop7": Dropout(0.5),
        "fc8": FC.random(rng, (1, 1, hidden), k),
        "prob": Softmax(),
    }
    return layers if dropout else without_dropout(layers)


def without_dropout(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    return {name: layer for name, layer in layers.items() if not isinstance(layer, Dropout)}


def batch_norm(rng: Rng, c: int) -> BatchNorm:
    """One that as yet changes nothing: mean 0, variance 1, scale 1, shift 0. No rng: no weights yet."""
    if rng is None:
        return BatchNorm(*(drawn(None, (c,), 1) for _ in range(4)))
    zeros, ones = np.zeros(c, "float32"), np.ones(c, "float32")
    return BatchNorm(ones, zeros, zeros.copy(), ones.copy())
