"""How a race is run: everyone takes turns, round after round, so that a slow minute hits all alike."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from minidnn.kernels.cpu.threads import CREW, available

SETTLED = 0.5  # seconds: the threads of OpenMP spin for 0.2, and who comes from a pause is slow at first
RESULTS = Path(__file__).parent / "results"


def race(
    runners: dict[str, Callable[[], Any]],
    *,
    rounds: int,
    warm: int = 2,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds of each runner in each round, after some rounds to warm up.

    Whoever's turn it is runs a while before it counts: the caches are full of what the one before left there,
    and its threads may still look for work.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in range(rounds + warm):
        for name, run in runners.items():
            _again(run, SETTLED if number >= warm else 0)
            began = clock()
            run()
            if number >= warm:
                times[name].append(1e3 * (clock() - began))
    return times


def _again(run: Callable[[], Any], seconds: float) -> None:
    """Run for that long, and at least once if any."""
    began = perf_counter()
    while perf_counter() - began < seconds:
        run()


def ratio(times: dict[str, list[float]], ours: str, peers: list[str]) -> float:
    """How many times as fast we are as the best peer, by medians."""
    return min(statistics.median(times[peer]) for peer in peers) / statistics.median(times[ours])


def machine() -> dict[str, Any]:
    """What the numbers were measured on and with."""
    packages = ["numpy", "scipy", "threadpoolctl", "torch", "onnxruntime", "ncnn"]
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": available(),
        "threads": CREW.size,
        "load": [round(load, 1) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "blas": sorted(
            f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}"
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ),
        "packages": {name: _version(name) for name in packages},
    }


def record(name: str, results: Any) -> Path:
    """Keep the results with the date and the machine they are from."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{date.today().isoformat()}-{name}.json"
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    return path


def peak_memory(code: str) -> int:
    """The peak resident size in bytes of a process of its own that runs this code."""
    tail = "\nprint([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout.split()[-1])


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(found.astype("float64") - wanted).max() / np.abs(wanted).max())


def cosine(found: np.ndarray, wanted: np.ndarray) -> float:
    """Of the angle between two gradients."""
    a, b = found.astype("float64").ravel(), wanted.astype("float64").ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def spread(times: list[float]) -> float:
    """How far the middle half of the rounds lies apart, as a share of the median."""
    if len(times) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / middle


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
