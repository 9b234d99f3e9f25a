"""Every layer, by the name it has in the papers."""

from minidnn.layers.activation import GradientReversal, LeakyReLU, PReLU, ReLU, Sigmoid, Softmax, Tanh
from minidnn.layers.base import Layer
from minidnn.layers.conv import FC, Conv, ConvTranspose
from minidnn.layers.dropout import Dropout
from minidnn.layers.join import Add, Concat, Flatten, PadChannels
from minidnn.layers.norm import LRN, BatchNorm, LRNWithin
from minidnn.layers.pool import AvgPool, GlobalAvgPool, MaxPool, MaxUnpool, Upsample

__all__ = [
    "FC",
    "LRN",
    "Add",
    "AvgPool",
    "BatchNorm",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "GradientReversal",
    "LRNWithin",
    "Layer",
    "LeakyReLU",
    "MaxPool",
    "MaxUnpool",
    "PReLU",
    "PadChannels",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Upsample",
]  # fmt: skip
