"""Work on each number by itself, in one pass where plain code takes two or three."""

from __future__ import annotations

from minidnn.arrays import Array
from minidnn.kernels.cuda.source import Kernel
from minidnn.kernels.memory import Mem, fresh

RELU_BACKWARD = Kernel(
    "relu_backward",
    "minidnn.kernels.pointwise:relu_backward",
    """const T* dzdy, const T* y, T* dzdx
    { EACH(at, count) dzdx[at] = dzdy[at] * (T)(y[at] > 0); }""",
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


def relu_backward(dzdy: Array, y: Array, mem: Mem) -> Array:
    """dzdy where y > 0, else 0."""
    dzdx = fresh(y.shape, dzdy, mem)
    RELU_BACKWARD(dzdx, dzdy, y, dzdx)
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
