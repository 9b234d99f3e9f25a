"""The `minidnn` command: one file for each of its commands, and one place where errors become words and exit
codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from minidnn import __version__
from minidnn.cli import doctor, dream, layers, sizes
from minidnn.errors import MinidnnError

COMMANDS = {"dream": dream, "layers": layers, "sizes": sizes, "doctor": doctor}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, or that of what went wrong."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except MinidnnError as error:
        if args.debug:
            raise
        print(
            f"minidnn: {error}",
            *(f"  {note}" for note in getattr(error, "__notes__", ())),
            sep="\n",
            file=sys.stderr,
        )
        return error.exit_code
    except KeyboardInterrupt:
        print("minidnn: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "minidnn", description="See a convolutional network work, and dream with it."
    )
    parser.add_argument("--version", action="version", version=f"minidnn {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").partition(": ")[2].strip()
        sub = commands.add_parser(
            name, help=summary.rstrip("."), description=summary[:1].upper() + summary[1:]
        )
        sub.add_argument("--debug", action="store_true", help="show where an error came from")
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser
