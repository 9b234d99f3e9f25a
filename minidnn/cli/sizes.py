"""`minidnn sizes`: how large the map is after each layer, and which numbers are yours to choose."""

from __future__ import annotations

import argparse

from minidnn.sizes import Step, sizes, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("n", type=int, help="pixels along one side of the image")
    parser.add_argument(
        "steps",
        nargs="+",
        metavar="LAYER",
        help="e.g. conv7/2p1 (7 pixels, stride 2, pad 1) or pool3/2^ (a pool of 3, stride 2, rounding up)",
    )


def run(args: argparse.Namespace) -> None:
    print(table(sizes(args.n, map(Step.parse, args.steps))))
