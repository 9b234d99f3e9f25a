"""A dream in a file, to go on with after a pause or a power cut, to the same picture bit for bit."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidnn.arrays import to_host
from minidnn.dream import Frame, State
from minidnn.errors import DamagedFileError, FileFormatError, MismatchError
from minidnn.files import replacing
from minidnn.recipes.job import Job

MEASURED = ("value", "penalty", "gradient_norm", "penalty_norm", "step_norm", "seconds", "number", "octave")


class Checkpoint(NamedTuple):
    """A job, its last frame, and what was noted of all its frames."""

    job: Job
    weights: str  # the digest of the net's
    frame: Frame
    history: list[dict[str, Any]]


def save(path: str | Path, there: Checkpoint) -> None:
    """Write it, whole or not at all."""
    frame, arrays = there.frame, dict[str, np.ndarray]()
    told = {
        "minidnn": "dream",
        "job": there.job.as_json(),
        "weights": there.weights,
        "history": there.history,
        "frame": {name: getattr(frame, name) for name in MEASURED} | {"layer_norms": frame.layer_norms},
        "state": _packed(vars(frame.state), arrays),
    }
    arrays["picture"] = to_host(frame.picture)
    arrays["told"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: str | Path) -> Checkpoint:
    """Read one that `save` wrote."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            told = json.loads(arrays["told"].tobytes())
            state = State(**_unpacked(told["state"], arrays))
            frame = Frame(arrays["picture"], **told["frame"], state=state)
            return Checkpoint(Job.from_json(told["job"]), told["weights"], frame, told["history"])
    except FileNotFoundError:
        raise FileFormatError(f"{path}: no such file; a dream writes one with --checkpoint") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise MismatchError(f"{path}: no checkpoint of a dream (lacks {error}); name another file") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedFileError(f"{path}: damaged, or no checkpoint ({error}); begin the dream anew") from None


def _packed(part: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The same in JSON's own kinds; arrays go into `arrays`, and their names stay here."""
    if isinstance(part, Mapping):
        return {"dict": {name: _packed(inner, arrays) for name, inner in part.items()}}
    if isinstance(part, list | tuple):
        return {type(part).__name__: [_packed(inner, arrays) for inner in part]}
    if part is None or isinstance(part, int | float | str):
        return part
    name = f"array{len(arrays)}"
    arrays[name] = to_host(part)
    return {"array": name}


def _unpacked(part: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(part, dict):
        return part
    ((kind, inner),) = part.items()
    if kind == "array":
        return arrays[inner]
    if kind == "dict":
        return {name: _unpacked(one, arrays) for name, one in inner.items()}
    items = [_unpacked(one, arrays) for one in inner]
    return tuple(items) if kind == "tuple" else items
