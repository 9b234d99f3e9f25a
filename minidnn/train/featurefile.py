"""Features in an HDF5 file: a row for each picture, read as if a stranger had written it.

Format 1, whose JSON is a dataset of bytes as in weight files:

    /about                          whose features: net, digest, layers, pooling, preprocessing, classes, data
    /parts/train/labels             (N,) '<i4'
    /parts/train/fire9/concat:mean  (N, D) '<f4': a layer, a colon, a pooling
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from minidnn.errors import (
    DamagedFileError,
    FileError,
    FileFormatError,
    MismatchError,
    OutputError,
    did_you_mean,
)
from minidnn.files import replacing
from minidnn.weights import Guarded
from minidnn.weights.jsons import dumped, parsed
from minidnn.weights.sink import Sink

FORMAT, VERSION = b"minidnn-features", 1
ABOUT = ("net", "digest", "layers", "pools", "preprocess", "classes", "parts")


@dataclass(frozen=True, eq=False)
class Features:
    """A file of features, opened: `about` says whose, `rows` reads them."""

    path: Path
    about: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Features:
        """The file, if it is whole and says what it holds."""
        with Guarded(path) as file:
            kind = file.attributes(only=("format", "version"))
            if bytes(kind.get("format", b"")) != FORMAT:
                raise FileFormatError(f"{path}: no file of features; make one by: minidnn features")
            if int(kind.get("version", 0)) != VERSION:
                raise FileFormatError(
                    f"{path}: version {kind.get('version')}, we read {VERSION}; update minidnn"
                )
            about = parsed(file.read("about"), f"{path}: 'about'")
            found = cls(Path(path), about)
            found._check(file)
        return found

    @property
    def parts(self) -> dict[str, int]:
        """How many pictures there are to learn from, to test."""
        return {name: part["count"] for name, part in self.about["parts"].items()}

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.about["classes"])

    @property
    def keys(self) -> list[str]:
        """A layer, a colon and a pooling, for all that was kept."""
        return [key_of(layer, pool) for layer in self.about["layers"] for pool in self.about["pools"]]

    def labels(self, part: str) -> np.ndarray:
        """(N,): the number of each picture's class."""
        labels = self._read(f"parts/{self._known(part, self.parts)}/labels")
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(self.classes):
            allowed = f"there are classes 0 to {len(self.classes) - 1}"
            raise DamagedFileError(f"{self.path}: labels up to {labels.max()}, and {allowed}; make it again")
        return labels.astype(int)

    def rows(self, key: str, part: str) -> np.ndarray:
        """(N, D) float32: the features of all pictures of that part."""
        part, key = self._known(part, self.parts), self._known(key, self.keys)
        rows = self._read(f"parts/{part}/{key}")
        if bad := int(rows.size - np.isfinite(rows).sum()):
            raise DamagedFileError(
                f"{self.path}: {bad:,} features of {key!r} are not finite; make them again"
            )
        return rows

    def _known(self, name: str, names: Iterable[str]) -> str:
        if name not in (names := list(names)):
            what = f"{self.path}: has no {name!r}, there are {', '.join(names[:8])}"
            raise MismatchError(f"{what}{did_you_mean(name, names)}")
        return name

    def _read(self, name: str) -> np.ndarray:
        with Guarded(self.path) as file:
            return file.read(name)

    def _check(self, file: Guarded) -> None:
        """That all is there which `about` tells of, in its shapes."""
        try:
            lacks = [name for name in ABOUT if name not in self.about]
            if lacks:
                raise ValueError(f"says nothing of {', '.join(lacks)}")
            wanted: dict[str, tuple[tuple[int, ...], str]] = {}
            for name, part in self.about["parts"].items():
                wanted[f"parts/{name}/labels"] = ((part["count"],), "<i4")
                for key in self.keys:
                    wanted[f"parts/{name}/{key}"] = ((part["count"], self.about["widths"][key]), "<f4")
            for name, (shape, dtype) in wanted.items():
                info = file.info(name)
                if (info.shape, info.dtype.str) != (shape, dtype):
                    raise ValueError(f"{name!r} is {info.shape} {info.dtype}, expected {shape} {dtype}")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DamagedFileError(
                f"{self.path}: no whole file of features ({error}); make it again"
            ) from None


def key_of(layer: str, pool: str) -> str:
    return f"{layer}:{pool}"


def write(
    path: Path, about: Mapping[str, Any], batches: Mapping[str, Iterable[Mapping[str, np.ndarray]]]
) -> None:
    """Put batches together, those of each part in their order; never more than one is in memory."""
    with replacing(path) as partial:
        with Sink(partial) as sink, h5py.File(sink, "w", libver=("earliest", "v110")) as file:
            file.attrs["format"] = np.bytes_(FORMAT)
            file.attrs["version"] = np.array(VERSION, "<u2")
            file.create_dataset("about", data=dumped(about), track_times=False)
            for part, arrays in batches.items():
                _fill(file.create_group(f"parts/{part}"), about, about["parts"][part]["count"], arrays)
        try:
            Features.open(partial)
        except FileError as error:
            words = str(error).replace(str(partial), "what was written")
            raise OutputError(f"{path}: cannot be read again: {words}; nothing was replaced") from error


def _fill(
    group: h5py.Group, about: Mapping[str, Any], count: int, batches: Iterable[Mapping[str, np.ndarray]]
) -> None:
    shapes: dict[str, tuple[tuple[int, ...], str]] = {"labels": ((count,), "<i4")}
    shapes |= {key: ((count, width), "<f4") for key, width in about["widths"].items()}
    into = {
        name: group.create_dataset(name, shape, dtype, track_times=False)
        for name, (shape, dtype) in shapes.items()
    }
    at = 0
    for batch in batches:
        rows = len(batch["labels"])
        for name, array in batch.items():
            into[name][at : at + rows] = array
        at += rows
