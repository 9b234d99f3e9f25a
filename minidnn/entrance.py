"""What comes into a run from outside, an image or the seeds of a gradient, is checked before any work is
done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.errors import DivergedError, ShapeError, UsageError
from minidnn.params import Weighted
from minidnn.res import Res


def fitting_image(net: Weighted, image: Array, targets: Iterable[str]) -> Array:
    """The image as the net computes with it, integers and half floats as float32; or why it cannot."""
    xp = xp_of(image, *list(net.params.values())[:1])
    if image.ndim != 4:
        hint = "; image[None] makes a batch of one" if image.ndim == 3 else ""
        raise ShapeError(f"an image is (N, H, W, C), found {image.shape}{hint}")
    if len(image) == 0:
        raise ShapeError(f"a batch of zero images (shape {image.shape}); give at least one")
    if image.dtype.kind not in "fiub":
        raise UsageError(f"an image holds real numbers, found {image.dtype}")
    net.shapes(image.shape, upto=targets)
    finite = xp.isfinite(image)
    if not finite.all():
        place = tuple(int(axis[0]) for axis in xp.nonzero(~finite))
        raise DivergedError(
            f"the image has {int((~finite).sum())} of {image.size} numbers that are NaN or infinite, "
            f"the first at {place}; look where it came from"
        )
    own = image.dtype if image.dtype in (np.float32, np.float64) else np.float32
    return image.astype(xp.result_type(own, net.dtype), copy=False)


def check_seeds(
    net: Weighted, res: Res, seeds: Mapping[str, Array], goals: tuple[str, ...], wanted: set[str]
) -> None:
    """Each seed has the shape of its slot and reaches a goal, and each goal is reached."""
    if not seeds:
        raise UsageError("backwardfrom without seeds; give {layer: dz/dx of its output}")
    for name, seed in seeds.items():
        shape = res[name].shape or res.filled(name).shape
        xp_of(seed, res.filled(net.input).x)
        if seed.shape != shape:
            raise ShapeError(f"the seed for {name!r} is {seed.shape}, its output is {shape}; make them agree")
        if name not in wanted:
            ends = " or ".join(map(repr, goals))
            raise UsageError(f"the seed for {name!r} never reaches {ends}; leave it out")
    reached = net.ancestors(seeds)
    for goal in goals:
        if goal not in reached:
            origins = ", ".join(map(repr, seeds))
            raise UsageError(f"no gradient reaches {goal!r} from {origins}; seed a layer after it")
