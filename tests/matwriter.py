"""MATLAB files of all kinds to test with. A dict is a struct, a list a cell, Structs a struct array."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

CONTAINERS = ["v5", "v5 packed", "v7.3", "v7.3 packed"]
CLASSES = {"float64": "double", "float32": "single", "bool": "logical"}


NUMBER = count()


class Structs(list):
    """A struct array; its elements have the same fields."""


def save(path: Path, variables: dict[str, Any], container: str = "v5") -> Path:
    """The variables in a file of that container."""
    packed = container.endswith("packed")
    if container.startswith("v5"):
        own = {name: _for_scipy(value) for name, value in variables.items()}
        scipy.io.savemat(path, own, do_compression=packed, appendmat=False)
        return path
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")
        for name, value in variables.items():
            _put(file, refs, name, value, packed)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, made for a test".ljust(124) + b"\x00\x02IM")
    return path


def _for_scipy(value: Any) -> Any:
    if isinstance(value, Structs):
        array = np.empty((1, len(value)), [(name, object) for name in value[0]])
        for i, element in enumerate(value):
            for name, held in element.items():
                array[name][0, i] = _for_scipy(held)
        return array
    if isinstance(value, list):
        cell = np.empty((1, len(value)), object)
        for i, item in enumerate(value):
            cell[0, i] = _for_scipy(item)
        return cell
    return {name: _for_scipy(held) for name, held in value.items()} if isinstance(value, dict) else value


def _put(group: h5py.Group, refs: h5py.Group, name: str, value: Any, packed: bool) -> Any:
    """As MATLAB does it: axes reversed, and what is empty keeps its dimensions in its place."""
    if isinstance(value, dict | Structs):
        made = group.create_group(name)
        made.attrs["MATLAB_class"] = np.bytes_("struct")
        for field in value if isinstance(value, dict) else value[0]:
            if isinstance(value, dict):
                _put(made, refs, field, value[field], packed)
            else:
                made[field] = _references([element[field] for element in value], refs, packed)
        return made
    if isinstance(value, list):
        kind, data = "cell", _references(value, refs, packed)
    elif isinstance(value, str):
        kind, data = "char", np.array([list(map(ord, value))], np.uint16).T
    else:
        array = np.atleast_2d(value)
        while array.ndim > 2 and array.shape[-1] == 1:  # MATLAB drops these
            array = array[..., 0]
        kind, data = CLASSES.get(array.dtype.name, array.dtype.name), array.T
    if data.size == 0:
        made = group.create_dataset(name, data=np.array([0, 0], np.uint64))
        made.attrs["MATLAB_empty"] = np.uint8(1)
    elif packed and data.dtype.kind == "f" and data.size > 8:
        made = group.create_dataset(name, data=data, compression="gzip", shuffle=True)
    else:
        made = group.create_dataset(name, data=data.astype(np.uint8) if data.dtype == bool else data)
    made.attrs["MATLAB_class"] = np.bytes_(kind)
    return made


def _references(values: list[Any], refs: h5py.Group, packed: bool) -> np.ndarray:
    made = [_put(refs, refs, f"r{next(NUMBER)}", value, packed) for value in values]
    return np.array([[item.ref] for item in made], h5py.ref_dtype).reshape(-1, 1)
