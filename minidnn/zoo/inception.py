"""The stem of Inception v3 (Szegedy et al. 2016) up to mixed_4, as TensorFlow released it in December 2015.

Layers have its names, batch norm is folded into the filters, and means do not count the padding. A module is
called as what it hands on, so mixed_4 is all that mixed_4 makes.
"""

from __future__ import annotations

from dataclasses import replace

from minidnn.graph import Node
from minidnn.images import PRESETS
from minidnn.layers import AvgPool, Concat, Conv, Layer, MaxPool, ReLU
from minidnn.layers.base import Rng
from minidnn.layers.conv import Pair
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.blocks import follow

MEAN = AvgPool(Window.of(3, pad=1), "real")
POOL = MaxPool(Window.of(3, stride=2))


def inception_v3_stem(rng: Rng = None) -> Net:
    """conv … mixed_4: 92 layers, 3,437,856 parameters. No rng: no weights yet."""

    def conv(name: str, size: Pair, c: int, k: int, *, stride: int = 1, pad: bool = True) -> dict[str, Layer]:
        kh, kw = (size, size) if isinstance(size, int) else size
        pads = (kh // 2, kh // 2, kw // 2, kw // 2) if pad else 0
        return {name: Conv.random(rng, size, c, k, stride=stride, pad=pads), f"{name}/relu": ReLU()}

    def module(name: str, before: str, *ways: dict[str, Layer]) -> str:
        ends = [follow(nodes, before, {f"{name}/{n}": layer for n, layer in way.items()}) for way in ways]
        nodes.append(Node(name, Concat(), tuple(ends)))
        return name

    nodes: list[Node] = []
    stem = {
        **conv("conv", 3, 3, 32, stride=2, pad=False),  # 149x149
        **conv("conv_1", 3, 32, 32, pad=False),  # 147x147
        **conv("conv_2", 3, 32, 64),
        "pool": POOL,  # 73x73
        **conv("conv_3", 1, 64, 80),
        **conv("conv_4", 3, 80, 192, pad=False),  # 71x71
        "pool_1": POOL,  # 35x35
    }
    before, c = follow(nodes, "data", stem), 192
    for name, k in [("mixed", 32), ("mixed_1", 64), ("mixed_2", 64)]:
        before = module(
            name,
            before,
            conv("conv", 1, c, 64),
            conv("tower/conv", 1, c, 48) | conv("tower/conv_1", 5, 48, 64),
            conv("tower_1/conv", 1, c, 64)
            | conv("tower_1/conv_1", 3, 64, 96)
            | conv("tower_1/conv_2", 3, 96, 96),
            {"tower_2/pool": MEAN} | conv("tower_2/conv", 1, c, k),
        )
        c = 64 + 64 + 96 + k
    before = module(
        "mixed_3",  # 17x17
        before,
        conv("conv", 3, c, 384, stride=2, pad=False),
        conv("tower/conv", 1, c, 64)
        | conv("tower/conv_1", 3, 64, 96)
        | conv("tower/conv_2", 3, 96, 96, stride=2, pad=False),
        {"pool": POOL},
    )
    c = 384 + 96 + c
    wide, tall = (1, 7), (7, 1)
    module(
        "mixed_4",
        before,
        conv("conv", 1, c, 192),
        conv("tower/conv", 1, c, 128)
        | conv("tower/conv_1", wide, 128, 128)
        | conv("tower/conv_2", tall, 128, 192),
        conv("tower_1/conv", 1, c, 128)
        | conv("tower_1/conv_1", tall, 128, 128)
        | conv("tower_1/conv_2", wide, 128, 128)
        | conv("tower_1/conv_3", tall, 128, 128)
        | conv("tower_1/conv_4", wide, 128, 192),
        {"tower_2/pool": MEAN} | conv("tower_2/conv", 1, c, 192),
    )
    return Net(nodes, input_shape=(299, 299, 3), preprocess=replace(PRESETS["tf"], size=(299, 299)))
