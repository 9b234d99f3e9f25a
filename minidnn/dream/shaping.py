"""What becomes of a gradient before the step: a net asks for dots and rainbows too, which nobody wants.

All of it keeps the way uphill: for small steps, z still grows.
"""

from __future__ import annotations

from dataclasses import dataclass

from minidnn.arrays import Array, xp_of
from minidnn.dream.canvas import COLOURS
from minidnn.dream.priors import blurred
from minidnn.errors import UsageError


@dataclass(frozen=True)
class NaturalColours:
    """g ← share * g C Cᵀ + (1 - share) * g

    C Cᵀ is how the colours of photographs vary: far in light, little in hue. A gradient has no such measure,
    and without it the blue of a sky is soon full of neon.
    """

    share: float = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"NaturalColours with share {self.share}; give 0 (as the net says) to 1")

    def __call__(self, grad: Array) -> Array:
        if grad.shape[3] != 3 or not self.share:
            return grad
        mixing = xp_of(grad).asarray(COLOURS @ COLOURS.T, dtype=grad.dtype)
        return self.share * (grad @ mixing) + (1 - self.share) * grad


@dataclass(frozen=True)
class Smooth:
    """g ← Σ over sigmas of B_sigma g / mean|B_sigma g|,    B_sigma a Gaussian blur

    The gradient is loudest in its finest dots. Blurred a little, more and still more, and each brought to
    the same loudness, it asks for large shapes as well as for fine ones.
    """

    sigmas: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        if not all(sigma > 0 for sigma in self.sigmas):
            raise UsageError(f"Smooth with sigmas {self.sigmas}; give widths above 0, in pixels")

    def __call__(self, grad: Array) -> Array:
        if not self.sigmas:
            return grad
        parts = [blurred(grad, sigma) for sigma in self.sigmas]
        return sum((part * self._share(part) for part in parts), start=0 * grad)

    def _share(self, part: Array) -> Array:
        """1 / mean|part|, worked out where part lies: no GPU need wait for the host to see it."""
        xp = xp_of(part)
        level = xp.abs(part).mean().astype("float64")
        return (1 / xp.where(level > 0, level, 1)).astype(part.dtype)
