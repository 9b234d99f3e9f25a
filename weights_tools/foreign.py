"""What every reader hands back: a foreign file's content with its axes in our order.

Filters are (kh, kw, C, K), dense weights (in, out), all else (K,); no reader leaves that to others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidnn.images import Preprocess
from minidnn.net import Net

# One layer's arrays by our names for them: w b, or gamma beta mean var, or slope.
Arrays = dict[str, np.ndarray]


@dataclass
class Foreign:
    """Either `net`, where the file says how its layers are wired, or `layers`, its bare arrays."""

    format: str  # "Caffe", "MatConvNet SimpleNN", "PyTorch state dict"...: as a report names it
    net: Net | None = None
    layers: dict[str, Arrays] = field(default_factory=dict)  # by the file's names, in the file's order
    flatten: str = (
        "hwc"  # in which order a map became the vector that a dense layer of `layers` reads; or "chw"
    )
    channel_order: str | None = None  # "RGB", "BGR", "GRAY", where the file says it
    preprocess: Preprocess | None = None  # where the file says it
    classes: tuple[str, ...] = ()
    class_ids: tuple[str, ...] = ()  # in WordNet, where it says them
    steps: list[str] = field(default_factory=list)  # what was done: "dropped layer 'loss' (training only)"
    warnings: list[str] = field(default_factory=list)  # what the user should know
    asks: str = ""  # what it leaves open, and has to be said before it is converted
    hints: Mapping[str, Any] = field(default_factory=dict)  # what else it says: "input_size", "name", ...
