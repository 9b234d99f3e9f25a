"""VGG (Simonyan & Zisserman 2015), as its table 1 has it: 3x3 filters all the way, the map halved five times.

As the converted models have it too: pools round up, and the dropout of training is there only if asked for.
"""

from __future__ import annotations

from minidnn import images
from minidnn.layers import Layer, MaxPool
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.blocks import classifier, conv_relu

#              channels of the convolutions in each of the five stages
VGG11 = [[64] * 1, [128] * 1, [256] * 2, [512] * 2, [512] * 2]  # configuration A
VGG13 = [[64] * 2, [128] * 2, [256] * 2, [512] * 2, [512] * 2]  # configuration B
VGG16 = [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]  # configuration D
VGG19 = [[64] * 2, [128] * 2, [256] * 4, [512] * 4, [512] * 4]  # configuration E


def vgg11(rng: Rng = None, *, classes: int = 1000, dropout: bool = False) -> Net:
    """conv1_1 … conv5_2, fc6, fc7, fc8, prob: 27 layers, 132,863,336 parameters. No rng: no weights yet."""
    return _vgg(VGG11, rng, classes, dropout)


def vgg13(rng: Rng = None, *, classes: int = 1000, dropout: bool = False) -> Net:
    """conv1_1 … conv5_2, fc6, fc7, fc8, prob: 31 layers, 133,047,848 parameters. No rng: no weights yet."""
    return _vgg(VGG13, rng, classes, dropout)


def vgg16(rng: Rng = None, *, classes: int = 1000, dropout: bool = False) -> Net:
    """conv1_1 … conv5_3, fc6, fc7, fc8, prob: 37 layers, 138,357,544 parameters. No rng: no weights yet."""
    return _vgg(VGG16, rng, classes, dropout)


def vgg19(rng: Rng = None, *, classes: int = 1000, dropout: bool = False) -> Net:
    """conv1_1 … conv5_4, fc6, fc7, fc8, prob: 43 layers, 143,667,240 parameters. No rng: no weights yet."""
    return _vgg(VGG19, rng, classes, dropout)


def _vgg(stages: list[list[int]], rng: Rng, classes: int, dropout: bool) -> Net:
    layers: dict[str, Layer] = {}
    c = 3
    for stage, channels in enumerate(stages, start=1):
        for number, k in enumerate(channels, start=1):
            layers |= conv_relu(rng, f"{stage}_{number}", 3, c, k, pad=1)
            c = k
        layers[f"pool{stage}"] = MaxPool(Window.of(2, stride=2, ceil=True))
    layers |= classifier(rng, (7, 7, 512), hidden=4096, k=classes, dropout=dropout)
    return Net.chain(layers, input_shape=(224, 224, 3), preprocess=images.VGG)
