"""Labelled pictures, wherever they lie: pixels 0..255 as (N, H, W, C), asked for by their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from minidnn.arrays import Array
from minidnn.errors import DamagedFileError, ShapeError, UsageError
from minidnn.images import LUMA, Preprocess, resize

AT_ONCE = 250  # pictures looked at together
LOOKED_AT = 64  # pictures that stand for all in a fingerprint


class DataSet(Protocol):
    """What a trainer asks for."""

    @property
    def name(self) -> str:
        """Where it comes from, for messages."""

    @property
    def labels(self) -> np.ndarray:
        """(N,): the number of each picture's class."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c) of every picture."""

    def __len__(self) -> int: ...

    def batch(self, which: np.ndarray) -> np.ndarray:
        """The pictures of these numbers: (n, h, w, c), 0..255, the caller's own."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures in one array, in memory or mapped from a file that may be larger than memory."""

    images: np.ndarray  # (N, H, W, C), or with `planes` (N, C, H, W)
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str
    planes: bool = False

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or 0 in self.images.shape[1:] or self.shape[2] not in (1, 3):
            raise ShapeError(f"{self.name}: pictures of shape {self.images.shape}; give (N, H, W, 1 or 3)")
        if self.labels.shape != (len(self.images),) or self.labels.dtype.kind not in "iu":
            found = f"labels {self.labels.shape} of {self.labels.dtype} for {len(self.images):,} pictures"
            raise DamagedFileError(f"{self.name}: {found}; give one whole number for each")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(wrong):
            found = f"picture {wrong[0]} has label {self.labels[wrong[0]]}"
            allowed = f"there are classes 0 to {len(self.classes) - 1}"
            raise DamagedFileError(f"{self.name}: {found}, and {allowed} ({len(wrong):,} such in all)")

    @property
    def shape(self) -> tuple[int, int, int]:
        a, b, c = self.images.shape[1:]
        return (b, c, a) if self.planes else (a, b, c)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, which: np.ndarray) -> np.ndarray:
        images = self.images[which]
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self.planes else np.asarray(images)


@dataclass(frozen=True, eq=False)
class Part:
    """Some pictures of a set."""

    whole: DataSet
    which: np.ndarray
    name: str

    @property
    def labels(self) -> np.ndarray:
        return self.whole.labels[self.which]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.whole.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.whole.shape

    def __len__(self) -> int:
        return len(self.which)

    def batch(self, which: np.ndarray) -> np.ndarray:
        return self.whole.batch(self.which[which])


@dataclass(frozen=True, eq=False)
class Brought:
    """A set whose pictures are brought to this shape whenever they are asked for, in colour or to grey."""

    whole: DataSet
    shape: tuple[int, int, int]

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def labels(self) -> np.ndarray:
        return self.whole.labels

    @property
    def classes(self) -> tuple[str, ...]:
        return self.whole.classes

    def __len__(self) -> int:
        return len(self.whole)

    def batch(self, which: np.ndarray) -> np.ndarray:
        images, (h, w, c) = self.whole.batch(which), self.shape
        tall, wide = images.shape[1:3]
        # As files of pictures are: the short side is fitted, and the middle cut out.
        rows, columns = max(1, min(tall, round(wide * h / w))), max(1, min(wide, round(tall * w / h)))
        top, left = (tall - rows) // 2, (wide - columns) // 2
        images = images[:, top : top + rows, left : left + columns]
        if (rows, columns) != (h, w):
            images = resize(images, (h, w), how="bilinear")
        return as_float(images) @ np.array(LUMA, np.float32)[:, None] if c < images.shape[3] else images


def brought(data: DataSet, size: tuple[int, int] | None = None, *, grey: bool = False) -> DataSet:
    """The set with pictures of that size, and in grey, if they are not so already."""
    h, w, c = data.shape
    wanted = (*(size or (h, w)), 1 if grey else c)
    return data if wanted == data.shape else Brought(data, wanted)


class Splits(NamedTuple):
    """To learn from, to look at on the way, and to judge by at the end. Validation may be empty."""

    train: DataSet
    validation: DataSet
    test: DataSet


