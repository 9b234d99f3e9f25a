"""The `minidnn` command: a file for each of its commands, and one place where errors become words."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from minidnn import __version__
from minidnn.arrays import no_room
from minidnn.cli import (
    classify,
    diagnose,
    doctor,
    dream,
    evaluate,
    experiment,
    features,
    heads,
    imagine,
    layers,
    nets,
    replay,
    sizes,
    train,
    weights,
    zoom,
)
from minidnn.errors import MinidnnError, OutputError
from minidnn.kernels.cpu import threads

COMMANDS = {
    "dream": dream,
    "imagine": imagine,
    "zoom": zoom,
    "experiment": experiment,
    "replay": replay,
    "layers": layers,
    "nets": nets,
    "weights": weights,
    "classify": classify,
    "evaluate": evaluate,
    "train": train,
    "diagnose": diagnose,
    "features": features,
    "heads": heads,
    "sizes": sizes,
    "doctor": doctor,
}
THREADED = (
    "dream",
    "imagine",
    "zoom",
    "experiment",
    "classify",
    "evaluate",
    "train",
    "diagnose",
    "features",
    "heads",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, or that of what went wrong."""
    args = _parser().parse_args(argv)
    try:
        with threads.limit(getattr(args, "threads", None)):
            code = args.run(args) or 0
        sys.stdout.flush()  # a reader that has gone shall be noticed here, not at the very end
        return code
    except (MinidnnError, MemoryError) as error:
        if args.debug:
            raise
        if isinstance(error, MemoryError):
            error = no_room(error)
        notes = [f"  {note}" for note in getattr(error, "__notes__", ())]
        print(f"minidnn: {error}", *notes, sep="\n", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("minidnn: stopped", file=sys.stderr)
        return 130
    except OSError as error:  # of our own output: the reader had enough, as `head` has, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 0
        print(f"minidnn: cannot write: {error.strerror}", file=sys.stderr)
        return OutputError.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "minidnn", description="See a convolutional network work, and dream with it."
    )
    parser.add_argument("--version", action="version", version=f"minidnn {__version__}")
    debug = "show where an error came from"
    parser.add_argument("--debug", action="store_true", help=debug)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").partition(": ")[2].strip()
        sub = commands.add_parser(
            name, help=summary.rstrip("."), description=summary[:1].upper() + summary[1:]
        )
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug)
        if name in THREADED:
            sub.add_argument("--threads", type=int, metavar="N", help="that may work at once (one a core)")
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser
