"""SqueezeNet (Iandola et al. 2016): fire modules squeeze the channels, then expand them two ways, and join.

Names and paddings are those of the authors' Caffe models; that of 1.0 pads its 1x1 filters at the end by 1.
"""

from __future__ import annotations

from minidnn.graph import Node
from minidnn.images import PRESETS
from minidnn.layers import Concat, Conv, Dropout, GlobalAvgPool, Layer, ReLU, Softmax
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.zoo.blocks import POOL_3_2, follow, without_dropout

#        squeezed, expanded each way
FIRES = {
    "fire2": (16, 64),
    "fire3": (16, 64),
    "fire4": (32, 128),
    "fire5": (32, 128),
    "fire6": (48, 192),
    "fire7": (48, 192),
    "fire8": (64, 256),
    "fire9": (64, 256),
}


def squeezenet_1_0(rng: Rng = None, *, dropout: bool = False) -> Net:
    """conv1, fire2 … fire9, conv10: 65 layers, 1,248,424 parameters. No rng: no weights yet."""
    return _squeezenet(rng, dropout, kernel=7, k=96, pools={"fire4": "pool4", "fire8": "pool8"}, last_pad=1)


def squeezenet_1_1(rng: Rng = None, *, dropout: bool = False) -> Net:
    """The same with smaller first filters and earlier pools: 1,235,496 parameters, 2.4 times less work."""
    return _squeezenet(rng, dropout, kernel=3, k=64, pools={"fire3": "pool3", "fire5": "pool5"}, last_pad=0)


def _squeezenet(rng: Rng, dropout: bool, *, kernel: int, k: int, pools: dict[str, str], last_pad: int) -> Net:
    """`pools` says which pool stands behind which fire."""
    nodes: list[Node] = []
    first = {"conv1": Conv.random(rng, kernel, 3, k, stride=2), "relu_conv1": ReLU(), "pool1": POOL_3_2}
    before, c = follow(nodes, "data", first), k
    for fire, (squeezed, expanded) in FIRES.items():
        before = _fire(nodes, before, fire, rng, c, squeezed, expanded)
        c = 2 * expanded
        if fire in pools:
            before = follow(nodes, before, {pools[fire]: POOL_3_2})
    last = {
        "drop9": Dropout(0.5),
        "conv10": Conv.random(rng, 1, c, 1000, pad=last_pad),
        "relu_conv10": ReLU(),
        "pool10": GlobalAvgPool(),
        "prob": Softmax(),
    }
    follow(nodes, before, last if dropout else without_dropout(last))
    return Net(nodes, input_shape=(227, 227, 3), preprocess=PRESETS["caffe"])


def _fire(nodes: list[Node], before: str, fire: str, rng: Rng, c: int, squeezed: int, expanded: int) -> str:
    squeeze = _conv_relu(rng, fire, "squeeze1x1", 1, c, squeezed)
    narrow = follow(nodes, before, squeeze)
    ways = [
        follow(nodes, narrow, _conv_relu(rng, fire, f"expand{size}x{size}", size, squeezed, expanded))
        for size in (1, 3)
    ]
    nodes.append(Node(f"{fire}/concat", Concat(), tuple(ways)))
    return f"{fire}/concat"


def _conv_relu(rng: Rng, fire: str, what: str, size: int, c: int, k: int) -> dict[str, Layer]:
    return {f"{fire}/{what}": Conv.random(rng, size, c, k, pad=size // 2), f"{fire}/relu_{what}": ReLU()}