def split(parts: dict[str, DataSet], *, seed: int, validation: float = 0.1) -> Splits:
    """Three parts that share no picture, drawn by the seed.

    Of a set in one piece 60 % are to learn from, 20 % for validation and 20 % to test. One that comes with a
    test set keeps it, and then `validation` is the share of the others that is set aside.
    """
    if not 0 <= validation < 1:
        raise UsageError(f"validation={validation}: give the share to set aside, from 0 to below 1")
    rng = np.random.default_rng([seed, 0x5117])
    if "test" not in parts:
        (whole,) = parts.values()
        order, tenths = rng.permutation(len(whole)), len(whole) / 10
        cuts = np.split(order, [round(6 * tenths), round(8 * tenths)])
        names = ("train", "validation", "test")
        return Splits(*(Part(whole, np.sort(cut), n) for cut, n in zip(cuts, names, strict=True)))
    whole = parts["train"]
    if "validation" in parts:
        return Splits(whole, parts["validation"], parts["test"])
    order = rng.permutation(len(whole))
    aside = round(validation * len(whole))
    learned, held = Part(whole, np.sort(order[aside:]), "train"), np.sort(order[:aside])
    return Splits(learned, Part(whole, held, "validation"), parts["test"])


def check(splits: Splits) -> None:
    """That there is something to learn, and something to tell apart."""
    for name, part in zip(Splits._fields, splits, strict=True):
        if len(part) == 0 and name != "validation":
            raise UsageError(f"{part.name}: no pictures for {name}; give more, or set less aside")
        if part.shape != splits.train.shape:
            raise ShapeError(
                f"{part.name}: pictures of {part.shape}, those to learn from {splits.train.shape}"
            )
    there = np.unique(splits.train.labels)
    if len(there) < 2:
        only = splits.train.classes[there[0]]
        raise UsageError(
            f"{splits.train.name}: all pictures are of one class, {only!r}; there is nothing to learn"
        )


def in_batches(data: DataSet, size: int = AT_ONCE) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pictures in their order, with their labels."""
    for at in range(0, len(data), size):
        which = np.arange(at, min(at + size, len(data)))
        yield data.batch(which), data.labels[which]


def preprocess_for(data: DataSet, preprocess: Preprocess | None = None) -> Preprocess:
    """Mean 0 and deviation 1 for each channel of these pictures, in the order of the net's own preprocess."""
    h, w, c = data.shape
    base = preprocess or Preprocess("RGB" if c == 3 else "GRAY")
    plain = replace(base, scale=1.0, mean=(0.0,), std=(1.0,))
    total, squares, count = np.zeros(base.channels), np.zeros(base.channels), len(data) * h * w
    for images, _ in in_batches(data):
        x = plain.to_net(images).reshape(-1, base.channels)
        ones = np.ones(len(x), x.dtype)  # a product with BLAS is the quickest sum over long columns
        total += ones @ x
        squares += ones @ (x * x)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    if not std.min() > 0:
        raise UsageError(
            f"{data.name}: a channel has the same value in all pictures; nothing to normalise by"
        )
    numbers = (tuple(round(float(number), 3) for number in numbers) for numbers in (mean, std))
    return replace(plain, mean=next(numbers), std=next(numbers), size=(h, w))


def fingerprint(data: DataSet) -> str:
    """A number that changes with the labels, the classes, and most changes of the pictures."""
    total = hashlib.sha256(repr((len(data), data.classes, data.shape)).encode())
    total.update(np.ascontiguousarray(data.labels, "<i8").data)
    if len(data):
        total.update(
            np.ascontiguousarray(data.batch(np.linspace(0, len(data) - 1, LOOKED_AT).astype(int))).data
        )
    return total.hexdigest()


def check_answers(answers: int, data: DataSet) -> None:
    """That a net has one answer for each class."""
    if answers != len(data.classes):
        found = f"the net gives {answers} answers, {data.name} has {len(data.classes)} classes"
        raise ShapeError(f"{found}; take another net, or replace its last layer")


def as_float(images: Array) -> np.ndarray:
    """Pixels that can have parts: what blends or adds works in float32."""
    return images.astype(np.float32, copy=False)
