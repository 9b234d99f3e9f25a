"""VGG-16 against PyTorch, forward and a dream step: time in interleaved rounds, memory in processes.

Of PyTorch's two layouts of memory the better one races, by a heat of its own.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from benchmarks import gpu, peers
from benchmarks.peers import LAYOUTS
from benchmarks.race import cosine, error, peak_memory, race, record, spread
from minidnn.kernels.cpu.threads import CREW

WAYS = {
    "auto": {"kernels": "auto", "keep": "needed"},
    "auto, all kept": {"kernels": "auto", "keep": "all"},
    "winograd2": {"kernels": "winograd2", "keep": "needed"},
}
NUMBERS = ("ms", "torch ms", "times as fast", "MB", "torch MB")
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
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the race (7; from 1024 on 5)")
    parser.add_argument("--runs", type=int, default=1, help="times to do it all: the middle ones count (1)")
    parser.add_argument("--device", default="cpu", help="cuda: the same on a GPU, by the race gpu (cpu)")


def run(args: argparse.Namespace) -> None:
    if gpu.instead(args, "dream", "memory"):
        return
    runs = [[row for size in args.sizes for row in alone(once, size, args.rounds)] for _ in range(args.runs)]
    results = [middle(rows) for rows in zip(*runs, strict=True)]
    for row in results if args.runs > 1 else ():
        print(_told(row), "in the middle of", row["of"])
    print("kept in", record("dream", results).name)


def alone(work: Callable[..., Any], *about: Any) -> Any:
    """In a process of its own: what ran before leaves memory ready, and PyTorch gains by that."""
    with ProcessPoolExecutor(1, get_context("spawn"), _with_threads, (CREW.size,)) as process:
        return process.submit(work, *about).result()


def _with_threads(count: int) -> None:
    CREW.resize(count)


def once(size: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of the table for images of that size."""
    alone(check_with_masks, size)
    return list(_raced(size, rounds))


def _raced(size: int, rounds: int) -> Iterator[dict[str, Any]]:
    net, x = peers.vgg(), peers.picture(size)
    torch_runs = {layout: peers.torchs(net, x, layout, CREW.size) for layout in LAYOUTS}
    our_runs = {
        name: peers.ours(net.with_kernels(way["kernels"]), x, keep=way["keep"]) for name, way in WAYS.items()
    }
    check(our_runs, torch_runs)
    for work, which in (("forward", 0), ("dream step", 1)):
        theirs = {f"torch {name}": pair[which] for name, pair in torch_runs.items()}
        tried = race(theirs, rounds=3)
        better = min(theirs, key=lambda name: statistics.median(tried[name]))
        runners = {better: theirs[better]} | {name: pair[which] for name, pair in our_runs.items()}
        times = race(runners, rounds=min(rounds, 5) if size >= 1024 else rounds)
        for name in our_runs:
            yield _row(work, size, name, times, better)
    yield from memory(size)


def memory(size: int) -> Iterator[dict[str, Any]]:
    """Peak resident size of a process that makes two dream steps, ours against PyTorch's better layout."""
    theirs = min(peak_memory(TORCH.format(size=size, layout=name, threads=CREW.size)) for name in LAYOUTS)
    for name, way in WAYS.items():
        own = peak_memory(OURS.format(size=size, threads=CREW.size, **way))
        yield _said({"work": "memory", "size": size, "way": name, "MB": own / 1e6, "torch MB": theirs / 1e6})


def middle(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of the same row in several runs; that of the ratios need not be the ratio of those."""
    found = {key: statistics.median(row[key] for row in rows) for key in NUMBERS if key in rows[0]}
    spread = {"spread": {"": max(row["spread"][""] for row in rows)}} if "spread" in rows[0] else {}
    key = "times as fast" if "times as fast" in found else "MB"
    return rows[0] | found | spread | {"of": [round(row[key], 3) for row in rows]}


def check(ours: dict[str, Any], torchs: dict[str, Any]) -> None:
    """The same numbers, before any clock runs: outputs close, gradients of one direction."""
    y, g = (torchs[LAYOUTS[0]][which]() for which in (0, 1))
    for name, (forward, step) in ours.items():
        worst, same = error(forward(), y.astype("float64")), cosine(step(), g)
        print(f"check       {name:22} outputs within {worst:.1e}, gradients at cosine {same:.5f}")
        if worst > 2e-4 or same < 0.998:
            raise SystemExit(f"{name} does not compute what PyTorch computes; no use timing it")


def check_with_masks(size: int, times: float = 1.0) -> None:
    """The gradient number by number, once PyTorch goes our way at every ReLU and every pooling."""
    net, x = peers.vgg(), peers.picture(size)
    wanted = times * peers.torchs(net, x, LAYOUTS[0], CREW.size, masks=peers.our_masks(net, x))[1]()
    worst = error(peers.ours(net, x)[1](), wanted.astype("float64"))
    print(f"check       {'auto, one way for all':22} gradients within {worst:.1e}")
    if worst > 1e-4:
        raise SystemExit("by our own masks PyTorch finds another gradient; no use timing ours")


def _row(work: str, size: int, way: str, times: dict[str, list[float]], better: str) -> dict[str, Any]:
    own, theirs = statistics.median(times[way]), statistics.median(times[better])
    row = {"work": work, "size": size, "way": way, "ms": own, "torch ms": theirs, "layout": better}
    return _said(row | {"times as fast": theirs / own, "spread": {"": spread(times[way])}})


def _said(row: dict[str, Any]) -> dict[str, Any]:
    print(_told(row), flush=True)
    return row


def _told(row: dict[str, Any]) -> str:
    what = f"{row['work']:11} {row['size']:5}²  {row['way']:15}"
    if row["work"] == "memory":
        return f"{what} {row['MB']:7.0f} MB, torch {row['torch MB']:7.0f} MB"
    times = f"{row['ms']:7.1f} ms, torch {row['torch ms']:7.1f} ms"
    return f"{what} {times}: {row['times as fast']:.2f} times as fast"
