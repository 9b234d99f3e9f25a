"""How the learning rate changes over a run: a factor before it, which follows from how far the run is.

A schedule has no memory. Plateau looks at the losses of the epochs so far, which the run keeps anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import cos, inf, pi

from minidnn.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """Constant. Over the first `warm_up` epochs the rate grows to its height, whatever the schedule."""

    warm_up: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < inf or (field.name in ("every", "patience") and value < 1):
                least = 1 if field.name in ("every", "patience") else 0
                raise UsageError(f"{type(self).__name__} got {field.name}={value}; give {least} or more")

    def factor(self, done: float, epochs: int, losses: Sequence[float] = ()) -> float:
        """What the rate is multiplied by after `done` epochs of so many; `losses` are those of each epoch."""
        if done < self.warm_up:
            return max(done / self.warm_up, 1e-3)
        share = (done - self.warm_up) / max(epochs - self.warm_up, 1e-9)
        return max(self._factor(done, min(share, 1.0), losses), 1e-6)

    def _factor(self, done: float, share: float, losses: Sequence[float]) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """Times `drop` after every so many epochs."""

    every: int = 10
    drop: float = 0.1

    def _factor(self, done: float, share: float, losses: Sequence[float]) -> float:
        return self.drop ** int(done // self.every)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Down to `last` along half a wave (Loshchilov & Hutter 2017); with a warm-up, one cycle."""

    last: float = 0.0

    def _factor(self, done: float, share: float, losses: Sequence[float]) -> float:
        return self.last + (1 - self.last) * (1 + cos(pi * share)) / 2


@dataclass(frozen=True)
class Linear(Schedule):
    """Down to `last` along a line."""

    last: float = 0.0

    def _factor(self, done: float, share: float, losses: Sequence[float]) -> float:
        return 1 + (self.last - 1) * share


@dataclass(frozen=True)
class Plateau(Schedule):
    """Times `drop` whenever the loss has had no new low for `patience` epochs."""

    patience: int = 3
    drop: float = 0.3

    def _factor(self, done: float, share: float, losses: Sequence[float]) -> float:
        lowest, waited, drops = inf, 0, 0
        for loss in losses:
            waited = 0 if loss < lowest else waited + 1
            lowest = min(loss, lowest)
            if waited == self.patience:
                drops, waited = drops + 1, 0
        return self.drop**drops


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Schedule,
    "step": Step,
    "cosine": Cosine,
    "linear": Linear,
    "plateau": Plateau,
}
