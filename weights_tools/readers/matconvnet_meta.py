"""What a MatConvNet net says of its pictures and classes: in net.meta, or until 2015 in net itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidnn.errors import DamagedFileError, MismatchError, TooLargeError
from minidnn.images import FILTERS, Preprocess
from weights_tools.foreign import Foreign
from weights_tools.matvalues import Struct, Value
from weights_tools.readers.matconvnet_records import Fields, text, texts

MOST = 4096  # pixels along a side of the pictures that a net was made for


@dataclass
class Meta:
    """Pictures of which size and how many channels, what is done to them, and what they may show."""

    size: tuple[int, int] | None = None
    channels: int | None = None
    order: str | None = None
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    mean: np.ndarray | None = None
    told: bool = False  # whether it is said what is done to pictures
    hints: dict[str, Any] = field(default_factory=dict)

    def settle(self, path: str, channels: int, outputs: int, foreign: Foreign) -> None:
        """What could not be known before the layers were."""
        self.order = {1: "GRAY", 3: "RGB"}.get(channels)
        if self.classes and len(self.classes) != outputs:
            foreign.warnings.append(f"{len(self.classes)} names of classes for {outputs} outputs")
        if not self.told:
            return
        if self.order is None:
            foreign.warnings.append(f"pictures have {channels} channels: what is done to them was left out")
            return
        resize = self.hints.get("resize", {})
        self.preprocess = Preprocess(
            self.order,
            mean=self._mean(path, channels, foreign),
            size=self.size,
            resize=resize.get("size") if resize.get("rule") == "short_side" else None,
            interpolation=resize.get("interpolation", "bilinear"),
        )

    def _mean(self, path: str, channels: int, foreign: Foreign) -> tuple[float, ...] | np.ndarray:
        mean = self.mean
        if mean is None or mean.size == 0:
            foreign.steps.append("no average image: nothing is subtracted")
            return (0.0,)
        if mean.size in (1, channels):
            return tuple(float(str(number)) for number in mean.ravel())  # 123.68 in float32 is 123.68
        if mean.ndim == 2:
            mean = mean[:, :, None]
        if mean.ndim != 3 or mean.shape[2] != channels or self.size not in (None, mean.shape[:2]):
            wanted = f"{(*(self.size or ('any', 'any')), channels)}, or {channels} numbers"
            raise MismatchError(f"{path}: averageImage is {mean.shape}, wanted {wanted}; fetch it again")
        return np.ascontiguousarray(mean, "float32")


def meta_of(path: str, fields: Fields, foreign: Foreign) -> Meta:
    """What the file says; the older place counts where the newer one is empty."""
    held = _struct(fields.get("meta"))
    normal = _struct(held.get("normalization")) or _struct(fields.get("normalization"))
    classes = _struct(held.get("classes")) or _struct(fields.get("classes"))
    meta = Meta(classes=texts(classes.get("description")) or texts(classes.get("name")), told=bool(normal))
    if ids := texts(classes.get("name")):
        meta.hints["class_ids"] = ids
    inputs = _struct(held.get("inputs"))
    for source, name in [(normal, "imageSize"), (held, "inputSize"), (inputs, "size")]:
        numbers = _numbers(path, source, name)
        if len(numbers) >= 2 and meta.size is None:
            meta.size, meta.channels = _size(path, numbers)
    average = normal.get("averageImage")
    if isinstance(average, np.ndarray):
        _finite(path, average, "averageImage")
        meta.mean = average
        if meta.size is None and average.ndim == 3 and max(average.shape[:2]) > 1:
            meta.size, meta.channels = _size(path, list(map(float, average.shape)))
    if meta.size is not None:
        meta.hints["input_size"] = meta.size
    _resizing(path, normal, meta, foreign)
    return meta


def _size(path: str, numbers: list[float]) -> tuple[tuple[int, int], int | None]:
    sides = [int(number) for number in numbers[:3]]
    if min(sides) < 1 or sides != numbers[:3]:
        raise DamagedFileError(f"{path}: the pictures are of size {numbers[:3]}; fetch it again")
    if max(sides) > MOST:
        raise TooLargeError(
            f"{path}: the pictures are of size {sides}, the limit is {MOST:,}; fetch it again"
        )
    return (sides[0], sides[1]), sides[2] if len(sides) > 2 else None


def _resizing(path: str, normal: Fields, meta: Meta, foreign: Foreign) -> None:
    """How pictures came to their size: made a border larger, or by a fraction, and then cut out."""
    border = _numbers(path, normal, "border")
    crop, aspect = _numbers(path, normal, "cropSize"), _numbers(path, normal, "keepAspect")
    how = text(normal.get("interpolation"))
    found = {"border": border, "crop_size": crop, "keep_aspect": aspect, "interpolation": how}
    meta.hints |= {name: value for name, value in found.items() if value}
    if meta.size is None or not (border or crop or aspect or how):
        return
    target = [float(side) for side in meta.size]
    if border:
        target = [side + more for side, more in zip(target, border * 2, strict=False)]
    elif crop and min(crop) > 0:
        target = [side / share for side, share in zip(target, crop * 2, strict=False)]
    if not all(least <= side <= MOST for least, side in zip(meta.size, target, strict=True)):
        raise DamagedFileError(f"{path}: pictures are made {target} large at first; fetch it again")
    if how and how not in FILTERS:
        foreign.warnings.append(f"pictures were resized by {how!r}, which minidnn does not have: bilinear")
    rule = "short_side" if aspect and aspect[0] else "exact"
    sides = [round(side) for side in target]
    size: Any = max(sides) if rule == "short_side" else (sides[0], sides[1])
    meta.hints["resize"] = {
        "rule": rule,
        "size": size,
        "interpolation": how if how in FILTERS else "bilinear",
    }
    if rule == "exact" and tuple(sides) != meta.size:
        foreign.warnings.append(
            f"pictures were squeezed to {tuple(sides)}, then the middle {meta.size} cut out"
        )


def _struct(value: Value | None) -> Fields:
    return value[0] if isinstance(value, Struct) and value else {}


def _numbers(path: str, fields: Fields, name: str) -> list[float]:
    held = fields.get(name)
    if not isinstance(held, np.ndarray):
        return []
    few = held.ravel(order="F")[:8]
    _finite(path, few, name)
    return [float(number) for number in few]


def _finite(path: str, numbers: np.ndarray, name: str) -> None:
    if not np.isfinite(numbers).all():
        raise DamagedFileError(f"{path}: {name} has numbers that are not finite; fetch it again")
