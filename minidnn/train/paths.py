"""The ways that optimisers take down a long narrow valley: why some coordinates want larger steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minidnn.optim import SGD, AdaGrad, Adam, Momentum, Optimiser
from minidnn.train.curves import figure_of, svg

STEEP, START = 100.0, (-4.0, 1.0)

# Each at about the best rate that it can have here.
OPTIMISERS: dict[str, Optimiser] = {
    "SGD": SGD(0.018),
    "Momentum": Momentum(0.004, 0.9),
    "AdaGrad": AdaGrad(0.8),
    "Adam": Adam(0.3),
}


def valley(at: np.ndarray) -> tuple[float, np.ndarray]:
    """z = ½ (x² + 100 y²) and its gradient: a hundred times as steep across as along."""
    scale = np.array([1.0, STEEP])
    return 0.5 * float((scale * at * at).sum()), scale * at


def path(optimiser: Optimiser, steps: int = 60) -> np.ndarray:
    """Where it is after 0, 1, 2 … steps: (steps + 1, 2)."""
    at, state, found = np.array(START), None, [np.array(START)]
    for _ in range(steps):
        step, state = optimiser.step(valley(at)[1], state)
        at = at + step
        found.append(at)
    return np.array(found)


def paths(optimisers: Mapping[str, Optimiser] | None = None, *, steps: int = 60) -> bytes:
    """All of them on the map of the valley, and z after each step, as an SVG picture.

    SGD may go no faster than the steep side allows, and creeps along the floor. Momentum gathers speed there,
    and overshoots. AdaGrad divides each coordinate by what its gradients were so far, so that to it the
    valley is round (Duchi et al. 2011); Adam does so too, but forgets.
    """
    figure, (above, below) = figure_of(2, share_x=False)
    x, y = np.meshgrid(np.linspace(-4.5, 2, 66), np.linspace(-1.2, 1.2, 48))
    above.contour(x, y, np.sqrt(0.5 * (x * x + STEEP * y * y)), 14, colors="0.85", linewidths=0.8)
    for name, optimiser in (optimisers or OPTIMISERS).items():
        way = path(optimiser, steps)
        above.plot(*way.T, marker=".", markersize=3, linewidth=1, label=name)
        below.plot([valley(at)[0] for at in way], label=name)
    above.set_xlim(-4.5, 2)
    above.set_ylim(-1.2, 1.2)
    above.legend(fontsize=8)
    below.set_yscale("log")
    below.set_xlabel("step")
    below.set_ylabel("z")
    return svg(figure)
