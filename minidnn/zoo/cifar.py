"""The quick net for CIFAR-10 that Caffe teaches with, after Krizhevsky's cuda-convnet."""

from __future__ import annotations

from minidnn.images import Preprocess
from minidnn.layers import FC, AvgPool, Conv, ReLU, Softmax
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.blocks import POOL_3_2

CIFAR = Preprocess(
    mean=(125.3, 123.0, 113.9), size=(32, 32)
)  # the mean colour; Caffe's files bring a picture


def cifar_quick(rng: Rng = None) -> Net:
    """conv1, conv2, conv3, ip1, ip2, prob: 12 layers, 145,578 parameters. No rng: no weights yet.

    The first pool stands before its ReLU, which comes to the same.
    """
    mean_pool = AvgPool(Window.of(3, stride=2, ceil=True), "padded")
    layers = {
        "conv1": Conv.random(rng, 5, 3, 32, pad=2),
        "pool1": POOL_3_2,
        "relu1": ReLU(),  # 16x16
        "conv2": Conv.random(rng, 5, 32, 32, pad=2),
        "relu2": ReLU(),
        "pool2": mean_pool,  # 8x8
        "conv3": Conv.random(rng, 5, 32, 64, pad=2),
        "relu3": ReLU(),
        "pool3": mean_pool,  # 4x4
        "ip1": FC.random(rng, (4, 4, 64), 64),
        "ip2": FC.random(rng, (1, 1, 64), 10),
        "prob": Softmax(),
    }
    return Net.chain(layers, input_shape=(32, 32, 3), preprocess=CIFAR)
