"""What makes a picture natural, whatever a net says: penalties with a gradient, filters between steps.

A penalty is a function pixels → (value, dvalue/dpixels) that a dream climbs DOWN; it is already scaled. A
filter is a function pixels → pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import ndimage

from minidnn import images
from minidnn.arrays import Array, device_of, to_device, xp_of
from minidnn.errors import ShapeError, UsageError

MIDDLE = 127.5  # of the range of pixels: the grey that a net takes for little


@dataclass(frozen=True)
class TotalVariation:
    """weight * Σ (dx² + dy²)^(exponent/2), dx and dy the steps from a pixel to its right and lower neighbour

    Exponent 1 keeps edges and flattens the rest, 2 smooths everything (Mahendran & Vedaldi 2015).
    """

    weight: float
    exponent: float = 2.0
    rounding: float = 1.0  # in squared steps of a pixel: where the penalty has a corner it is rounded off

    def __post_init__(self) -> None:
        _check(self, self.exponent >= 1, f"exponent {self.exponent}; give 1 or more")
        _check(self, self.rounding > 0, f"rounding {self.rounding}; give a number above 0")

    def __call__(self, x: Array) -> tuple[float, Array]:
        xp = xp_of(x)
        dy, dx = xp.zeros_like(x), xp.zeros_like(x)
        dy[:, :-1], dx[:, :, :-1] = x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]
        squares = dy * dy + dx * dx + self.rounding
        value = (squares ** (self.exponent / 2)).sum() - squares.size * self.rounding ** (self.exponent / 2)
        steep = self.exponent * squares ** (self.exponent / 2 - 1)
        dy, dx = dy * steep, dx * steep  # dvalue by each step; a step pulls at both its ends
        grad = -dy - dx
        grad[:, 1:] += dy[:, :-1]
        grad[:, :, 1:] += dx[:, :, :-1]
        return self.weight * float(value), self.weight * grad


@dataclass(frozen=True)
class PNorm:
    """weight * Σ |x - centre|^p / 127.5^p: high p cares about the extreme pixels alone, 2 is weight decay."""

    weight: float
    p: float = 6.0
    centre: float = MIDDLE

    def __post_init__(self) -> None:
        _check(self, self.p >= 1, f"p {self.p}; give 1 or more")

    def __call__(self, x: Array) -> tuple[float, Array]:
        xp = xp_of(x)
        off = (x - self.centre) / MIDDLE
        power = xp.abs(off) ** (self.p - 1)
        value = (power * xp.abs(off)).sum()
        return self.weight * float(value), self.weight * self.p / MIDDLE * xp.sign(off) * power


def decay(weight: float, centre: float = MIDDLE) -> PNorm:
    """weight * Σ ((x - centre)/127.5)²: pulls every pixel to grey, the practical's "regularisation"."""
    return PNorm(weight, p=2.0, centre=centre)


@dataclass(frozen=True, eq=False)
class Anchor:
    """weight * Σ ((x - x0)/127.5)²: the picture is drawn back to where it began."""

    weight: float
    start: Array = field(repr=False)

    def at_size(self, size: tuple[int, int]) -> Anchor:
        """The same for pictures of another size, as an octave has it."""
        if self.start.shape[1:3] == size:
            return self
        return Anchor(self.weight, images.resize(self.start, size))

    def __call__(self, x: Array) -> tuple[float, Array]:
        xp_of(x, self.start)
        if self.start.shape[1:] != x.shape[1:] or len(self.start) not in (1, len(x)):
            raise ShapeError(
                f"Anchor at a picture {self.start.shape}, this one is {x.shape}; give it that size"
            )
        off = (x - self.start) / MIDDLE
        return self.weight * float((off * off).sum()), (2 * self.weight / MIDDLE) * off


Penalty = Callable[[Array], tuple[float, Array]]
Filter = Callable[[Array], Array]
BORDERS = {"mirror": "reflect", "matlab": "constant"}  # ours: what SciPy calls it


@dataclass(frozen=True)
class Blur:
    """A Gaussian of that width, axis by axis; at the `border` the picture goes on as in its mirror.

    border="matlab" is what imfilter(fspecial('gaussian')) does: beyond the border everything is the mean
    picture, so the rim fades to it, a little more with every blur. `centre` is that mean, by channel or not.
    """

    sigma: float = 1.0
    border: str = "mirror"
    centre: float | tuple[float, ...] = MIDDLE

    def __post_init__(self) -> None:
        _check(self, self.sigma > 0, f"sigma {self.sigma}; give a width above 0, in pixels")
        _check(self, self.border in BORDERS, f"border {self.border!r}; {' or '.join(map(repr, BORDERS))}")

    def __call__(self, x: Array) -> Array:
        return blurred(x, self.sigma, border=self.border, centre=self.centre)


@dataclass(frozen=True)
class Bilateral:
    """Each pixel becomes the mean of its neighbours, near ones and those of like colour counting most.

        x_p ← Σ_q w_pq x_q / Σ_q w_pq,    w_pq = exp(-|p-q|²/2 sigma² - |x_p - x_q|²/2 range²)

    Flat parts become flatter and edges stay (Tomasi & Manduchi 1998).
    """

    sigma: float = 1.5
    range: float = 25.0  # in steps of a pixel's 0..255

    def __post_init__(self) -> None:
        _check(self, self.sigma > 0, f"sigma {self.sigma}; give a width above 0, in pixels")
        _check(self, self.range > 0, f"range {self.range}; give a difference of colours above 0")

    def __call__(self, x: Array) -> Array:
        xp, reach = xp_of(x), max(1, round(2 * self.sigma))
        padded = xp.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)], mode="edge")
        h, w = x.shape[1:3]
        total, weights = xp.zeros_like(x), xp.zeros_like(x[..., :1])
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                other = padded[:, reach + dy : reach + dy + h, reach + dx : reach + dx + w]
                unlike = ((other - x) ** 2).sum(axis=3, keepdims=True) / (2 * self.range**2)
                weight = xp.exp(-unlike - (dy * dy + dx * dx) / (2 * self.sigma**2))
                total += weight * other
                weights += weight
        return total / weights


def blurred(
    x: Array, sigma: float, *, border: str = "mirror", centre: float | tuple[float, ...] = 0.0
) -> Array:
    """The picture through a Gaussian, cut off at four sigma; beyond the border is its mirror, or `centre`."""
    middle = xp_of(x).asarray(centre, dtype=x.dtype) if border == "matlab" else 0.0
    if isinstance(x, np.ndarray):
        return ndimage.gaussian_filter(x - middle, sigma, axes=(1, 2), mode=BORDERS[border]) + middle
    n, h, w, c = x.shape  # a GPU multiplies whole matrices sooner than it could copy x to the host
    rows, columns = (_weights(size, sigma, border, x.dtype.str, device_of(x)) for size in (h, w))
    tall = rows @ (x - middle).reshape(n, h, w * c)
    return columns @ tall.reshape(n, h, w, c) + middle


@lru_cache(maxsize=64)  # a dream asks for the same few in every step
def _weights(size: int, sigma: float, border: str, dtype: str, device: str) -> Array:
    """How much of each old pixel goes into each new one, along one axis: (size, size)."""
    smoothed = ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0, mode=BORDERS[border])
    return to_device(smoothed.astype(dtype), device)


def _check(prior: object, is_fine: bool, found: str) -> None:
    if not is_fine:
        raise UsageError(f"{type(prior).__name__} with {found}")
