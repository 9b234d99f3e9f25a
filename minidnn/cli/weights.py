"""`minidnn weights`: convert, inspect, verify, compare, export and fetch weight files."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="…", help="minidnn weights --help tells of each"
    )
    parser.prefix_chars = "\0"  # all that follows, --help too, is for the other program


def run(args: argparse.Namespace) -> int:
    """The converter is a program of its own: foreign formats never come into this one."""
    debug = ["--debug"] if args.debug else []
    command = [sys.executable, "-m", "weights_tools", *debug, *args.rest]
    if os.name == "posix":  # it takes our place, so that whoever stops us stops it
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # it heard that too, and is about to stop
            continue
