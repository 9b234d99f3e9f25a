"""Layers that join several maps or widen one, and the one that forgets where its pixels were."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError, UsageError
from minidnn.layers.base import Layer, Shape


@dataclass(frozen=True, eq=False)
class Concat(Layer):
    """Stack maps of one size, channels after channels; the gradient is cut apart at the same seams."""

    def out_shape(self, *x_shapes: Shape) -> Shape:
        if len({shape[:3] for shape in x_shapes}) != 1:
            raise ShapeError(f"Concat wants maps of one size, found {' and '.join(map(str, x_shapes))}")
        return (*x_shapes[0][:3], sum(shape[3] for shape in x_shapes))

    def forward(self, *xs: Array, **_: Any) -> tuple[Array, None]:
        self.out_shape(*(x.shape for x in xs))
        return xp_of(*xs).concatenate(xs, axis=3), None

    def backward(self, dzdy: Array, *, x_shape: tuple[Shape, ...], **_: Any) -> tuple[Array, ...]:
        parts, at = [], 0
        for shape in _each(x_shape):
            parts.append(dzdy[..., at : at + shape[3]])
            at += shape[3]
        return tuple(parts)


@dataclass(frozen=True, eq=False)
class Add(Layer):
    """y = the sum of its inputs, so each of them gets the whole dzdy (He et al. 2016)."""

    def out_shape(self, *x_shapes: Shape) -> Shape:
        if len(set(x_shapes)) != 1:
            raise ShapeError(f"Add wants maps of one shape, found {' and '.join(map(str, x_shapes))}")
        return x_shapes[0]

    def forward(self, *xs: Array, **_: Any) -> tuple[Array, None]:
        self.out_shape(*(x.shape for x in xs))
        xp_of(*xs)
        return sum(xs[1:], start=xs[0]), None

    def backward(self, dzdy: Array, *, x_shape: tuple[Shape, ...], **_: Any) -> tuple[Array, ...]:
        return (dzdy,) * len(_each(x_shape))


@dataclass(frozen=True, eq=False)
class PadChannels(Layer):
    """Put channels of zeros before and after those of x; on the way back they are cut off again.

    (N, H, W, C) → (N, H, W, before + C + after)

    The shortcut of a ResNet that has to widen without weights (He et al. 2016, section 3.3, option A).
    """

    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        if self.before < 0 or self.after < 0:
            raise UsageError(f"PadChannels by {self.before} and {self.after}; give 0 or more of each")

    def out_shape(self, x_shape: Shape) -> Shape:
        return (*x_shape[:3], self.before + x_shape[3] + self.after)

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        y = xp_of(x).zeros(self.out_shape(x.shape), x.dtype)
        y[..., self.before : self.before + x.shape[3]] = x
        return y, None

    def backward(self, dzdy: Array, *, x_shape: Shape, **_: Any) -> Array:
        return dzdy[..., self.before : self.before + x_shape[3]]


@dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """Lay the map out as a vector, row by row, the channels of a pixel together.

    (N, H, W, C) → (N, 1, 1, H*W*C)
    """

    def out_shape(self, x_shape: Shape) -> Shape:
        return (x_shape[0], 1, 1, prod(x_shape[1:]))

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        return x.reshape(self.out_shape(x.shape)), None

    def backward(self, dzdy: Array, *, x_shape: Shape, **_: Any) -> Array:
        return dzdy.reshape(x_shape)


def _each(x_shape: Any) -> tuple[Shape, ...]:
    """The engine hands a join of one input that input's shape by itself."""
    return x_shape if isinstance(x_shape[0], tuple) else (x_shape,)
