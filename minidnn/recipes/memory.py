"""A dream within the memory that it is given: what stands around a step, for the plan of the step.

Counted in pictures of the dream's size, and measured: in the step the first picture, this one and what the
net is shown; between two steps also gradients, and what smooths them.
"""

from __future__ import annotations

from minidnn.arrays import Array
from minidnn.dream.octaves import net_channels
from minidnn.graph import Handle
from minidnn.net import Net
from minidnn.optim import LBFGS, Adam, Optimiser
from minidnn.plan import Plan, choose

HELD = {"pixels": 4, "fourier": 7, "cppn": 40}  # by the canvas, while the net looks
BETWEEN = {"pixels": 12, "fourier": 18, "cppn": 260}
REMEMBERED = {Adam: 2, LBFGS: 22}  # by the rule


def plan_within(
    net: Net,
    picture: Array,
    layers: tuple[Handle, ...],
    *,
    max_memory: str | None,
    canvas: str,
    rule: Optimiser,
) -> Plan:
    """How the net looks at this picture, and at smaller ones, in a process that stays below max_memory."""
    shape = (*picture.shape[:3], net_channels(net, picture.shape[3]))
    kept = REMEMBERED.get(type(rule), 0)
    pictures, between = HELD[canvas] + kept, BETWEEN[canvas] + kept
    return choose(net, shape, layers, max_memory, pictures=pictures, between=between)
