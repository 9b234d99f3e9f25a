"""Pictures: from files to arrays (N, H, W, C) of 0..255 and back, and into what a net wants to see.

Channels are red, green, blue, as Pillow gives them; only a `Preprocess` ever changes their order.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from minidnn.arrays import Array, device_of, to_device, to_host, xp_of
from minidnn.errors import (
    DamagedFileError,
    DivergedError,
    FileError,
    FileFormatError,
    OutputError,
    ShapeError,
    TooLargeError,
    UnsupportedError,
    UsageError,
    did_you_mean,
)

READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # others start programs, or are hardly ever tested
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FILTERS = ("bilinear", "bicubic", "lanczos")
MAX_PIXELS = 64_000_000
LUMA = (0.299, 0.587, 0.114)  # the shares of red, green and blue in brightness (ITU-R BT.601, as in Pillow)
ADVICE = {errno.ENOSPC: "free some space", errno.ENOENT: "make the folder first", errno.EISDIR: "add a name"}


def load(path: str | os.PathLike, *, colour: bool = True, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The picture as float32 (1, H, W, 3), or (1, H, W, 1) without `colour`; upright, and laid on white.

    The header tells its size, so too many pixels are refused before any is decoded. Of an animation it is
    the first frame; 16-bit grey is scaled to 0..255.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, Image.open(file, formats=READABLE) as picture:
            w, h = picture.size
            if w * h > max_pixels:
                advice = f"make the picture smaller, or allow it with max_pixels={w * h}"
                raise TooLargeError(f"{path}: {w * h:,} pixels, the limit is {max_pixels:,}; {advice}")
            return _decode(ImageOps.exif_transpose(picture), colour)[None]
    except (FileError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as bomb:
        raise TooLargeError(f"{path}: {bomb} Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS") from None
    except UnidentifiedImageError:
        found = f"{path}: no picture that we read in its {path.stat().st_size:,} bytes"
        raise FileFormatError(f"{found}; fetch it again, or save it as {', '.join(READABLE)}") from None
    except Exception as error:  # Pillow meets damage with errors of a dozen kinds
        if isinstance(error, OSError) and error.strerror:  # the system's word, not Pillow's
            near = [other.name for other in path.parent.glob("*") if other.is_file() and other != path]
            raise FileFormatError(f"{path}: {error.strerror}{did_you_mean(path.name, near)}") from None
        raise DamagedFileError(f"{path}: damaged or cut short ({error}); fetch it again") from error


def _decode(picture: Image.Image, colour: bool) -> np.ndarray:
    if picture.mode in ("I", "F", "LAB"):
        raise UnsupportedError(f"pixels of kind {picture.mode!r} have no fixed white; export 8 or 16 bit")
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.float32)[:, :, None] / 257  # 65535 / 257 = 255
        return np.repeat(grey, 3 if colour else 1, axis=2)
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return np.atleast_3d(np.array(picture.convert("RGB" if colour else "L"), np.float32))


def save(path: str | os.PathLike, picture: Array, *, quality: int = 95) -> None:
    """Write one picture, (1, H, W, C), (H, W, C) or (H, W), clipped to 0..255 and rounded.

    The ending of the name chooses the format; `quality` is for those that lose detail. The file appears
    whole or not at all: it is written beside its place and then renamed.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise UsageError(f"{path}: cannot write {path.suffix or 'no ending'!r}; end in {', '.join(WRITABLE)}")
    encoded = _encode(path, to_host(picture), quality)
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with partial.open("xb") as file:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "choose another place to write to")
        raise OutputError(f"{path}: {error.strerror}; {advice}") from error
    finally:
        with suppress(OSError):  # after a success it is not there any more
            partial.unlink()


def _encode(path: Path, picture: np.ndarray, quality: int) -> bytes:
    pixels = picture[0] if picture.ndim == 4 and len(picture) == 1 else np.atleast_3d(picture)
    if pixels.size == 0 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise ShapeError(f"{path}: one picture wanted, grey or RGB, found shape {picture.shape}; save x[i]")
    if bad := int(pixels.size - np.isfinite(pixels).sum()):
        raise DivergedError(f"{path}: {bad:,} of {pixels.size:,} numbers are not finite; try smaller steps")
    whole = np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
    image = Image.fromarray(whole if pixels.shape[2] == 3 else whole[:, :, 0])
    buffer = io.BytesIO()  # writing straight to the file, Pillow would not say that the disk is full
    try:
        kind = Image.registered_extensions()[path.suffix.lower()]
        image.save(buffer, kind, quality=quality, subsampling=0)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot hold shape {whole.shape} ({error}); end in .png") from error
    return buffer.getvalue()


