"""Oracles: each layer as its formula reads, one number at a time, with a bounds check before every pixel.

Nothing here pads, slices or multiplies matrices. Of a Window only the fields are read, never its arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import inf, sqrt

import numpy as np

from minidnn.window import Window


def starts(size: int, window: Window, axis: int) -> list[int]:
    """Where each window begins along one axis, in pixels of the image: the first in the pad, so below 0."""
    before, after = window.pad[2 * axis], window.pad[2 * axis + 1]
    kernel, stride, dilation = window.kernel[axis], window.stride[axis], window.dilation[axis]
    found: list[int] = []
    start = -before
    while True:
        last_tap = start + (kernel - 1) * dilation
        beyond = last_tap - (size + after - 1)  # pixels by which it leaves the padded image
        if beyond >= (stride if window.ceil else 1):
            return found
        if window.ceil and start >= size:
            return found
        found.append(start)
        start += stride


def places(x_shape: tuple[int, ...], window: Window) -> Iterator[tuple[int, int, int, int]]:
    """Row and column in the output, and the image row and column where that window begins."""
    for i, top in enumerate(starts(x_shape[1], window, 0)):
        for j, left in enumerate(starts(x_shape[2], window, 1)):
            yield i, j, top, left


def pixels(
    x_shape: tuple[int, ...], window: Window, top: int, left: int
) -> Iterator[tuple[int, int, int, int]]:
    """Row and column of the tap, and of the pixel under it, for those taps that lie on the image."""
    for a in range(window.kernel[0]):
        for b in range(window.kernel[1]):
            row, col = top + a * window.dilation[0], left + b * window.dilation[1]
            if 0 <= row < x_shape[1] and 0 <= col < x_shape[2]:
                yield a, b, row, col


def out_shape(x_shape: tuple[int, ...], window: Window, k: int) -> tuple[int, int, int, int]:
    return x_shape[0], len(starts(x_shape[1], window, 0)), len(starts(x_shape[2], window, 1)), k


def conv(x, w, b, window: Window, groups: int = 1) -> np.ndarray:
    y = np.zeros(out_shape(x.shape, window, w.shape[3]))
    for n, i, j, k, row, col, c, at in _products(x.shape, w, window, groups):
        y[n, i, j, k] += x[n, row, col, c] * w[at]
    for n, i, j, k in np.ndindex(y.shape):
        y[n, i, j, k] += b[k]
    return y


def conv_gradients(dzdy, x, w, window: Window, groups: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By the image, the filters and the bias."""
    dzdx, dzdw, dzdb = np.zeros(x.shape), np.zeros(w.shape), np.zeros(w.shape[3])
    for n, i, j, k, row, col, c, at in _products(x.shape, w, window, groups):
        dzdx[n, row, col, c] += dzdy[n, i, j, k] * w[at]
        dzdw[at] += dzdy[n, i, j, k] * x[n, row, col, c]
    for n, i, j, k in np.ndindex(dzdy.shape):
        dzdb[k] += dzdy[n, i, j, k]
    return dzdx, dzdw, dzdb


def _products(x_shape, w, window, groups):
    """Every product of a convolution: n, i, j, k of the output, row, col, c of the input, the weight's
    place."""
    share_in, share_out = x_shape[3] // groups, w.shape[3] // groups
    for i, j, top, left in places(x_shape, window):
        for a, b, row, col in pixels(x_shape, window, top, left):
            for n, k, c in product(range(x_shape[0]), range(w.shape[3]), range(share_in)):
                group = k // share_out
                yield n, i, j, k, row, col, group * share_in + c, (a, b, c, k)


