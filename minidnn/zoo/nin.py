"""Network in Network for ImageNet (Lin et al. 2014): 1x1 filters after each convolution, and no FC at all.

Layers have the names of the authors' Caffe model, whose counting of ReLUs leaves out a 4.
"""

from __future__ import annotations

from dataclasses import replace

from minidnn.images import PRESETS
from minidnn.layers import AvgPool, Conv, Dropout, ReLU, Softmax
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.blocks import POOL_3_2, without_dropout

BGR_224 = replace(PRESETS["caffe"], size=(224, 224))


def nin(rng: Rng = None, *, dropout: bool = False) -> Net:
    """conv1, cccp1, cccp2 … pool4, prob: 29 layers, 7,595,176 parameters. No rng: no weights yet."""
    layers = {
        "conv1": Conv.random(rng, 11, 3, 96, stride=4),  # 54x54
        "relu0": ReLU(),
        "cccp1": Conv.random(rng, 1, 96, 96),
        "relu1": ReLU(),
        "cccp2": Conv.random(rng, 1, 96, 96),
        "relu2": ReLU(),
        "pool0": POOL_3_2,  # 27x27
        "conv2": Conv.random(rng, 5, 96, 256, pad=2),
        "relu3": ReLU(),
        "cccp3": Conv.random(rng, 1, 256, 256),
        "relu5": ReLU(),
        "cccp4": Conv.random(rng, 1, 256, 256),
        "relu6": ReLU(),
        "pool2": POOL_3_2,  # 13x13
        "conv3": Conv.random(rng, 3, 256, 384, pad=1),
        "relu7": ReLU(),
        "cccp5": Conv.random(rng, 1, 384, 384),
        "relu8": ReLU(),
        "cccp6": Conv.random(rng, 1, 384, 384),
        "relu9": ReLU(),
        "pool3": POOL_3_2,  # 6x6
        "drop": Dropout(0.5),
        "conv4-1024": Conv.random(rng, 3, 384, 1024, pad=1),
        "relu10": ReLU(),
        "cccp7-1024": Conv.random(rng, 1, 1024, 1024),
        "relu11": ReLU(),
        "cccp8-1024": Conv.random(rng, 1, 1024, 1000),
        "relu12": ReLU(),
        "pool4": AvgPool(Window.of(6), "padded"),  # 1x1
        "prob": Softmax(),
    }
    layers = layers if dropout else without_dropout(layers)
    return Net.chain(layers, input_shape=(224, 224, 3), preprocess=BGR_224)
