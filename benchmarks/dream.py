"""VGG-16 against PyTorch, forward and a dream step: time in interleaved rounds, memory in processes.

Of PyTorch's two layouts of memory the better one races, by a heat of its own.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks import gpu, peers
from benchmarks.peers import LAYOUTS
from benchmarks.race import cosine, error, peak_memory, race, ratio, record, spread
from minidnn.kernels.cpu.threads import CREW

WAYS = {
    "auto": {"kernels": "auto", "keep": "needed"},
    "auto, all kept": {"kernels": "auto", "keep": "all"},
    "winograd2": {"kernels": "winograd2", "keep": "needed"},
}
OURS = """
from benchmarks import peers
from minidnn.kernels.cpu.threads import CREW
CREW.resize({threads})
forward, step = peers.ours(peers.vgg().with_kernels({kernels!r}), peers.picture({size}), keep={keep!r})
step(), step()
"""
TORCH = """
from benchmarks import peers
forward, step = peers.torchs(peers.vgg(), peers.picture({size}), {layout!r}, {threads})
step(), step()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[224, 512], help="sides of the image (224 512)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the race (7)")
    parser.add_argument("--device", default="cpu", help="cuda: the same on a GPU, by the race gpu (cpu)")


def run(args: argparse.Namespace) -> None:
    if gpu.instead(args, "dream", "memory"):
        return
    results = []
    for size in args.sizes:
        net, x = peers.vgg(), peers.picture(size)
        torch_runs = {layout: peers.torchs(net, x, layout, CREW.size) for layout in LAYOUTS}
        our_runs = {
            name: peers.ours(net.with_kernels(way["kernels"]), x, keep=way["keep"])
            for name, way in WAYS.items()
        }
        check(our_runs, torch_runs)
        for work, which in (("forward", 0), ("dream step", 1)):
            theirs = {f"torch {name}": pair[which] for name, pair in torch_runs.items()}
            tried = race(theirs, rounds=3)
            better = min(theirs, key=lambda name: statistics.median(tried[name]))
            runners = {better: theirs[better]} | {name: pair[which] for name, pair in our_runs.items()}
            times = race(runners, rounds=args.rounds)
            for name in our_runs:
                times_faster = ratio(times, name, [better])
                results.append(_row(work, size, name, times, times_faster))
                print(_told(results[-1]), flush=True)
        results += memory(size)
    print("kept in", record("dream", results).name)


def memory(size: int) -> list[dict[str, Any]]:
    """Peak resident size of a process that makes two dream steps, ours against PyTorch's better layout."""
    theirs = min(peak_memory(TORCH.format(size=size, layout=name, threads=CREW.size)) for name in LAYOUTS)
    rows = []
    for name, way in WAYS.items():
        own = peak_memory(OURS.format(size=size, threads=CREW.size, **way))
        rows.append({"work": "memory", "size": size, "way": name, "MB": own / 1e6, "torch MB": theirs / 1e6})
        print(
            f"memory      {size:5}²  {name:15} {own / 1e6:7.0f} MB, torch {theirs / 1e6:7.0f} MB", flush=True
        )
    return rows


def check(ours: dict[str, Any], torchs: dict[str, Any]) -> None:
    """The same numbers, before any clock runs: outputs close, gradients of one direction."""
    y, g = (torchs[LAYOUTS[0]][which]() for which in (0, 1))
    for name, (forward, step) in ours.items():
        worst, same = error(forward(), y.astype("float64")), cosine(step(), g)
        print(f"check       {name:22} outputs within {worst:.1e}, gradients at cosine {same:.5f}")
        if worst > 2e-4 or same < 0.998:
            raise SystemExit(f"{name} does not compute what PyTorch computes; no use timing it")


def _row(work: str, size: int, way: str, times: dict[str, list[float]], faster: float) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in times.items() if name.startswith("torch")}
    own = statistics.median(times[way])
    row = {"work": work, "size": size, "way": way, "ms": own, "torch ms": medians, "times as fast": faster}
    return row | {"spread": {"": spread(times[way])} | {name: spread(times[name]) for name in medians}}


def _told(row: dict[str, Any]) -> str:
    what = f"{row['work']:11} {row['size']:5}²  {row['way']:15}"
    times = f"{row['ms']:7.1f} ms, torch {min(row['torch ms'].values()):7.1f} ms"
    return f"{what} {times}: {row['times as fast']:.2f} times as fast"
