"""What a Caffe net wants done to its images: mean, scale and order of channels; and the names of its classes.

Caffe subtracts first and scales then, and its images come from OpenCV: blue, green, red.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minidnn.errors import DamagedFileError, MismatchError, TooLargeError
from minidnn.images import Preprocess
from weights_tools.detect import opened
from weights_tools.readers.caffe_flow import Size
from weights_tools.readers.caffe_layers import owned
from weights_tools.readers.caffe_records import mapped, mean_blob
from weights_tools.readers.caffe_schema import Fields

MAX_CLASS_NAMES = 1 << 20  # bytes

Mean = str | os.PathLike | Sequence[float] | np.ndarray | None  # a .binaryproto, or what would be in it
Classes = str | os.PathLike | Sequence[str] | None  # a file with a name on each line, or the names


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

    preprocess: Preprocess | None
    steps: list[str]
    warnings: list[str]


def preprocessing(size: Size, transform: Fields | None, mean: Mean, where: str) -> Told:
    """From what the data layer did, or from a mean that was given, which goes before."""
    h, w, channels = size
    told = Told(None, [], [])
    given = _given_mean(mean)
    if given is None and transform is not None:
        given = _mean_in(transform, told)
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
    if given.shape[-1] not in (1, channels):
        raise MismatchError(
            f"{where}: the mean has {given.shape[-1]} channels, images have {channels}; another file?"
        )
    if given.ndim == 3 and h is not None and w is not None:
        given = _middle(given, h, w, where)
        told.steps.append(f"took the middle {h}x{w} of the mean image")
    if channels == 3:
        told.warnings.append("channels are taken to be blue, green, red, as Caffe's tools write them")
    numbers = given * np.float32(scale) if given.ndim == 3 else tuple(float(one) * scale for one in given)
    fits = None if h is None or w is None else (h, w)
    told.preprocess = Preprocess("BGR" if channels == 3 else "GRAY", scale, numbers, size=fits)
    return told


def class_names(classes: Classes) -> tuple[str, ...]:
    """One for each line, without the numbers that WordNet gives them."""
    if classes is None:
        return ()
    if not isinstance(classes, str | os.PathLike):
        return tuple(classes)
    path = Path(classes)
    opened(path)
    if path.stat().st_size > MAX_CLASS_NAMES:
        raise TooLargeError(
            f"{path}: more than {MAX_CLASS_NAMES:,} bytes; class names stand one on each line"
        )
    lines = path.read_bytes().decode("utf-8-sig", "replace").strip().splitlines()
    numbered = all(re.match(r"n\d{8} ", line) for line in lines)
    return tuple(line[10:].strip() if numbered else line.strip() for line in lines)


def _given_mean(mean: Mean) -> np.ndarray | None:
    if mean is None:
        return None
    if isinstance(mean, str | os.PathLike):
        found = read_mean(mean)
    else:
        found = np.asarray(mean, np.float32 if np.ndim(mean) == 3 else np.float64)
    if found.ndim not in (1, 3) or not found.size or not np.isfinite(found).all():
        what = f"a mean of shape {found.shape}"
        raise MismatchError(
            f"{what}, expected finite numbers, one for each channel or an image (h, w, channels)"
        )
    return found


def _mean_in(transform: Fields, told: Told) -> np.ndarray | None:
    if names := transform.all("mean_file"):
        name = re.split(r"[/\\]", names[-1])[-1][:80]
        told.warnings.append(f"its mean image is in another file, {name!r}: give that as the mean")
        return None
    values = transform.all("mean_value")
    if not np.isfinite(values).all():
        raise DamagedFileError(f"{transform.what}: 'mean_value' is {values}; fetch the file again")
    return np.array(values or [0.0])


def _middle(mean: np.ndarray, h: int, w: int, where: str) -> np.ndarray:
    """As Caffe crops the image, so it crops the mean."""
    top, left = (mean.shape[0] - h) // 2, (mean.shape[1] - w) // 2
    if top < 0 or left < 0:
        found = f"a mean image of {mean.shape[0]}x{mean.shape[1]}"
        raise MismatchError(
            f"{where}: {found}, images are {h}x{w}; give the mean of larger images, or one colour"
        )
    return np.ascontiguousarray(mean[top : top + h, left : left + w])
