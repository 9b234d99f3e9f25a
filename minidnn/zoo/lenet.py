"""LeNet for digits: in the form that Caffe and MatConvNet teach with, and as LeCun et al. 1998 drew it."""

from __future__ import annotations

from minidnn.errors import UsageError, did_you_mean
from minidnn.layers import FC, AvgPool, Conv, Layer, MaxPool, ReLU, Sigmoid, Softmax, Tanh
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window

HALVE = Window.of(2, stride=2)
ACTIVATIONS: dict[str, Layer] = {"tanh": Tanh(), "relu": ReLU(), "sigmoid": Sigmoid()}
POOLS: dict[str, Layer] = {"mean": AvgPool(HALVE), "max": MaxPool(HALVE)}


def lenet(rng: Rng = None) -> Net:
    """conv1, conv2, fc3, fc4, prob for grey images of 28x28: 431,080 parameters. No rng: no weights yet."""
    layers = {
        "conv1": Conv.random(rng, 5, 1, 20),
        "pool1": MaxPool(HALVE),
        "conv2": Conv.random(rng, 5, 20, 50),
        "pool2": MaxPool(HALVE),
        "fc3": FC.random(rng, (4, 4, 50), 500),
        "relu3": ReLU(),
        "fc4": FC.random(rng, (1, 1, 500), 10),
        "prob": Softmax(),
    }
    return Net.chain(layers, input_shape=(28, 28, 1))


def lenet5(rng: Rng = None, *, activation: str = "tanh", pool: str = "mean") -> Net:
    """c1, s2, c3, s4, c5, f6 of figure 2, for grey images of 32x32: 61,706 parameters.

    Three things are as everyone builds it since: a map of c3 sees all maps of s2 and not a hand-picked few,
    the means of s2 and s4 have no weights of their own, and the output is a softmax. The paper's own count is
    60,000. Many build it with "relu" or "sigmoid", or with pool="max", and the arrays are the same.
    """
    active, pooled = _chosen("activation", activation, ACTIVATIONS), _chosen("pool", pool, POOLS)
    layers = {
        "c1": Conv.random(rng, 5, 1, 6),  # 28x28
        f"c1/{activation}": active,
        "s2": pooled,  # 14x14
        "c3": Conv.random(rng, 5, 6, 16),  # 10x10
        f"c3/{activation}": active,
        "s4": pooled,  # 5x5
        "c5": Conv.random(rng, 5, 16, 120),  # 1x1
        f"c5/{activation}": active,
        "f6": FC.random(rng, (1, 1, 120), 84),
        f"f6/{activation}": active,
        "output": FC.random(rng, (1, 1, 84), 10),
        "prob": Softmax(),
    }
    return Net.chain(layers, input_shape=(32, 32, 1))


def _chosen(option: str, value: str, known: dict[str, Layer]) -> Layer:
    if value not in known:
        near = did_you_mean(value, known)
        raise UsageError(f"lenet5 with {option}={value!r}; there are {', '.join(known)}{near}")
    return known[value]
