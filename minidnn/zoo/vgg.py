"""VGG (Simonyan & Zisserman 2015), as its table 1 has it: 3x3 filters all the way, the map halved five times.

As the converted models have it too: pools round up, and the dropout of training is there only if asked for.
"""

from __future__ import annotations

from minidnn import images
from minidnn.layers import FC, Conv, Dropout, Layer, MaxPool, ReLU, Softmax
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window

#              channels of the convolutions in each of the five stages
VGG16 = [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]  # configuration D
VGG19 = [[64] * 2, [128] * 2, [256] * 4, [512] * 4, [512] * 4]  # configuration E


def vgg16(rng: Rng = None, *, dropout: bool = False) -> Net:
    """conv1_1 … conv5_3, fc6, fc7, fc8, prob: 37 layers, 138,357,544 parameters. No rng: no weights yet."""
    return _vgg(VGG16, rng, dropout)


def vgg19(rng: Rng = None, *, dropout: bool = False) -> Net:
    """conv1_1 … conv5_4, fc6, fc7, fc8, prob: 43 layers, 143,667,240 parameters. No rng: no weights yet."""
    return _vgg(VGG19, rng, dropout)


def _vgg(stages: list[list[int]], rng: Rng, dropout: bool) -> Net:
    layers: dict[str, Layer] = {}
    c = 3
    for stage, channels in enumerate(stages, start=1):
        for number, k in enumerate(channels, start=1):
            layers[f"conv{stage}_{number}"] = Conv.random(rng, 3, c, k, pad=1)
            layers[f"relu{stage}_{number}"] = ReLU()
            c = k
        layers[f"pool{stage}"] = MaxPool(Window.of(2, stride=2, ceil=True))
    layers |= {
        "fc6": FC.random(rng, (7, 7, 512), 4096),
        "relu6": ReLU(),
        "drop6": Dropout(0.5),
        "fc7": FC.random(rng, (1, 1, 4096), 4096),
        "relu7": ReLU(),
        "drop7": Dropout(0.5),
        "fc8": FC.random(rng, (1, 1, 4096), 1000),
        "prob": Softmax(),
    }
    if not dropout:
        del layers["drop6"], layers["drop7"]
    return Net.chain(layers, input_shape=(224, 224, 3), preprocess=images.VGG)
