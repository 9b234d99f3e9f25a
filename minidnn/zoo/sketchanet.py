"""Sketch-a-Net (Yu et al. 2015, table 1): large first filters, for drawings have no texture."""

from __future__ import annotations

from minidnn.images import Preprocess
from minidnn.layers import MaxPool
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.blocks import classifier, conv_relu

POOL = MaxPool(Window.of(3, stride=2))


def sketchanet(rng: Rng = None, *, channels: int = 1, classes: int = 250, dropout: bool = False) -> Net:
    """Eight layers with weights, 19 in all; 8,508,666 parameters. No rng: no weights yet.

    `channels` is 1 for the whole drawing; 6 for the three parts in which it was drawn, and what they make
    together: 1, 2, 3, 1+2, 2+3, 1+2+3.
    """
    layers = {
        **conv_relu(rng, 1, 15, channels, 64, stride=3),  # 71x71
        "pool1": POOL,  # 35x35
        **conv_relu(rng, 2, 5, 64, 128),  # 31x31
        "pool2": POOL,  # 15x15
        **conv_relu(rng, 3, 3, 128, 256, pad=1),
        **conv_relu(rng, 4, 3, 256, 256, pad=1),
        **conv_relu(rng, 5, 3, 256, 256, pad=1),
        "pool5": POOL,  # 7x7
        **classifier(rng, (7, 7, 256), hidden=512, k=classes, dropout=dropout),
    }
    preprocess = Preprocess(order="GRAY", size=(225, 225)) if channels == 1 else None
    return Net.chain(layers, input_shape=(225, 225, channels), preprocess=preprocess)
