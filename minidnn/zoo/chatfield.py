"""CNN-F, CNN-M and CNN-S (Chatfield et al. 2014, table 1): fast, medium and slow, side by side.

They go by the names of their weight files, imagenet-vgg-f, -m and -s.
"""

from __future__ import annotations

from minidnn import images
from minidnn.layers import LRN, Layer, MaxPool
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.blocks import POOL_3_2, classifier, conv_relu

NORM = LRN(5, kappa=2.0, alpha=1e-4)


def vgg_f(rng: Rng = None, *, dropout: bool = False) -> Net:
    """21 layers, 60,834,536 parameters. No rng: no weights yet."""
    layers = {
        **conv_relu(rng, 1, 11, 3, 64, stride=4),  # 54x54
        "norm1": NORM,
        "pool1": POOL_3_2,  # 27x27
        **conv_relu(rng, 2, 5, 64, 256, pad=2),
        "norm2": NORM,
        "pool2": POOL_3_2,  # 13x13
        **conv_relu(rng, 3, 3, 256, 256, pad=1),
        **conv_relu(rng, 4, 3, 256, 256, pad=1),
        **conv_relu(rng, 5, 3, 256, 256, pad=1),
        "pool5": POOL_3_2,  # 6x6
    }
    return _net(layers, rng, 256, dropout)


def vgg_m(rng: Rng = None, *, dropout: bool = False) -> Net:
    """21 layers, 102,908,520 parameters. No rng: no weights yet."""
    layers = {
        **conv_relu(rng, 1, 7, 3, 96, stride=2),  # 109x109
        "norm1": NORM,
        "pool1": POOL_3_2,  # 54x54
        **conv_relu(rng, 2, 5, 96, 256, stride=2, pad=1),  # 26x26
        "norm2": NORM,
        "pool2": POOL_3_2,  # 13x13
        **conv_relu(rng, 3, 3, 256, 512, pad=1),
        **conv_relu(rng, 4, 3, 512, 512, pad=1),
        **conv_relu(rng, 5, 3, 512, 512, pad=1),
        "pool5": POOL_3_2,  # 6x6
    }
    return _net(layers, rng, 512, dropout)


def vgg_s(rng: Rng = None, *, dropout: bool = False) -> Net:
    """20 layers, 102,908,520 parameters: as many as vgg-m, used twice as often. No rng: no weights yet."""
    layers = {
        **conv_relu(rng, 1, 7, 3, 96, stride=2),  # 109x109
        "norm1": NORM,
        "pool1": MaxPool(Window.of(3, stride=3, ceil=True)),  # 37x37
        **conv_relu(rng, 2, 5, 96, 256),  # 33x33
        "pool2": MaxPool(Window.of(2, stride=2, ceil=True)),  # 17x17
        **conv_relu(rng, 3, 3, 256, 512, pad=1),
        **conv_relu(rng, 4, 3, 512, 512, pad=1),
        **conv_relu(rng, 5, 3, 512, 512, pad=1),
        "pool5": MaxPool(Window.of(3, stride=3, ceil=True)),  # 6x6
    }
    return _net(layers, rng, 512, dropout)


def _net(layers: dict[str, Layer], rng: Rng, c: int, dropout: bool) -> Net:
    layers |= classifier(rng, (6, 6, c), hidden=4096, k=1000, dropout=dropout)
    return Net.chain(layers, input_shape=(224, 224, 3), preprocess=images.VGG)
