"""Pooling and its reverse: one number for each window, or one window for each number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minidnn import kernels
from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError, UsageError
from minidnn.kernels.memory import Mem
from minidnn.kernels.pool import divisors
from minidnn.layers.base import Layer, Shape
from minidnn.window import Window


@dataclass(frozen=True, eq=False)
class MaxPool(Layer):
    """Each window hands on its largest pixel; the switch remembers which tap that was.

        y[n,i,j,c] = max over taps t of  x[n, pixel under tap t of window (i,j), c]

    Going back, the switch sends the gradient to that pixel alone. Deconvnets reuse the same switches. Padding
    never wins; ties go to the first tap, row by row (MatConvNet takes the leftmost column first: it differs
    on ties only).
    """

    window: Window

    def out_shape(self, x_shape: Shape) -> Shape:
        return _pooled(self.window, x_shape)

    def forward(self, x: Array, *, mem: Mem = None, **_: Any) -> tuple[Array, Array]:
        self.out_shape(x.shape)
        return kernels.max_pool(x, self.window, mem)

    def backward(self, dzdy: Array, *, aux: Array, x_shape: Shape, mem: Mem = None, **_: Any) -> Array:
        return kernels.unpool(dzdy, aux, x_shape, self.window, mem)

    def pieces(self, *, aux: Array, **_: Any) -> Array:
        return aux


@dataclass(frozen=True, eq=False)
class MaxUnpool(Layer):
    """Put every value back where a MaxPool found it; all other pixels are 0 (Zeiler & Fergus 2014).

        y[n, pixel that won window (i,j), c] += x[n,i,j,c]

    The second input is the map that the MaxPool read: it gives the size and the switches. The switches are
    steps, so no gradient flows to it.
    """

    window: Window

    def out_shape(self, x_shape: Shape, pooled_from: Shape) -> Shape:  # type: ignore[override]
        if x_shape != _pooled(self.window, pooled_from):
            raise ShapeError(
                f"MaxUnpool got values {x_shape} for a map {pooled_from}, which pools to "
                f"{_pooled(self.window, pooled_from)}; name the input of the MaxPool that it undoes"
            )
        return pooled_from

    def forward(self, x: Array, pooled_from: Array, **_: Any) -> tuple[Array, Array]:
        shape = self.out_shape(x.shape, pooled_from.shape)
        _, switches = kernels.max_pool(pooled_from, self.window)
        return kernels.unpool(x, switches, shape, self.window), switches

    def backward(self, dzdy: Array, *, aux: Array, **_: Any) -> tuple[Array, Array]:
        return kernels.pool_by_switch(dzdy, aux, self.window), xp_of(dzdy).zeros(dzdy.shape, dzdy.dtype)

    def pieces(self, *, aux: Array, **_: Any) -> Array:
        return aux


@dataclass(frozen=True, eq=False)
class AvgPool(Layer):
    """Each window hands on the sum of its pixels over a divisor.

        y[n,i,j,c] = sum over taps t of  x[n, pixel under tap t of window (i,j), c] / divisor(i,j)

    What counts at the border is a matter of taste, and nets were trained with each: divisor 'real' counts the
    pixels of the image (MatConvNet), 'padded' also those of the padding but not what a ceil window overhangs
    (Caffe), 'all' every tap.
    """

    window: Window
    divisor: str = "real"

    def __post_init__(self) -> None:
        if self.divisor not in ("real", "padded", "all"):
            raise UsageError(f"AvgPool has no divisor {self.divisor!r}; there are 'real', 'padded' and 'all'")

    def out_shape(self, x_shape: Shape) -> Shape:
        return _pooled(self.window, x_shape)

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        self.out_shape(x.shape)
        return kernels.avg_pool(x, self.window, self.divisor), None

    def backward(self, dzdy: Array, *, x_shape: Shape, **_: Any) -> Array:
        return kernels.avg_pool_backward(dzdy, x_shape, self.window, self.divisor)


@dataclass(frozen=True, eq=False)
class GlobalAvgPool(Layer):
    """The mean of each channel over the whole map (Lin et al. 2014).

    y[n,0,0,c] = mean over i, j of  x[n,i,j,c]          dzdx[n,i,j,c] = dzdy[n,0,0,c] / (H * W)
    """

    def out_shape(self, x_shape: Shape) -> Shape:
        return (x_shape[0], 1, 1, x_shape[3])

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        return x.mean(axis=(1, 2), keepdims=True), None

    def backward(self, dzdy: Array, *, x_shape: Shape, **_: Any) -> Array:
        h, w = x_shape[1:3]
        return xp_of(dzdy).broadcast_to(dzdy / (h * w), x_shape)


@dataclass(frozen=True, eq=False)
class Upsample(Layer):
    """Enlarge the map `factor` times, each axis by itself; R has one row for each new pixel.

        y = R_h x R_wᵀ          dzdx = R_hᵀ dzdy R_w

    'nearest' repeats pixels; 'bilinear' weighs the two nearest pixel centres, and repeats the border.
    """

    factor: int = 2
    method: str = "nearest"

    def __post_init__(self) -> None:
        if self.factor < 1 or self.method not in ("nearest", "bilinear"):
            raise UsageError(
                f"Upsample by {self.factor}, {self.method!r}: give a factor of at least 1, and 'nearest' or "
                "'bilinear'"
            )

    def out_shape(self, x_shape: Shape) -> Shape:
        n, h, w, c = x_shape
        return (n, h * self.factor, w * self.factor, c)

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        return _along_both(x, *(self._rows(size, x) for size in x.shape[1:3])), None

    def backward(self, dzdy: Array, *, x_shape: Shape, **_: Any) -> Array:
        return _along_both(dzdy, *(self._rows(size, dzdy).T for size in x_shape[1:3]))

    def _rows(self, size: int, like: Array) -> Any:
        """R: how much of each old pixel goes into each new one, (size * factor, size)."""
        xp = xp_of(like)
        centres = (xp.arange(size * self.factor) + 0.5) / self.factor - 0.5  # of the new pixels, in old ones
        if self.method == "nearest":
            centres = xp.round(centres)
        distance = xp.abs(xp.clip(centres, 0, size - 1)[:, None] - xp.arange(size))
        return xp.maximum(0, 1 - distance).astype(like.dtype)


def _along_both(x: Array, rows_y: Array, rows_x: Array) -> Array:
    n, h, w, c = x.shape
    tall = (rows_y @ x.reshape(n, h, w * c)).reshape(n, -1, w, c)  # (N, H', W, C)
    return rows_x @ tall  # (N, H', W', C)


def _pooled(window: Window, x_shape: Shape) -> Shape:
    n, h, w, c = x_shape
    oh, ow = window.out_size(h, w)
    if divisors(h, w, window, "real").min() == 0:
        raise ShapeError(
            f"a pooling window of {window.kernel} lies in the padding {window.pad} alone; pad less than the "
            "window"
        )
    return (n, oh, ow, c)
