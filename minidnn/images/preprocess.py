"""From pictures to what a net was trained on, and back."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError, UsageError
from minidnn.images.files import FILTERS, resize

LUMA = (0.299, 0.587, 0.114)  # the shares of red, green and blue in brightness (ITU-R BT.601, as in Pillow)


@dataclass(frozen=True, eq=False)
class Preprocess:
    """From pixels 0..255 to what a net was trained on, and back.

        x = (pixels in `order` * scale - mean) / std            pixels = (x * std + mean) / scale, as RGB

    mean and std count channels in the net's order. mean is a number per channel, or a whole picture
    (H, W, C). For "GRAY", colour is first weighed into brightness, and comes back as one channel.
    `size` is the (h, w) that the net was trained on; `fit` brings pictures to it: with `resize` their short
    side gets that long and the middle is cut out, without it they are squeezed to `size`.
    """

    order: str = "RGB"  # or "BGR", "GRAY"
    scale: float = 1.0
    mean: tuple[float, ...] | np.ndarray = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    resize: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.order not in ("RGB", "BGR", "GRAY"):
            raise UsageError(f"no channel order {self.order!r}; there are RGB, BGR and GRAY")
        if not (self.scale > 0 and np.min(self.std) > 0):
            raise UsageError(f"scale is {self.scale} and std {self.std}; all must be above 0")
        for name, numbers in [("mean", self.mean), ("std", self.std)]:
            if (count := np.atleast_1d(numbers).shape[-1]) not in (1, self.channels):
                raise ShapeError(f"{name} has {count} channels, {self.order} has {self.channels}")
        if self.interpolation not in FILTERS:
            raise UsageError(f"no interpolation {self.interpolation!r}; there are {', '.join(FILTERS)}")
        least = 1 if self.size is None else min(self.size)
        if least < 1 or (self.resize is not None and self.resize < least):
            raise UsageError(f"short side {self.resize}, cut to {self.size}: nothing, or more than is there")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    @property
    def channels(self) -> int:
        return 1 if self.order == "GRAY" else 3

    def fit(self, pixels: Array) -> Array:
        """The pictures (N, H, W, C) in the size that the net wants; as they are, if it wants none.

        As torchvision does it: the long side is rounded down. A `size` that is no square may need more than
        the short side `resize`.
        """
        h, w = pixels.shape[1:3]
        if self.resize is None:
            return (
                pixels if self.size in (None, (h, w)) else resize(pixels, self.size, how=self.interpolation)
            )
        crop_h, crop_w = self.size or (1, 1)
        scale = max(Fraction(self.resize, min(h, w)), Fraction(crop_h, h), Fraction(crop_w, w))
        pixels = resize(pixels, (int(h * scale), int(w * scale)), how=self.interpolation)
        if self.size is None:
            return pixels
        top, left = round((pixels.shape[1] - crop_h) / 2), round((pixels.shape[2] - crop_w) / 2)
        return pixels[:, top : top + crop_h, left : left + crop_w]

    def to_net(self, pixels: Array) -> Array:
        x = self._reordered(pixels if pixels.dtype.kind == "f" else pixels.astype(np.float32))
        mean, std = self._constants(x)
        return (x * self.scale - mean) / std

    def to_pixels(self, x: Array) -> Array:
        mean, std = self._constants(x)
        return self._reordered((x * std + mean) / self.scale)

    def gradient_to_pixels(self, dzdx: Array) -> Array:
        """dz/dpixels = dz/dx * scale / std, as RGB (for "GRAY": by brightness)."""
        return self._reordered(dzdx * self.scale / self._constants(dzdx)[1])

    def _reordered(self, x: Array) -> Array:
        """From RGB into the net's order, or back: swapping twice is not swapping."""
        xp = xp_of(x)
        if self.order == "GRAY" and x.shape[-1] == 3:
            return (x * xp.asarray(LUMA, dtype=x.dtype)).sum(axis=-1, keepdims=True)
        if x.ndim != 4 or x.shape[-1] != self.channels:
            wanted = f"(N, H, W, {self.channels}), as images.load(path, colour={self.channels == 3}) gives"
            raise ShapeError(f"{self.order} wants images {wanted}, found {x.shape}")
        return xp.ascontiguousarray(x[..., ::-1]) if self.order == "BGR" else x

    def _constants(self, x: Array) -> tuple[Array, Array]:
        mean, std = (xp_of(x).asarray(numbers, dtype=x.dtype) for numbers in (self.mean, self.std))
        if mean.ndim == 3 and mean.shape[:2] != x.shape[1:3]:
            advice = "resize them, or make the mean one per channel: mean.mean(axis=(0, 1))"
            raise ShapeError(f"the mean picture is {mean.shape[:2]}, images are {x.shape[1:3]}; {advice}")
        return mean, std


VGG = Preprocess(mean=(123.68, 116.779, 103.939), size=(224, 224), resize=256)  # as MatConvNet has it: RGB

# What published nets were trained on, by the name of the convention; the size is that of its usual nets.
PRESETS = {
    "caffe": Preprocess("BGR", mean=(104, 117, 123), size=(227, 227), resize=256),
    "vgg": Preprocess("BGR", mean=(103.939, 116.779, 123.68), size=(224, 224), resize=256),
    "vgg-rgb": VGG,
    "torchvision": Preprocess(
        scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=(224, 224), resize=256
    ),
    "tf": Preprocess(scale=1 / 127.5, mean=(1.0,), size=(224, 224)),
    "unit": Preprocess(scale=1 / 255),
    "none": Preprocess(),
}
