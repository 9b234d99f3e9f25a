"""Convolution, its transpose, and the fully connected layer: a convolution whose window is the whole map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Self

import numpy as np

from minidnn import kernels
from minidnn.arrays import Array
from minidnn.errors import ShapeError, UsageError
from minidnn.kernels.behind import Behind
from minidnn.kernels.choice import How
from minidnn.kernels.memory import Mem
from minidnn.layers.base import PARAM, Grads, Layer, Rng, Shape, check_channels, drawn, per_channel
from minidnn.window import Window

Pair = int | Sequence[int]


@dataclass(frozen=True, eq=False)
class Bank(Layer):
    """What the layers with filters share: the filters w (kh, kw, in, out), and a bias b (K,) or None."""

    w: Array = field(repr=False, metadata=PARAM)
    b: Array | None = field(repr=False, metadata=PARAM)

    def __str__(self) -> str:
        return f"{type(self).__name__} {'x'.join(map(str, self.w.shape))}"

    @property
    def out_channels(self) -> int:
        return self.w.shape[3]

    def _grads(self, dzdw: Array, dzdy: Array) -> Grads:
        return {"w": dzdw} | ({} if self.b is None else {"b": per_channel(dzdy)})

    def _check(self, window: Window | None = None, groups: int = 1) -> None:
        what, shape = type(self).__name__, self.w.shape
        if len(shape) != 4:
            raise ShapeError(f"{what} wants filters (kh, kw, in, out), found an array of shape {shape}")
        if window is not None and not isinstance(window, Window):
            raise UsageError(f"{what} wants a Window, found {window!r}; Window.of makes one")
        if window is not None and shape[:2] != window.kernel:
            found = f"filters of {shape[0]}x{shape[1]} and a window of {window.kernel}"
            raise ShapeError(f"{what} has {found}; make them agree")
        if groups < 1 or shape[3] % groups:
            raise ShapeError(f"{what} cannot share {shape[3]} filters among {groups} groups; give a divisor")
        k = self.out_channels
        if self.b is not None and self.b.shape != (k,):
            raise ShapeError(f"{what} makes {k} channels, wants a bias of shape ({k},), found {self.b.shape}")


@dataclass(frozen=True, eq=False)
class Conv(Bank):
    """Slide a bank of filters over the image.

        y[n,i,j,k] = b[k] + sum over taps t and channels c of  x[n, pixel under t in (i,j), c] * w[t,c,k]

    With each window laid out as one row this is one matrix product, and so are both gradients. The filters
    w (kh, kw, C/groups, K) are not flipped (a correlation). With groups, the g-th share of the filters sees
    the g-th share of the channels only.
    """

    window: Window
    groups: int = 1

    @classmethod
    def random(
        cls, rng: Rng, kernel: Pair, c: int, k: int, *, groups: int = 1, bias: bool = True, **geometry: Any
    ) -> Self:
        """k filters over c channels; `stride`, `pad`, `dilation` as in Window.of. No rng: no weights yet."""
        window = Window.of(kernel, **geometry)
        shape = (*window.kernel, c // groups, k)
        return cls(drawn(rng, shape, prod(shape[:3])), _zeros(rng, k) if bias else None, window, groups)

    def __post_init__(self) -> None:
        self._check(self.window, self.groups)

    def out_shape(self, x_shape: Shape) -> Shape:
        check_channels(self, self.w.shape[2] * self.groups, x_shape)
        return (x_shape[0], *self.window.out_size(*x_shape[1:3]), self.out_channels)

    def forward(
        self, x: Array, *, how: How = None, mem: Mem = None, behind: Behind = None, **_: Any
    ) -> tuple[Array, Behind]:
        """With `behind`, what comes out there, and what its way back wants; nobody sees what is between."""
        self.out_shape(x.shape)
        w, b, window, groups = self.w, self.b, self.window, self.groups
        return kernels.conv(x, w, b, window, behind, groups=groups, how=how, mem=mem)

    def backward(
        self,
        dzdy: Array,
        *,
        x_shape: Shape,
        how: How = None,
        mem: Mem = None,
        behind: Behind = None,
        **_: Any,
    ) -> Array:
        """With `behind`, dzdy is by what comes out behind that."""
        w, window, groups = self.w, self.window, self.groups
        return kernels.conv_backward(
            dzdy, w, window, x_shape=x_shape, groups=groups, how=how, mem=mem, behind=behind
        )

    def backward_params(self, dzdy: Array, *, x: Array, how: How = None, mem: Mem = None, **_: Any) -> Grads:
        window, groups = self.window, self.groups
        return self._grads(kernels.conv_backward_w(dzdy, x, window, groups=groups, how=how, mem=mem), dzdy)


@dataclass(frozen=True, eq=False)
class ConvTranspose(Bank):
    """A convolution run backwards: every pixel of x stamps the filters, weighted, onto a larger image.

        y[n, pixel under tap t of window (i,j), k] += x[n,i,j,c] * w[t,k,c]

    Forward here is `Conv.backward` of the convolution with the same window and filters w (kh, kw, K/groups,
    C), and backward is its forward. The window's stride enlarges, its pad crops; `extra` rows and columns at
    the bottom and right settle a size that strides leave open.
    """

    window: Window
    groups: int = 1
    extra: tuple[int, int] = (0, 0)

    @classmethod
    def random(
        cls, rng: Rng, kernel: Pair, c: int, k: int, *, groups: int = 1, bias: bool = True, **geometry: Any
    ) -> Self:
        """Filters that make k channels out of c; the geometry is that of the convolution it transposes."""
        window = Window.of(kernel, **geometry)
        shape = (*window.kernel, k // groups, c)
        fan_in = max(1, prod(shape) // groups // (k // groups) // prod(window.stride))
        return cls(drawn(rng, shape, fan_in), _zeros(rng, k) if bias else None, window, groups)

    def __post_init__(self) -> None:
        self._check(self.window, self.groups)
        if self.window.ceil or not all(
            0 <= e < s for e, s in zip(self.extra, self.window.stride, strict=True)
        ):
            raise UsageError(
                f"ConvTranspose has extra {self.extra} and stride {self.window.stride}: "
                f"extra must be from 0 to less than the stride, and the window without ceil"
            )

    @property
    def out_channels(self) -> int:
        return self.w.shape[2] * self.groups

    def out_shape(self, x_shape: Shape) -> Shape:
        check_channels(self, self.w.shape[3], x_shape)
        (eh, ew), (sy, sx) = self.window.extent, self.window.stride
        top, bottom, left, right = self.window.pad
        h = (x_shape[1] - 1) * sy + eh - top - bottom + self.extra[0]
        w = (x_shape[2] - 1) * sx + ew - left - right + self.extra[1]
        if h < 1 or w < 1:
            raise ShapeError(f"{self} crops {x_shape} to {h}x{w}; use a larger x or less pad")
        return (x_shape[0], h, w, self.out_channels)

    def forward(self, x: Array, *, mem: Mem = None, **_: Any) -> tuple[Array, None]:
        shape = self.out_shape(x.shape)
        y = kernels.conv_backward(x, self.w, self.window, x_shape=shape, groups=self.groups, mem=mem)
        return y if self.b is None else y + self.b, None

    def backward(self, dzdy: Array, *, mem: Mem = None, **_: Any) -> Array:
        return kernels.conv(dzdy, self.w, None, self.window, groups=self.groups, mem=mem)[0]

    def backward_params(self, dzdy: Array, *, x: Array, mem: Mem = None, **_: Any) -> Grads:
        return self._grads(kernels.conv_backward_w(x, dzdy, self.window, groups=self.groups, mem=mem), dzdy)


@dataclass(frozen=True, eq=False)
class FC(Bank):
    """Every output sees every number of the input: a convolution whose one window is the whole map.

        y[n,0,0,k] = b[k] + sum over i, j, c of  x[n,i,j,c] * w[i,j,c,k]

    The map must have just the size it was trained on; a vector is a map of one pixel. `as_conv` lifts that
    bound.
    """

    @classmethod
    def random(cls, rng: Rng, x_size: Sequence[int], k: int, *, bias: bool = True) -> Self:
        """k outputs for maps of x_size = (h, w, c). No rng: no weights yet."""
        return cls(drawn(rng, (*x_size, k), prod(x_size)), _zeros(rng, k) if bias else None)

    def __post_init__(self) -> None:
        self._check()

    def out_shape(self, x_shape: Shape) -> Shape:
        trained = self.w.shape[:3]
        if x_shape[1:] == trained:
            return (x_shape[0], 1, 1, self.out_channels)
        reason = f"{self} was trained on maps of {trained}, x has {x_shape[1:]}"
        if x_shape[3] == trained[2] and x_shape[1] >= trained[0] and x_shape[2] >= trained[1]:
            reason += ": give images of the trained size, or slide it over the map: net.as_convolutional()"
        elif prod(x_shape[1:]) == prod(trained):
            reason += ": the same count in another shape; Flatten before, or w.reshape(h, w, c, k)"
        else:
            reason += ": give images of the trained size"
        raise ShapeError(reason)

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        shape = self.out_shape(x.shape)
        y = kernels.product(x.reshape(len(x), -1), self._flat_w)  # (N, K)
        if self.b is not None:
            y += self.b
        return y.reshape(shape), None

    def backward(self, dzdy: Array, *, x_shape: Shape, **_: Any) -> Array:
        return kernels.product(dzdy.reshape(len(dzdy), -1), self._flat_w.T).reshape(x_shape)

    def backward_params(self, dzdy: Array, *, x: Array, **_: Any) -> Grads:
        dzdw = kernels.product(x.reshape(len(x), -1).T, dzdy.reshape(len(dzdy), -1))  # (H*W*C, K)
        return self._grads(dzdw.reshape(self.w.shape), dzdy)

    def as_conv(self, x_size: Shape | None = None) -> Conv:
        """The same numbers as filters that slide; x_size (h, w, c) undoes a Flatten that came before."""
        w = self.w if x_size is None else self.w.reshape(*x_size, self.w.shape[3])
        return Conv(w, self.b, Window.of(w.shape[:2]))

    @property
    def _flat_w(self) -> Array:
        return self.w.reshape(-1, self.w.shape[3])  # (H*W*C, K)


def _zeros(rng: Rng, k: int) -> Array:
    return np.zeros(k, "float32") if rng is not None else drawn(None, (k,), 1)
