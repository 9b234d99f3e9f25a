"""LeNet for digits (LeCun et al. 1998), in the form that Caffe and MatConvNet teach with."""

from __future__ import annotations

from minidnn.layers import FC, Conv, MaxPool, ReLU, Softmax
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window


def lenet(rng: Rng = None) -> Net:
    """conv1, conv2, fc3, fc4, prob for grey images of 28x28: 431,080 parameters. No rng: no weights yet."""
    layers = {
        "conv1": Conv.random(rng, 5, 1, 20),
        "pool1": MaxPool(Window.of(2, stride=2)),
        "conv2": Conv.random(rng, 5, 20, 50),
        "pool2": MaxPool(Window.of(2, stride=2)),
        "fc3": FC.random(rng, (4, 4, 50), 500),
        "relu3": ReLU(),
        "fc4": FC.random(rng, (1, 1, 500), 10),
        "prob": Softmax(),
    }
    return Net.chain(layers, input_shape=(28, 28, 1))
