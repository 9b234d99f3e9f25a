"""`minidnn dream`: let a layer see more of what it sees, step by step, and save the picture."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
from tqdm import tqdm

from minidnn import images
from minidnn.arrays import Array
from minidnn.errors import UsageError
from minidnn.net import Net
from minidnn.zoo.gabor import gabor

GREY = 128.0  # the colour that the net takes for nothing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", help="a picture; without one, a landscape is drawn")
    parser.add_argument("--output", default="dream.png", metavar="FILE", help="where to write (dream.png)")
    parser.add_argument("--layer", default="relu2", help="whose response shall grow (relu2)")
    parser.add_argument("--steps", type=int, default=20, help="steps uphill (20)")
    parser.add_argument(
        "--step-size", type=float, default=1.5, help="mean change of a pixel in one step (1.5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the landscape (0)")


def run(args: argparse.Namespace) -> None:
    if args.steps < 1:
        raise UsageError(f"a dream of {args.steps} steps; give at least 1")
    net, began = gabor(), perf_counter()
    picture = images.load(args.image) if args.image else images.clouds_over_hills(seed=args.seed)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    steps = dream(net, args.layer, picture, args.step_size)
    energies = []
    try:
        for _ in tqdm(range(args.steps), desc=f"dreaming of {args.layer}", unit="step"):
            picture, energy = next(steps)
            energies.append(energy)
    except KeyboardInterrupt:
        print("stopped; keeping what there is")
    images.save(args.output, picture)
    _, h, w, _ = picture.shape
    grown = f", {args.layer} responds {energies[-1] / energies[0]:.0f} times as strongly" if energies else ""
    print(
        f"wrote {args.output}: {w}x{h} pixels, {len(energies)} steps in {perf_counter() - began:.1f} s{grown}"
    )


def dream(net: Net, layer: str, picture: Array, step_size: float) -> Iterator[tuple[Array, float]]:
    """Gradient ascent on the mean square of a layer: each next picture, and the response before it."""
    res, x = net.init_res(), picture - GREY
    while True:
        y = net.forwardto(res, layer, x, keep="needed")
        dzdx = net.backwardfrom(res, {layer: 2 * y})
        x = np.clip(x + step_size * dzdx / (np.abs(dzdx).mean() + 1e-12), -GREY, 255 - GREY)
        yield x + GREY, float((y * y).mean())