def conv_transpose(x, w, b, window: Window, groups: int = 1, extra: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Every pixel stamps its filters onto an empty sheet, of which the pads are then cut off."""
    y = np.zeros(_sheet(x.shape, w, window, groups, extra))
    for n, i, j, c, row, col, k, at in _stamps(x.shape, w, y.shape, window, groups):
        y[n, row, col, k] += x[n, i, j, c] * w[at]
    for n, row, col, k in np.ndindex(y.shape):
        y[n, row, col, k] += b[k]
    return y


def conv_transpose_gradients(dzdy, x, w, window: Window, groups: int = 1):
    """By the image, the filters and the bias."""
    dzdx, dzdw, dzdb = np.zeros(x.shape), np.zeros(w.shape), np.zeros(dzdy.shape[3])
    for n, i, j, c, row, col, k, at in _stamps(x.shape, w, dzdy.shape, window, groups):
        dzdx[n, i, j, c] += dzdy[n, row, col, k] * w[at]
        dzdw[at] += dzdy[n, row, col, k] * x[n, i, j, c]
    for n, row, col, k in np.ndindex(dzdy.shape):
        dzdb[k] += dzdy[n, row, col, k]
    return dzdx, dzdw, dzdb


def _sheet(x_shape, w, window, groups, extra):
    size = []
    for axis in (0, 1):
        last = (x_shape[1 + axis] - 1) * window.stride[axis] + (w.shape[axis] - 1) * window.dilation[axis]
        size.append(last + 1 + extra[axis] - window.pad[2 * axis] - window.pad[2 * axis + 1])
    return x_shape[0], size[0], size[1], w.shape[2] * groups


def _stamps(x_shape, w, y_shape, window, groups):
    """Every product of a transposed convolution: n, i, j, c of the input, row, col, k of the output, the
    weight's place."""
    share_in = x_shape[3] // groups
    for n, i, j, c in np.ndindex(*x_shape):
        for a, b, share in product(*map(range, w.shape[:3])):
            row = i * window.stride[0] + a * window.dilation[0] - window.pad[0]
            col = j * window.stride[1] + b * window.dilation[1] - window.pad[2]
            if 0 <= row < y_shape[1] and 0 <= col < y_shape[2]:
                yield n, i, j, c, row, col, (c // share_in) * w.shape[2] + share, (a, b, share, c)


def max_pool(x, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """The largest pixel of each window, and the number of its tap, counted row by row."""
    y = np.full(out_shape(x.shape, window, x.shape[3]), -inf)
    switches = np.zeros(y.shape, int)
    for i, j, top, left in places(x.shape, window):
        for a, b, row, col in pixels(x.shape, window, top, left):
            for n, c in np.ndindex(x.shape[0], x.shape[3]):
                if x[n, row, col, c] > y[n, i, j, c]:
                    y[n, i, j, c] = x[n, row, col, c]
                    switches[n, i, j, c] = a * window.kernel[1] + b
    return y, switches


def unpool(y, switches, x_shape: tuple[int, ...], window: Window) -> np.ndarray:
    """Each value added to the pixel that its switch names."""
    x = np.zeros(x_shape)
    for i, j, top, left in places(x_shape, window):
        for a, b, row, col in pixels(x_shape, window, top, left):
            for n, c in np.ndindex(x_shape[0], x_shape[3]):
                if switches[n, i, j, c] == a * window.kernel[1] + b:
                    x[n, row, col, c] += y[n, i, j, c]
    return x


def divisor(x_shape: tuple[int, ...], window: Window, top: int, left: int, what: str) -> int:
    """How many taps of the window count: on the image, on the padded image, or all."""
    (above, below, before, after), count = window.pad, 0
    for a in range(window.kernel[0]):
        for b in range(window.kernel[1]):
            row, col = top + a * window.dilation[0], left + b * window.dilation[1]
            real = 0 <= row < x_shape[1] and 0 <= col < x_shape[2]
            padded = -above <= row < x_shape[1] + below and -before <= col < x_shape[2] + after
            count += {"real": real, "padded": padded, "all": True}[what]
    return count


def avg_pool(x, window: Window, what: str) -> np.ndarray:
    y = np.zeros(out_shape(x.shape, window, x.shape[3]))
    for i, j, top, left in places(x.shape, window):
        for n, c in np.ndindex(x.shape[0], x.shape[3]):
            total = sum(x[n, row, col, c] for _, _, row, col in pixels(x.shape, window, top, left))
            y[n, i, j, c] = total / divisor(x.shape, window, top, left, what)
    return y


def avg_pool_gradient(dzdy, x_shape: tuple[int, ...], window: Window, what: str) -> np.ndarray:
    dzdx = np.zeros(x_shape)
    for i, j, top, left in places(x_shape, window):
        count = divisor(x_shape, window, top, left, what)
        for _, _, row, col in pixels(x_shape, window, top, left):
            for n, c in np.ndindex(x_shape[0], x_shape[3]):
                dzdx[n, row, col, c] += dzdy[n, i, j, c] / count
    return dzdx


def channels_around(at: tuple[int, ...], shape: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    """The places that share the energy of this one across channels; an even size reaches one further up."""
    n, i, j, k = at
    first, last = k - (size - 1) // 2, k + size // 2
    return [(n, i, j, q) for q in range(first, last + 1) if 0 <= q < shape[3]]


def square_around(at: tuple[int, ...], shape: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    """The places that share the energy of this one within its channel."""
    n, i, j, k = at
    reach = range(-(size // 2), size // 2 + 1)
    near = [(i + a, j + b) for a in reach for b in reach]
    return [(n, row, col, k) for row, col in near if 0 <= row < shape[1] and 0 <= col < shape[2]]


def lrn(x, around, size: int, kappa: float, alpha: float, beta: float) -> np.ndarray:
    """`around` is channels_around or square_around."""
    y = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        energy = kappa + alpha * sum(x[q] ** 2 for q in around(at, x.shape, size))
        y[at] = x[at] / energy**beta
    return y


def lrn_gradient(dzdy, x, around, size: int, kappa: float, alpha: float, beta: float) -> np.ndarray:
    """Every output moves with every number in its energy, and with its own numerator."""
    dzdx = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        neighbours = around(at, x.shape, size)
        energy = kappa + alpha * sum(x[q] ** 2 for q in neighbours)
        dzdx[at] += dzdy[at] / energy**beta
        for q in neighbours:
            dzdx[q] -= dzdy[at] * x[at] * beta / energy ** (beta + 1) * alpha * 2 * x[q]
    return dzdx


def batch_norm(x, gamma, beta, eps: float) -> np.ndarray:
    """By the moments of the batch itself, channel by channel."""
    y = np.zeros(x.shape)
    for c in range(x.shape[3]):
        normal, _ = _normalised(x, c, eps)
        for at in np.ndindex(x.shape[:3]):
            y[(*at, c)] = gamma[c] * normal[at] + beta[c]
    return y


def batch_norm_gradients(dzdy, x, gamma, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By the image, gamma and beta: every number of a channel moves every other, so the sum runs over all
    pairs."""
    dzdx, dgamma, dbeta = np.zeros(x.shape), np.zeros(x.shape[3]), np.zeros(x.shape[3])
    for c in range(x.shape[3]):
        normal, deviation = _normalised(x, c, eps)
        for out, value in normal.items():
            dgamma[c] += dzdy[(*out, c)] * value
            dbeta[c] += dzdy[(*out, c)]
            for at, other in normal.items():
                moved = (out == at) - (1 + value * other) / len(normal)  # of the normalised one, by x[at]
                dzdx[(*at, c)] += dzdy[(*out, c)] * gamma[c] * moved / deviation
    return dzdx, dgamma, dbeta


def _normalised(x, c, eps):
    everywhere = list(np.ndindex(x.shape[:3]))
    mean = sum(x[(*at, c)] for at in everywhere) / len(everywhere)
    deviation = sqrt(sum((x[(*at, c)] - mean) ** 2 for at in everywhere) / len(everywhere) + eps)
    return {at: (x[(*at, c)] - mean) / deviation for at in everywhere}, deviation
