"""Small accidents that a dream must survive, drawn anew for every step.

A transform draws a linear map; the map turns pixels into what the net sees, and its `adjoint` sends the
gradient back the way it came: <map(x), g> = <x, map.adjoint(g)> for all x and g.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, cos, inf, radians, sin

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.errors import UsageError

Shape = tuple[int, ...]


class Linear:
    """A linear map of pictures, and its adjoint."""

    def __call__(self, x: Array) -> Array:
        return x

    def adjoint(self, grad: Array) -> Array:
        return grad


class Transform:
    """What draws such a map for pictures of a shape."""

    def draw(self, rng: np.random.Generator, shape: Shape, step: int = 0) -> Linear:
        raise TypeError(f"{type(self).__name__} has no draw")


@dataclass(frozen=True)
class Jitter(Transform):
    """Roll the picture by up to so many pixels each way, round the edge: back is to roll it back."""

    max_shift_px: int = 32

    def __post_init__(self) -> None:
        if self.max_shift_px < 0:
            raise UsageError(f"Jitter by {self.max_shift_px} pixels; give 0 or more")

    def draw(self, rng: np.random.Generator, shape: Shape, step: int = 0) -> Linear:
        reach = min(self.max_shift_px, *shape[1:3])
        dy, dx = rng.integers(-reach, reach + 1, 2)
        return Roll(int(dy), int(dx))


@dataclass(frozen=True)
class Roll(Linear):
    dy: int
    dx: int

    def __call__(self, x: Array) -> Array:
        return xp_of(x).roll(x, (self.dy, self.dx), axis=(1, 2))

    def adjoint(self, grad: Array) -> Array:
        return xp_of(grad).roll(grad, (-self.dy, -self.dx), axis=(1, 2))


@dataclass(frozen=True)
class Flip(Transform):
    """Every other time, left becomes right."""

    def draw(self, rng: np.random.Generator, shape: Shape, step: int = 0) -> Linear:
        return Mirror() if rng.random() < 0.5 else Linear()


class Mirror(Linear):
    def __call__(self, x: Array) -> Array:
        return xp_of(x).ascontiguousarray(x[:, :, ::-1])

    def adjoint(self, grad: Array) -> Array:
        return self(grad)


@dataclass(frozen=True)
class Turn(Transform):
    """Rotate about the middle by up to so many degrees, and zoom by a factor drawn between two.

    Pixels are read between pixels (bilinear); what lies outside repeats the border.
    """

    max_degrees: float = 5.0
    zoom: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not (0 <= self.max_degrees < inf and 0 < self.zoom[0] <= self.zoom[1] < inf):
            raise UsageError(
                f"Turn by {self.max_degrees} degrees and {self.zoom}: 0 or more, 0 < low <= high"
            )

    def draw(self, rng: np.random.Generator, shape: Shape, step: int = 0) -> Linear:
        turn = radians(rng.uniform(-self.max_degrees, self.max_degrees))
        factor = rng.uniform(*self.zoom)
        h, w = shape[1:3]
        y, x = np.mgrid[:h, :w].astype("float64")
        y, x = (y - (h - 1) / 2) / factor, (x - (w - 1) / 2) / factor
        return Sample(
            y * cos(turn) - x * sin(turn) + (h - 1) / 2, y * sin(turn) + x * cos(turn) + (w - 1) / 2, (h, w)
        )


class Sample(Linear):
    """Read the picture at places (y, x) between its pixels: each new pixel is a mix of four old ones."""

    def __init__(self, y: np.ndarray, x: np.ndarray, size: tuple[int, int]) -> None:
        h, w = size
        y, x = y.clip(0, h - 1), x.clip(0, w - 1)
        top, left = y.astype(int), x.astype(int)
        down, right = y - top, x - left
        below, beside = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
        self.size, self.out = size, y.shape
        self.taps: Sequence[tuple[np.ndarray, np.ndarray]] = [  # (which old pixel, its share) of each new one
            ((top * w + left).ravel(), ((1 - down) * (1 - right)).ravel()),
            ((top * w + beside).ravel(), ((1 - down) * right).ravel()),
            ((below * w + left).ravel(), (down * (1 - right)).ravel()),
            ((below * w + beside).ravel(), (down * right).ravel()),
        ]

    def __call__(self, x: Array) -> Array:
        xp, (n, _, _, c) = xp_of(x), x.shape
        flat = x.reshape(n, -1, c)
        y = sum(
            flat[:, xp.asarray(place)] * xp.asarray(share[:, None], dtype=x.dtype)
            for place, share in self.taps
        )
        return y.reshape(n, *self.out, c)

    def adjoint(self, grad: Array) -> Array:
        xp, (n, _, _, c) = xp_of(grad), grad.shape
        h, w = self.size
        flat, back = grad.reshape(n, -1, c), xp.zeros((n, h * w, c), grad.dtype)
        for image in range(n):
            for k in range(c):
                for place, share in self.taps:
                    weights = flat[image, :, k] * xp.asarray(share, dtype=grad.dtype)
                    back[image, :, k] += xp.bincount(xp.asarray(place), weights, minlength=h * w)
        return back.reshape(n, h, w, c)


@dataclass(frozen=True)
class Window(Transform):
    """The course's windows: each step zooms in on one part of the picture, and leaves the rest as it is.

    `share` is the part's height and width over the picture's, drawn between two. The part is shown to the net
    as large as the whole, so what it dreams there comes out smaller. The parts lie at random, or `in_turn`:
    the smallest share first, row by row until all of the picture was seen, then a larger one.
    """

    share: tuple[float, float] = (0.4, 0.8)
    in_turn: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share[0] <= self.share[1] <= 1:
            raise UsageError(f"Window of {self.share} of the picture; 0 < low <= high <= 1")

    def draw(self, rng: np.random.Generator, shape: Shape, step: int = 0) -> Linear:
        h, w = shape[1:3]
        if self.in_turn:
            places = list(self._places())
            share, down, right = places[step % len(places)]
        else:
            share, down, right = rng.uniform(*self.share), rng.random(), rng.random()
        rows, columns = max(1, round(h * share)), max(1, round(w * share))
        y = down * (h - rows) + _centres(rows, h)
        x = right * (w - columns) + _centres(columns, w)
        return Sample(*np.meshgrid(y, x, indexing="ij"), (h, w))

    def _places(self) -> Iterator[tuple[float, float, float]]:
        """(share, how far down, how far right) of the windows, of three sizes that each cover the whole."""
        for share in np.linspace(*self.share, 3):
            steps = np.linspace(0, 1, ceil(1 / share)) if share < 1 else np.zeros(1)
            for down in steps:
                for right in steps:
                    yield float(share), float(down), float(right)


def _centres(pixels: int, onto: int) -> np.ndarray:
    """Where the centres of `onto` new pixels lie among so many old ones."""
    return (np.arange(onto) + 0.5) * pixels / onto - 0.5


@dataclass(frozen=True)
class Chain(Linear):
    """One map after the other; back through them from the last to the first."""

    maps: tuple[Linear, ...]

    def __call__(self, x: Array) -> Array:
        for one in self.maps:
            x = one(x)
        return x

    def adjoint(self, grad: Array) -> Array:
        for one in reversed(self.maps):
            grad = one.adjoint(grad)
        return grad


def drawn_together(
    transforms: Sequence[Transform], rng: np.random.Generator, shape: Shape, step: int = 0
) -> Chain:
    """All of them in a row; none changes the size."""
    return Chain(tuple(transform.draw(rng, shape, step) for transform in transforms))
