"""Pictures in files, as arrays (N, H, W, C) of 0..255, and arrays as pictures; and their size changed."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from minidnn.arrays import Array, device_of, to_device, to_host
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
from minidnn.files import replacing

READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # others start programs, or are hardly ever tested
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FILTERS = ("bilinear", "bicubic", "lanczos")
MAX_PIXELS = 64_000_000
MAX_NOTE = 1_000_000  # characters: Pillow opens no PNG with more text than a mebibyte


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


def save(
    path: str | os.PathLike, picture: Array, *, quality: int = 95, text: Mapping[str, str] | None = None
) -> None:
    """Write one picture, (1, H, W, C), (H, W, C) or (H, W), clipped to 0..255 and rounded.

    The ending of the name chooses the format; `quality` is for those that lose detail. PNG also keeps
    `text`, up to a megabyte, for `note_in`. The file appears whole or not at all: it is written beside its
    place and renamed.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise UsageError(f"{path}: cannot write {path.suffix or 'no ending'!r}; end in {', '.join(WRITABLE)}")
    if (most := max((len(words) for words in (text or {}).values()), default=0)) > MAX_NOTE:
        raise UsageError(
            f"{path}: a note of {most:,} characters; nobody reads more than {MAX_NOTE:,} in a PNG"
        )
    encoded = _encode(path, to_host(picture), quality, text or {})
    with replacing(path) as partial:
        partial.write_bytes(encoded)


def _encode(path: Path, picture: np.ndarray, quality: int, text: Mapping[str, str]) -> bytes:
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
        notes = PngImagePlugin.PngInfo()
        for name, words in text.items():
            notes.add_text(name, words, zip=True)
        image.save(buffer, kind, quality=quality, subsampling=0, pnginfo=notes)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot hold shape {whole.shape} ({error}); end in .png") from error
    return buffer.getvalue()


def note_in(path: str | os.PathLike, name: str) -> str | None:
    """The text of that name in a PNG that `save` wrote; None where there is none."""
    path = Path(path)
    try:
        with path.open("rb") as file, Image.open(file, formats=("PNG",)) as picture:
            found = picture.info.get(name)  # it stands before the pixels, which nobody has to decode for it
            return str(found) if isinstance(found, str) else None
    except UnidentifiedImageError:
        raise FileFormatError(f"{path}: not a PNG, and only these carry notes") from None
    except Exception as error:  # as in load
        if isinstance(error, OSError) and error.strerror:
            raise FileFormatError(f"{path}: {error.strerror}; give a PNG") from None
        raise DamagedFileError(f"{path}: damaged or cut short ({error}); fetch it again") from None


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
