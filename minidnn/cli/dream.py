"""`minidnn dream`: let a layer see more of what it sees, step by step, and save the picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np

from minidnn import images, weights
from minidnn.arrays import to_host
from minidnn.cli.folder import dream_folder
from minidnn.cli.settings import changed, from_toml, from_words, size_of
from minidnn.cli.watching import Watched, watch
from minidnn.errors import MismatchError, OutputError, UsageError
from minidnn.recipes import checkpoint
from minidnn.recipes.deepdream import DeepDream
from minidnn.recipes.forecast import check_memory, forecast
from minidnn.recipes.goals import KINDS
from minidnn.recipes.job import Job, Opened
from minidnn.recipes.plots import check_plots, plot_run, save_plot
from minidnn.recipes.report import report
from minidnn.recipes.sheets import strip

CHECKPOINT_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photo", nargs="?", help="a picture, or a folder of them; without one, a landscape is drawn"
    )
    parser.add_argument(
        "-o", "--output", default="dream.png", metavar="FILE", help="where to write (dream.png)"
    )
    what = parser.add_argument_group("what to dream")
    what.add_argument(
        "--net", default="gabor", help="a file of weights.save or minidnn weights convert (gabor)"
    )
    what.add_argument("--layer", metavar="NAME", help="by name or number; several with commas (a favourite)")
    kinds = "; ".join(f"{kind}: {words}" for kind, words in KINDS.items())
    what.add_argument(
        "--objective", metavar="WORDS", help=f"what shall grow (norm); terms add up with +. {kinds}"
    )
    what.add_argument("--steps", type=int, metavar="N", help="uphill, in each octave (15)")
    what.add_argument("--octaves", type=int, metavar="N", help="sizes to dream at (4)")
    what.add_argument("--size", metavar="HxW", help="of the picture (as it is)")
    what.add_argument("--guide", metavar="PHOTO", help="for the objectives guide and match")
    what.add_argument("--mask", metavar="PICTURE", help="white pixels may move, black ones stay")
    what.add_argument(
        "--from", dest="start", choices=("photo", "noise"), default="photo", help="where to begin (photo)"
    )
    what.add_argument("--seed", type=int, metavar="N", help="of all that is random (0)")
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting (docs/dreaming.md)",
    )
    what.add_argument("--settings", metavar="FILE", help="settings in a TOML file")
    how = parser.add_argument_group("what else to show and keep")
    how.add_argument(
        "--dry-run", action="store_true", help="say what would be done, how long and with how much memory"
    )
    how.add_argument("--preview", type=int, metavar="N", help="write the picture so far every N steps")
    how.add_argument(
        "--checkpoint", metavar="FILE", help="write all that is needed to go on, once a minute and at the end"
    )
    how.add_argument("--resume", metavar="FILE", help="go on from a checkpoint")
    how.add_argument(
        "--plot", metavar="FILE.svg", help="value, gradient's share and step, drawn over the steps"
    )
    how.add_argument("--strip", metavar="FILE.png", help="how the picture grew")
    how.add_argument("--report", metavar="FILE.html", help="one page with everything")
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (cpu)")


def run(args: argparse.Namespace) -> int:
    """Dream one picture, or a folder of them."""
    if args.photo is not None and Path(args.photo).is_dir():
        return dream_folder(args.photo, args.output, job_of(args), device=args.device)
    resume = None if args.resume is None else checkpoint.load(args.resume)
    opened = (resume.job if resume else job_of(args)).opened(args.device)
    if resume and resume.weights != weights.digest(opened.net):
        raise MismatchError(f"{args.resume}: began with other weights than those in {opened.job.net} now")
    if args.dry_run or min(opened.picture.shape[1:3]) > 256:
        expected = forecast(opened)
        if args.dry_run:
            print(plan(opened), expected, sep="\n")
            return 0
        check_memory(opened, expected)
    check_outputs(args)
    began = perf_counter()
    found = watch(
        opened,
        preview=None if args.preview is None else (positive("--preview", args.preview), Path(args.output)),
        save_to=None if args.checkpoint is None else (Path(args.checkpoint), CHECKPOINT_SECONDS),
        resume=resume,
        keep_pictures=bool(args.strip or args.report),
    )
    return finish(opened, found, args, perf_counter() - began)


def job_of(args: argparse.Namespace) -> Job:
    """What the command line asks for. The options by name count most, then --set, then the file."""
    options = {name: getattr(args, name) for name in ("objective", "steps", "octaves", "seed")}
    options["layers"] = args.layer
    settings = DeepDream()
    for changes in (from_toml(args.settings) if args.settings else {}, from_words(args.set), options):
        settings = changed(settings, changes)
    is_folder = args.photo is not None and Path(args.photo).is_dir()
    return Job(
        net=args.net,
        photo=None if is_folder else args.photo,
        size=size_of(args.size),
        start=args.start,
        guide=args.guide,
        mask=args.mask,
        settings=settings,
    )


def finish(opened: Opened, found: Watched, args: argparse.Namespace, seconds: float) -> int:
    """Write all that was asked for, say so, and fail as it failed."""
    picture, text = to_host(found.picture), {"minidnn": opened.told(found.digests)}
    images.save(args.output, picture, text=text if Path(args.output).suffix.lower() == ".png" else None)
    if args.plot:
        save_plot(args.plot, plot_run(found.history, title=str(opened.objective)))
    if args.strip:
        images.save(args.strip, strip(found.pictures))
    if args.report:
        report(args.report, opened, picture, found.history, found.pictures)
    print(told(args.output, picture, found, seconds))
    if found.diverged is not None:
        raise found.diverged
    return 130 if found.stopped else 0


def plan(opened: Opened) -> str:
    """What would be done, in words."""
    settings = opened.job.settings
    sizes = ", ".join(f"{w}x{h}" for h, w in opened.sizes)
    layers = ", ".join(
        f"{opened.net.name_of(layer)} (layer {opened.net.number_of(layer)})"
        for layer in opened.objective.layers
    )
    steps = f"{settings.steps} steps at each of {sizes} pixels: {opened.total} in all"
    return f"{opened.objective} at {layers}\n{steps}"


def told(path: str, picture: np.ndarray, found: Watched, seconds: float) -> str:
    """What came out, in one line."""
    _, h, w, _ = picture.shape
    steps = len(found.history)
    last = [row["value"] for row in found.history if row["octave"] == found.history[-1]["octave"]]
    grown = (
        f", at the last size z grew {last[-1] / last[0]:.3g} times" if len(last) > 1 and last[0] > 0 else ""
    )
    early = "; stopped early" if found.stopped else ""
    return f"wrote {path}: {w}x{h} pixels, {steps} step{'s' * (steps != 1)} in {seconds:.1f} s{grown}{early}"


def check_outputs(args: argparse.Namespace) -> None:
    """Write a trial of each file: what cannot be written is better known before the work than after."""
    endings = {
        "plot": (".svg",),
        "strip": images.WRITABLE,
        "report": (".html", ".htm"),
        "output": images.WRITABLE,
    }
    for name, allowed in endings.items():
        asked = getattr(args, name)
        if asked is not None and Path(asked).suffix.lower() not in allowed:
            raise UsageError(f"--{name} {asked}: end the name in {' or '.join(allowed)}")
    if args.plot or args.report:
        check_plots()
    photo = args.photo
    for asked in filter(None, (args.output, args.plot, args.strip, args.report, args.checkpoint)):
        if photo is not None and Path(asked).exists() and Path(asked).samefile(photo):
            raise UsageError(f"{asked} is the photo itself: write the dream to another file")
        try_out(Path(asked))


def try_out(path: Path) -> None:
    """Make its folder, and leave nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.with_name(f".trial-{path.name}")
        trial.touch()
        trial.unlink()
        if path.is_dir():
            raise IsADirectoryError(21, "is a directory")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; choose another place to write to") from None


def positive(option: str, count: int) -> int:
    if count < 1:
        raise UsageError(f"{option} {count}: give at least 1")
    return count
