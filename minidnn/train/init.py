"""First weights. Too loud or too quiet, a deep net does not learn at all."""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from minidnn.arrays import Array
from minidnn.errors import UsageError, did_you_mean
from minidnn.layers import BatchNorm, ConvTranspose, PReLU
from minidnn.layers.conv import Bank
from minidnn.net import Net

WAYS = ("he", "xavier", "uniform", "zeros")


def initialised(net: Net, way: str, rng: np.random.Generator) -> Net:
    """The same net with new weights; biases are 0, and batch norms change nothing.

        he        normal of variance 2 / fan_in: level through ReLUs        (He et al. 2015)
        xavier    uniform within sqrt(6 / (fan_in + fan_out))               (Glorot & Bengio 2010)
        uniform   uniform within 1 / sqrt(fan_in)                           (LeCun et al. 1998)
        zeros     0: all filters of a layer stay the same for ever; to see why the others are random

    fan_in is how many numbers one output sums up, fan_out how many outputs one number goes into.
    """
    if way not in WAYS:
        raise UsageError(f"no first weights {way!r}; there are {', '.join(WAYS)}{did_you_mean(way, WAYS)}")
    new: dict[str, Array] = {}
    for node in net.nodes:
        layer = node.layer
        if isinstance(layer, Bank):
            new[f"{node.name}/w"] = _drawn(layer, way, rng)
            if layer.b is not None:
                new[f"{node.name}/b"] = np.zeros(layer.b.shape, net.dtype)
        elif isinstance(layer, BatchNorm):
            for name, value in (("gamma", 1), ("beta", 0), ("mean", 0), ("var", 1)):
                new[f"{node.name}/{name}"] = np.full(len(layer.gamma), value, net.dtype)
        elif isinstance(layer, PReLU):
            new[f"{node.name}/slope"] = np.full(layer.slope.shape, 0.25, net.dtype)
    own = net.params | net.buffers
    return net.replacing({name: array for name, array in new.items() if name in own})


def _drawn(layer: Bank, way: str, rng: np.random.Generator) -> np.ndarray:
    shape = layer.w.shape
    fan_in, fan_out = prod(shape[:3]), prod(shape[:2]) * shape[3]
    if isinstance(layer, ConvTranspose):  # its filters stand the other way round, and the stride spreads them
        area = prod(layer.window.stride)
        fan_in, fan_out = max(1, prod(shape[:2]) * shape[3] // area), prod(shape[:3])
    if way == "he":
        w = rng.standard_normal(shape) * sqrt(2 / fan_in)
    elif way == "zeros":
        w = np.zeros(shape)
    else:
        most = sqrt(6 / (fan_in + fan_out)) if way == "xavier" else 1 / sqrt(fan_in)
        w = rng.uniform(-most, most, shape)
    return w.astype(layer.w.dtype)
