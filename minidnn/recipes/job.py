"""A dream as a job: all that it takes, in words and numbers alone, so that it can be told and repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from minidnn import __version__, images, weights, zoo
from minidnn.arrays import Array, to_device
from minidnn.dream import Frame, Objective
from minidnn.dream.octaves import sized
from minidnn.dream.sight import fits
from minidnn.errors import FileFormatError, TooLargeError, UsageError, did_you_mean
from minidnn.net import Net
from minidnn.recipes.deepdream import (
    DeepDream,
    deepdream,
    objective_at,
    objective_of,
    planned,
    planned_within,
    prepared,
)
from minidnn.recipes.memory import check_pictures

STARTS = ("photo", "noise")
FILES = ("photo", "guide", "mask")  # that a job may read beside the net's
MOST_STEPS = 50_000  # in one dream: the digests of more would not fit into the note of a picture
SMALL = 64  # pixels of the short side; pictures below that are stamps
NOISE = (127.5, 12.0)  # mean and deviation: loud enough to begin with, quiet enough to leave no grain


@dataclass(frozen=True)
class Job:
    """What to dream with, and of what. Paths are as the user gave them."""

    net: str = "tiny"  # a file of ours, or a net that needs none
    photo: str | None = None  # None: the built-in landscape
    size: tuple[int, int] | None = None  # (h, w); None: as large as the photo
    start: str = "photo"  # or noise
    guide: str | None = None
    mask: str | None = None
    settings: DeepDream = field(default_factory=DeepDream)

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise UsageError(f"start {self.start!r}; there are {' and '.join(STARTS)}")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"size {self.size}; give at least 1x1")
        if self.size is not None and self.size[0] * self.size[1] > images.MAX_PIXELS:
            found = f"{self.size[0]}x{self.size[1]} is {self.size[0] * self.size[1]:,} pixels"
            raise TooLargeError(f"{found}, the limit is {images.MAX_PIXELS:,}: dream a smaller picture")

    def opened(self, device: str = "cpu") -> Opened:
        """Everything read and checked; nothing dreamed yet."""
        net = prepared(net_called(self.net), slide=self.settings.slide).to(device)
        if self.size is not None and device == "cpu":
            check_pictures(self.size, self.settings.canvas)
        picture: Array = self._picture()
        guide = None if self.guide is None else images.load(self.guide)
        mask = None if self.mask is None else mask_from(self.mask, picture.shape[1:3])
        picture = to_device(picture, device)
        guide, mask = (a if a is None else to_device(a, device) for a in (guide, mask))
        objective = objective_of(net, picture, self.settings, guide)
        sizes = list(planned(net, picture, self.settings, objective))
        objective_at(net, picture, self.settings, guide, sizes[0])  # whether it can be asked of the smallest
        if self.settings.max_memory:
            planned_within(net, picture, self.settings, objective)  # or why none is small enough
        if (steps := len(sizes) * self.settings.steps) > MOST_STEPS:
            raise UsageError(f"a dream of {steps:,} steps; give at most {MOST_STEPS:,}")
        return Opened(self, net, picture, guide, mask, objective, sizes, self._digests())

    def _digests(self) -> dict[str, str]:
        """What the files were when they were read, so that they may be moved during the dream."""
        files = {name: getattr(self, name) for name in FILES}
        return {name: file_digest(path) for name, path in files.items() if path is not None}

    def _picture(self) -> np.ndarray:
        if self.photo is not None:
            picture = images.load(self.photo)
        else:
            h, w = self.size or (336, 448)
            picture = images.clouds_over_hills(h, w, seed=self.settings.seed)
        picture = sized(picture, self.size or picture.shape[1:3]).clip(0, 255)
        if self.start == "noise":
            rng = np.random.default_rng(self.settings.seed)
            picture = rng.normal(*NOISE, picture.shape).clip(0, 255)
        return picture.astype(np.float32)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Job:
        """The job that was told; what it does not know it refuses."""
        settings = _known(DeepDream, told.get("settings", {}))
        return cls(**_known(cls, {**told, "settings": DeepDream(**settings)}))


class Opened(NamedTuple):
    """A job with all that it needs at hand."""

    job: Job
    net: Net
    picture: Array
    guide: Array | None
    mask: Array | None
    objective: Objective
    sizes: list[tuple[int, int]]  # of the octaves
    files: dict[str, str]  # the digests of photo, guide and mask, as far as there are such

    @property
    def total(self) -> int:
        """The count of all steps."""
        return len(self.sizes) * self.job.settings.steps

    def frames(self, resume: Frame | None = None) -> Iterator[Frame]:
        settings = replace(self.job.settings, slide=False)  # that has been done
        return deepdream(self.net, self.picture, settings, guide=self.guide, mask=self.mask, resume=resume)

    def told(self, digests: list[str]) -> str:
        """The note that goes into a picture: the job, what it was done with, and each step's digest."""
        return json.dumps(
            {
                "job": self.job.as_json(),
                "weights": weights.digest(self.net),
                "files": self.files,
                "versions": versions_here(),
                "steps": digests,
            }
        )


