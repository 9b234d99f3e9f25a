"""A dream in a file, to go on with after a pause or a power cut, to the same picture bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidnn import npz
from minidnn.arrays import to_device, to_host
from minidnn.dream import Frame, State
from minidnn.errors import DamagedFileError, FileError, FileFormatError, MinidnnError, MismatchError
from minidnn.recipes.job import Job, Opened

MEASURED = ("value", "penalty", "gradient_norm", "penalty_norm", "step_norm", "seconds", "number", "octave")


class Checkpoint(NamedTuple):
    """A job, its last frame, and what was noted of all its frames."""

    job: Job
    weights: str  # the digest of the net's
    files: dict[str, str]  # the digests of photo, guide and mask
    frame: Frame
    history: list[dict[str, Any]]


def save(path: str | Path, there: Checkpoint) -> None:
    """Write it, whole or not at all."""
    frame, arrays = there.frame, dict[str, np.ndarray]()
    told = {
        "minidnn": "dream",
        "job": there.job.as_json(),
        "weights": there.weights,
        "files": there.files,
        "history": there.history,
        "frame": {name: getattr(frame, name) for name in MEASURED} | {"layer_norms": frame.layer_norms},
        "state": npz.packed(vars(frame.state), arrays),
    }
    arrays["picture"] = to_host(frame.picture)
    npz.write(path, told, arrays)


def load(path: str | Path, device: str = "cpu") -> Checkpoint:
    """Read one that `save` wrote, to go on with on that device."""
    if not Path(path).exists():
        raise FileFormatError(f"{path}: no such file; a dream writes one with --checkpoint")
    try:
        told, arrays = npz.reopen(path)
    except FileError as error:
        raise _damaged(path, str(error).removeprefix(f"{path}: ").partition(";")[0]) from None
    try:
        state = State(**npz.unpacked(told["state"], arrays))
        frame = Frame(arrays["picture"], **told["frame"], state=state)
        _check(frame, told["history"])
        moved = {name: to_device(array, device) for name, array in arrays.items()}
        state = State(**npz.unpacked(told["state"], moved))
        frame = replace(frame, picture=moved["picture"], state=state)
        return Checkpoint(
            Job.from_json(told["job"]), told["weights"], dict(told["files"]), frame, told["history"]
        )
    except MinidnnError as error:
        error.add_note(f"in {path}")
        raise
    except Exception as error:  # what is wrong with such a file comes as an error of a dozen kinds
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def check(path: str | Path, there: Checkpoint, opened: Opened, weights: str) -> None:
    """That the dream goes on with the very weights and pictures that it began with."""
    if there.weights != weights:
        raise MismatchError(
            f"{path}: began with other weights than those in {opened.job.net} now; bring those back"
        )
    for name, digest in opened.files.items():
        if there.files.get(name) != digest:
            found = f"{getattr(opened.job, name)} is another {name} now"
            raise MismatchError(f"{path}: {found} than it began with; bring that one back")
    if there.frame.picture.dtype != opened.picture.dtype or there.frame.octave >= len(opened.sizes):
        raise MismatchError(f"{path}: its picture is not one of this dream; begin the dream anew")


def _damaged(path: str | Path, found: str) -> DamagedFileError:
    what = f"no checkpoint of a dream, or damaged ({found:.200})"
    return DamagedFileError(f"{path}: {what}; begin the dream anew")


def _check(frame: Frame, history: Any) -> None:
    """That it is what a dream can go on from, and can be told of at its end."""
    start, picture = frame.state.start, frame.picture
    if picture.ndim != 4 or picture.shape != start.shape or not np.isfinite(picture).all():
        raise ValueError(f"a picture {picture.shape} that began as {start.shape}")
    np.random.default_rng(0).bit_generator.state = dict(frame.state.rng)
    for row in history:
        if not (isinstance(row["digest"], str) and isinstance(row["octave"], int)):
            raise ValueError(f"a step noted as {row!r:.60}")
        for name in MEASURED:
            float(row[name])
