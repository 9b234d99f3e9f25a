"""--device, the same for every command: where to compute, and a line that says what "auto" took and why."""

from __future__ import annotations

import argparse
import sys

from minidnn.arrays import chosen_device


def add_device(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="where to compute: cpu, cuda (a GPU), or auto, a GPU if one works (cpu)",
    )


def device_for(name: str) -> str:
    """The device for this word; about "auto" it says what was taken, and not on the standard output."""
    device, why = chosen_device(name)
    if name == "auto":
        print(f"computing on {device}: {why}", file=sys.stderr)
    return device
