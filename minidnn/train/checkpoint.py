"""A run in a file, to go on with after a pause or a power cut, to the same weights bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidnn.arrays import to_host
from minidnn.errors import DamagedFileError, DivergedError, FileFormatError, MismatchError
from minidnn.files import replacing
from minidnn.net import Net
from minidnn.train import npz
from minidnn.train.fit import State

KIND, VERSION = "minidnn-training", 1
MAX_DEPTH = 20
KEPT = ("epoch", "batch", "loss", "wrong", "seconds", "memory", "history")


class Checkpoint(NamedTuple):
    """Where a run is, its weights by name, and what it was of: a recipe, and the data's fingerprint."""

    state: State
    weights: dict[str, np.ndarray]
    about: dict[str, Any]

    def into(self, net: Net) -> Net:
        """This net with the weights from here."""
        wanted = {name: array.shape for name, array in (net.params | net.buffers).items()}
        found = {name: array.shape for name, array in self.weights.items()}
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if wrong:
            name = wrong[0]
            shapes = f"{name!r} is {found.get(name, 'missing')}, expected {wanted.get(name, 'none')}"
            raise MismatchError(f"the checkpoint is of another net: {shapes}; resume with its own recipe")
        return net.replacing(self.weights)


def save(path: str | Path, net: Net, state: State, about: Mapping[str, Any]) -> None:
    """Write it, whole or not at all; and not if it could not be gone on with."""
    arrays: dict[str, np.ndarray] = {}
    for name, array in (net.params | net.buffers).items():
        if not np.isfinite(to_host(array)).all():
            found = f"{name!r} has values that are not finite"
            raise DivergedError(
                f"{path}: {found}; the checkpoint before stays: try a smaller rate from there"
            )
    told = {
        "kind": KIND,
        "version": VERSION,
        "about": dict(about),
        "state": _packed({name: getattr(state, name) for name in KEPT}, arrays),
        "weights": _packed(dict(net.params | net.buffers), arrays),
    }
    arrays["told"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: str | Path) -> Checkpoint:
    """Read one that `save` wrote."""
    arrays = npz.read(path)
    try:
        told = json.loads(arrays["told"].tobytes())
        if told["kind"] != KIND:
            raise MismatchError(f"{path}: no checkpoint of a training run; name another file")
        if told["version"] != VERSION:
            raise FileFormatError(
                f"{path}: version {told['version']}, this minidnn reads {VERSION}; update it"
            )
        state = State(**_unpacked(told["state"], arrays))
        return Checkpoint(state, _unpacked(told["weights"], arrays), told["about"])
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        if isinstance(error, MismatchError | FileFormatError):
            raise
        raise DamagedFileError(f"{path}: no whole checkpoint (at {error}); go on from another one") from None


def _packed(part: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The same in JSON's own kinds; arrays go into `arrays`, and their names stay here."""
    if isinstance(part, Mapping):
        return {"dict": {name: _packed(inner, arrays) for name, inner in part.items()}}
    if isinstance(part, list | tuple):
        return {"list": [_packed(inner, arrays) for inner in part]}
    if part is None or isinstance(part, int | float | str):
        return part
    name = f"array{len(arrays)}"
    arrays[name] = to_host(part)
    return {"array": name}


def _unpacked(part: Any, arrays: Mapping[str, np.ndarray], depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("nested deeper than any run")
    if not isinstance(part, dict):
        return part
    ((kind, inner),) = part.items()
    if kind == "array":
        return arrays[inner]
    if kind == "dict":
        return {name: _unpacked(one, arrays, depth + 1) for name, one in inner.items()}
    return [_unpacked(one, arrays, depth + 1) for one in inner]
