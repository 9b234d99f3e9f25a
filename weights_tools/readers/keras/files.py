"""Keras's files: weights alone or whole models, in HDF5 (Keras 1, 2 and 3) or in a zip archive (.keras).

Filters and dense weights lie there in our own order. What no file of Keras says is the order of the colours,
and what was subtracted from them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from minidnn.errors import DamagedFileError, FileError, FileFormatError, OutputError, UnsupportedError
from minidnn.weights.guarded import Guarded
from weights_tools.conventions import known_filters
from weights_tools.detect import opened
from weights_tools.foreign import Arrays, Foreign
from weights_tools.readers.keras.arrays import GROUPS, Keras3, Legacy, Stored, named, text
from weights_tools.readers.keras.build import built
from weights_tools.readers.keras.config import MAX_JSON, parsed, wiring
from weights_tools.zipped import Archive

CONFIG, WEIGHTS = "config.json", "model.weights.h5"

Size = tuple[int, int]


def read(path: str | os.PathLike, *, input_size: Size | None = None) -> Foreign:
    """A Keras file. `input_size` is the (h, w) of the images, for models that leave it open."""
    path = Path(path)
    if opened(path).startswith(b"PK"):
        return _archive(path, input_size)
    with Guarded(path, allow_texts=True) as file:
        return _hdf5(file, input_size)


def _hdf5(file: Guarded, input_size: Size | None) -> Foreign:
    attributes, groups = file.attributes(), file.names()
    root = "model_weights" if "model_weights" in groups else ""
    if "model_config" in attributes:
        described = parsed(text(attributes["model_config"], f"{file.path}: 'model_config'"), str(file.path))
        wired = wiring(described, str(file.path))
        arrays = Legacy(file, root)
        foreign = built("Keras model (HDF5)", wired, arrays, str(file.path), input_size)
    elif {"layer_names", "layer_names0", "nb_layers"} & file.attributes(root).keys():
        arrays = Legacy(file, root)
        layers = _named(((name, name, held) for name, held in arrays.layers()), str(file.path))
        foreign = Foreign("Keras weights (HDF5)", layers=layers, flatten="chw" if arrays.is_chw else "hwc")
    elif set(GROUPS) & set(groups):
        return _weights3(Keras3(file))
    else:
        held = ", ".join(map(repr, groups[:5])) or "nothing"
        raise FileFormatError(f"{file.path}: HDF5, but not of Keras (it holds {held}); try another format")
    if arrays.is_flipped:
        foreign.warnings.append("filters of Theano, which slid them upside down: turned by 180 degrees")
    elif arrays.is_old and arrays.is_chw and not arrays.backend:
        _turn_if_known(foreign)
    return _about(foreign, arrays)


def _turn_if_known(foreign: Foreign) -> None:
    """Filters from Theano or not: the file does not say it, but published ones are known by sight."""
    banks = [own for own in foreign.layers.values() if "w" in own and own["w"].ndim == 4]
    first = banks[0] if banks and "b" in banks[0] else None
    if first is not None and (known := known_filters(first["w"][::-1, ::-1], first["b"])):
        for own in banks:
            own["w"] = np.ascontiguousarray(own["w"][::-1, ::-1])
        foreign.steps.append(f"turned the filters by 180 degrees: then the first are those of {known[1]}")
    elif first is None or not known_filters(first["w"], first["b"]):
        foreign.warnings.append(
            "maps lie as in Theano, and the file does not say who made it: were it Theano, its filters "
            "would be upside down; then put _th_kernels into its name"
        )


def _weights3(arrays: Keras3) -> Foreign:
    rows = ((arrays.name_of(group), group, held) for group, held in arrays.layers())
    foreign = Foreign("Keras 3 weights", layers=_named(rows, str(arrays.file.path)))
    foreign.steps.append(
        "this file numbers the layers of each class: their order is right within a class, not between classes"
    )
    return _about(foreign, arrays)


def _archive(path: Path, input_size: Size | None) -> Foreign:
    """A .keras archive. HDF5 is read from a file of its own, which is gone afterwards."""
    limit = 2 * path.stat().st_size + (1 << 20)  # Keras does not compress, and floats hardly shrink
    archive = Archive(path, max_bytes=limit + MAX_JSON)
    for name in (CONFIG, WEIGHTS):
        if name not in archive.names:
            held = ", ".join(map(repr, list(archive.names)[:5])) or "nothing"
            raise FileFormatError(
                f"{path}: a zip archive, but no Keras model: {name!r} is missing (it holds {held})"
            )
    wired = wiring(parsed(archive.read(CONFIG, MAX_JSON), f"{path} > {CONFIG}"), str(path))
    what = f"{path} > {WEIGHTS}"
    with tempfile.TemporaryDirectory(prefix="minidnn-") as folder:
        copy = Path(folder) / WEIGHTS
        try:
            copy.write_bytes(archive.read(WEIGHTS, limit))
        except OSError as error:
            raise OutputError(f"{copy}: {error.strerror}; free some space for temporary files") from None
        try:
            with Guarded(copy, allow_texts=True) as file:
                arrays = Keras3(file)
                return _about(built("Keras 3 model", wired, arrays, str(path), input_size), arrays)
        except FileError as error:
            raise type(error)(str(error).replace(str(copy), what)) from None


def _named(rows: Iterable[tuple[str, str, dict[str, np.ndarray]]], what: str) -> dict[str, Arrays]:
    """Layers by name, from rows of (name, hint, arrays); those without arrays are left out."""
    layers: dict[str, Arrays] = {}
    unknown = []
    for name, hint, held in rows:
        try:
            new = named(name, held, hint) if held else {}
        except UnsupportedError as error:
            unknown.append(str(error))
            continue
        if new.keys() & layers.keys():  # within two inner models
            new = {f"{hint}{key.removeprefix(name)}": arrays for key, arrays in new.items()}
        if new.keys() & layers.keys():
            raise DamagedFileError(f"{what}: two layers are called {name!r}; fetch the file again")
        layers |= new
    if unknown:
        raise UnsupportedError(
            f"{what}: layers that we do not have: {'; '.join(unknown)}; save a net without them"
        )
    return layers


def _about(foreign: Foreign, arrays: Stored) -> Foreign:
    """What is to say of any of them."""
    if arrays.dtypes:
        foreign.steps.append(f"turned {', '.join(sorted(arrays.dtypes))} into float32")
    return foreign
