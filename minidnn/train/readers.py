"""Data sets in their own formats: MNIST's idx, USPS in text, and .npz (cifar.py has CIFAR-10's).

Each reader holds the file's size against what the format says before it reads, and names what is wrong.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

from minidnn import npz
from minidnn.errors import DamagedFileError, FileFormatError, TooLargeError, UnsupportedError
from minidnn.train.data import DataSet, Pictures

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
MAX_BYTES = 1 << 34
PARTS = {"train": "train", "t10k": "test", "test": "test"}
AGAIN = "fetch it again"


# MNIST and Fashion-MNIST


def idx_files(folder: Path) -> dict[str, dict[str, Path]]:
    """{"train": {"images": path, "labels": path}, "test": ...} of what lies there."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        named = re.fullmatch(r"(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?", path.name)
        if named:
            found.setdefault(PARTS[named[1]], {})[named[2]] = path
    return found


def read_idx(folder: Path) -> dict[str, DataSet]:
    """A folder of idx files, packed by gzip or not."""
    classes, parts = FASHION if "fashion" in str(folder).lower() else DIGITS, dict[str, DataSet]()
    for part, files in idx_files(folder).items():
        if missing := {"images", "labels"} - files.keys():
            there = next(iter(files.values()))
            raise FileFormatError(
                f"{folder}: there is {there.name}, and no file of its {missing.pop()}; add it"
            )
        images, labels = idx_array(files["images"], rank=3), idx_array(files["labels"], rank=1)
        if len(images) != len(labels):
            found = f"{len(labels):,} labels for the {len(images):,} pictures of {files['images'].name}"
            raise DamagedFileError(f"{files['labels']}: {found}; {AGAIN}")
        parts[part] = Pictures(images[..., None], labels.astype(int), classes, str(files["labels"]))
    return parts


def idx_array(path: Path, *, rank: int) -> np.ndarray:
    """The bytes of one idx file as an array: mapped where they lie, or unpacked."""
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4 + 4 * rank)
            if len(head) < 4 + 4 * rank or head[:4] != bytes([0, 0, 8, rank]):
                found = f"begins with {head[:4].hex(' ') or 'nothing'}, expected 00 00 08 {rank:02x}"
                raise FileFormatError(f"{path}: not an idx file of bytes ({found}); {AGAIN}")
            shape = struct.unpack(f">{rank}I", head[4:])
            size = prod(shape)
            if size > MAX_BYTES:
                raise TooLargeError(f"{path}: tells of {size:,} bytes, the limit is {MAX_BYTES:,}")
            if not packed:
                _check_size(path, len(head) + size, path.stat().st_size)
                return np.memmap(path, np.uint8, "r", len(head), shape)
            content = file.read(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFileError(f"{path}: damaged or cut short ({error}); {AGAIN}") from None
    _check_size(path, size, len(content))
    return np.frombuffer(content, np.uint8).reshape(shape)


def _check_size(path: Path, wanted: int, found: int) -> None:
    if found != wanted:
        what = "more than" if found > wanted else f"{found:,}, expected"
        raise DamagedFileError(f"{path}: not the size that it tells of: {what} {wanted:,} bytes; {AGAIN}")


# USPS


def read_usps(path: Path) -> dict[str, DataSet]:
    """A digit a line: its label and 16x16 numbers from -1 to 1, as in zip.train."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            rows = [_usps_row(line, f"{path}, line {number}") for number, line in enumerate(file, start=1)]
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFileError(f"{path}: damaged, or no text ({error}); {AGAIN}") from None
    if not rows:
        raise FileFormatError(f"{path}: no lines in it; {AGAIN}")
    numbers = np.array(rows, np.float32)
    images = ((numbers[:, 1:] + 1) * 127.5).reshape(-1, 16, 16, 1)
    return {"all": Pictures(images, numbers[:, 0].astype(int), DIGITS, str(path))}


def _usps_row(line: str, where: str) -> list[float]:
    try:
        row = [float(word) for word in line.split()]
    except ValueError as error:
        raise DamagedFileError(f"{where}: {error}; {AGAIN}") from None
    if len(row) != 257:
        raise DamagedFileError(f"{where}: {len(row)} numbers, expected a label and 16x16 pixels; {AGAIN}")
    if row[0] not in range(10) or not all(-1 <= number <= 1 for number in row[1:]):
        raise DamagedFileError(f"{where}: a label that is no digit, or a pixel beyond -1..1; {AGAIN}")
    return row


# .npz


def read_npz(path: Path) -> dict[str, DataSet]:
    """`x_train y_train x_test y_test`, as Keras has them, or `images labels`; `classes` may name them."""
    arrays = npz.read(path)
    pairs = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test"), "all": ("images", "labels")}
    there = {part: names for part, names in pairs.items() if set(names) <= arrays.keys()}
    if not there or ("all" not in there and len(there) < 2):
        found = f"arrays {', '.join(arrays) or 'none'}"
        raise FileFormatError(f"{path}: {found}; wants x_train, y_train, x_test, y_test, or images, labels")
    if "all" in there:
        there = {"all": pairs["all"]}
    labels = {part: arrays[y].reshape(-1) for part, (_, y) in there.items()}
    for part, numbers in labels.items():
        if numbers.dtype.kind not in "iu" or not len(numbers):
            found = f"{there[part][1]!r} is {len(numbers)} of {numbers.dtype}"
            raise UnsupportedError(f"{path}: {found}; labels are whole numbers")
    count = 1 + max(int(numbers.max()) for numbers in labels.values())
    names = arrays.get("classes")
    classes = tuple(map(str, range(count) if names is None else names.tolist()))
    return {
        part: Pictures(_pixels(path, arrays[x], x), labels[part].astype(int), classes, f"{path} ({part})")
        for part, (x, _) in there.items()
    }


def _pixels(path: Path, images: np.ndarray, name: str) -> np.ndarray:
    if images.dtype.kind not in "uif" or images.ndim not in (3, 4):
        found = f"{name!r} is {images.shape} of {images.dtype}"
        raise UnsupportedError(f"{path}: {found}; pictures are (N, H, W) or (N, H, W, C) of numbers")
    if not np.isfinite(images).all() or images.min() < 0 or images.max() > 255:
        raise UnsupportedError(f"{path}: {name!r} has pixels that are not from 0 to 255; scale them")
    return images[..., None] if images.ndim == 3 else images
