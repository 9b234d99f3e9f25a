"""`minidnn replay`: make a dreamed picture once more from what it says of itself, and compare every step."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidnn import __version__, images, weights
from minidnn.arrays import to_host
from minidnn.cli.watching import stopping
from minidnn.errors import DamagedFileError, FileFormatError, MismatchError
from minidnn.recipes.job import Job, Opened, file_digest, picture_digest

FILES = ("photo", "guide", "mask")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", metavar="PICTURE.png", help="that minidnn dream or imagine wrote")
    parser.add_argument("-o", "--output", metavar="FILE.png", help="write the new picture too")
    parser.add_argument("--net", help="the weights, if they lie elsewhere now")
    for name in FILES:
        parser.add_argument(f"--{name}", help=f"the {name}, if it lies elsewhere now")


def run(args: argparse.Namespace) -> int:
    told = note_of(args.picture)
    job = Job.from_json(told["job"])
    moved = {name: getattr(args, name) for name in ("net", *FILES) if getattr(args, name) is not None}
    opened = checked(replace(job, **moved), told)
    steps, digest = told["steps"], picture_digest(opened.picture)
    picture, done = opened.picture, 0
    with tqdm(total=len(steps), desc="dreaming again", unit="step") as bar, stopping() as asked:
        for frame, wanted in zip(opened.frames(), steps, strict=False):
            picture, digest, done = frame.picture, picture_digest(to_host(frame.picture)), done + 1
            if digest != wanted or asked:
                break
            bar.update()
    if args.output:
        images.save(args.output, to_host(picture))
    if asked:
        print(f"stopped: the first {done} of {len(steps)} steps are the same")
        return 130
    if steps and digest != steps[done - 1]:
        print(f"step {done} of {len(steps)} is the first that differs ({digest}, it was {steps[done - 1]})")
        print(f"made with {versions(told['versions'])}; this is {versions(here())}")
        return 1
    print(f"all {len(steps)} steps are the same, bit for bit")
    return 0


def note_of(path: str) -> dict:
    """What a picture says of how it was made."""
    note = images.note_in(path, "minidnn")
    if note is None:
        raise FileFormatError(f"{path}: says nothing of a dream; only PNGs of minidnn dream and imagine do")
    try:
        told = json.loads(note)
        if not {"job", "weights", "files", "versions", "steps"} <= told.keys():
            raise ValueError("parts are missing")
        return dict(told)
    except (ValueError, AttributeError) as error:
        raise DamagedFileError(f"{path}: its note is damaged ({error}); it cannot be replayed") from None


def checked(job: Job, told: dict) -> Opened:
    """The job with the very files that it was done with."""
    for name, digest in told["files"].items():
        path = getattr(job, name)
        if path is None or not Path(path).is_file():
            raise FileFormatError(f"the {name} {path} is not there: say where it lies now, --{name} FILE")
        if file_digest(path) != digest:
            raise MismatchError(
                f"{path} is another {name} than it was: say where that one lies, --{name} FILE"
            )
    if Path(job.net).suffix == ".h5" and not Path(job.net).is_file():
        raise FileFormatError(f"the weights {job.net} are not there: say where they lie now, --net FILE")
    opened = job.opened()
    if weights.digest(opened.net) != told["weights"]:
        raise MismatchError(f"{job.net} has other weights than it had: say where those lie, --net FILE")
    return opened


def here() -> dict[str, str]:
    """The versions that numbers depend on."""
    return {"minidnn": __version__, "numpy": np.__version__}


def versions(told: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in told.items())
