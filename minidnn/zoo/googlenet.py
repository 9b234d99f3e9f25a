"""GoogLeNet (Szegedy et al. 2015, table 1) as BVLC trained it for Caffe: nine inception modules.

Without the two side classifiers, which are there in training only. torchvision's googlenet is another net.
"""

from __future__ import annotations

from dataclasses import replace

from minidnn.graph import Node
from minidnn.images import PRESETS
from minidnn.layers import FC, LRN, AvgPool, Concat, Conv, Dropout, Layer, MaxPool, ReLU, Softmax
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.blocks import POOL_3_2, follow, without_dropout

BGR_224 = replace(PRESETS["caffe"], size=(224, 224))

#   1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
POOL_BEHIND = {"3b": "pool3/3x3_s2", "4e": "pool4/3x3_s2"}


def googlenet(rng: Rng = None, *, classes: int = 1000, dropout: bool = False) -> Net:
    """conv1/7x7_s2 … inception_5b/output, prob: 141 layers, 6,998,552 parameters. No rng: no weights yet."""
    nodes: list[Node] = []
    before = follow(nodes, "data", _stem(rng))
    c = 192
    for module, widths in MODULES.items():
        before = _inception(nodes, before, f"inception_{module}", rng, c, widths)
        c = widths[0] + widths[2] + widths[4] + widths[5]
        if module in POOL_BEHIND:
            before = follow(nodes, before, {POOL_BEHIND[module]: POOL_3_2})
    last = {
        "pool5/7x7_s1": AvgPool(Window.of(7), "padded"),
        "pool5/drop_7x7_s1": Dropout(0.4),
        "loss3/classifier": FC.random(rng, (1, 1, c), classes),
        "prob": Softmax(),
    }
    follow(nodes, before, last if dropout else without_dropout(last))
    return Net(nodes, input_shape=(224, 224, 3), preprocess=BGR_224)


def _stem(rng: Rng) -> dict[str, Layer]:
    return {
        "conv1/7x7_s2": Conv.random(rng, 7, 3, 64, stride=2, pad=3),  # 112x112
        "conv1/relu_7x7": ReLU(),
        "pool1/3x3_s2": POOL_3_2,  # 56x56
        "pool1/norm1": LRN(),
        "conv2/3x3_reduce": Conv.random(rng, 1, 64, 64),
        "conv2/relu_3x3_reduce": ReLU(),
        "conv2/3x3": Conv.random(rng, 3, 64, 192, pad=1),
        "conv2/relu_3x3": ReLU(),
        "conv2/norm2": LRN(),
        "pool2/3x3_s2": POOL_3_2,  # 28x28
    }


def _inception(
    nodes: list[Node], before: str, at: str, rng: Rng, c: int, widths: tuple[int, int, int, int, int, int]
) -> str:
    """Four ways side by side: 1x1; 3x3 and 5x5, each behind a reduction; and a pool with a projection."""
    k1, r3, k3, r5, k5, projected = widths

    def conv(what: str, size: int, c: int, k: int) -> dict[str, Layer]:
        layer = Conv.random(rng, size, c, k, pad=size // 2)
        return {f"{at}/{what}": layer, f"{at}/relu_{what}": ReLU()}

    ways = [
        conv("1x1", 1, c, k1),
        conv("3x3_reduce", 1, c, r3) | conv("3x3", 3, r3, k3),
        conv("5x5_reduce", 1, c, r5) | conv("5x5", 5, r5, k5),
        {f"{at}/pool": MaxPool(Window.of(3, pad=1))} | conv("pool_proj", 1, c, projected),
    ]
    nodes.append(Node(f"{at}/output", Concat(), tuple([follow(nodes, before, way) for way in ways])))
    return f"{at}/output"
