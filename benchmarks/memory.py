"""Dream steps within a bound: memory told beforehand and measured, in a process of its own for each."""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.race import peak_memory, record
from minidnn import zoo
from minidnn.layers.base import drawn
from minidnn.net import Net
from minidnn.plan import choose
from minidnn.recipes.memory import BETWEEN, HELD

AROUND = {"pictures": HELD["pixels"], "between": BETWEEN["pixels"]}
CASES = [
    ("squeezenet1.1", "fire8/concat", (768, 1024), [None, "500MB", "400MB"]),
    ("vgg16", "conv4_3", (768, 1024), [None, "2GB", "1GB", "600MB"]),
]
LARGE = ("vgg16", "conv4_3", (4096, 4096), ["4GB"])
STEPS = """
from itertools import islice
import numpy as np
from benchmarks.memory import reaching
from minidnn import images
from minidnn.dream import Way, dream, squared_norm
from minidnn.plan import choose

net = reaching({name!r}, {layer!r})
picture = images.resize(images.clouds_over_hills(384, 512), {size!r}).astype("float32")
plan = choose(net, picture.shape, {layer!r}, {limit!r}, **{around!r})
frames = dream(net, picture, squared_norm({layer!r}), Way(plan=plan), rng=np.random.default_rng(0))
for frame in islice(frames, {steps}):
    pass
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--large", action="store_true", help="also 4096x4096 pixels within 4 GB: minutes")


def run(args: argparse.Namespace) -> None:
    results = []
    for name, layer, size, limits in [*CASES, LARGE] if args.large else CASES:
        for limit in limits:
            plan = choose(reaching(name, layer), (1, *size, 3), layer, limit or "999GB", **AROUND)
            steps = {"name": name, "layer": layer, "size": size, "limit": limit, "around": AROUND}
            found = peak_memory(STEPS.format(**steps, steps=1 if size == LARGE[2] else 2))
            row = {"net": name, "layer": layer, "size": size, "max_memory": limit, "plan": str(plan)}
            results.append(row | {"told MB": plan.need / 1e6, "measured MB": found / 1e6})
            told = f"told {plan.need / 1e6:5.0f} MB, measured {found / 1e6:5.0f} MB"
            print(f"{name:14} {size[1]}x{size[0]} {limit or 'no bound':8}: {told}; {plan}", flush=True)
    print("kept in", record("memory", results).name)


def reaching(name: str, layer: str) -> Net:
    """The net as far as that layer, with random weights."""
    net, rng = zoo.get(name, seed=None), np.random.default_rng(0)
    reached = net.ancestors([layer])
    net = net.with_nodes([node for node in net.nodes if node.name in reached], input_shape=None)
    return net.replacing({key: drawn(rng, w.shape, w[..., 0].size) for key, w in net.params.items()})
