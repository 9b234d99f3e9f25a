"""`minidnn dream`: let a layer see more of what it sees, step by step, and save the picture."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
from tqdm import tqdm

from minidnn import images
from minidnn.arrays import Array
from minidnn.errors import OutputError, UsageError
from minidnn.net import Net
from minidnn.zoo.gabor import gabor

GREY = 128.0  # the colour that the net takes for nothing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", help="a picture; without one, a landscape is drawn")
    parser.add_argument("--output", default="dream.png", metavar="FILE", help="where to write (dream.png)")
    parser.add_argument(
        "--layer", default="relu2", help="whose response shall grow, by name or number (relu2)"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps uphill (20)")
    parser.add_argument(
        "--step-size", type=float, default=1.5, help="mean change of a pixel in one step (1.5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the landscape (0)")


def run(args: argparse.Namespace) -> int:
    check(args)
    net, began = gabor(), perf_counter()
    layer = net.name_of(int(args.layer) if args.layer.isdigit() else args.layer)
    picture = images.load(args.image) if args.image else images.clouds_over_hills(seed=args.seed)
    try_out(Path(args.output))
    frames, responses, stopped = dream(net, layer, picture, args.step_size), [], False
    try:
        with tqdm(total=args.steps, desc=f"dreaming of {layer}", unit="step") as bar:
            for frame, response in frames:
                picture = frame
                responses.append(response)
                if len(responses) > args.steps:
                    break
                bar.update(len(responses) > 1)
            bar.update(args.steps - bar.n)
    except KeyboardInterrupt:
        stopped = True
    images.save(args.output, picture)
    print(told(args.output, picture, responses, perf_counter() - began, stopped))
    return 130 if stopped else 0


def dream(net: Net, layer: str, picture: Array, step_size: float) -> Iterator[tuple[Array, float]]:
    """Gradient ascent on the mean square of a layer: each picture, the first included, with its response."""
    res, x = net.init_res(), picture - GREY
    while True:
        y = net.forwardto(res, layer, x, keep="needed")
        yield x + GREY, float((y * y).mean())
        dzdx = net.backwardfrom(res, {layer: 2 * y})
        x = np.clip(x + step_size * dzdx / (np.abs(dzdx).mean() + 1e-12), -GREY, 255 - GREY)


def told(path: str, picture: Array, responses: list[float], seconds: float, stopped: bool) -> str:
    """What came out, in one line."""
    _, h, w, _ = picture.shape
    steps = max(0, len(responses) - 1)
    grown = (
        f", the response {responses[-1] / responses[0]:.3g} times as strong" if steps and responses[0] else ""
    )
    early = "; stopped early" if stopped else ""
    return f"wrote {path}: {w}x{h} pixels, {steps} step{'s' * (steps != 1)} in {seconds:.1f} s{grown}{early}"


def try_out(path: Path) -> None:
    """Save one pixel beside it: what cannot be written is better known before the work than after."""
    trial = path.with_name(f"trial-{path.name}")
    images.save(trial, np.zeros((1, 1, 3)))
    trial.unlink()


def check(args: argparse.Namespace) -> None:
    """Numbers that make sense, and a folder to write to."""
    if args.steps < 1:
        raise UsageError(f"--steps {args.steps}: give at least 1")
    if not 0 < args.step_size < math.inf:
        raise UsageError(f"--step-size {args.step_size}: give a number above 0")
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: give 0 or more")
    folder = Path(args.output).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder}: {error.strerror}; give --output another path"
        ) from None
