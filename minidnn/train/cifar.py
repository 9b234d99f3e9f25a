"""CIFAR-10 as its authors give it: batches in Python's pickles or as plain bytes, in a folder or a tar."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from minidnn.errors import DamagedFileError, FileFormatError, TooLargeError
from minidnn.train.data import DataSet, Pictures
from minidnn.train.pickled import Bytes, unpickled
from minidnn.train.pictures import opened_tar

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32  # of one picture: three planes
MAX_BATCH = 1 << 27  # bytes of one file
BATCH = re.compile(r"(?:data_batch_([1-9])|test_batch)(\.bin)?")
META = "batches.meta"
FIRST = 4  # files of a tar that show what it is of
AGAIN = "fetch it again"


def is_cifar(path: Path) -> bool:
    """Whether batches lie in this folder, or among the first files of this tar."""
    if path.is_dir():
        return any(BATCH.fullmatch(file.name) for file in path.iterdir())
    with opened_tar(path) as tar:
        names = (PurePosixPath(member.name).name for member in tar if member.isfile())
        return any(BATCH.fullmatch(name) for name in islice(names, FIRST))


def read_cifar(path: Path) -> dict[str, DataSet]:
    """The batches that lie there: those numbered from 1 are to learn from, in that order."""
    batches: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    classes: tuple[str, ...] = CIFAR10
    for name, content, where in _in_folder(path) if path.is_dir() else _in_tar(path):
        if name == META:
            classes = _classes(unpickled(content, where), where)
            continue
        name = name.removesuffix(".bin")
        if name in batches:
            raise FileFormatError(f"{where}: another {name} lies there too; keep one of them")
        read = _plain if isinstance(content, np.ndarray) else _pickled
        batches[name] = read(content, where)
    numbered = [name for name in sorted(batches) if name != "test_batch"]
    for number, name in enumerate(numbered, start=1):
        if name != f"data_batch_{number}":
            raise FileFormatError(f"{path}: there is {name}, and no data_batch_{number}; {AGAIN}")
    parts: dict[str, DataSet] = {}
    for part, names in (("train", numbered), ("test", ["test_batch"] if "test_batch" in batches else [])):
        if names:
            planes = np.concatenate([batches[name][0] for name in names]).reshape(-1, 3, 32, 32)
            labels = np.concatenate([batches[name][1] for name in names])
            parts[part] = Pictures(planes, labels, classes, f"{path} ({part})", planes=True)
    return parts


def _in_folder(folder: Path) -> Iterator[tuple[str, Any, str]]:
    """(name, content, where): plain bytes are mapped, pickles are read."""
    for path in sorted(folder.iterdir()):
        if BATCH.fullmatch(path.name) or path.name == META:
            _check_size(path.stat().st_size, str(path))
            is_plain = path.suffix == ".bin"
            yield path.name, np.memmap(path, np.uint8, "r") if is_plain else path.read_bytes(), str(path)


def _in_tar(path: Path) -> Iterator[tuple[str, Any, str]]:
    with opened_tar(path) as tar:
        for member in tar:
            name, where = PurePosixPath(member.name).name, f"{path}: {member.name[:80]!r}"
            if member.isfile() and (BATCH.fullmatch(name) or name == META):
                _check_size(member.size, where)
                file = tar.extractfile(member)
                content = file.read() if file else b""
                yield name, np.frombuffer(content, np.uint8) if name.endswith(".bin") else content, where


def _check_size(size: int, where: str) -> None:
    if size > MAX_BATCH:
        raise TooLargeError(f"{where}: {size:,} bytes, the limit of a batch is {MAX_BATCH:,}; {AGAIN}")
    if not size:
        raise DamagedFileError(f"{where}: an empty file; {AGAIN}")


def _plain(content: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The binary version: in each record a label, and the planes of red, green and blue."""
    if len(content) % (1 + PIXELS):
        found = f"{len(content):,} bytes, expected a multiple of {1 + PIXELS:,}"
        raise DamagedFileError(f"{where}: {found}; {AGAIN}")
    records = content.reshape(-1, 1 + PIXELS)
    return records[:, 1:], _checked(records[:, 0], where)


def _pickled(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The Python version: a mapping with the pictures as rows under "data", and "labels"."""
    batch = unpickled(content, where)
    pixels, labels = batch.get("data"), batch.get("labels")
    if not isinstance(pixels, Bytes) or not isinstance(labels, list):
        found = f"has {str(list(batch))[:200]}; a batch has 'data' and 'labels'"
        raise FileFormatError(f"{where}: {found}; {AGAIN}")
    rows = pixels.rows(where)
    if rows.shape[1] != PIXELS or len(rows) != len(labels):
        found = f"{len(labels):,} labels, and pixels {rows.shape}"
        raise DamagedFileError(f"{where}: {found}, expected {PIXELS:,} for each; {AGAIN}")
    if not all(type(label) is int and abs(label) < 1 << 31 for label in labels):
        raise DamagedFileError(f"{where}: labels that are no numbers; {AGAIN}")
    return rows, _checked(np.array(labels, int), where)


def _checked(labels: np.ndarray, where: str) -> np.ndarray:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(CIFAR10)))
    if len(wrong):
        found = f"picture {wrong[0]} has label {labels[wrong[0]]}, there are 0 to 9"
        raise DamagedFileError(f"{where}: {found}; {AGAIN}")
    return labels.astype(int)


def _classes(meta: dict[str, Any], where: str) -> tuple[str, ...]:
    names = meta.get("label_names")
    if not isinstance(names, list) or not all(
        isinstance(name, str | bytes) and len(name) < 80 for name in names
    ):
        raise DamagedFileError(f"{where}: no 'label_names' that are names; {AGAIN}")
    if len(names) != len(CIFAR10):
        raise DamagedFileError(f"{where}: {len(names)} names of classes, expected {len(CIFAR10)}; {AGAIN}")
    return tuple(name.decode("latin-1") if isinstance(name, bytes) else name for name in names)
