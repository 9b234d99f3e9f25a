"""Small nets to test with, in float64: one forks, joins and shares a weight, one has every layer there is."""

from __future__ import annotations

import numpy as np

from minidnn import layers as L
from minidnn.net import Net, Node
from minidnn.window import Window


def forked(seed: int = 0) -> Net:
    """data → conv1 → relu1 → pool1 → (a, b, the shared twin of a) → cat → out"""
    rng = np.random.default_rng(seed)
    a = L.Conv.random(rng, 3, 4, 3, pad=1)
    nodes = [
        Node("conv1", L.Conv.random(rng, 3, 3, 4, pad=1), ("data",)),
        Node("relu1", L.ReLU(), ("conv1",)),
        Node("pool1", L.MaxPool(Window.of(2, stride=2)), ("relu1",)),
        Node("a", a, ("pool1",)),
        Node("b", L.Conv.random(rng, (1, 3), 4, 2, pad=(0, 0, 1, 1)), ("pool1",)),
        Node("twin", L.Conv(a.w, a.b, Window.of(3, pad=2, dilation=2)), ("pool1",)),
        Node("cat", L.Concat(), ("a", "b", "twin")),
        Node("out", L.Tanh(), ("cat",)),
    ]
    return Net(nodes, input_shape=(8, 10, 3)).astype("float64")


def every_layer(seed: int = 0) -> Net:
    """Every layer of the house in one net, twice where it has two ways; made for images of 12x14x3."""
    rng = np.random.default_rng(seed)
    half, pool = Window.of(2, stride=2), Window.of((3, 2), stride=(2, 1), pad=(1, 0, 0, 1), ceil=True)
    norm = L.BatchNorm(*(rng.uniform(0.5, 1.5, 6).astype("float32") for _ in range(4)))
    twin = L.Conv.random(rng, 3, 6, 6, pad=1, groups=2)
    nodes = [
        Node("conv1", L.Conv.random(rng, 3, 3, 6, pad=1), ("data",)),
        Node("bn1", norm, ("conv1",)),
        Node("relu1", L.ReLU(), ("bn1",)),
        Node("pool1", L.MaxPool(half), ("relu1",)),
        Node("unpool1", L.MaxUnpool(half), ("pool1", "relu1")),
        Node("lrn1", L.LRN(4, 1.0, 0.2, 0.75), ("unpool1",)),
        Node("lrn2", L.LRNWithin(3, 1.0, 0.2, 0.75), ("lrn1",)),
        Node("avg", L.AvgPool(half), ("lrn2",)),
        Node("grouped", twin, ("avg",)),
        Node("leaky", L.LeakyReLU(0.1), ("grouped",)),
        Node("twin", L.Conv(twin.w, twin.b, twin.window, groups=2), ("leaky",)),
        Node("prelu", L.PReLU(np.full(6, 0.3, "float32")), ("twin",)),
        Node("add", L.Add(), ("prelu", "leaky")),
        Node("up", L.Upsample(2, "bilinear"), ("add",)),
        Node("up2", L.Upsample(2, "nearest"), ("add",)),
        Node("transposed", L.ConvTranspose.random(rng, 4, 6, 5, stride=2, pad=1), ("add",)),
        Node("cat", L.Concat(), ("up", "transposed", "up2")),
        Node("reversal", L.GradientReversal(0.5), ("cat",)),
        Node("pool2", L.MaxPool(pool), ("reversal",)),
        Node("pool3", L.AvgPool(pool, "padded"), ("pool2",)),
        Node("pool4", L.AvgPool(pool, "all"), ("pool3",)),
        Node("sigmoid", L.Sigmoid(), ("pool4",)),
        Node("drop", L.Dropout(0.3), ("sigmoid",)),
        Node("flat", L.Flatten(), ("drop",)),
        Node("fc", L.FC.random(rng, (1, 1, 476), 4), ("flat",)),
        Node("tanh", L.Tanh(), ("fc",)),
        Node("prob", L.Softmax(), ("tanh",)),
        Node("wide", L.PadChannels(2, 1), ("pool4",)),
        Node("gap", L.GlobalAvgPool(), ("wide",)),
    ]
    return Net(nodes, input_shape=(12, 14, 3)).astype("float64")


def wholly_by(kernel: str, net: Net) -> Net:
    """Every layer by that kernel that can be, also those of few channels."""
    return net.with_kernels(dict.fromkeys(net.kernels(net.input_shape[:2]), kernel))


def photo(net: Net, n: int = 2, seed: int = 1) -> np.ndarray:
    """Random images of the size the net was made for."""
    return np.random.default_rng(seed).standard_normal((n, *net.input_shape))
