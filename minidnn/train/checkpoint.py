"""A run in a file, to go on with after a pause or a power cut, to the same weights bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidnn import npz
from minidnn.arrays import Array, to_device, to_host
from minidnn.errors import DamagedFileError, DivergedError, FileFormatError, MismatchError
from minidnn.net import Net
from minidnn.train.fit import State

KIND, VERSION = "minidnn-training", 1
KEPT = ("epoch", "batch", "loss", "wrong", "seconds", "memory", "history")


class Checkpoint(NamedTuple):
    """Where a run is, its weights by name, and what it was of: a recipe, and the data's fingerprint."""

    state: State
    weights: dict[str, Array]
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
        "state": npz.packed({name: getattr(state, name) for name in KEPT}, arrays),
        "weights": npz.packed(dict(net.params | net.buffers), arrays),
    }
    npz.write(path, told, arrays)


def load(path: str | Path, device: str = "cpu") -> Checkpoint:
    """Read one that `save` wrote, wherever that computed, to go on with on that device."""
    told, arrays = npz.reopen(path)
    try:
        if told["kind"] != KIND:
            raise MismatchError(f"{path}: no checkpoint of a training run; name another file")
        if told["version"] != VERSION:
            raise FileFormatError(
                f"{path}: version {told['version']}, this minidnn reads {VERSION}; update it"
            )
        there = {name: to_device(array, device) for name, array in arrays.items()}
        found = Checkpoint(
            State(**npz.unpacked(told["state"], there)), npz.unpacked(told["weights"], there), told["about"]
        )
        _check(found)
        return found
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, MismatchError | FileFormatError):
            raise
        raise DamagedFileError(f"{path}: no whole checkpoint (at {error}); go on from another one") from None


def _check(found: Checkpoint) -> None:
    """That a run can go on from it, or a ValueError."""
    state = found.state
    counts = state.epoch, state.batch, state.wrong
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"epoch, batch, wrong = {counts}")
    for name, array in found.weights.items():
        if array.dtype.kind != "f":
            raise ValueError(f"{name!r} of {array.dtype}")
    for number in (state.loss, state.seconds, *(row["loss"] for row in state.history)):
        float(number)
    if not isinstance(state.memory, dict) or not isinstance(found.about, dict):
        raise ValueError("a memory that is none")
