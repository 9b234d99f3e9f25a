"""Dropout: in training, forget numbers at random, so that no feature may rely on another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError, UsageError
from minidnn.layers.base import BUFFER, Layer, Rng, Shape


@dataclass(frozen=True, eq=False)
class Dropout(Layer):
    """In training, forget a share `rate` of the numbers; in testing, pass all of them on.

        y = x * mask          dzdx = dzdy * mask          mask = 0 for the forgotten, else 1 / (1 - rate)

    The kept ones are scaled up in training ("inverted"), so that testing needs no change (Srivastava et al.
    2014, section 10). The mask is forward's aux; `frozen` is one handed back in, and then nothing is drawn.
    """

    rate: float = 0.5
    frozen: Array | None = field(default=None, repr=False, metadata=BUFFER)

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise UsageError(f"Dropout at rate {self.rate}; give a share from 0 to less than 1")

    def out_shape(self, x_shape: Shape) -> Shape:
        if self.frozen is not None and self.frozen.shape not in [(1, *x_shape[1:]), x_shape]:
            raise ShapeError(
                f"Dropout has a frozen mask {self.frozen.shape}, x is {x_shape}; make them agree"
            )
        return x_shape

    def forward(
        self, x: Array, *, mode: str = "test", rng: Rng = None, **_: Any
    ) -> tuple[Array, Array | None]:
        self.out_shape(x.shape)
        if mode != "train":
            return x, None
        mask = self._draw(x, rng) if self.frozen is None else self.frozen.astype(x.dtype, copy=False)
        return x * mask, mask

    def backward(self, dzdy: Array, *, aux: Array | None, **_: Any) -> Array:
        return dzdy if aux is None else dzdy * aux

    def _draw(self, x: Array, rng: Rng) -> Any:
        if not isinstance(rng, np.random.Generator):
            raise UsageError('Dropout in mode="train" draws a mask: give rng=numpy.random.default_rng(seed)')
        # Drawn on the host: with one seed it is one mask on every device.
        kept = rng.random(x.shape, "float32") >= self.rate
        return xp_of(x).asarray(kept.astype(x.dtype) / x.dtype.type(1 - self.rate))
