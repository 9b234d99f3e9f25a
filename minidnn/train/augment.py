"""Pictures changed so that a net must not learn what does not matter, or is tested without it.

Each takes a batch (N, H, W, C) of 0..255 and a generator, and draws anew for every picture; its label stays.
All pictures of a batch are changed at once. What moves pixels keeps their dtype, what blends gives float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minidnn.errors import UsageError, did_you_mean
from minidnn.images import LUMA
from minidnn.train.data import as_float

Rng = np.random.Generator
Augmentation = Callable[[np.ndarray, Rng], np.ndarray]


class _Checked:
    """Settings are numbers from 0, shares and chances up to 1."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value, most = getattr(self, field.name), 1.0 if field.name in ("chance", "share") else 1e6
            if not 0 <= value <= most:
                what = f"{type(self).__name__} got {field.name}={value}"
                raise UsageError(f"{what}; give a number from 0 to {most:g}")


@dataclass(frozen=True)
class Flip(_Checked):
    """Left becomes right, with this chance."""

    chance: float = 0.5

    def __call__(self, images: np.ndarray, rng: Rng) -> np.ndarray:
        flipped = rng.random(len(images)) < self.chance
        images = images.copy()
        images[flipped] = images[flipped][:, :, ::-1]
        return images


@dataclass(frozen=True)
class Crop(_Checked):
    """A window as large as the picture, somewhere on the picture with `pad` pixels of black around it."""

    pad: int = 4

    def __call__(self, images: np.ndarray, rng: Rng) -> np.ndarray:
        return _moved(images, int(self.pad), rng, "constant")


@dataclass(frozen=True)
class Shift(_Checked):
    """Up to `pixels` up or down and left or right; the border is repeated where there is nothing."""

    pixels: int = 2

    def __call__(self, images: np.ndarray, rng: Rng) -> np.ndarray:
        return _moved(images, int(self.pixels), rng, "edge")


@dataclass(frozen=True)
class Rotate(_Checked):
    """Up to `degrees` either way around the middle."""

    degrees: float = 15.0

    def __call__(self, images: np.ndarray, rng: Rng) -> np.ndarray:
        return rotated(images, rng.uniform(-self.degrees, self.degrees, len(images)))


@dataclass(frozen=True)
class Scale(_Checked):
    """Larger or smaller by up to `share`."""

    share: float = 0.15

    def __call__(self, images: np.ndarray, rng: Rng) -> np.ndarray:
        factor = rng.uniform(1 - self.share, 1 + self.share, len(images))
        return _sampled(images, np.eye(2) / factor[:, None, None])


@dataclass(frozen=True)
class Colour(_Checked):
    """Brightness, contrast and saturation, each changed by up to `share`."""

    share: float = 0.2

    def __call__(self, images: np.ndarray, rng: Rng) -> np.ndarray:
        more = rng.uniform(-self.share, self.share, (3, len(images), 1, 1, 1)).astype(np.float32)
        brightness, contrast, saturation = more
        x = as_float(images)
        middle = x.mean(axis=(1, 2, 3), keepdims=True)
        if images.shape[3] == 3:
            grey = (x @ np.array(LUMA, np.float32))[..., None]
            x = grey + (x - grey) * (1 + saturation)
        return np.clip(middle + (x - middle) * (1 + contrast) + 255 * brightness, 0, 255)


@dataclass(frozen=True)
class Noise(_Checked):
    """Gaussian noise of this deviation on every pixel."""

    deviation: float = 10.0

    def __call__(self, images: np.ndarray, rng: Rng) -> np.ndarray:
        noise = rng.standard_normal(images.shape, np.float32)
        noise *= np.float32(self.deviation)
        noise += images
        return np.clip(noise, 0, 255, out=noise)


