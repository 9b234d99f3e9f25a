"""One door to all data sets: a path, and what lies there is looked at."""

from __future__ import annotations

from pathlib import Path

from minidnn.errors import FileFormatError, did_you_mean
from minidnn.train.cifar import is_cifar, read_cifar
from minidnn.train.data import DataSet
from minidnn.train.pictures import TARS, Wish, read_pictures
from minidnn.train.readers import idx_files, read_idx, read_npz, read_usps

KINDS = "MNIST's idx files, CIFAR-10's batches, USPS's zip.train, .npz, or a folder or tar of class folders"


def open_data(
    path: str | Path, *, size: tuple[int, int] | None = None, grey: bool = False, cache: Path | None = None
) -> dict[str, DataSet]:
    """{"train": ..., "test": ...} of the set that lies there, or {"all": ...} of one in a single piece.

    `size` and `grey` are for files of pictures, which are decoded once into `cache` (see pictures.py); other
    formats have one size, and are as they are: `brought` in data.py gives them another.
    """
    path = Path(path)
    if not path.exists():
        near = [str(other) for other in path.parent.glob("*")] if path.parent.is_dir() else []
        raise FileFormatError(f"{path}: no such file or folder{did_you_mean(str(path), near)}")
    if path.is_file():
        return _open_file(path, Wish(size, grey), cache)
    if idx_files(path):
        return read_idx(path)
    if is_cifar(path):
        return read_cifar(path)
    files = [other for other in path.iterdir() if not other.name.startswith(".")]
    if len(files) == 1 and files[0].is_file():
        return _open_file(files[0], Wish(size, grey), cache)
    if len(files) == 1 and files[0].is_dir() and (idx_files(files[0]) or is_cifar(files[0])):
        return open_data(files[0])
    return read_pictures(path, Wish(size, grey), cache=cache)


def _open_file(path: Path, wish: Wish, cache: Path | None) -> dict[str, DataSet]:
    name = path.name.lower()
    if name.endswith(".npz"):
        return read_npz(path)
    if name.endswith(TARS):
        if is_cifar(path):
            return read_cifar(path)
        return read_pictures(path, wish, cache=cache)
    if "usps" in name or name.startswith(("zip.train", "zip.test")):
        return read_usps(path)
    raise FileFormatError(f"{path}: no data set that we know; give {KINDS}")
