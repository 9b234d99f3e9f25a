"""Work on each number by itself, in one pass where plain code takes two or three."""

from __future__ import annotations

import numpy as np

from minidnn.arrays import Array
from minidnn.kernels.cuda.source import Kernel
from minidnn.kernels.memory import Mem, fresh

POSITIVE = Kernel(
    "positive",
    "minidnn.kernels.pointwise:positive",
    """const T* y, S* bits, Int numbers
    { EACH(at, count) {
        At first = at * 8;
        S eight = 0;
        for (At i = first; i < first + 8; i++) eight = (S)(eight << 1 | (i < numbers && y[i] > 0));
        bits[at] = eight;
    } }""",
)
RELU_BACKWARD = Kernel(
    "relu_backward",
    "minidnn.kernels.pointwise:relu_backward",
    """const T* dzdy, const S* bits, T* dzdx
    { EACH(at, count) dzdx[at] = dzdy[at] * (T)(bits[at / 8] >> (7 - at % 8) & 1); }""",
)
SCALED = Kernel(
    "scaled",
    "minidnn.kernels.channels:scaled",
    """const T* x, const T* scale, const T* shift, T* y, Int c
    { EACH(at, count) { At k = at % (At)c; y[at] = x[at] * scale[k] + shift[k]; } }""",
)
BLENDED = Kernel(
    "blended",
    "minidnn.kernels.channels:blended",
    """const T* x, const T* a, const T* y, const T* b, const T* c, T* out, Int channels
    { EACH(at, count) { At k = at % (At)channels; out[at] = x[at] * a[k] + y[at] * b[k] + c[k]; } }""",
)


def positive(y: Array, mem: Mem) -> Array:
    """Of each number, whether it is above 0: eight to a byte, the first in the highest bit."""
    bits = fresh((-(-y.size // 8),), y, mem, np.uint8)
    POSITIVE(bits, y, bits, y.size)
    return bits


def relu_backward(dzdy: Array, bits: Array, mem: Mem) -> Array:
    """dzdy where the bit is set, else 0."""
    dzdx = fresh(dzdy.shape, dzdy, mem)
    RELU_BACKWARD(dzdx, dzdy, bits, dzdx)
    return dzdx


def scaled(x: Array, scale: Array, shift: Array, mem: Mem) -> Array:
    """x * scale + shift, with a number of each for every channel."""
    y = fresh(x.shape, x, mem)
    SCALED(y, x, scale, shift, y, x.shape[3])
    return y


def blended(x: Array, a: Array, y: Array, b: Array, c: Array, mem: Mem) -> Array:
    """x * a + y * b + c, likewise."""
    out = fresh(x.shape, x, mem)
    BLENDED(out, x, a, y, b, c, out, x.shape[3])
    return out
