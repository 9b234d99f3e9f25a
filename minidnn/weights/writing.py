"""Saving a net. For the same net it writes the same bytes, and never holds more than one array beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h5py
import numpy as np

from minidnn import __version__
from minidnn.arrays import Array, to_host
from minidnn.errors import DivergedError, FileError, OutputError, UsageError, WeightsError
from minidnn.files import replacing
from minidnn.images import Preprocess
from minidnn.layers.base import is_placeholder
from minidnn.net import Net
from minidnn.params import once
from minidnn.weights.blueprint import described
from minidnn.weights.index import NAME_RULE, Tensor, in_the_way, is_allowed, non_finite, pieces, sha256_of
from minidnn.weights.jsons import dumped
from minidnn.weights.reading import FORMAT, VERSION, Weights
from minidnn.weights.sink import Sink
from minidnn.weights.typed import encoded

LAYOUT = {"libver": ("earliest", "v110"), "alignment_threshold": 1024, "alignment_interval": 4096}
DTYPES: dict[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
LARGEST_HALF = 65_504


def save(
    path: str | os.PathLike,
    net: Net,
    *,
    dtype: str = "float32",
    provenance: Mapping[str, Any] | None = None,
    class_ids: Sequence[str] = (),
    allow_nonfinite: bool = False,
) -> None:
    """Write the net to an HDF5 file of our own format; the file appears whole, in one instant, or not at all.

    "float16" halves it: what has one axis and what is not trained (biases, moments, mean pictures) stays
    float32. `provenance` is what JSON can hold of where the weights come from; `class_ids` are the names
    by which data sets know the classes: WordNet's n02084071.
    """
    if class_ids and len(class_ids) != len(net.classes):
        raise UsageError(
            f"{len(class_ids)} class_ids for {len(net.classes)} names of classes; give one for each"
        )
    if dtype not in DTYPES:
        raise UsageError(f"no dtype {dtype!r} to save in; there are float32 and float16")
    params, buffers = once(net.nodes, "params"), once(net.nodes, "buffers")
    _check(net, params | buffers)
    about = _about(net, provenance or {}, class_ids)
    targets = dict.fromkeys(buffers, DTYPES["float32"])
    targets |= {name: DTYPES[dtype if array.ndim > 1 else "float32"] for name, array in params.items()}
    with replacing(path) as partial:
        with Sink(partial) as sink, h5py.File(sink, "w", **LAYOUT) as file, ThreadPoolExecutor(1) as aside:
            file.attrs["format"] = np.bytes_(FORMAT)
            file.attrs["format_version"] = np.array(VERSION, "<u2")
            file.attrs["generator"] = np.bytes_(f"minidnn {__version__}")
            index = []
            for name, array in sorted((params | buffers).items()):
                stored = _stored(to_host(array), targets[name], name, allow_nonfinite)
                entry = aside.submit(_entry, name, stored)  # its sha256, while the disk is at work
                file.create_dataset(f"params/{name}", data=stored, track_times=False)
                index.append(entry.result())
            for name, content in sorted((about | {"tensors": dumped(encoded(index))}).items()):
                file.create_dataset(f"meta/{name}", data=content, track_times=False)
        try:
            Weights.open(partial)
        except FileError as error:
            words = str(error).replace(str(partial), "what was written")
            raise OutputError(f"{path}: cannot be read again: {words}; nothing was replaced") from error


def _check(net: Net, arrays: dict[str, Array]) -> None:
    """All that can be said before a byte is written."""
    if empty := [name for name, array in arrays.items() if is_placeholder(array)]:
        raise WeightsError(f"no weights yet in {', '.join(empty)}; draw or load some before saving")
    names = [net.input, *net.names, *arrays]
    if wrong := sorted({name for name in names if not is_allowed(name)}):
        raise UsageError(
            f"a file cannot hold the names {', '.join(map(repr, wrong))}; allowed are {NAME_RULE}"
        )
    for short, long in in_the_way(arrays):
        raise UsageError(f"a file cannot hold both {short!r} and {long!r}; rename one of the layers")
    if not isinstance(net.preprocess, Preprocess | None):
        found = type(net.preprocess).__name__
        raise UsageError(f"the net's preprocess is of type {found}; a file holds images.Preprocess, or None")


def _about(net: Net, provenance: Mapping[str, Any], class_ids: Sequence[str]) -> dict[str, np.ndarray]:
    """What lies in /meta beside the list of arrays."""
    about = {"architecture": encoded(described(net))}
    if net.classes:
        about["classes"] = {"names": list(net.classes)} | ({"ids": list(class_ids)} if class_ids else {})
    if provenance:
        about["provenance"] = provenance
    found: dict[str, np.ndarray] = {}
    if net.preprocess is not None:
        mean = np.asarray(net.preprocess.mean)
        if mean.ndim == 3:
            found["mean_image"] = _stored(mean, DTYPES["float32"], "mean_image", False)
        about["preprocessing"] = encoded(net.preprocess, without=("mean",) if found else ())
    for name, content in about.items():
        try:
            found[name] = dumped(encoded(content))
        except (TypeError, ValueError) as error:
            raise UsageError(f"the {name} cannot be saved: {error}; give plain words and numbers") from None
    return found


def _stored(array: np.ndarray, dtype: np.dtype, name: str, allow_nonfinite: bool) -> np.ndarray:
    """The numbers as they go to the file."""
    if dtype.itemsize == 2 and (large := sum(map(_too_large, pieces(array)))):
        found = f"{name!r} has {large:,} values beyond {LARGEST_HALF:,}"
        raise OutputError(f"{found}, which float16 cannot hold; save it as float32")
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype)
    if not allow_nonfinite and (count := non_finite(stored)):
        found = f"{name!r} has {count:,} of {stored.size:,} values that are not finite"
        raise DivergedError(f"{found}; save(..., allow_nonfinite=True) writes them anyway")
    return stored.reshape(array.shape)  # ascontiguousarray makes a row of a single number


def _too_large(piece: np.ndarray) -> int:
    """How many of these float16 would turn into infinities that they are not."""
    return int(((np.abs(piece) > LARGEST_HALF) & np.isfinite(piece)).sum())


def _entry(name: str, stored: np.ndarray) -> Tensor:
    as_float32 = sha256_of(stored, "<f4") if stored.dtype.itemsize == 2 else None
    about = (f"params/{name}", stored.dtype.str, stored.shape, stored.nbytes)
    return Tensor(*about, sha256_of(stored), as_float32)
