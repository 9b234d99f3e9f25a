"""The net that comes built in: small enough for a package, and all convolutions, so any size will do."""

from __future__ import annotations

from minidnn.images import Preprocess
from minidnn.layers import Conv, GlobalAvgPool, Layer, MaxPool, ReLU, Softmax
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.blocks import batch_norm

# The filters of each convolution; 0 is a pool that halves the map.
COLUMN = (32, 64, 0, 64, 128, 0, 128, 160, 192, 0, 256)
CIFAR = Preprocess(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7), size=(32, 32))
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def tiny(rng: Rng = None, *, batch_norms: bool = False) -> Net:
    """conv1 … conv8 of 3x3, three pools, and class scores that are means over the map: 1,184,106 parameters.

    What conv8 sees is 60 pixels wide. With `batch_norms` a BatchNorm stands behind each convolution, as in
    training; `zoo.folded` makes of that the net without. No rng: no weights yet.
    """
    layers: dict[str, Layer] = {}
    number, pools, c = 0, 0, 3
    for k in COLUMN:
        if k == 0:
            pools += 1
            layers[f"pool{pools}"] = MaxPool(Window.of(2, stride=2))
            continue
        number += 1
        layers[f"conv{number}"] = Conv.random(rng, 3, c, k, pad=1, bias=not batch_norms)
        if batch_norms:
            layers[f"bn{number}"] = batch_norm(rng, k)
        layers[f"relu{number}"] = ReLU()
        c = k
    layers[f"conv{number + 1}"] = Conv.random(rng, 1, c, len(CLASSES))  # a map of scores for each class
    layers["scores"] = GlobalAvgPool()
    layers["prob"] = Softmax()
    return Net.chain(layers, input_shape=(32, 32, 3), preprocess=CIFAR, classes=CLASSES)
