"""ReLU both ways, in the words of NumPy and CuPy alike; NumPy's float arrays are worked off in pieces."""

from __future__ import annotations

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.kernels.cpu import pointwise
from minidnn.kernels.cuda import pointwise as cuda
from minidnn.kernels.cuda.source import ready
from minidnn.kernels.memory import Mem


def relu(x: Array, mem: Mem = None) -> Array:
    """max(x, 0)"""
    if isinstance(x, np.ndarray) and x.flags.c_contiguous and x.dtype.kind == "f":
        return pointwise.relu(x, mem)
    return xp_of(x).maximum(x, 0)


def relu_backward(dzdy: Array, y: Array, mem: Mem = None) -> Array:
    """dzdy where y > 0, else 0."""
    xp = xp_of(dzdy, y)
    if xp is np and dzdy.flags.c_contiguous and y.flags.c_contiguous:
        return pointwise.relu_backward(dzdy, y, mem)
    return cuda.relu_backward(dzdy, y, mem) if ready(dzdy, y) else dzdy * (y > 0)
