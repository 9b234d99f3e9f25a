"""`minidnn zoom`: a flight into a dream, as a film."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidnn.arrays import to_host
from minidnn.cli.device import add_device, device_for
from minidnn.cli.dream import add_max_memory, job_of, positive
from minidnn.cli.outputs import check_apart, try_out
from minidnn.cli.watching import stopping
from minidnn.errors import DivergedError
from minidnn.images import films
from minidnn.recipes.forecast import check_cost
from minidnn.recipes.zoom import flight


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", nargs="?", help="where the flight begins; without one, a landscape is drawn")
    parser.add_argument(
        "-o",
        "--output",
        default="zoom.gif",
        metavar="FILE",
        help=f"a film: {', '.join(films.ENDINGS)} (zoom.gif)",
    )
    parser.add_argument("--net", default="tiny", help="a file of weights (tiny, which is built in)")
    parser.add_argument("--layer", metavar="NAME", help="by name or number (a favourite)")
    parser.add_argument("--objective", metavar="WORDS", help="what shall grow (norm)")
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="pictures in the film (100)")
    parser.add_argument(
        "--zoom", type=float, default=0.05, metavar="SHARE", help="from one to the next (0.05)"
    )
    parser.add_argument(
        "--steps", type=int, default=6, metavar="N", help="uphill in each frame and octave (6)"
    )
    parser.add_argument("--octaves", type=int, default=2, metavar="N", help="sizes to dream at (2)")
    parser.add_argument("--size", metavar="HxW", help="of the film (that of the photo)")
    parser.add_argument("--rate", type=int, default=12, metavar="N", help="frames a second (12)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting of a dream"
    )
    add_max_memory(parser)
    add_device(parser)
    parser.set_defaults(start="photo", guide=None, mask=None, seed=None, settings=None)


def run(args: argparse.Namespace) -> int:
    films.check(args.output, rate=args.rate)
    opened = job_of(args).opened(device_for(args.device))
    count, pictures = positive("--frames", args.frames), []
    frames, diverged = flight(opened, count, share=args.zoom), None
    check_apart(Path(args.output), opened.job)
    try_out(Path(args.output))
    check_cost(opened)
    with tqdm(total=count, desc=f"flying into {opened.objective}", unit="frame") as bar, stopping() as asked:
        try:
            for picture in frames:
                pictures.append(np.rint(to_host(picture)).astype(np.uint8))
                bar.update()
                if asked:
                    break
        except DivergedError as error:
            if not pictures:
                raise
            diverged = error
    films.save(args.output, pictures, rate=args.rate)
    print(f"wrote {args.output}: {len(pictures)} frames, {len(pictures) / args.rate:.1f} s")
    if diverged is not None:
        raise diverged
    return 130 if len(pictures) < count else 0
