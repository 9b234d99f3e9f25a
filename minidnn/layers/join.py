"""Layers that join several maps, and the one that forgets where its pixels were."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError
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
