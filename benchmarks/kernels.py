"""Each convolution of VGG-16 by itself, by each kernel: time, speed, and error against float64."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.race import error, race, record
from minidnn import images, weights
from minidnn.graph import Node
from minidnn.kernels import Kernel
from minidnn.kernels.memory import Arena
from minidnn.layers import Conv
from minidnn.net import Net

KERNELS = ["im2col", "chunked", "winograd2", "winograd4"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=224, help="side of the image (224)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the race; 0: errors only (7)")
    parser.add_argument("--weights", metavar="FILE", help="of VGG-16, trained (random)")
    parser.add_argument("--photos", metavar="FILE", nargs="+", help="real ones (noise)")


def run(args: argparse.Namespace) -> None:
    net = weights.load(args.weights) if args.weights else peers.vgg()
    photos = [loaded(path, net, args.size) for path in args.photos or ()] or [peers.picture(args.size)]
    rows = []
    for node, xs in inputs(net, photos):
        runs, row = {}, {"layer": node.name, "largest": 0.0, "error": {}, "ms": {}}
        for name in KERNELS:
            how = Kernel(name)
            if how.algorithm(xs[0].shape, node.layer.w, node.layer.window, 1) == name:
                row["error"][name] = max(worst(node.layer, x, how) for x in xs)
                runs |= both_ways(node.layer, xs[0], name, how)
        if args.rounds:
            row["ms"] = {name: statistics.median(ms) for name, ms in race(runs, rounds=args.rounds).items()}
        rows.append(row)
        print(told(row), flush=True)
    print("kept in", record("kernels" + ("-trained" if args.weights else ""), rows).name)


def inputs(net: Net, photos: list[np.ndarray]) -> Iterator[tuple[Node, list[np.ndarray]]]:
    """Every convolution with what it reads of each photo, computed the plain way."""
    plain, target = net.with_kernels("im2col"), net.nodes[net.number_of(peers.TARGET) - 1].name
    runs = [plain.init_res() for _ in photos]
    for node in net.nodes[: net.number_of(target)]:
        if isinstance(node.layer, Conv):
            before = node.inputs[0]
            yield (
                node,
                [
                    photo if before == net.input else plain.forwardto(res, before, photo, keep=[before])
                    for res, photo in zip(runs, photos, strict=True)
                ],
            )


def loaded(path: str, net: Net, size: int) -> np.ndarray:
    """A photo as the net wants it."""
    photo = images.load(path)
    return net.preprocess.to_net(images.resize(photo, (size, size)))


def worst(layer: Conv, x: np.ndarray, how: Kernel) -> float:
    """The largest difference to the convolution in float64, as a share of its largest value."""
    exact = layer.replacing(w=layer.w.astype("float64"), b=layer.b.astype("float64"))
    wanted = exact.forward(x.astype("float64"))[0]
    return error(layer.forward(x, how=how, mem=Arena())[0], wanted)


def both_ways(layer: Conv, x: np.ndarray, name: str, how: Kernel) -> dict[str, Callable[[], Any]]:
    mem = Arena()
    dzdy = np.random.default_rng(0).standard_normal(layer.out_shape(x.shape), "float32")

    def turn(work: Callable[[], Any]) -> None:
        mem.begin()
        work()

    there = partial(layer.forward, x, how=how, mem=mem)
    back = partial(layer.backward, dzdy, x_shape=x.shape, how=how, mem=mem)
    return {f"{name} forward": partial(turn, there), f"{name} backward": partial(turn, back)}


def told(row: dict[str, Any]) -> str:
    """One line for each kernel of a layer: its error, and its times if they were taken."""
    lines = []
    for name, wrong in row["error"].items():
        times = "".join(
            f"  {way} {row['ms'][f'{name} {way}']:8.2f} ms" for way in ("forward", "backward") if row["ms"]
        )
        lines.append(f"{row['layer']:9} {name:10} within {wrong:.1e} of the largest value{times}")
    return "\n".join(lines)
