"""Is this the gradient? Compare it with what the function really does when its argument moves a little.

In float64. For a whole net, with its corners and ties, there is `audit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from minidnn.arrays import Array
from minidnn.errors import ShapeError, UsageError


class Check(NamedTuple):
    """One comparison. `error` is |analytic - numeric| relative to the size of the gradient."""

    error: float
    analytic: float
    numeric: float
    where: tuple[int, ...] | None = None  # the worst coordinate; None for a direction

    def __str__(self) -> str:
        place = "along a random direction" if self.where is None else f"worst at {list(self.where)}"
        return f"error {self.error:.1e} {place}: analytic {self.analytic:.9g}, numeric {self.numeric:.9g}"


def check_direction(
    f: Callable[[Array], float], x: Array, grad: Array, *, rng: np.random.Generator, eps: float = 1e-5
) -> Check:
    """<grad, v> against (f(x + eps v) - f(x - eps v)) / 2 eps for one random v: cheap, and hard to fool."""
    _comparable(x, grad)
    v = rng.standard_normal(x.shape)
    numeric = (f(x + eps * v) - f(x - eps * v)) / (2 * eps)
    return compared(float((grad * v).sum()), float(numeric), float(np.sqrt((grad * grad).sum())))


def check_elements(
    f: Callable[[Array], float],
    x: Array,
    grad: Array,
    *,
    rng: np.random.Generator | None = None,
    count: int | None = None,
    eps: float = 1e-5,
) -> Check:
    """Every entry of grad (or `count` random ones) against its central difference; hands back the worst."""
    _comparable(x, grad)
    if count is not None and count < 1:
        raise UsageError(f"check_elements of {count} entries; give at least 1")

    def check(at: tuple[int, ...]) -> Check:
        numeric = (f(moved(x, at, eps)) - f(moved(x, at, -eps))) / (2 * eps)
        return compared(float(grad[at]), float(numeric), size_of(grad), at)

    return max(map(check, coordinates(x.shape, count, rng)), key=lambda found: found.error)


def _comparable(x: Array, grad: Array) -> None:
    if x.dtype != np.float64:
        raise UsageError(
            f"a check moves x by a little, which {x.dtype} is too coarse for; use x.astype('float64')"
        )
    if x.shape != grad.shape:
        raise ShapeError(f"x is {x.shape}, its gradient {grad.shape}; they have one shape")


def coordinates(
    shape: tuple[int, ...], count: int | None, rng: np.random.Generator | None
) -> Iterator[tuple[int, ...]]:
    size = int(np.prod(shape))
    every = count is None or count >= size
    chosen = range(size) if every else (rng or np.random.default_rng(0)).choice(size, count, replace=False)
    for flat in chosen:
        yield tuple(int(i) for i in np.unravel_index(flat, shape))


def moved(x: Array, at: tuple[int, ...], by: float) -> Array:
    other = x.copy()
    other[at] += by
    return other


def size_of(grad: Array) -> float:
    return float(np.abs(grad).max())


def compared(analytic: float, numeric: float, size: float, where: tuple[int, ...] | None = None) -> Check:
    scale = max(size, abs(analytic), abs(numeric), 1e-30)
    error = abs(analytic - numeric) / scale
    return Check(error if np.isfinite(error) else float("inf"), analytic, numeric, where)
