"""Optimisers: from a gradient to the step to take. `step(grad, state)` hands back (step, new state).

The step is to be ADDED, and leads downhill: `step, state = adam.step(grad, state); theta = theta + step`. To
climb, as a dream does, give -grad. The state is None at first, then a dict of arrays and numbers to keep for
the next call. An optimiser itself is only settings: dataclasses.replace(adam, rate=...) changes one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError, UsageError

State = dict[str, Any] | None


@dataclass(frozen=True)
class Optimiser:
    """What all have: a learning rate above 0. Other settings are shares of the past, from 0 to below 1."""

    rate: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value, may_grow = getattr(self, field.name), field.name in ("rate", "epsilon")
            if not (0 < value < math.inf if may_grow else 0 <= value < 1):
                allowed = "above 0, and finite; to climb, give -grad" if may_grow else "from 0 to below 1"
                raise UsageError(f"{type(self).__name__} got {field.name}={value}; wanted {allowed}")

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        raise TypeError(f"{type(self).__name__} has no step")


def _past(state: State, name: str, grad: Array) -> Array:
    """What the state remembers under that name; at the beginning, zeros."""
    past = None if state is None else state[name]
    xp = xp_of(grad, past)
    if past is None:
        return xp.zeros_like(grad)
    if past.shape != grad.shape:
        raise ShapeError(f"state of {past.shape}, gradient of {grad.shape}; start again with state None")
    return past


@dataclass(frozen=True)
class SGD(Optimiser):
    """step = -rate * grad          No memory: the state stays None."""

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        return -self.rate * grad, None


@dataclass(frozen=True)
class MeanAbs(Optimiser):
    """step = -rate * grad / mean|grad|, the mean over the coordinates whose gradient is not 0

    However loud the gradient, a step moves by `rate` on average: it needs no tuning for each layer anew.
    """

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        xp = xp_of(grad)
        total = float(xp.abs(grad).sum())
        return -self.rate * int(xp.count_nonzero(grad)) / max(total, 1e-30) * grad, None


@dataclass(frozen=True)
class UnitNorm(Optimiser):
    """step = -rate * grad / |grad|          Every step has the same length."""

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        length = math.sqrt(float((grad * grad).sum()))
        return -self.rate / max(length, 1e-30) * grad, None


@dataclass(frozen=True)
class SlideMomentum(Optimiser):
    """step = -rate * (alpha * grad before + grad)

    Only ONE gradient of the past is mixed in: what lies two steps back is forgotten. The courses' slides
    call this momentum; `Momentum` is what everyone else calls so.
    """

    alpha: float = 0.9

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        # A copy: the caller's array may be filled with the next gradient before we look at it again.
        return -self.rate * (self.alpha * _past(state, "grad", grad) + grad), {"grad": grad.copy()}


@dataclass(frozen=True)
class Momentum(Optimiser):
    """velocity = alpha * velocity + grad          step = -rate * velocity

    A heavy ball (Polyak 1964). On a steady slope it goes 1 / (1 - alpha) times as fast as SGD.
    """

    alpha: float = 0.9

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        velocity = self.alpha * _past(state, "velocity", grad) + grad
        return -self.rate * velocity, {"velocity": velocity}


@dataclass(frozen=True)
class Nesterov(Momentum):
    """velocity = alpha * velocity + grad          step = -rate * (grad + alpha * velocity)

    Momentum that looks ahead to where its velocity carries it (Nesterov 1983; Sutskever et al. 2013).
    """

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        velocity = self.alpha * _past(state, "velocity", grad) + grad
        return -self.rate * (grad + self.alpha * velocity), {"velocity": velocity}


@dataclass(frozen=True)
class AdaGrad(Optimiser):
    """squares = squares + grad²          step = -rate * grad / (sqrt(squares) + epsilon)

    Each coordinate has a rate of its own, which only shrinks: most where it is steep (Duchi et al. 2011).
    """

    rate: float = 0.01
    epsilon: float = 1e-10

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        squares = _past(state, "squares", grad) + grad * grad
        return -self.rate * grad / (xp_of(grad).sqrt(squares) + self.epsilon), {"squares": squares}


@dataclass(frozen=True)
class RMSProp(Optimiser):
    """squares = decay * squares + (1 - decay) * grad²      step = -rate * grad / (sqrt(squares) + epsilon)

    AdaGrad that forgets, so that its steps need not die out (Hinton 2012, lecture 6e).
    """

    rate: float = 0.001
    decay: float = 0.9
    epsilon: float = 1e-8

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        squares = self.decay * _past(state, "squares", grad) + (1 - self.decay) * grad * grad
        return -self.rate * grad / (xp_of(grad).sqrt(squares) + self.epsilon), {"squares": squares}


@dataclass(frozen=True)
class Adam(Optimiser):
    """RMSProp with momentum (Kingma & Ba 2015, algorithm 1).

        mean    = beta1 * mean    + (1 - beta1) * grad
        squares = beta2 * squares + (1 - beta2) * grad²
        step    = -rate * mean / (1 - beta1^t) / (sqrt(squares / (1 - beta2^t)) + epsilon)

    Both averages begin at 0, so after t steps they are too small by the factor 1 - beta^t.
    """

    rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        t = 1 if state is None else state["t"] + 1
        mean = self.beta1 * _past(state, "mean", grad) + (1 - self.beta1) * grad
        squares = self.beta2 * _past(state, "squares", grad) + (1 - self.beta2) * grad * grad
        root = xp_of(grad).sqrt(squares / (1 - self.beta2**t))
        step = -self.rate / (1 - self.beta1**t) * mean / (root + self.epsilon)
        return step, {"t": t, "mean": mean, "squares": squares}


@dataclass(frozen=True)
class LBFGS(Optimiser):
    """Newton's method, with what the last `pairs` steps told of the curvature (Nocedal 1980, two loops).

        step = -rate * H grad,   H from the last s = step taken, y = change of the gradient

    No line search: the first step moves each coordinate by `rate` on average, later ones go rate * H grad.
    For functions that stay the same from step to step: it takes noise between them for curvature.
    """

    rate: float = 1.0
    pairs: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise UsageError(f"LBFGS got rate={self.rate}; wanted above 0, and finite; to climb, give -grad")
        if not isinstance(self.pairs, int) or self.pairs < 1:
            raise UsageError(f"LBFGS got pairs={self.pairs}; wanted a whole number above 0")

    def step(self, grad: Array, state: State = None) -> tuple[Array, State]:
        past: list[tuple[Array, Array]] = [] if state is None else list(state["past"])
        if state is not None:
            s, y = state["step"], grad - _past(state, "grad", grad)
            if float((s * y).sum()) > 1e-10 * float((y * y).sum()):  # curved upwards, as near a minimum
                past = [*past, (s, y)][-self.pairs :]
        newton = -self.rate * times_inverse_curvature(grad, past) if past else None
        step = MeanAbs(self.rate).step(grad)[0] if newton is None else newton
        return step, {"past": past, "grad": grad.copy(), "step": step.copy()}


def times_inverse_curvature(grad: Array, past: Sequence[tuple[Array, Array]]) -> Array:
    """H grad by the two loops over the pairs (s, y), oldest first: H undoes the curvature that they met."""
    shares, direction = [], grad
    for s, y in reversed(past):
        share = float((s * direction).sum()) / float((s * y).sum())
        shares.append(share)
        direction = direction - share * y
    s, y = past[-1]
    direction = direction * (float((s * y).sum()) / float((y * y).sum()))
    for (s, y), share in zip(past, reversed(shares), strict=True):
        direction = direction + s * (share - float((y * direction).sum()) / float((s * y).sum()))
    return direction
