"""Each convolution of VGG-16 by itself, by each kernel: time, speed, and error against float64."""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from benchmarks import peers
from benchmarks.race import error, race, record
from minidnn.kernels import Kernel
from minidnn.kernels.memory import Arena
from minidnn.layers import Conv

KERNELS = ["im2col", "chunked", "winograd2", "winograd4"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=224, help="side of the image (224)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the race (7)")


def run(args: argparse.Namespace) -> None:
    net = peers.vgg()
    shapes = net.shapes((1, args.size, args.size, 3), upto=[peers.TARGET])
    rng, results = np.random.default_rng(0), []
    print(
        "layer     kernel       forward ms  backward ms   GFLOP/s   error (of the largest value, to float64)"
    )
    for node in net.nodes[: net.number_of(peers.TARGET)]:
        layer = node.layer
        if not isinstance(layer, Conv):
            continue
        x = rng.standard_normal(shapes[node.inputs[0]], "float32")
        dzdy = rng.standard_normal(shapes[node.name], "float32")
        exact = layer.replacing(w=layer.w.astype("float64"), b=layer.b.astype("float64")).forward(
            x.astype("float64")
        )[0]
        runs, errors = {}, {}
        for name in KERNELS:
            how, mem = Kernel(name), Arena()
            if how.algorithm(x.shape, layer.w, layer.window, 1) != name:
                continue
            errors[name] = error(layer.forward(x, how=how, mem=mem)[0], exact)

            def forward(how: Kernel = how, mem: Arena = mem, layer: Conv = layer, x: np.ndarray = x) -> None:
                mem.begin()
                layer.forward(x, how=how, mem=mem)

            def backward(
                how: Kernel = how,
                mem: Arena = mem,
                layer: Conv = layer,
                x: np.ndarray = x,
                d: np.ndarray = dzdy,
            ) -> None:
                mem.begin()
                layer.backward(d, x_shape=x.shape, how=how, mem=mem)

            runs |= {f"{name} forward": forward, f"{name} backward": backward}
        times = {name: statistics.median(ms) for name, ms in race(runs, rounds=args.rounds).items()}
        flops = 2 * dzdy.size * layer.w[..., 0].size
        for name in errors:
            there, back = times[f"{name} forward"], times[f"{name} backward"]
            speed = flops / there / 1e6
            print(f"{node.name:9} {name:11} {there:11.2f}  {back:11.2f}  {speed:8.0f}   {errors[name]:.1e}")
            row = {"layer": node.name, "kernel": name, "forward ms": there, "backward ms": back}
            results.append(row | {"GFLOP/s": speed, "error": errors[name]})
    print("kept in", record("layers", results).name)
