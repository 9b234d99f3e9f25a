"""What comes into a run from outside, an image or the seeds of a gradient, is checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.errors import DivergedError, ShapeError, StaleResError, UsageError
from minidnn.graph import Handle
from minidnn.params import Weighted
from minidnn.res import Res


def fitting_image(net: Weighted, image: Array, targets: Iterable[str], *, sure: bool = False) -> Array:
    """The image as the net computes with it, integers and half floats as float32; or why it cannot."""
    xp = xp_of(image, *islice((a for node in net.nodes for a in node.layer.params.values()), 1))
    if image.ndim != 4:
        hint = "; image[None] makes a batch of one" if image.ndim == 3 else ""
        raise ShapeError(f"an image is (N, H, W, C), found {image.shape}{hint}")
    if image.size == 0:
        what = "a batch of zero images" if len(image) == 0 else "an image without pixels"
        raise ShapeError(f"{what} (shape {image.shape}); give at least one")
    if image.dtype.kind not in "fiub":
        raise UsageError(f"an image holds real numbers, found {image.dtype}")
    net.shapes(image.shape, upto=targets)
    if not sure and not (finite := xp.isfinite(image)).all():
        place = tuple(int(axis[0]) for axis in xp.nonzero(~finite))
        raise DivergedError(
            f"the image has {int((~finite).sum())} of {image.size} numbers that are NaN or infinite, "
            f"the first at {place}; look where it came from"
        )
    own = image.dtype if image.dtype in (np.float32, np.float64) else np.float32
    return image.astype(xp.result_type(own, net.dtype), copy=False)


def check_weights(res: Res, version: int) -> None:
    """A run goes on with the weights that it began with."""
    if res.version != version and any(slot.shape is not None for slot in res.values()):
        raise StaleResError("the weights have changed since this run began: forwardto with the image again")


def named_seeds(net: Weighted, seeds: Mapping[Handle, Array]) -> dict[str, Array]:
    """The seeds by name."""
    if not isinstance(seeds, Mapping) or not seeds:
        raise UsageError("backwardfrom without seeds; give {layer: dz/dx of its output}")
    named = {net.name_of(layer): seed for layer, seed in seeds.items()}
    if len(named) < len(seeds):
        raise UsageError(f"two seeds for one layer among {', '.join(map(repr, seeds))}; add them up")
    return named


def check_seeds(
    net: Weighted, res: Res, seeds: Mapping[str, Array], goals: tuple[str, ...], wanted: set[str]
) -> None:
    """Each seed has the shape of its slot and reaches a goal, and each goal is reached."""
    for name, seed in seeds.items():
        shape = res[name].shape or res.filled(name).shape
        xp_of(seed, res.filled(net.input).x)
        if seed.shape != shape:
            raise ShapeError(f"the seed for {name!r} is {seed.shape}, its output is {shape}; make them agree")
        if seed.dtype.kind not in "fiub" or not (res.sure or xp_of(seed).isfinite(seed).all()):
            raise DivergedError(
                f"the seed for {name!r} has numbers that are complex, NaN or infinite; look at z"
            )
        if name not in wanted:
            ends = " or ".join(map(repr, goals))
            raise UsageError(f"the seed for {name!r} never reaches {ends}; leave it out")
    reached = net.ancestors(seeds, walls=goals)
    for goal in goals:
        if goal not in reached:
            origins = ", ".join(map(repr, seeds))
            raise UsageError(f"no gradient reaches {goal!r} from {origins}; seed it, or a layer behind it")