def versions_here() -> dict[str, str]:
    """The versions that numbers depend on."""
    return {"minidnn": __version__, "numpy": np.__version__}


def net_called(name: str) -> Net:
    """A net to dream with: a file of ours, or one of the zoo that needs no file."""
    if name in zoo.TRAINED or name.endswith(".h5") or Path(name).is_file():
        return weights.load(zoo.file_of(name))
    if name == "gabor":
        return zoo.get(name)
    if name in zoo.NETS:
        raise UsageError(
            f"{name} knows nothing yet: give a file with its weights (minidnn weights convert makes one from "
            f"{zoo.ABOUT[name].weights.partition(';')[0]}), or take tiny, which comes trained"
        )
    raise UsageError(f"no net and no file {name!r}{did_you_mean(name, zoo.NETS)}; minidnn nets lists them")


def size_for(net: Net) -> tuple[int, int]:
    """The size of pictures for a net: that of its training; four times a small one, if it takes any."""
    h, w, c = net.input_shape or (224, 224, 3)
    larger = (4 * h, 4 * w)
    return larger if min(h, w) < SMALL and fits(net, net.names[-1:], (1, *larger, c)) else (h, w)


def mask_from(path: str, size: tuple[int, int]) -> np.ndarray:
    """A grey picture as a mask (1, H, W, 1): white pixels may move, black ones stay."""
    return sized(images.load(path, colour=False), size).clip(0, 255) / np.float32(255)


def file_digest(path: str) -> str:
    """The sha256 of a file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileFormatError(f"{path}: {error.strerror}; give another file") from None


def picture_digest(picture: Array) -> str:
    """A short name for exactly these pixels, every bit of their floats."""
    return hashlib.blake2b(np.ascontiguousarray(picture).tobytes(), digest_size=6).hexdigest()


def _known(kind: type, told: Any) -> dict[str, Any]:
    """The fields of a dataclass from JSON, where lists were tuples."""
    if not isinstance(told, Mapping):
        raise UsageError(f"settings are {told!r:.60}; they should be names and values")
    hints = get_type_hints(kind)
    found = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    for name, value in found.items():
        if name not in hints:
            raise UsageError(f"no setting {name!r}{did_you_mean(name, hints)}")
        if not _is(value, hints[name]):
            raise UsageError(f"setting {name} is {value!r:.60}; it should be {hints[name]}")
    return found


def _is(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is what the type says."""
    parts = get_args(hint)
    if isinstance(hint, UnionType):
        return any(_is(value, part) for part in parts)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple) or not (parts[-1] is Ellipsis or len(parts) == len(value)):
            return False
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return all(map(_is, value, each))
    return type(value) in (int, float) if hint is float else type(value) is hint
