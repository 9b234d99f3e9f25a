"""Dreaming: objectives to climb, a canvas to change, accidents to survive, and the loop that joins them."""

from minidnn.dream.canvas import CPPN, Canvas, Fourier
from minidnn.dream.loop import Frame, State, Way, dream
from minidnn.dream.objectives import (
    Objective,
    best_match,
    caricature,
    channel,
    direction,
    diversity,
    guide_dot,
    neuron,
    on_layer,
    score,
    squared_norm,
    strongest,
)
from minidnn.dream.octaves import dream_in_octaves, octave_sizes
from minidnn.dream.priors import Anchor, Bilateral, Blur, PNorm, TotalVariation, decay
from minidnn.dream.shaping import NaturalColours, Smooth
from minidnn.dream.transforms import Flip, Jitter, Turn, Window

__all__ = [
    "CPPN",
    "Anchor",
    "Bilateral",
    "Blur",
    "Canvas",
    "Flip",
    "Fourier",
    "Frame",
    "Jitter",
    "NaturalColours",
    "Objective",
    "PNorm",
    "Smooth",
    "State",
    "TotalVariation",
    "Turn",
    "Way",
    "Window",
    "best_match",
    "caricature",
    "channel",
    "decay",
    "direction",
    "diversity",
    "dream",
    "dream_in_octaves",
    "guide_dot",
    "neuron",
    "octave_sizes",
    "on_layer",
    "score",
    "squared_norm",
    "strongest",
]
