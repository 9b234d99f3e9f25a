"""Max pooling and its way back in one pass each, without a padded copy and without adding into memory."""

from __future__ import annotations

import numpy as np

from minidnn.arrays import Array
from minidnn.kernels.cuda.source import Kernel
from minidnn.kernels.memory import Mem, fresh
from minidnn.window import Window

MAX_POOL = Kernel(
    "max_pool",
    "minidnn.kernels.pool:max_pool",
    """const T* x, T* y, S* switches, Int h, Int w, Int c, Int oh, Int ow, Int kh, Int kw, Int sy, Int sx,
    Int top, Int left, Int dy, Int dx
    { EACH(at, count) {
        At k = at % (At)c, column = at / (At)c, row = column / (At)ow;
        At j = column % (At)ow, i = row % (At)oh, n = row / (At)oh, tap = 0, won = 0;
        const T nothing = -1 / (T)0;
        T best = nothing;
        for (At a = 0; a < kh; a++) for (At b = 0; b < kw; b++, tap++) {
            At u = i * (At)sy + a * (At)dy - (At)top, v = j * (At)sx + b * (At)dx - (At)left;
            bool inside = u >= 0 && u < h && v >= 0 && v < w;
            T pixel = inside ? x[((n * (At)h + u) * (At)w + v) * (At)c + k] : nothing;
            if (pixel > best) won = tap;
            if (pixel > best || pixel != pixel) best = pixel;
        }
        y[at] = best, switches[at] = (S)won;
    } }""",
)
UNPOOL = Kernel(
    "unpool",
    "minidnn.kernels.pool:unpool",
    """const T* y, const S* switches, T* ground, Int h, Int w, Int c, Int oh, Int ow, Int kh, Int kw,
    Int sy, Int sx, Int top, Int left, Int dy, Int dx
    { EACH(at, count) {
        At k = at % (At)c, column = at / (At)c, row = column / (At)w;
        At v = column % (At)w, u = row % (At)h, n = row / (At)h, tap = 0;
        T sum = 0;
        for (At a = 0; a < kh; a++) for (At b = 0; b < kw; b++, tap++) {
            At i = u + (At)top - a * (At)dy, j = v + (At)left - b * (At)dx;
            if (i < 0 || j < 0 || i % (At)sy || j % (At)sx) continue;
            if ((i /= (At)sy) >= oh || (j /= (At)sx) >= ow) continue;
            At from = ((n * (At)oh + i) * (At)ow + j) * (At)c + k;
            if (switches[from] == tap) sum += y[from];
        }
        ground[at] = sum;
    } }""",
)


def max_pool(x: Array, window: Window, mem: Mem = None) -> tuple[Array, Array]:
    """The largest pixel of each window (N, oh, ow, C), and the switches: which tap it was."""
    n, h, w, c = x.shape
    shape = (n, *window.out_size(h, w), c)
    y, switches = fresh(shape, x, mem), fresh(shape, x, mem, np.uint8 if window.taps <= 256 else np.int32)
    MAX_POOL(y, x, y, switches, h, w, c, *shape[1:3], *_geometry(window), switches=switches)
    return y, switches


def unpool(y: Array, switches: Array, x_shape: tuple[int, ...], window: Window, mem: Mem = None) -> Array:
    """Every value goes back to the pixel its switch names: each pixel looks up who named it."""
    _, h, w, c = x_shape
    ground = fresh(x_shape, y, mem)
    UNPOOL(ground, y, switches, ground, h, w, c, *y.shape[1:3], *_geometry(window), switches=switches)
    return ground


def _geometry(window: Window) -> tuple[int, ...]:
    top, _, left, _ = window.pad
    return (*window.kernel, *window.stride, top, left, *window.dilation)
