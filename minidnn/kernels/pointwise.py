"""ReLU both ways, in the words of NumPy and CuPy alike; NumPy's float arrays are worked off in pieces.

What the way back needs is which numbers are above 0: one bit each, in one row over the whole array.
"""

from __future__ import annotations

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.kernels.cpu import pointwise
from minidnn.kernels.cuda import pointwise as cuda
from minidnn.kernels.cuda.source import ready
from minidnn.kernels.memory import Mem


def relu(x: Array, mem: Mem = None) -> tuple[Array, Array]:
    """max(x, 0), and the bits of what is above 0."""
    if isinstance(x, np.ndarray) and x.flags.c_contiguous and x.dtype.kind == "f":
        return pointwise.relu(x, mem)
    y = xp_of(x).maximum(x, 0)
    return y, positive(y, mem)


def positive(y: Array, mem: Mem = None) -> Array:
    """Of each number, whether it is above 0: eight to a byte, the first in the highest bit."""
    return cuda.positive(y, mem) if ready(y) else xp_of(y).packbits(y > 0)


def relu_backward(dzdy: Array, bits: Array, mem: Mem = None) -> Array:
    """dzdy where the bit is set, else 0."""
    xp = xp_of(dzdy, bits)
    if xp is np and dzdy.flags.c_contiguous:
        return pointwise.relu_backward(dzdy, bits, mem)
    if ready(dzdy):
        return cuda.relu_backward(dzdy, bits, mem)
    return dzdy * xp.unpackbits(bits)[: dzdy.size].reshape(dzdy.shape)
