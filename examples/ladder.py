"""The convolution ladder: one convolution written five ways, each checked by the same test and then measured.

    python examples/ladder.py

3x3 filters at stride 1 over one image padded by 1: x (H, W, C) and w (3, 3, C, K) give y (H, W, K). The rungs
in minidnn/kernels do every window; docs/convolution.md tells the story.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from time import process_time

import numpy as np

from minidnn.kernels import Kernel, conv
from minidnn.kernels.cpu import threads
from minidnn.kernels.cpu.winograd import F2, F4
from minidnn.kernels.memory import Arena
from minidnn.window import Window

Rung = Callable[[np.ndarray, np.ndarray], np.ndarray]


def bordered(x):
    return np.pad(x, ((1, 1), (1, 1), (0, 0)))


def loops(x, w):
    (h, width, c), k, ground = x.shape, w.shape[3], bordered(x)
    y = np.zeros((h, width, k), x.dtype)
    for i, j, out in np.ndindex(h, width, k):
        for a, b, channel in np.ndindex(3, 3, c):
            y[i, j, out] += ground[i + a, j + b, channel] * w[a, b, channel, out]
    return y


def windows(ground):
    h, width, c = ground.shape[0] - 2, ground.shape[1] - 2, ground.shape[2]
    taps = [ground[a : a + h, b : b + width] for a in range(3) for b in range(3)]
    return np.stack(taps, axis=2).reshape(h * width, 9 * c)  # a row for each window


def im2col(x, w):
    h, width, c = x.shape
    return (windows(bordered(x)) @ w.reshape(9 * c, -1)).reshape(h, width, -1)


def chunked(x, w, rows=4):
    (h, width, c), ground = x.shape, bordered(x)
    y, flat = np.empty((h, width, w.shape[3]), x.dtype), w.reshape(9 * c, -1)
    for top in range(0, h, rows):
        part = y[top : top + rows]  # and the pixels under it, one more on each side
        part[...] = (windows(ground[top : top + len(part) + 2]) @ flat).reshape(part.shape)
    return y


def shifted(x, w):
    (h, width, _), ground = x.shape, bordered(x)
    y = np.zeros((h, width, w.shape[3]), x.dtype)
    for a, b in np.ndindex(3, 3):
        y += ground[a : a + h, b : b + width] @ w[a, b]
    return y


def winograd(x, w, transform=F2):
    (h, width, c), k = x.shape, w.shape[3]
    to_points, from_filters, to_outputs = (
        matrix.astype(x.dtype) for matrix in (transform.b, transform.g, transform.a)
    )
    m, p = to_outputs.shape  # tiles of m x m outputs lie on p x p pixels, p = m + 2
    down, across = -(-h // m), -(-width // m)
    ground = np.pad(x, ((1, 1 + down * m - h), (1, 1 + across * m - width), (0, 0)))
    tiles = np.lib.stride_tricks.sliding_window_view(ground, (p, p), axis=(0, 1))[::m, ::m]
    v = to_points @ tiles @ to_points.T  # (down, across, C, p, p)
    u = from_filters @ w.transpose(2, 3, 0, 1) @ from_filters.T  # (C, K, p, p)
    products = v.transpose(3, 4, 0, 1, 2).reshape(p * p, -1, c) @ u.transpose(2, 3, 0, 1).reshape(p * p, c, k)
    points = products.reshape(p, p, down, across, k).transpose(2, 3, 4, 0, 1)
    y = to_outputs @ points @ to_outputs.T  # (down, across, K, m, m)
    return y.transpose(0, 3, 1, 4, 2).reshape(down * m, across * m, k)[:h, :width]


RUNGS: dict[str, Rung] = {
    "loops": loops,
    "im2col": im2col,
    "chunked": chunked,
    "shifted": shifted,
    "winograd, tiles of 2": winograd,
    "winograd, tiles of 4": partial(winograd, transform=F4),
}


def backward(rung, dzdy, w):
    return rung(dzdy, w[::-1, ::-1].transpose(0, 1, 3, 2))


def check(rung, shape=(5, 7, 3), k=4, step=1e-5):
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal((2, *shape))
    w, dzdy = rng.standard_normal((3, 3, shape[2], k)), rng.standard_normal((*shape[:2], k))
    measured = ((rung(x + step * h, w) - rung(x - step * h, w)) * dzdy).sum() / (2 * step)
    told = (backward(rung, dzdy, w) * h).sum()
    return abs(measured - told) / abs(measured)


def of_minidnn(name: str) -> Rung:
    """The kernel by that name as nets use it: memory used again, filters prepared once."""
    how, mem = Kernel(name), Arena()
    return lambda x, w: conv(x[None], w, None, Window.of(3, pad=1), how=how, mem=mem)[0][0]


def measure(rung: Rung, size: int, c: int, k: int, *, tries: int = 5) -> tuple[float, float, float]:
    """Processor milliseconds, megabytes at the peak beside x and w, and the error of float32."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((size, size, c)), rng.standard_normal((3, 3, c, k)) / (9 * c) ** 0.5
    small_x, small_w = x.astype("float32"), w.astype("float32")
    tracemalloc.start()
    y = rung(small_x, small_w)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    exact, seconds = shifted(x, w), []
    for _ in range(tries):
        began = process_time()
        rung(small_x, small_w)
        seconds.append(process_time() - began)
    return 1e3 * min(seconds), peak, float(np.abs(y - exact).max() / np.abs(exact).max())


def main() -> None:
    print("the gradient, measured and told, in float64 (relative difference):")
    for name, rung in RUNGS.items():
        print(f"  {name:22} {check(rung):.0e}")
    shapes = [(14, 16, 16), (112, 64, 64), (28, 256, 256)]
    for size, c, k in shapes:
        print(f"\n{size}x{size} pixels, {c} channels to {k}, float32, one thread:")
        kernels = {f"minidnn's {name}": of_minidnn(name) for name in ("chunked", "winograd2", "winograd4")}
        for name, rung in (RUNGS | kernels).items():
            if name == "loops" and size > 14:
                continue
            ms, peak, error = measure(rung, size, c, k, tries=1 if name == "loops" else 5)
            print(f"  {name:22} {ms:9.2f} ms  {peak:7.1f} MB  error {error:.0e}")


if __name__ == "__main__":
    with threads.limit(1):
        main()
