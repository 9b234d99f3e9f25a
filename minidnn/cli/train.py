"""`minidnn train`: train a net on labelled pictures, by a recipe."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from tqdm import tqdm

from minidnn import __version__, weights, zoo
from minidnn.cli.device import add_device, device_for
from minidnn.cli.settings import changed, from_toml, from_words
from minidnn.cli.watching import stopping
from minidnn.errors import (
    DamagedFileError,
    DivergedError,
    MismatchError,
    OutputError,
    UsageError,
    did_you_mean,
)
from minidnn.files import replacing
from minidnn.net import Net
from minidnn.train import checkpoint, curves
from minidnn.train.data import Splits, check, fingerprint
from minidnn.train.fit import Record, State, fit
from minidnn.train.judging import evaluate
from minidnn.train.recipe import Recipe, built_in

CHECKPOINT, WEIGHTS, BEST, LOG, CURVES = "checkpoint.npz", "weights.h5", "best.h5", "log.json", "curves.svg"
CHECKPOINT_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(built_in())
    parser.add_argument("recipe", nargs="?", help=f"a TOML file, or one that is built in: {names}")
    parser.add_argument(
        "--data", metavar="PATH", help="what to learn from (docs/training.md says which kinds)"
    )
    parser.add_argument("--net", metavar="NET", help="by name, or a file of weights to go on with")
    parser.add_argument(
        "-o", "--output", default="training", metavar="FOLDER", help="where to write (training)"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="times that all pictures are seen")
    parser.add_argument("--batch", type=int, metavar="N", help="pictures in one step")
    parser.add_argument("--rate", type=float, metavar="X", help="how far a step goes")
    parser.add_argument("--seed", type=int, metavar="N", help="of all that is random")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting (docs/training.md)",
    )
    add_device(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    parser.add_argument(
        "--dry-run", action="store_true", help="open the data and the net, and say what would be done"
    )


def run(args: argparse.Namespace) -> int:
    """Train by a recipe, or go on with a run."""
    folder = Path(args.output)
    device = device_for(args.device)
    saved = checkpoint.load(folder / CHECKPOINT, device) if args.resume else None
    if saved is None and not args.dry_run:
        _check_free(folder)
    recipe = recipe_of(args, saved)
    data = recipe.splits()
    check(data)
    net = recipe.first_net(data.train).to(device)
    if saved is not None:
        _check_data(folder, data, saved)
        net = saved.into(net)
    session = Session(folder, recipe, net, data, State() if saved is None else saved.state)
    print(plan(recipe, net, data))
    if args.dry_run:
        return 0
    with owned(folder):
        if saved is None:
            _check_free(folder)  # once more: another run may have begun there, and ended, since
        return session.run()


def recipe_of(args: argparse.Namespace, saved: checkpoint.Checkpoint | None) -> Recipe:
    """What the command line asks for: the options by name count most, then --set, then the recipe.

    A run that goes on does so by its own recipe; only more epochs, or where the data are now, may be said.
    """
    asked = {name: getattr(args, name) for name in ("data", "net", "epochs", "batch", "rate", "seed")}
    if saved is not None:
        names = ("recipe", "net", "batch", "rate", "seed", "set")
        other = [name for name in names if getattr(args, name) not in (None, [])]
        if other:
            raise UsageError(f"--resume goes on with the run's own recipe; leave out {', '.join(other)}")
        return changed(_recipe_in(saved, Path(args.output)), asked)
    recipe = Recipe()
    file = {} if args.recipe is None else from_toml(str(found_recipe(args.recipe)))
    for changes in (file, from_words(args.set), asked):
        recipe = changed(recipe, changes)
    return recipe


def found_recipe(name: str) -> Path:
    """A file of that name, or a recipe of ours."""
    if Path(name).is_file():
        return Path(name)
    if name not in built_in():
        near = did_you_mean(name, built_in())
        raise UsageError(f"no recipe and no file {name!r}; there are {', '.join(built_in())}{near}")
    return built_in()[name]


def plan(recipe: Recipe, net: Net, data: Splits) -> str:
    """What would be done, in words."""
    h, w, c = data.train.shape
    count = sum(array.size for array in net.params.values())
    pictures = ", ".join(f"{len(part):,} for {name}" for name, part in zip(Splits._fields, data, strict=True))
    there = set(data.train.labels.tolist())
    lacking = [name for number, name in enumerate(data.train.classes) if number not in there]
    if lacking:
        pictures += f"; nothing to learn {', '.join(map(repr, lacking[:5]))}{' …' * (len(lacking) > 5)} from"
    return (
        f"{recipe.net}, {count:,} parameters, on {recipe.data}: {h}x{w}x{c} pictures of "
        f"{len(data.train.classes)} classes, {pictures}\n"
        f"{recipe.epochs} epochs of {-(-len(data.train) // recipe.batch):,} batches of {recipe.batch}, "
        f"{recipe.optimiser} at rate {recipe.rate:g} ({recipe.schedule})"
    )


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this run alone; the system lets go of it also after a kill."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".running").open("w")
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}; choose another place to write to") from None
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # a system without such locks
            pass
        except OSError:
            raise OutputError(
                f"{folder}: another run is writing here; wait for it, or give another --output"
            ) from None
        yield


class Session:
    """One run in its folder: the bar, the checkpoints, the log, and what comes of it."""

    def __init__(self, folder: Path, recipe: Recipe, net: Net, data: Splits, state: State) -> None:
        self.folder, self.recipe, self.net, self.data, self.state = folder, recipe, net, data, state
        self.device = net.device
        self.records = fit(net, data, recipe.way(), state=state)
        self.about = {
            "recipe": recipe.as_json(),
            "data": fingerprint(data.train),
            "minidnn": __version__,
            "device": self.device,
        }
        self.ended = ""  # why, once it has
        self.saved = monotonic()

    def run(self) -> int:
        """Train until all epochs are done, or Ctrl-C: then all is kept, and --resume goes on."""
        stopped = False
        if self.state.epoch == self.state.batch == 0:
            self.keep()
        batches = -(-len(self.data.train) // self.recipe.batch)
        bar = tqdm(
            total=self.recipe.epochs * batches,
            initial=self.state.epoch * batches + self.state.batch,
            unit="batch",
        )
        try:
            with bar, stopping() as asked:
                for record in self.records:
                    self.take(record, bar)
                    if asked and not record.ended:
                        stopped = True
                        break
        except DivergedError:
            self.note(ended="diverged")
            self.draw()
            raise
        if stopped:
            self.keep()
            self.note(ended="stopped")
            self.draw()
            print(f"stopped in epoch {self.state.epoch + 1}; go on: minidnn train --resume -o {self.folder}")
            return 130
        self.finish()
        return 0

    def take(self, record: Record, bar: Any) -> None:
        bar.update()
        self.ended = record.ended
        words = f"epoch {record.epoch}, loss {record.loss:.3f}, {record.images_per_second:.0f} images/s"
        bar.set_postfix_str(f"{words}, {_clock(record.eta)} left", refresh=False)
        if record.row is not None:
            bar.write(told(record.row))
            self.keep()
            self.note()
            if record.row.get("validation_top1", 1.0) <= min(
                row.get("validation_top1", 1.0) for row in self.state.history
            ):
                self.save_weights(BEST, record.row)
            if self.ended and record.epoch < self.recipe.epochs:
                bar.write(f"ends here: {record.ended}")
        elif monotonic() - self.saved > CHECKPOINT_SECONDS:
            self.keep()

    def keep(self) -> None:
        checkpoint.save(self.folder / CHECKPOINT, self.net, self.state, self.about)
        self.saved = monotonic()

    def note(self, **more: Any) -> None:
        """The log, as far as it is."""
        log = self.about | {"epochs": self.state.history} | more
        with replacing(self.folder / LOG) as partial:
            partial.write_text(json.dumps(log, indent=1) + "\n")

    def save_weights(self, name: str, result: dict[str, Any]) -> None:
        net = zoo.folded(self.net) if self.recipe.fold else self.net
        about = {"trained by": f"minidnn {__version__}", "recipe": self.recipe.as_json(), "result": result}
        weights.save(self.folder / name, net, dtype=self.recipe.dtype, provenance=about)

    def draw(self) -> None:
        """The curves, where there is something to draw, and to draw it with."""
        if not self.state.history:
            return
        try:
            title = f"{self.recipe.net} on {self.recipe.data}"
            curves.save_plot(self.folder / CURVES, curves.curves(self.state.history, title=title))
        except UsageError as error:
            print(error)

    def finish(self) -> None:
        """Judge by the test set, once, what is saved: folded, and rounded if float16 was asked for."""
        self.save_weights(WEIGHTS, self.state.history[-1] if self.state.history else {})
        saved: Net = weights.load(self.folder / WEIGHTS)
        found = evaluate(saved.to(self.device), self.data.test, loss=self.recipe.loss)
        self.save_weights(WEIGHTS, found | {"seconds": self.state.seconds})
        self.note(test=found, seconds=self.state.seconds, ended=self.ended)
        self.draw()
        wrong = f"top-1 {found['top1']:.2%}, top-5 {found['top5']:.2%}"
        print(
            f"test error: {wrong} of {len(self.data.test):,} pictures, after {_clock(self.state.seconds)} "
            f"of training\nwrote {self.folder / WEIGHTS} ({os.path.getsize(self.folder / WEIGHTS):,} bytes)"
        )


def told(row: dict[str, Any]) -> str:
    """One epoch in one line."""
    words = f"epoch {row['epoch']:3}: loss {row['loss']:.4f}, error {row['error']:.2%}"
    if "validation_loss" in row:
        words += f"; validation: loss {row['validation_loss']:.4f}, error {row['validation_top1']:.2%}"
        words += f", top-5 {row['validation_top5']:.2%}"
    return f"{words}; {row['images_per_second']:.0f} images/s"


def _check_free(folder: Path) -> None:
    if (folder / CHECKPOINT).exists():
        raise UsageError(
            f"{folder}: holds a run already; go on with it by --resume, or give another --output"
        )


def _recipe_in(saved: checkpoint.Checkpoint, folder: Path) -> Recipe:
    try:
        return changed(Recipe(), Recipe.from_json(saved.about["recipe"]).as_json())
    except (KeyError, AttributeError):
        what = f"{folder / CHECKPOINT}: no recipe in it"
        raise DamagedFileError(f"{what}; go on with it from Python, or from another one") from None


def _check_data(folder: Path, data: Splits, saved: checkpoint.Checkpoint) -> None:
    if fingerprint(data.train) != saved.about.get("data"):
        raise MismatchError(f"{folder / CHECKPOINT}: began with other data than these; give the same --data")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