def resize(images: Array, size: tuple[int, int], *, how: str = "bicubic") -> Array:
    """(N, H, W, C) to (N, *size, C), computed in float32. Shrinking averages (antialiasing)."""
    if how not in FILTERS or len(size) != 2 or min(size) < 1:
        raise UsageError(f"resize to {size} by {how!r}; wants (h, w) of 1 or more, and {', '.join(FILTERS)}")
    if images.ndim != 4 or 0 in images.shape:
        raise ShapeError(f"resize wants images (N, H, W, C), found {images.shape}; add axes with x[None]")
    planes = to_host(images).astype(np.float32)
    resized = np.empty((len(planes), *size, planes.shape[3]), np.result_type(images.dtype, np.float32))
    for image, channel in np.ndindex(len(planes), planes.shape[3]):
        plane = Image.fromarray(planes[image, :, :, channel])
        resized[image, :, :, channel] = plane.resize(size[::-1], Image.Resampling[how.upper()])
    return to_device(resized, device_of(images))


@dataclass(frozen=True, eq=False)
class Preprocess:
    """From pixels 0..255 to what a net was trained on, and back.

        x = (pixels in `order` * scale - mean) / std            pixels = (x * std + mean) / scale, as RGB

    mean and std count channels in the net's order. mean is a number per channel, or a whole picture
    (H, W, C). For "GRAY", colour is first weighed into brightness, and comes back as one channel.
    `size` is the (h, w) that the net was trained on.
    """

    order: str = "RGB"  # or "BGR", "GRAY"
    scale: float = 1.0
    mean: tuple[float, ...] | np.ndarray = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.order not in ("RGB", "BGR", "GRAY"):
            raise UsageError(f"no channel order {self.order!r}; there are RGB, BGR and GRAY")
        if not (self.scale > 0 and np.min(self.std) > 0):
            raise UsageError(f"scale is {self.scale} and std {self.std}; all must be above 0")
        for name, numbers in [("mean", self.mean), ("std", self.std)]:
            if (count := np.atleast_1d(numbers).shape[-1]) not in (1, self.channels):
                raise ShapeError(f"{name} has {count} channels, {self.order} has {self.channels}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    @property
    def channels(self) -> int:
        return 1 if self.order == "GRAY" else 3

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


VGG = Preprocess(mean=(123.68, 116.779, 103.939), size=(224, 224))  # Simonyan & Zisserman 2014, in RGB order


def clouds_over_hills(height: int = 240, width: int = 320, seed: int = 0) -> np.ndarray:
    """A landscape (1, H, W, 3) drawn by these lines alone, for all who have no photograph at hand.

    All is value noise: random numbers on coarse grids, smoothly enlarged and added up. The seed is the place;
    a larger picture shows more of its detail.
    """
    rng, size = np.random.default_rng(seed), (height, width)
    rows, columns = np.arange(height), np.arange(width)
    y, x = (rows[:, None, None] + 0.5) / height, (columns[:, None] + 0.5) / width
    sky = _blend(_blend((40, 92, 165), (150, 198, 228), y / 0.45), (255, 222, 180), (y - 0.28) / 0.4)
    from_sun = np.hypot((x - 0.74) * 4 / 3, y - 0.36)
    glow = 0.7 * np.exp(-((from_sun / 0.05) ** 2)) + 0.33 * np.exp(-from_sun / 0.2)
    sky = sky + glow * np.array((255, 215, 150))

    vapour = _noise(rng, 5, 4, size)
    above, beside = (rows - height // 40).clip(0), (columns + width // 40).clip(0, width - 1)
    in_shade = 0.42 + 5 * (vapour[above][:, beside] - vapour)  # more vapour towards the sun
    cloud = _blend((255, 250, 240), (140, 150, 182), in_shade) + 35 * np.exp(-from_sun / 0.15)
    picture = _blend(sky, cloud, (vapour - 0.5 - 0.2 * (y - 0.3)) / 0.15)

    for near in np.linspace(0, 1, 6):
        skyline = _noise(rng, 1, round(3 + 4 * near), (1, width))
        depth = y - 0.55 - 0.34 * near**1.3 + 0.28 * (skyline - 0.5)  # below the skyline of this hill
        woods = _noise(rng, 48, 24, size) - 0.5
        hill = _blend((142, 168, 198), (26, 58, 34), near**0.7) * (1 + (0.2 + 1.1 * near) * woods)
        evening_light = near * np.exp(-depth.clip(0) / 0.05)
        mist = 0.62 * (1 - near) * (depth / 0.14).clip(0, 1)
        hill = _blend(hill + evening_light * np.array((54, 42, 10)), (222, 222, 214), mist)
        picture = _blend(picture, hill, depth * height + 0.5)
    return picture[None].clip(0, 255).astype(np.float32)


def _noise(rng: np.random.Generator, rows: int, columns: int, size: tuple[int, int]) -> np.ndarray:
    """Soft blotches (h, w, 1) around 0.5: each octave has twice the detail and half the weight."""
    octaves = range((512 // columns).bit_length())
    total = sum(resize(rng.random((1, rows << k, columns << k, 1)), size)[0] / 2**k for k in octaves)
    return total / sum(1 / 2**k for k in octaves)


def _blend(here: Any, there: Any, share: Any) -> np.ndarray:
    """From one colour to another as `share` goes from 0 to 1, with a soft start and end."""
    t = np.clip(share, 0, 1)
    return np.asarray(here) + (np.asarray(there) - np.asarray(here)) * (t * t * (3 - 2 * t))
