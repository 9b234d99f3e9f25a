"""`minidnn dream`: let a layer see more of what it sees, step by step, and save the picture."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from time import perf_counter

import numpy as np

from minidnn import images, weights
from minidnn.arrays import to_host
from minidnn.cli.device import add_device, device_for
from minidnn.cli.folder import dream_folder
from minidnn.cli.outputs import check_outputs
from minidnn.cli.settings import changed, from_toml, from_words, size_of
from minidnn.cli.watching import Watched, watch
from minidnn.errors import UsageError
from minidnn.recipes import checkpoint
from minidnn.recipes.deepdream import DeepDream, planned_within
from minidnn.recipes.findings import tables, why
from minidnn.recipes.forecast import check_cost, forecast
from minidnn.recipes.goals import KINDS
from minidnn.recipes.job import Job, Opened
from minidnn.recipes.plots import plot_run, save_plot
from minidnn.recipes.report import report
from minidnn.recipes.sheets import strip

CHECKPOINT_SECONDS = 60.0
ONE_PICTURE = ("dry_run", "preview", "checkpoint", "plot", "strip", "microscope", "report")  # no folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    photo = parser.add_argument(
        "photo", nargs="?", help="a picture, or a folder of them; without one, a landscape is drawn"
    )
    parser.add_argument(
        "-o", "--output", default="dream.png", metavar="FILE", help="where to write (dream.png)"
    )
    parser.set_defaults(asked=(photo, *_add_what(parser)))
    _add_kept(parser)


def _add_what(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What to dream: all of which a checkpoint knows already."""
    what, kinds = parser.add_argument_group("what to dream"), "; ".join(f"{k}: {w}" for k, w in KINDS.items())
    return [
        what.add_argument(
            "--net", default="tiny", help="a file that minidnn weights convert made (tiny, which is built in)"
        ),
        what.add_argument(
            "--layer", metavar="NAME", help="by name or number; several with commas (a favourite)"
        ),
        what.add_argument(
            "--objective", metavar="WORDS", help=f"what shall grow (norm); terms add up with +. {kinds}"
        ),
        what.add_argument("--steps", type=int, metavar="N", help="uphill, in each octave (15)"),
        what.add_argument("--octaves", type=int, metavar="N", help="sizes to dream at (4)"),
        what.add_argument("--size", metavar="HxW", help="of the picture (as it is)"),
        what.add_argument("--guide", metavar="PHOTO", help="for the objectives guide and match"),
        what.add_argument("--mask", metavar="PICTURE", help="white pixels may move, black ones stay"),
        what.add_argument(
            "--from", dest="start", choices=("photo", "noise"), default="photo", help="where to begin (photo)"
        ),
        what.add_argument("--seed", type=int, metavar="N", help="of all that is random (0)"),
        add_max_memory(what),
        what.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="any other setting (docs/dreaming.md)",
        ),
        what.add_argument("--settings", metavar="FILE", help="settings in a TOML file"),
    ]


def add_max_memory(parser: argparse._ActionsContainer) -> argparse.Action:
    return parser.add_argument(
        "--max-memory", metavar="2GB", help="that it may take; a larger dream goes in tiles"
    )


