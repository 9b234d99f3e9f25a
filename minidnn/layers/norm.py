"""Normalisation: by the neighbours of a number, or by the statistics of its channel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from minidnn import kernels
from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError, UsageError
from minidnn.kernels.memory import Mem
from minidnn.layers.base import BUFFER, PARAM, Grads, Layer, Shape


@dataclass(frozen=True, eq=False)
class LRN(Layer):
    """Divide each number by the energy of its neighbours across channels.

        L_k = kappa + alpha * sum over q in Q(k) of x_q²          y_k = x_k * L_k^-beta
        s_k = sum over the j whose Q(j) holds k of  dzdy_j * x_j * L_j^-(beta+1)
        dzdx_k = dzdy_k * L_k^-beta - 2 * alpha * beta * x_k * s_k

    Krizhevsky et al. 2012, section 3.3. Q(k) reaches from k - floor((size-1)/2) to k + ceil((size-1)/2): an
    even size leans forward, and its way back leans backward. alpha is for one number, as in MatConvNet;
    Caffe states it for the whole window (alpha = Caffe's / size).
    """

    size: int = 5
    kappa: float = 1.0
    alpha: float = 1e-4 / 5
    beta: float = 0.75
    apart: ClassVar = True  # no pixel asks for another one

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"{type(self).__name__} over {self.size} neighbours; give at least 1")

    def forward(self, x: Array, *, mem: Mem = None, **_: Any) -> tuple[Array, Array]:
        return kernels.by_pixel(self._divided, x, results=2, mem=mem, apart=self.apart)

    def backward(self, dzdy: Array, *, x: Array, aux: Array, mem: Mem = None, **_: Any) -> Array:
        return kernels.by_pixel(self._divided_back, dzdy, x, aux, results=1, mem=mem, apart=self.apart)

    def _divided(self, x: Array) -> tuple[Array, Array]:
        energy = self.kappa + self.alpha * self._sum_over_mine(x * x)
        return x * energy**-self.beta, energy

    def _divided_back(self, dzdy: Array, x: Array, energy: Array) -> Array:
        shared = self._sum_over_whose_i_am(dzdy * x * energy ** (-self.beta - 1))
        return dzdy * energy**-self.beta - 2 * self.alpha * self.beta * x * shared

    def _sum_over_mine(self, x: Array) -> Array:
        return kernels.channel_sum(x, before=(self.size - 1) // 2, after=self.size // 2)

    def _sum_over_whose_i_am(self, x: Array) -> Array:
        return kernels.channel_sum(x, before=self.size // 2, after=(self.size - 1) // 2)


@dataclass(frozen=True, eq=False)
class LRNWithin(LRN):
    """LRN whose neighbours are the size x size pixels around, in the same channel; what lies outside counts
    as 0.

    The same formulas with Q(i,j) that square. alpha is for one pixel (Caffe's / size²); size is odd, so the
    square is the same both ways.
    """

    size: int = 3
    apart: ClassVar = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise UsageError(f"LRNWithin has a square of {self.size} pixels; give an odd number")

    def _sum_over_mine(self, x: Array) -> Array:
        return kernels.square_sum(x, self.size // 2)

    _sum_over_whose_i_am = _sum_over_mine


class Moments(NamedTuple):
    """Mean and variance of each channel over one batch, for the trainer to fold into the running ones."""

    mean: Array
    var: Array


@dataclass(frozen=True, eq=False)
class BatchNorm(Layer):
    """Give every channel mean 0 and variance 1, then the scale and shift that it learns.

        x̂ = (x - mean) / sqrt(var + eps)          y = gamma * x̂ + beta

    Ioffe & Szegedy 2015. In test mode mean and var are the stored ones, in training those of the batch, over
    all its images and places; and these x moves too:

        test        dzdx = gamma / sqrt(var + eps) * dzdy
        training    dzdx = gamma / sqrt(var + eps) * (dzdy - mean(dzdy) - x̂ * mean(dzdy * x̂))
    """

    gamma: Array = field(repr=False, metadata=PARAM)  # (C,)
    beta: Array = field(repr=False, metadata=PARAM)  # (C,)
    mean: Array = field(repr=False, metadata=BUFFER)  # (C,)
    var: Array = field(repr=False, metadata=BUFFER)  # (C,): the mean square, not divided by n - 1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        shapes = {a.shape for a in (self.gamma, self.beta, self.mean, self.var)}
        if len(shapes) != 1 or self.gamma.ndim != 1:
            raise ShapeError(
                f"BatchNorm wants gamma, beta, mean and var of one length, found {sorted(shapes)}"
            )

    def out_shape(self, x_shape: Shape) -> Shape:
        if x_shape[3] != len(self.gamma):
            raise ShapeError(
                f"BatchNorm wants {len(self.gamma)} channels, x has {x_shape[3]} (shape {x_shape})"
            )
        return x_shape

    def forward(
        self, x: Array, *, mode: str = "test", mem: Mem = None, **_: Any
    ) -> tuple[Array, Moments | None]:
        self.out_shape(x.shape)
        batch = Moments(*kernels.moments(x)) if mode == "train" else None
        mean, deviation = self._normal_of(batch)
        slope = self.gamma / deviation
        return kernels.scaled(x, slope, self.beta - mean * slope, mem), batch

    def backward(
        self,
        dzdy: Array,
        *,
        x: Array,
        aux: Moments | None,
        dzdw: Grads | None = None,
        mem: Mem = None,
        **_: Any,
    ) -> Array:
        """Both sums over the batch are gradients of weights: where these are made, they come as dzdw."""
        mean, deviation = self._normal_of(aux)
        slope = self.gamma / deviation
        if aux is None:
            return kernels.scaled(dzdy, slope, slope * 0, mem)
        dzdw = dzdw or self.backward_params(dzdy, x=x, aux=aux)
        total, along = dzdw["beta"], dzdw["gamma"]
        places = x.size // x.shape[3]
        lean = -slope * along / deviation / places  # what stands before x in dzdx
        return kernels.blended(dzdy, slope, x, lean, -slope * total / places - lean * mean, mem)

    def backward_params(self, dzdy: Array, *, x: Array, aux: Moments | None, **_: Any) -> Grads:
        mean, deviation = self._normal_of(aux)
        total, along = kernels.sums(dzdy, x, mean)
        return {"gamma": along / deviation, "beta": total}

    def _normal_of(self, batch: Moments | None) -> tuple[Array, Array]:
        """The mean to take off, and the deviation to divide by."""
        mean, var = (self.mean, self.var) if batch is None else batch
        return mean, xp_of(var).sqrt(var + self.eps)
