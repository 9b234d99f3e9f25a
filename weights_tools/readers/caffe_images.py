"""What a Caffe net says of its images: mean, scale and order of channels; and mean images.

Caffe subtracts first and scales then, and its images come from OpenCV: blue, green, red.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minidnn.errors import DamagedFileError, MismatchError
from minidnn.images import Preprocess
from weights_tools.detect import opened
from weights_tools.readers.caffe_flow import Size
from weights_tools.readers.caffe_layers import owned
from weights_tools.readers.caffe_records import mapped, mean_blob
from weights_tools.readers.caffe_schema import Fields


def read_mean(path: str | os.PathLike) -> np.ndarray:
    """The mean image in a .binaryproto, (h, w, c), its channels in the file's order: BGR as a rule."""
    path = Path(path)
    opened(path)
    blob = mean_blob(mapped(path), str(path))
    shape = (1,) * (4 - len(blob.shape)) + blob.shape
    if len(shape) != 4 or shape[0] != 1 or shape[1] not in (1, 3) or not blob.values.size:
        raise MismatchError(f"{path}: an array of shape {blob.shape}, expected one image (1, channels, h, w)")
    return owned(blob.values.reshape(shape[1:]).transpose(1, 2, 0))


@dataclass
class Told:
    """What is to be done to images, as far as it is known, and what the user should know of it."""

    preprocess: Preprocess | None = None
    warnings: list[str] = field(default_factory=list)


def preprocessing(size: Size, transform: Fields | None, where: str) -> Told:
    """From what the data layer did, if it says it; a mean in another file is for the user to bring."""
    h, w, channels = size
    told = Told()
    given = None if transform is None else _mean_in(transform, told)
    if given is None:
        if not told.warnings:
            told.warnings.append("the file does not say what is subtracted from images: give the mean")
        return told
    if channels not in (1, 3):
        told.warnings.append(f"images of {channels} channels have no order of colours: left as they are")
        return told
    scale = 1.0 if transform is None else transform.real("scale", 1.0)
    if scale <= 0:
        raise DamagedFileError(
            f"{where}: images are scaled by {scale:g}, expected more than 0; fetch the file again"
        )
    if len(given) not in (1, channels):
        raise MismatchError(
            f"{where}: the mean has {len(given)} channels, images have {channels}; another file?"
        )
    if channels == 3:
        told.warnings.append("channels are taken to be blue, green, red, as Caffe's tools write them")
    numbers = tuple(float(one) * scale for one in given)
    fits = None if h is None or w is None else (h, w)
    told.preprocess = Preprocess("BGR" if channels == 3 else "GRAY", scale, numbers, size=fits)
    return told


def _mean_in(transform: Fields, told: Told) -> list[float] | None:
    if names := transform.all("mean_file"):
        name = re.split(r"[/\\]", names[-1])[-1][:80]
        told.warnings.append(f"its mean image is in another file, {name!r}: give that as the mean")
        return None
    values = transform.all("mean_value")
    if not np.isfinite(values).all():
        raise DamagedFileError(f"{transform.what}: 'mean_value' is {values}; fetch the file again")
    return values or [0.0]
