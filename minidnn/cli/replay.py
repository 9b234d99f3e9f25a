"""`minidnn replay`: make a dreamed picture once more from what it says of itself, and compare every step."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minidnn import images, weights
from minidnn.arrays import to_host
from minidnn.cli.device import add_device, device_for
from minidnn.cli.outputs import check_apart, try_out
from minidnn.cli.watching import stopping
from minidnn.errors import DamagedFileError, FileFormatError, MismatchError, TooLargeError
from minidnn.recipes.forecast import check_cost
from minidnn.recipes.job import FILES, Job, Opened, file_digest, picture_digest, versions_here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", metavar="PICTURE.png", help="that minidnn dream or imagine wrote")
    parser.add_argument("-o", "--output", metavar="FILE.png", help="write the new picture too")
    parser.add_argument("--net", help="the weights, if they lie elsewhere now")
    for name in FILES:
        parser.add_argument(f"--{name}", help=f"the {name}, if it lies elsewhere now")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    told = note_of(args.picture)
    moved = {name: getattr(args, name) for name in ("net", *FILES) if getattr(args, name) is not None}
    opened = checked(replace(told.job, **moved), told, device_for(args.device))
    if len(told.steps) > opened.total:
        found = f"{len(told.steps)} steps, its settings make {opened.total}"
        raise DamagedFileError(f"{args.picture}: its note is damaged ({found}); it cannot be replayed")
    if args.output:
        check_apart(Path(args.output), opened.job)
        try_out(Path(args.output))
    check_cost(opened)
    picture, same = opened.picture, 0
    with tqdm(total=len(told.steps), desc="dreaming again", unit="step") as bar, stopping() as asked:
        for frame, wanted in zip(opened.frames(), told.steps, strict=False):
            picture = to_host(frame.picture)
            digest = picture_digest(picture)
            if digest != wanted:
                break
            same += 1
            bar.update()
            if asked:
                break
    if args.output:
        images.save(args.output, picture)
    if asked and same < len(told.steps):
        print(f"stopped: the first {same} of {len(told.steps)} steps are the same")
        return 130
    if same < len(told.steps):
        found = f"{digest}, it was {told.steps[same]}"
        print(f"step {same + 1} of {len(told.steps)} is the first that differs ({found})")
        print(f"made with {in_words(told.versions)}; this is {in_words(versions_here())}")
        return 1
    print(f"all {same} steps are the same, bit for bit")
    if not np.array_equal(np.rint(picture), images.load(args.picture)):
        print(f"but {args.picture} is no longer the picture that they made: its pixels were changed since")
        return 1
    return 0


class Told(NamedTuple):
    """What a picture says of how it was made."""

    job: Job
    weights: str  # digests, of this and of what follows
    files: dict[str, str]
    versions: dict[str, str]
    steps: list[str]


def note_of(path: str) -> Told:
    """Read it as what a stranger wrote."""
    note = images.note_in(path, "minidnn")
    if note is None:
        raise FileFormatError(f"{path}: says nothing of a dream; only PNGs of minidnn dream and imagine do")
    try:
        told = json.loads(note)
        kinds = [
            (told["files"], dict),
            (told["versions"], dict),
            (told["steps"], list),
            (told["weights"], str),
        ]
        texts = [*told["files"].values(), *told["versions"].values(), *told["steps"]]
        if not all(isinstance(*pair) for pair in [*kinds, *((text, str) for text in texts)]):
            raise ValueError("parts are not what they should be")
        job = Job.from_json(told.pop("job"))
        if {name for name in FILES if getattr(job, name) is not None} != told["files"].keys():
            raise ValueError("files without a digest, or digests without a file")
        if not told["steps"]:
            raise ValueError("no steps")
        return Told(job, **told)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, TooLargeError) as error:
        raise DamagedFileError(f"{path}: its note is damaged ({error}); it cannot be replayed") from None


def checked(job: Job, told: Told, device: str = "cpu") -> Opened:
    """The job with the very files that it was done with."""
    for name, digest in told.files.items():
        path = getattr(job, name)
        if not Path(path).is_file():
            raise FileFormatError(f"the {name} {path} is not there: say where it lies now, --{name} FILE")
        if file_digest(path) != digest:
            raise MismatchError(
                f"{path} is another {name} than it was: say where that one lies, --{name} FILE"
            )
    if Path(job.net).suffix == ".h5" and not Path(job.net).is_file():
        raise FileFormatError(f"the weights {job.net} are not there: say where they lie now, --net FILE")
    opened = job.opened(device)
    if weights.digest(opened.net) != told.weights:
        raise MismatchError(f"{job.net} has other weights than it had: say where those lie, --net FILE")
    return opened


def in_words(told: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in told.items())
