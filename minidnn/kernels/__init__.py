"""Where layers find their arithmetic: plain array code that NumPy and CuPy run alike, written to be read.

These are the teachers. A faster sibling is checked against them before it is timed.
"""

from minidnn.kernels.behind import Behind, ReluPool
from minidnn.kernels.channels import blended, by_pixel, moments, scaled, sums
from minidnn.kernels.choice import How, Kernel, Kernels
from minidnn.kernels.conv import conv, conv_backward, conv_backward_w
from minidnn.kernels.im2col import col2im, im2col, padded
from minidnn.kernels.neighbours import channel_sum, square_sum
from minidnn.kernels.pointwise import relu, relu_backward
from minidnn.kernels.pool import avg_pool, avg_pool_backward, max_pool, pool_by_switch, unpool
from minidnn.kernels.product import product

__all__ = [
    "Behind",
    "How",
    "Kernel",
    "Kernels",
    "ReluPool",
    "avg_pool",
    "avg_pool_backward",
    "blended",
    "by_pixel",
    "channel_sum",
    "col2im",
    "conv",
    "conv_backward",
    "conv_backward_w",
    "im2col",
    "max_pool",
    "moments",
    "padded",
    "pool_by_switch",
    "product",
    "relu",
    "relu_backward",
    "scaled",
    "square_sum",
    "sums",
    "unpool",
]
