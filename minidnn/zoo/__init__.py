"""Nets by name, each a table like its paper's.

`get("vgg16")` has shapes; `get("vgg16", rng)` random weights too.
"""

from __future__ import annotations

from collections.abc import Callable

from minidnn.errors import UsageError, did_you_mean
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.zoo.gabor import gabor
from minidnn.zoo.lenet import lenet
from minidnn.zoo.vgg import vgg16, vgg19

NETS: dict[str, Callable[[Rng], Net]] = {"gabor": gabor, "lenet": lenet, "vgg16": vgg16, "vgg19": vgg19}


def get(name: str, rng: Rng = None) -> Net:
    """The net of that name."""
    if name not in NETS:
        raise UsageError(f"no net {name!r}; there are {', '.join(NETS)}{did_you_mean(name, NETS)}")
    return NETS[name](rng)


def names() -> tuple[str, ...]:
    """All that `get` knows."""
    return tuple(NETS)
