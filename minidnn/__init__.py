"""minidnn: see a convolutional network work, and dream with it.

NumPy on the CPU, CuPy on the GPU, no framework.
"""

from minidnn.arrays import to_device, to_host, xp_of
from minidnn.errors import MinidnnError
from minidnn.layers import (
    FC,
    LRN,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GradientReversal,
    Layer,
    LeakyReLU,
    LRNWithin,
    MaxPool,
    MaxUnpool,
    PReLU,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
    Upsample,
)
from minidnn.net import Net, Node
from minidnn.window import Window

__version__ = "0.1.0"

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
    "MinidnnError",
    "Net",
    "Node",
    "PReLU",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Upsample",
    "Window",
    "to_device",
    "to_host",
    "xp_of",
]
