"""Folders and tars of pictures, a folder for each class: decoded once into a file that is then mapped.

So a set may be larger than memory, and the second run begins at once. Nothing is unpacked to disk but pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from minidnn.errors import (
    DamagedFileError,
    FileFormatError,
    OutputError,
    ShapeError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedError,
    UsageError,
)
from minidnn.files import replacing
from minidnn.images import MAX_PIXELS, READABLE
from minidnn.train.data import DataSet, Pictures

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "val": "validation",
    "validation": "validation",
}
TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
MAX_FILES = 10_000_000
MAX_FILE = 1 << 28  # bytes of one picture's file
BROKEN_TAR = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError)


class Found(NamedTuple):
    """One picture's file: its name, the part of the set that it belongs to, its class, its bytes' count."""

    name: str
    part: str
    label: str
    nbytes: int


class Wish(NamedTuple):
    """How pictures are wanted: resized to (h, w), or None if all have one size; in grey or in colour."""

    size: tuple[int, int] | None = None
    grey: bool = False


def read_pictures(path: Path, wish: Wish, *, cache: Path | None = None) -> dict[str, DataSet]:
    """The pictures of a folder or tar with a folder for each class, perhaps within train/ and test/."""
    source = _Tar(path) if path.is_file() else _Folder(path)
    # What the cache is of: which files these are, and how they were wanted.
    told = repr((str(path.resolve()), source.version(), wish))
    folder = (cache or cache_folder()) / hashlib.sha256(told.encode()).hexdigest()[:24]
    try:
        return _mapped(folder, path)
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or not whole, whoever did that
        _decode(source, wish, folder)
        return _mapped(folder, path)


def cache_folder() -> Path:
    """Where decoded pictures are kept: MINIDNN_CACHE, or in the user's cache."""
    own = os.environ.get("MINIDNN_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(own) if own else Path(home) / "minidnn" / "pictures"


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def found(self) -> Iterator[Found]:
        for root, folders, files in os.walk(self.path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = Path(root).relative_to(self.path)
            names = [name for name in files if not name.startswith(".")]
            if not folders and not names and inside.parts:
                raise FileFormatError(
                    f"{root}: an empty folder; put the pictures of {inside.name!r} in, or delete it"
                )
            for name in names:
                yield _placed(str(inside / name), (Path(root) / name).stat().st_size, self.path)

    def version(self) -> list[tuple[str, int, int]]:
        """All files, and when each was last written to."""
        files = sorted((found.name, found.nbytes) for found in self.found())
        return [(name, nbytes, (self.path / name).stat().st_mtime_ns) for name, nbytes in files]

    def read(self, wanted: list[Found]) -> Iterator[tuple[Found, bytes]]:
        for found in wanted:
            try:
                yield found, (self.path / found.name).read_bytes()
            except OSError as error:
                raise FileFormatError(
                    f"{self.path / found.name}: {error.strerror}; was it just deleted?"
                ) from None


class _Tar:
    def __init__(self, path: Path) -> None:
        self.path = path

    def found(self) -> Iterator[Found]:
        with opened_tar(self.path) as tar:
            for number, member in enumerate(tar):
                if number >= MAX_FILES:
                    raise TooLargeError(f"{self.path}: more than {MAX_FILES:,} files; split it")
                if member.isdir() or PurePosixPath(member.name).name.startswith("."):
                    continue
                if not member.isfile():
                    what = f"{self.path}: {member.name[:80]!r} is a link or a device"
                    raise UnsafeFileError(f"{what}; a tar of pictures holds plain files")
                yield _placed(member.name, member.size, self.path)

    def version(self) -> list[int]:
        return [self.path.stat().st_mtime_ns, self.path.stat().st_size]

    def read(self, wanted: list[Found]) -> Iterator[tuple[Found, bytes]]:
        """In the order of the tar: going back would mean to unpack it anew."""
        by_name = {found.name: found for found in wanted}
        with opened_tar(self.path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() and member.name in by_name else None
                if file is not None:
                    yield by_name[member.name], file.read()


@contextmanager
def opened_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """The tar, packed or not; what breaks in reading it is told in words."""
    try:
        with tarfile.open(path, "r:*") as tar:
            yield tar
    except BROKEN_TAR as error:
        raise DamagedFileError(f"{path}: damaged, or no tar ({error}); fetch it again") from None


def _placed(name: str, nbytes: int, path: Path) -> Found:
    """What the folders around a picture say of it."""
    folders = PurePosixPath(name.replace(os.sep, "/")).parts[:-1]
    if not name.lower().endswith(ENDINGS):
        raise FileFormatError(f"{path}: {name!r} is no picture ({', '.join(ENDINGS)}); take it away")
    if not folders or folders[-1] in PARTS:
        raise FileFormatError(f"{path}: {name!r} lies in no folder that names its class; put it in one")
    if nbytes > MAX_FILE:
        raise TooLargeError(
            f"{path}: {name!r} has {nbytes:,} bytes, the limit is {MAX_FILE:,}; make it smaller"
        )
    part = PARTS.get(folders[-2].lower(), "all") if len(folders) > 1 else "all"
    return Found(name, part, folders[-1], nbytes)


def _check(path: Path, found: list[Found]) -> None:
    if not found:
        raise FileFormatError(
            f"{path}: no pictures in it ({', '.join(ENDINGS)}), in folders named by classes"
        )
    parts = {part: {one.label for one in found if one.part == part} for part in {one.part for one in found}}
    if "all" in parts and len(parts) > 1:
        example = next(one.name for one in found if one.part == "all")
        raise FileFormatError(
            f"{path}: {example!r} is in none of {', '.join(sorted(parts))}; move it into one"
        )
    if "all" not in parts and not {"train", "test"} <= parts.keys():
        there = " and ".join(sorted(parts))
        raise FileFormatError(f"{path}: there is {there}, and to train takes train/ and test/ (or neither)")
    every = set.union(*parts.values())
    for part, labels in parts.items():
        if lacks := sorted(every - labels):
            raise FileFormatError(
                f"{path}: no pictures of {', '.join(map(repr, lacks[:5]))} in {part}; add some"
            )


def _decode(source: _Folder | _Tar, wish: Wish, folder: Path) -> None:
    """Write the pixels and labels of each part, and last what they are: without that they do not count."""
    found = sorted(source.found())
    _check(source.path, found)
    size = wish.size or _size_of_first(source, found[0])
    channels = 1 if wish.grey else 3
    labels = sorted(
        {one.label for one in found}, key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name)
    )
    parts = {name: [one for one in found if one.part == name] for name in sorted({one.part for one in found})}
    place = {one.name: (name, i) for name, ones in parts.items() for i, one in enumerate(ones)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: {error.strerror}; set MINIDNN_CACHE to a folder that can be written"
        ) from None
    need, free = len(found) * size[0] * size[1] * channels, shutil.disk_usage(folder).free
    if need > free:
        raise OutputError(
            f"{folder}: decoded pictures take {need:,} bytes, {free:,} are free; set MINIDNN_CACHE"
        )
    with replacing(folder / "pixels") as partial:
        shape = (len(found), *size, channels)
        starts = dict(zip(parts, np.cumsum([0, *map(len, parts.values())]).tolist(), strict=False))
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        done = 0
        for one, content in source.read(found):
            part, i = place[one.name]
            pixels[starts[part] + i] = _pixels(content, f"{source.path}: {one.name!r}", wish, size)
            done += 1
        if done != len(found):
            raise DamagedFileError(f"{source.path}: it changed while it was read; begin again")
        pixels.flush()
        del pixels
    numbers = {label: number for number, label in enumerate(labels)}
    index = {
        "classes": labels,
        "parts": {name: [numbers[one.label] for one in ones] for name, ones in parts.items()},
        "shape": shape,
    }
    with replacing(folder / "index.json") as partial:
        partial.write_text(json.dumps(index))


def _mapped(folder: Path, path: Path) -> dict[str, DataSet]:
    index = json.loads((folder / "index.json").read_text())
    pixels = np.load(folder / "pixels", mmap_mode="r", allow_pickle=False)
    if list(pixels.shape) != index["shape"] or pixels.dtype != np.uint8:
        raise ValueError("the pixels are not those of the index")
    found: dict[str, DataSet] = {}
    at, classes = 0, tuple(index["classes"])
    for name, labels in index["parts"].items():
        some = pixels[at : at + len(labels)]
        found[name] = Pictures(some, np.array(labels, int), classes, f"{path} ({name})")
        at += len(labels)
    return found


def _size_of_first(source: _Folder | _Tar, first: Found) -> tuple[int, int]:
    _, content = next(source.read([first]))
    return _decoded(content, f"{source.path}: {first.name!r}", grey=True).shape[:2]


def _pixels(content: bytes, where: str, wish: Wish, size: tuple[int, int]) -> np.ndarray:
    pixels = _decoded(content, where, grey=wish.grey, size=wish.size)
    if pixels.shape[:2] != size:
        found = f"{pixels.shape[0]}x{pixels.shape[1]} pixels, and the first picture {size[0]}x{size[1]}"
        raise ShapeError(f'{where} has {found}; give the size that all shall have, as in size = "32x32"')
    return pixels


def _decoded(content: bytes, where: str, *, grey: bool, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels (h, w, c); upright, its short side fitted to `size` and the middle cut out."""
    try:
        with Image.open(io.BytesIO(content), formats=READABLE) as picture:
            w, h = picture.size
            if w * h > MAX_PIXELS:
                raise TooLargeError(
                    f"{where}: {w * h:,} pixels, the limit is {MAX_PIXELS:,}; make it smaller"
                )
            if picture.has_transparency_data or picture.mode.startswith(("I", "F")):
                found = f"{where} is transparent, or deeper than 8 bits (mode {picture.mode})"
                raise UnsupportedError(f"{found}; save it as plain 8-bit RGB or grey")
            upright = ImageOps.exif_transpose(picture).convert("L" if grey else "RGB")
            if size is not None and upright.size != size[::-1]:
                upright = ImageOps.fit(upright, size[::-1], Image.Resampling.BILINEAR)
            return np.atleast_3d(np.asarray(upright))
    except (TooLargeError, UnsupportedError, MemoryError):
        raise
    except Exception as error:  # Pillow meets damage with errors of a dozen kinds
        raise DamagedFileError(
            f"{where} is damaged, cut short or no picture ({error}); fetch it again"
        ) from None


def size_of(text: str) -> tuple[int, int]:
    """ "32x48" as (h, w), "32" as a square."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if found is None or "0" in (found[1], found[2]):
        raise UsageError(f"size {text!r}: give it as 32x48, height first, or 32 for a square")
    return int(found[1]), int(found[2] or found[1])
