"""Whole nets against PyTorch, onnxruntime and ncnn: forward, and a dream step against PyTorch."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from benchmarks import exported, peers
from benchmarks.race import cosine, error, race, record, spread
from minidnn import zoo
from minidnn.errors import ShapeError
from minidnn.kernels.cpu import threads
from minidnn.kernels.cpu.threads import CREW
from minidnn.net import Net

OURS = "minidnn"
ALLOWED, LEAST_COSINE = 2e-4, 0.998  # of the largest output; of the gradients' directions
Runners = dict[str, Callable[[], np.ndarray]]


@dataclass(frozen=True)
class Work:
    """What is raced: a net forward to one of its layers, or a dream step from there."""

    net: str
    target: str
    way: str = "forward"
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.net} {self.way}, {self.target}" + (f", batch {self.batch}" if self.batch > 1 else "")

    def takes(self, size: int) -> bool:
        """Whether the net goes that far with such images: fully connected layers want just one size."""
        try:
            return bool(zoo.get(self.net, seed=None).shapes((1, size, size, 3), upto=[self.target]))
        except ShapeError:
            return False


WORKS = [
    Work("vgg16", "prob"),
    Work("vgg16", "relu5_3"),
    Work("vgg16", "relu5_3", batch=8),
    Work("vgg16", "relu5_3", "dream step"),
    Work("squeezenet1.1", "prob"),
    Work("squeezenet1.1", "fire9/concat", "dream step"),
    Work("googlenet", "prob"),
    Work("googlenet", "inception_5b/output", "dream step"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=[224], help="sides of the image (224)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the race (7)")
    busy = "processor time on one thread: what a busy machine leaves comparable"
    parser.add_argument("--cpu-time", action="store_true", help=busy)
    parser.add_argument("--only", default="", metavar="WORDS", help="works whose name has these words")


def run(args: argparse.Namespace) -> None:
    for peer in ("onnxruntime", "ncnn"):
        if find_spec(peer) is None:
            print(f"{peer} is missing: it does not race (pip install {peer})")
    rows, clock = [], process_time if args.cpu_time else perf_counter
    with threads.limit(1 if args.cpu_time else None):
        works = [work for work in WORKS if args.only in str(work)]
        for size, work in [(size, work) for size in args.sizes for work in works if work.takes(size)]:
            with tempfile.TemporaryDirectory() as folder:
                runners = entrants(work, size, Path(folder))
                errors = check(runners, work)
                times = race(runners, rounds=args.rounds, clock=clock)
            rows.append(row_of(work, size, times, errors) | {"clock": clock.__name__})
            print(table(rows[-1:]) if len(rows) == 1 else table(rows).splitlines()[-1], flush=True)
        print("kept in", record("nets-cpu-time" if args.cpu_time else "nets", rows).name)


def entrants(work: Work, size: int, folder: Path) -> Runners:
    """Everyone who is installed and can do this work, ready to run."""
    net = zoo.get(work.net, seed=0).astype("float32")
    x = peers.picture(size, batch=work.batch) / np.float32(100)
    which = 0 if work.way == "forward" else 1
    found = {OURS: peers.ours(net, x, target=work.target)[which]}
    for layout in peers.LAYOUTS:
        found[f"torch {layout}"] = peers.torchs(net, x, layout, CREW.size, target=work.target)[which]
    if work.way == "forward":
        found |= _forward_only(net, x, work.target, folder)
    return found


def _forward_only(net: Net, x: np.ndarray, target: str, folder: Path) -> Runners:
    makers = {"onnxruntime": exported.onnxruntime_forward, "ncnn": exported.ncnn_forward}
    found: Runners = {}
    for name, make in makers.items():
        with suppress(ModuleNotFoundError):
            found[name] = make(net, x, target, CREW.size, folder)
    return found


def check(runners: Runners, work: Work) -> dict[str, float]:
    """The same numbers from all, before any clock runs: outputs close, gradients of one direction."""
    wanted = runners[f"torch {peers.LAYOUTS[0]}"]().astype("float64")
    found = {}
    for name, run in runners.items():
        y = run()
        if work.way == "forward":
            found[name] = error(y, wanted)
            wrong = found[name] > ALLOWED
        else:
            found[name] = cosine(y, wanted)
            wrong = found[name] < LEAST_COSINE
        if wrong:
            raise SystemExit(f"{work}: {name} computes something else ({found[name]:.2g}); no use timing it")
    return found


def row_of(work: Work, size: int, times: dict[str, list[float]], checked: dict[str, float]) -> dict[str, Any]:
    medians = {name: statistics.median(ms) for name, ms in times.items()}
    return {
        "work": work.way,
        "net": work.net,
        "target": work.target,
        "size": size,
        "batch": work.batch,
        "ms": medians,
        "spread": {name: spread(ms) for name, ms in times.items()},
        "checked": checked,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: our time, theirs, and how many times as fast we are."""
    lines = [
        "| net | work | image | batch | minidnn | PyTorch | onnxruntime | ncnn |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["net"], f"{row['work']}, {row['target']}", f"{row['size']}²", str(row["batch"])]
        lines.append(f"| {' | '.join([*cells, *_cells(row['ms'])])} |")
    return "\n".join(lines)


def _cells(ms: dict[str, float]) -> Iterator[str]:
    own = ms[OURS]
    yield f"{own:.1f} ms"
    torch = min(value for name, value in ms.items() if name.startswith("torch"))
    for value in (torch, ms.get("onnxruntime"), ms.get("ncnn")):
        yield "" if value is None else f"{value:.1f} ms ({value / own:.2f}x)"
