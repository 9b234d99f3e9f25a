"""A dream step of VGG-16 within PyTorch's own peak of memory: what the planner takes then, and how fast."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import peers
from benchmarks.dream import TORCH, check
from benchmarks.peers import LAYOUTS, TARGET
from benchmarks.race import peak_memory, race, record
from minidnn.dream import squared_norm
from minidnn.kernels.cpu.threads import CREW
from minidnn.plan import Plan, choose

BARE = 72_000_000  # bytes that a process takes which loads no more than a step needs
OURS = """
from benchmarks import peers
from benchmarks.planned import planned
from minidnn.kernels.cpu.threads import CREW
CREW.resize({threads})
plan, forward, step = planned(peers.picture({size}), {limit})
step(), step()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512, 1024], help="sides (224 512 1024)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the race (7)")


def run(args: argparse.Namespace) -> None:
    results = []
    for size in args.sizes:
        x, about = peers.picture(size), {"size": size, "threads": CREW.size}
        limit = min(peak_memory(TORCH.format(layout=layout, **about)) for layout in LAYOUTS)
        plan, forward, step = planned(x, limit)
        theirs = {layout: peers.torchs(peers.vgg(), x, layout, CREW.size) for layout in LAYOUTS}
        check({"planned": (forward, step)}, theirs)
        times = race(
            {"planned": step, **{name: pair[1] for name, pair in theirs.items()}}, rounds=args.rounds
        )
        own, *others = (statistics.median(times[name]) for name in ("planned", *theirs))
        peak = peak_memory(OURS.format(limit=limit, **about))
        row = {
            "work": "dream step",
            "size": size,
            "way": f"planned: {plan}",
            "ms": own,
            "torch ms": min(others),
        }
        results.append(row | {"times as fast": min(others) / own, "MB": peak / 1e6, "torch MB": limit / 1e6})
        print(
            f"{size}²: {own:.1f} ms, torch {min(others):.1f} ms: {min(others) / own:.2f} times as fast; "
            f"{peak / 1e6:.0f} MB, torch {limit / 1e6:.0f} MB; {plan}",
            flush=True,
        )
    print("kept in", record("planned", results).name)


def planned(x: Any, limit: int) -> tuple[Plan, Callable, Callable]:
    """The plan for so many bytes, its way forward and its dream step."""
    plan = choose(peers.vgg(), x.shape, TARGET, limit, process=BARE)
    measure = squared_norm(TARGET)
    res = plan.net.init_res()
    return plan, lambda: plan.gradient(res, x, measure)[2][TARGET], lambda: plan.gradient(res, x, measure)[1]