def _add_kept(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("what else to show and keep")
    how.add_argument(
        "--dry-run", action="store_true", help="say what would be done, how long and with how much memory"
    )
    how.add_argument("--preview", type=int, metavar="N", help="write the picture so far every N steps")
    add_checkpoint(how)
    how.add_argument("--resume", metavar="FILE", help="go on from a checkpoint")
    how.add_argument(
        "--plot", metavar="FILE.svg", help="value, gradient's share and step, drawn over the steps"
    )
    how.add_argument("--strip", metavar="FILE.png", help="how the picture grew")
    add_microscope(how)
    how.add_argument("--report", metavar="FILE.html", help="one page with everything")
    add_device(how)


def add_checkpoint(parser: argparse._ActionsContainer, afterwards: str = "") -> None:
    words = f"write all that is needed to go on, once a minute and at the end{afterwards}"
    parser.add_argument("--checkpoint", metavar="FILE", help=words)


def kept_in(checkpoint_file: str | None) -> tuple[Path, float] | None:
    """Where to write checkpoints, and every so many seconds."""
    return None if checkpoint_file is None else (Path(checkpoint_file), CHECKPOINT_SECONDS)


def add_microscope(parser: argparse._ActionsContainer) -> None:
    words = "say why it became this: what rose, and what the net took it for on the way"
    parser.add_argument("--microscope", action="store_true", help=words)


def run(args: argparse.Namespace) -> int:
    """Dream one picture, or a folder of them."""
    check_together(args)
    device = device_for(args.device)
    if is_folder(args.photo):
        return dream_folder(args.photo, args.output, job_of(args), device=device)
    resume = None if args.resume is None else checkpoint.load(args.resume, device)
    opened = (resume.job if resume else job_of(args)).opened(device)
    if resume:
        checkpoint.check(args.resume, resume, opened, weights.digest(opened.net))
    preview = None if args.preview is None else (positive("--preview", args.preview), Path(args.output))
    if args.dry_run:
        print(plan(opened), forecast(opened), sep="\n")
        return 0
    check_outputs(args, opened.job)
    check_cost(opened)
    for words in without(opened.job.settings):
        print(words)
    began = perf_counter()
    found = watch(
        opened,
        preview=preview,
        save_to=kept_in(args.checkpoint),
        resume=resume,
        keep_pictures=bool(args.strip or args.report),
        microscope=bool(args.microscope or args.report),
    )
    return finish(opened, found, args, perf_counter() - began)


def job_of(args: argparse.Namespace) -> Job:
    """What the command line asks for. The options by name count most, then --set, then the file."""
    named = ("objective", "steps", "octaves", "seed", "max_memory")
    options = {name: getattr(args, name) for name in named}
    options["layers"] = args.layer
    settings = DeepDream()
    for changes in (from_toml(args.settings) if args.settings else {}, from_words(args.set), options):
        settings = changed(settings, changes)
    if args.guide is not None and not re.search("guide|match", settings.objective):
        advice = "ask for --objective guide or match, or leave it out"
        raise UsageError(f"--guide says nothing to the objective {settings.objective}: {advice}")
    return Job(
        net=args.net,
        photo=None if is_folder(args.photo) else args.photo,
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
    if args.report and found.seen:
        report(args.report, opened, picture, found.history, found.pictures, found.seen)
    print(told(args.output, picture, found, seconds))
    if args.microscope and found.seen:
        print("", *why(found.seen), *map("\n{}".format, tables(found.seen)), sep="\n")
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
    looks = planned_within(opened.net, opened.picture, settings, opened.objective)
    return "\n".join([f"{opened.objective} at {layers}", steps, str(looks), *without(settings)])


def without(settings: DeepDream) -> list[str]:
    """What the dream does without, though it is on by default; mostly nothing."""
    if not settings.left_out:
        return []
    return [f"rule {settings.rule} learns from how gradients change: without {', '.join(settings.left_out)}"]


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


def check_together(args: argparse.Namespace) -> None:
    """Options that leave no sense to each other."""
    given = [action for action in args.asked if getattr(args, action.dest) != action.default]
    if args.resume and given:
        words = ", ".join((*action.option_strings, action.dest)[0] for action in given)
        raise UsageError(f"--resume goes on with the settings that it began with: leave out {words}")
    if is_folder(args.photo) and (given := [name for name in ONE_PICTURE if getattr(args, name)]):
        words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{args.photo} is a folder, and {words} is for one picture: leave it out")


def is_folder(photo: str | None) -> bool:
    return photo is not None and Path(photo).is_dir()


def positive(option: str, count: int) -> int:
    if count < 1:
        raise UsageError(f"{option} {count}: give at least 1")
    return count
