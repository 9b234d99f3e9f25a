"""L-BFGS to the bottom of a smooth convex function of a few thousand numbers (Nocedal & Wright, chapter 7).

optim.LBFGS takes one step for one gradient, since a dream has no more; here the function can be asked again,
so steps are halved until they go down, and it ends at the bottom. The direction is the same for both.
Our own, since SciPy's also minds bounds: of 5 ms that a step for a head takes there, 0.5 are the head's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minidnn.optim import times_inverse_curvature

REMEMBERED = 10  # steps, from which the curvature is guessed
ENOUGH = 1e-4  # the share of the promised descent that a step has to bring (Armijo)
HALVINGS = 40

Function = Callable[[np.ndarray], tuple[float, np.ndarray]]


class Found(NamedTuple):
    """The lowest point, the value there, and how often the function was asked."""

    x: np.ndarray
    value: float
    asked: int


def minimised(function: Function, x: np.ndarray, *, steps: int, tolerance: float) -> Found:
    """From x downhill, until five steps in a row gain less than that share of the value; or after `steps`.

    A direction is -H g, where H undoes the curvature that the last steps met:  H y = s  for the newest, with
    s the step and y how much the gradient changed on it.
    """
    value, gradient = function(x)
    pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=REMEMBERED)
    asked, small = 1, 0
    for _ in range(steps):
        direction = -times_inverse_curvature(gradient, pairs) if pairs else -gradient
        slope = float(gradient @ direction)
        if not slope < 0:  # a flat place, or nothing but rounding is left
            break
        length = 1.0 if pairs else min(1.0, 1 / float(np.linalg.norm(gradient)))
        for _ in range(HALVINGS):
            there = x + length * direction
            new_value, new_gradient = function(there)
            asked += 1
            if new_value <= value + ENOUGH * length * slope:
                break
            length /= 2
        else:  # no step goes lower by more than rounding
            break
        s, y = there - x, new_gradient - gradient
        if float(s @ y) > 1e-12 * float(y @ y):
            pairs.append((s, y))
        small = small + 1 if value - new_value <= tolerance * max(abs(new_value), 1e-300) else 0
        x, value, gradient = there, new_value, new_gradient
        if small == 5:
            break
    return Found(x, value, asked)
