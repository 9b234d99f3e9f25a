"""A dream step of VGG-16 by image size and a forward by batch, minidnn and PyTorch drawn together."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from benchmarks import peers
from benchmarks.race import peak_memory, race, record
from minidnn.kernels.cpu import threads
from minidnn.kernels.cpu.threads import CREW
from minidnn.net import Net

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
OURS = """
from benchmarks import peers
from minidnn.kernels.cpu.threads import CREW
CREW.resize({threads})
peers.ours(peers.vgg(), peers.picture({size}, batch={batch}))[{which}]()
"""
TORCH = """
from benchmarks import peers
peers.torchs(peers.vgg(), peers.picture({size}, batch={batch}), "channels_last", {threads})[{which}]()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes, batches = [64, 128, 224, 512, 1024, 2048], [1, 2, 4, 8, 16]
    parser.add_argument("--sizes", type=int, nargs="*", default=sizes, help="sides of the image (to 2048)")
    parser.add_argument("--batches", type=int, nargs="*", default=batches, help="images at 224² (to 16)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds at each point (3; above 1024 one)")
    busy = "processor time on one thread: what a busy machine leaves comparable"
    parser.add_argument("--cpu-time", action="store_true", help=busy)


def run(args: argparse.Namespace) -> None:
    net, clock = peers.vgg(), process_time if args.cpu_time else perf_counter
    with threads.limit(1 if args.cpu_time else None):
        steps = [_point(net, "dream step", size, 1, args.rounds, clock) for size in args.sizes]
        batches = [_point(net, "forward", 224, batch, args.rounds, clock) for batch in args.batches]
        print("kept in", record("curves-cpu-time" if args.cpu_time else "curves", steps + batches).name)
    seconds = "seconds of processor time, one thread" if args.cpu_time else "seconds"
    if steps:
        title, label = "dream step of VGG-16 to conv5_3, one image", "side of the image, pixels"
        draw(steps, "size", title, label, seconds, "speed-size")
    if batches:
        title = "forward of VGG-16 to conv5_3 at 224x224"
        draw(batches, "batch", title, "images at once", seconds, "speed-batch")


def _point(
    net: Net, work: str, size: int, batch: int, rounds: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """One place on both curves: time, and the peak memory of processes of their own."""
    x, which = peers.picture(size, batch=batch), int(work == "dream step")
    runners = {"minidnn": peers.ours(net, x)[which]}
    for layout in peers.LAYOUTS:
        runners[f"torch {layout}"] = peers.torchs(net, x, layout, CREW.size)[which]
    times = race(runners, rounds=rounds if size <= 1024 else 1, warm=1, clock=clock)
    ms = {name: statistics.median(values) for name, values in times.items()}
    about = {"size": size, "batch": batch, "which": which, "threads": CREW.size}
    memory = {
        name: peak_memory(code.format(**about)) / 1e6 for name, code in (("minidnn", OURS), ("torch", TORCH))
    }
    row = {"work": work, "size": size, "batch": batch, "clock": clock.__name__, "ms": ms, "MB": memory}
    told = "; ".join(f"{name} {ms:.0f} ms, {memory[name]:.0f} MB" for name, ms in _both(row).items())
    print(f"{work} at {size}², batch {batch}: {told}", flush=True)
    return row


def draw(rows: Sequence[dict[str, Any]], along: str, title: str, label: str, seconds: str, name: str) -> None:
    """Time and memory side by side, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    places = [row[along] for row in rows]
    for whose, line, name_there, name_here in (
        ("minidnn", "o-", "minidnn", "minidnn"),
        ("torch", "s--", "PyTorch, its better layout", "PyTorch, channels last"),
    ):
        left.plot(places, [_both(row)[whose] / 1e3 for row in rows], line, label=name_there)
        right.plot(places, [row["MB"][whose] for row in rows], line, label=name_here)
    for axes, what in ((left, seconds), (right, "peak memory of the process, MB")):
        axes.set(xlabel=label, ylabel=what, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"{name}.png"
    figure.savefig(path, dpi=110)
    print("drew", path.name)


def _both(row: dict[str, Any]) -> dict[str, float]:
    """Our milliseconds, and those of PyTorch's better layout."""
    theirs = min(ms for name, ms in row["ms"].items() if name.startswith("torch"))
    return {"minidnn": row["ms"]["minidnn"], "torch": theirs}
