"""Every layer of a net in a dream step: time, GFLOP/s, GB/s, and the share of what this machine can do."""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from benchmarks import gpu, peers
from benchmarks.race import record
from minidnn import zoo
from minidnn.graph import Node, in_steps
from minidnn.kernels.cpu.threads import CREW
from minidnn.layers import FC, Conv
from minidnn.layers.base import Shape
from minidnn.net import Net

TARGETS = {"vgg16": "prob", "squeezenet1.1": "prob", "googlenet": "prob"}


class Limits(NamedTuple):
    """The best that this machine did in this run."""

    gflops: float  # of matrix products, on all threads
    gbytes: float  # of a copy in main memory a second, read and written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--net", default="vgg16", help="of the zoo, with random weights (vgg16)")
    parser.add_argument("--to", metavar="LAYER", help="the last layer (that of the scores)")
    parser.add_argument("--size", type=int, default=224, help="side of the image (224)")
    parser.add_argument("--rounds", type=int, default=7, help="steps to take medians of (7)")
    parser.add_argument("--device", default="cpu", help="cuda: the same on a GPU, by the race gpu (cpu)")


def run(args: argparse.Namespace) -> None:
    if gpu.instead(args, "layers"):
        return
    net = zoo.get(args.net, seed=0).astype("float32")
    target = args.to or TARGETS.get(args.net, net.nodes[-1].name)
    limits = measured_limits()
    print(f"limits measured here: {limits.gflops:.0f} GFLOP/s, copying {limits.gbytes:.1f} GB/s")
    print("a share over 1 is possible: Winograd multiplies less often than is counted, caches beat memory\n")
    rows = profile(net, target, peers.picture(args.size) / np.float32(100), args.rounds, limits)
    print(table(rows))
    print("kept in", record(f"layers-{args.net}", [row | limits._asdict() for row in rows]).name)


def profile(net: Net, target: str, x: np.ndarray, rounds: int, limits: Limits) -> list[dict[str, Any]]:
    """Of each layer the medians of its seconds in `rounds` dream steps."""
    res, seconds = net.init_res(), dict[str, list[tuple[float, float]]]()
    on_the_way = [node for node in net.nodes if node.name in net.ancestors([target])]
    for number in range(rounds + 2):
        y = net.forwardto(res, target, x, keep="needed")
        net.backwardfrom(res, {target: y})
        for node in on_the_way if number >= 2 else ():
            slot = res[node.name]
            seconds.setdefault(node.name, []).append((slot.seconds, slot.backward_seconds))
    chosen, shapes = net.kernels(x.shape[1:3]), net.shapes(x.shape)
    looked_at = {name for name, slot in res.items() if slot.x is not None}
    return [
        profiled(step, chosen.get(step[0].name, ""), shapes, seconds[step[0].name], limits)
        for step in in_steps(on_the_way, looked_at)
    ]


def profiled(
    step: tuple[Node, ...],
    kernel: str,
    shapes: dict[str, Shape],
    seconds: list[tuple[float, float]],
    limits: Limits,
) -> dict[str, Any]:
    """What a step did in the medians of its seconds, there and back, and what it could have done."""
    node, last = step[0], step[-1]
    there, back = (statistics.median(column) for column in zip(*seconds, strict=True))
    taken, made = [shapes[name] for name in node.inputs], shapes[node.name]
    flops = 2 * int(np.prod(made[:3])) * node.layer.w.size if isinstance(node.layer, Conv | FC) else 0
    held = sum(array.nbytes for array in node.layer.params.values())
    moved = 4 * sum(int(np.prod(shape)) for shape in (*taken, shapes[last.name])) + held
    least = max(flops / limits.gflops, moved / limits.gbytes) / 1e9  # seconds at the limit
    return {
        "layer": node.name,
        "kind": "+".join(type(each.layer).__name__ for each in step),
        "kernel": kernel,
        "forward ms": 1e3 * there,
        "backward ms": 1e3 * back,
        "GFLOP/s": flops / there / 1e9 if there else 0.0,
        "GB/s": moved / there / 1e9 if there else 0.0,
        "share": least / there if there else 0.0,
        "backward share": least / back if back else 0.0,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line a layer, with what it does on the way for those behind it, and a line for each kind."""
    lines = [f"{'layer':28} {'kind':17} {'kernel':10} {'there ms':>9} {'back ms':>8}  GFLOP/s   GB/s  share"]
    for row in rows:
        speeds = f"{row['GFLOP/s']:8.0f} {row['GB/s']:6.1f} {row['share']:6.2f}" if row["share"] else ""
        lines.append(
            f"{row['layer']:28} {row['kind']:17} {row['kernel']:10} "
            f"{row['forward ms']:9.2f} {row['backward ms']:8.2f} {speeds}"
        )
    total = sum(row["forward ms"] + row["backward ms"] for row in rows)
    for kind in sorted({row["kind"] for row in rows}):
        there, back = (
            sum(row[way] for row in rows if row["kind"] == kind) for way in ("forward ms", "backward ms")
        )
        share = 100 * (there + back) / total
        lines.append(f"{'all ' + kind:28} {'':28} {there:9.2f} {back:8.2f}  {share:5.1f} % of the step")
    return "\n".join(lines)


def measured_limits() -> Limits:
    """Matrix products in cache and copies in memory, the best of some tries, on all threads."""
    rng, count = np.random.default_rng(0), CREW.size
    a, b = rng.random((2, 1024, 1024), "float32")
    outs = np.empty((count, 1024, 1024), "float32")
    source, target = np.ones(1 << 25, "float32"), np.empty(1 << 25, "float32")  # 128 MB each
    parts = [slice(i * source.size // count, (i + 1) * source.size // count) for i in range(count)]
    with CREW.alone():
        multiply = best(lambda: CREW.run(partial(np.matmul, a, b, out) for out in outs), 12)
        copy = best(lambda: CREW.run(partial(np.copyto, target[part], source[part]) for part in parts), 8)
    return Limits(count * 2 * 1024**3 / multiply / 1e9, 2 * source.nbytes / copy / 1e9)


def best(work: Any, tries: int) -> float:
    """The fewest seconds."""
    seconds = []
    for _ in range(tries):
        began = perf_counter()
        work()
        seconds.append(perf_counter() - began)
    return min(seconds)