@dataclass(frozen=True)
class Cutout(_Checked):
    """A grey square of `size` pixels around any pixel: at the border less of it (DeVries & Taylor 2017)."""

    size: int = 8

    def __call__(self, images: np.ndarray, rng: Rng) -> np.ndarray:
        n, h, w, _ = images.shape
        top, left = (rng.integers(0, side, n) - int(self.size) // 2 for side in (h, w))
        return _covered(images, top, top + int(self.size), left, left + int(self.size), 128)


@dataclass(frozen=True)
class Occlude(_Checked):
    """With this chance a rectangle of up to `share` of the picture is noise (Zhong et al. 2017)."""

    share: float = 0.25
    chance: float = 0.5

    def __call__(self, images: np.ndarray, rng: Rng) -> np.ndarray:
        n, h, w, c = images.shape
        area = rng.uniform(0.02, max(0.02, self.share), n) * h * w * (rng.random(n) < self.chance)
        aspect = np.exp(rng.uniform(-1, 1, n))
        tall = np.minimum(np.rint(np.sqrt(area * aspect)), h).astype(int)
        wide = np.minimum(np.rint(np.sqrt(area / aspect)), w).astype(int)
        top, left = rng.integers(0, h - tall + 1), rng.integers(0, w - wide + 1)
        noise = rng.integers(0, 256, (n, h, w, c), np.uint8)
        return _covered(images, top, top + tall, left, left + wide, noise)


AUGMENTATIONS: dict[str, type] = {
    kind.__name__.lower(): kind for kind in (Flip, Crop, Shift, Rotate, Scale, Colour, Noise, Cutout, Occlude)
}


def from_words(words: Iterable[str]) -> tuple[Augmentation, ...]:
    """("flip", "crop 4", "occlude 0.2 0.5"): the names, and their numbers in order."""
    found = []
    for word in words:
        name, *numbers = word.split()
        if name not in AUGMENTATIONS:
            near = did_you_mean(name, AUGMENTATIONS)
            raise UsageError(f"no augmentation {name!r}; there are {', '.join(AUGMENTATIONS)}{near}")
        kind = AUGMENTATIONS[name]
        try:
            found.append(kind(*map(float, numbers)))
        except (TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            takes = ", ".join(f"{field.name} ({field.default})" for field in fields(kind))
            raise UsageError(f"augmentation {word!r}: {name} takes {takes}") from None
    return tuple(found)


def rotated(images: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Each picture turned clockwise around its middle by its own angle; the border is repeated."""
    angle = np.radians(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    return _sampled(images, np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2))


def applied(augmentations: Iterable[Augmentation], images: np.ndarray, rng: Rng) -> np.ndarray:
    """One after the other."""
    for augmentation in augmentations:
        images = augmentation(images, rng)
    return images


def _moved(images: np.ndarray, most: int, rng: Rng, fill: str) -> np.ndarray:
    """Each picture moved by its own whole number of pixels: one copy out of a view of all places."""
    n, h, w, c = images.shape
    ground = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode=fill)  # type: ignore[call-overload]
    across, down, right, item = ground.strides
    places = as_strided(
        ground, (n, 2 * most + 1, 2 * most + 1, h, w, c), (across, down, right, down, right, item)
    )
    ys, xs = rng.integers(0, 2 * most + 1, (2, n))
    return places[np.arange(n), ys, xs]


def _sampled(images: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Around the middle, each pixel from where its picture's matrix sends it (bilinear)."""
    n, h, w, c = images.shape
    at = np.stack(np.meshgrid(np.arange(h) - (h - 1) / 2, np.arange(w) - (w - 1) / 2, indexing="ij"))
    from_where = (matrices @ at.reshape(2, -1)).astype(np.float32)  # (N, 2, h*w)
    y = np.clip(from_where[:, 0] + (h - 1) / 2, 0, h - 1)
    x = np.clip(from_where[:, 1] + (w - 1) / 2, 0, w - 1)
    top, left = np.minimum(y.astype(np.int32), max(0, h - 2)), np.minimum(x.astype(np.int32), max(0, w - 2))
    y, x = ((at - first).astype(np.float32)[..., None] for at, first in ((y, top), (x, left)))
    flat, rows = as_float(images).reshape(n * h * w, c), np.arange(n, dtype=np.int32)[:, None] * (h * w)
    corner = rows + top * w + left
    below, beside = min(1, h - 1) * w, min(1, w - 1)
    upper = flat[corner] * (1 - x) + flat[corner + beside] * x
    lower = flat[corner + below] * (1 - x) + flat[corner + below + beside] * x
    return (upper * (1 - y) + lower * y).reshape(n, h, w, c)


def _covered(
    images: np.ndarray, top: Any, bottom: Any, left: Any, right: Any, by: np.ndarray | int
) -> np.ndarray:
    """The rectangle top..bottom, left..right of each picture replaced."""
    rows, columns = np.arange(images.shape[1]), np.arange(images.shape[2])
    down = (rows >= top[:, None]) & (rows < bottom[:, None])
    across = (columns >= left[:, None]) & (columns < right[:, None])
    inside = down[:, :, None, None] & across[:, None, :, None]
    return np.where(inside, np.asarray(by, images.dtype), images)
