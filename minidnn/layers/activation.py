"""Pointwise layers: each number of the output depends on one number of the input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from minidnn import kernels
from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError
from minidnn.kernels.memory import Mem
from minidnn.layers.base import PARAM, Grads, Layer, Shape, per_channel


@dataclass(frozen=True, eq=False)
class ReLU(Layer):
    """y = max(x, 0). At x = 0 the gradient is taken as 0, as Caffe, MatConvNet and PyTorch do.

        dzdx = dzdy where x > 0, else 0

    One bit for each number is all that the way back needs: x and y may be forgotten.
    """

    def forward(self, x: Array, *, mem: Mem = None, **_: Any) -> tuple[Array, Array]:
        return kernels.relu(x, mem)

    def backward(self, dzdy: Array, *, aux: Array, mem: Mem = None, **_: Any) -> Array:
        return kernels.relu_backward(dzdy, aux, mem)

    def pieces(self, *, y: Array, **_: Any) -> Array:
        return y > 0


@dataclass(frozen=True, eq=False)
class LeakyReLU(Layer):
    """y = x where x > 0, else leak * x. At x = 0 the gradient is taken as `leak`.

    dzdx = dzdy * (1 where x > 0, else leak)
    """

    leak: float = 0.01

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        return xp_of(x).where(x > 0, x, self.leak * x), None

    def backward(self, dzdy: Array, *, x: Array, **_: Any) -> Array:
        return xp_of(dzdy, x).where(x > 0, dzdy, self.leak * dzdy)

    def pieces(self, *, x: Array, **_: Any) -> Array:
        return x > 0


@dataclass(frozen=True, eq=False)
class PReLU(Layer):
    """A leaky ReLU that learns its leak, one for each channel or one for all (He et al. 2015).

    y = x where x > 0, else slope * x          dz/dslope = sum of dzdy * x where x <= 0
    """

    slope: Array = field(repr=False, metadata=PARAM)  # (C,) or (1,)

    def out_shape(self, x_shape: Shape) -> Shape:
        if self.slope.shape not in [(1,), (x_shape[3],)]:
            found = f"slopes {self.slope.shape}, x has {x_shape[3]} channels"
            raise ShapeError(f"PReLU has {found}; give one, or one for each")
        return x_shape

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        self.out_shape(x.shape)
        return xp_of(x, self.slope).where(x > 0, x, self.slope * x), None

    def backward(self, dzdy: Array, *, x: Array, **_: Any) -> Array:
        return xp_of(dzdy, x).where(x > 0, dzdy, self.slope * dzdy)

    def backward_params(self, dzdy: Array, *, x: Array, **_: Any) -> Grads:
        dslope = per_channel(dzdy * xp_of(dzdy, x).minimum(x, 0))
        return {"slope": dslope if self.slope.shape == dslope.shape else dslope.sum(keepdims=True)}

    def pieces(self, *, x: Array, **_: Any) -> Array:
        return x > 0


@dataclass(frozen=True, eq=False)
class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)), computed as (1 + tanh(x/2)) / 2, which cannot overflow.

    dzdx = dzdy * y * (1 - y)
    """

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        return 0.5 * (1 + xp_of(x).tanh(0.5 * x)), None

    def backward(self, dzdy: Array, *, y: Array, **_: Any) -> Array:
        return dzdy * y * (1 - y)


@dataclass(frozen=True, eq=False)
class Tanh(Layer):
    """y = tanh(x),   dzdx = dzdy * (1 - y²)"""

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        return xp_of(x).tanh(x), None

    def backward(self, dzdy: Array, *, y: Array, **_: Any) -> Array:
        return dzdy * (1 - y * y)


@dataclass(frozen=True, eq=False)
class Softmax(Layer):
    """Scores into probabilities over the channels, at each place by itself.

        y_k = exp(x_k) / sum over q of exp(x_q)          dzdx = y * (dzdy - sum over q of dzdy_q * y_q)

    The largest score is subtracted first: the same ratio, and no overflow.
    """

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        y = xp_of(x).exp(x - x.max(axis=3, keepdims=True))
        return y / y.sum(axis=3, keepdims=True), None

    def backward(self, dzdy: Array, *, y: Array, **_: Any) -> Array:
        return y * (dzdy - (dzdy * y).sum(axis=3, keepdims=True))


@dataclass(frozen=True, eq=False)
class GradientReversal(Layer):
    """y = x, but dzdx = -factor * dzdy: what comes below learns to undo what comes above (Ganin & Lempitsky
    2015).

    On purpose not the gradient of its forward; the checks know it by its factor.
    """

    factor: float = 1.0

    def forward(self, x: Array, **_: Any) -> tuple[Array, None]:
        return x, None

    def backward(self, dzdy: Array, **_: Any) -> Array:
        return -self.factor * dzdy

    @property
    def gradient_factor(self) -> float:
        return -self.factor
