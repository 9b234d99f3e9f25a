"""The weights of VGG-16 in our file against their bare bytes: save, load, run without reading the rest."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.race import peak_memory, race, record
from minidnn import weights
from minidnn.net import Net
from minidnn.zoo.vgg import vgg16

RESIDENT = """
import re, sys
import numpy as np
from minidnn import weights
net = weights.load({path!r})
net.forwardto(net.init_res(), "conv1_2", np.ones((1, 224, 224, 3), "float32"))
found = re.findall(re.escape({path!r}) + r"\\n(?:.*\\n)*?Rss: +(\\d+) kB", open("/proc/self/smaps").read())
print(sum(map(int, found)))
"""
SAVE = """
from minidnn import weights
weights.save({copy!r}, weights.load({path!r}), dtype={dtype!r})
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the race (7)")
    parser.add_argument("--folder", help="on the disk to measure (the system's for temporary files)")


def run(args: argparse.Namespace) -> None:
    net = vgg16(np.random.default_rng(0))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        results = _measured(net, Path(folder), args.rounds)
    for row in results:
        print("".join(f"{row[part]:>12}" if part != "what" else f"{row[part]:52}" for part in row))
    print("kept in", record("weights", results).name)


def _measured(net: Net, folder: Path, rounds: int) -> list[dict[str, Any]]:
    full, half, raw = folder / "vgg16.h5", folder / "vgg16-half.h5", folder / "vgg16.raw"
    weights.save(full, net)
    weights.save(half, net, dtype="float16")
    _save_raw(net, raw)
    _check(net, full, raw)
    runners = {
        "np.fromfile": lambda: np.fromfile(raw, np.float32),
        "np.fromfile, all summed up": lambda: np.fromfile(raw, np.float32).sum(),
        "load, nothing touched": lambda: weights.load(full),
        "load, all summed up": lambda: _sum(weights.load(full)),
        "load(mmap=False)": lambda: weights.load(full, mmap=False),
        "load of float16": lambda: weights.load(half),
        "load, run to conv1_2 at 224": lambda: _run(weights.load(full)),
        "verify": lambda: weights.verify(full),
        "tofile": lambda: _save_raw(net, folder / "again.raw"),
        "save": lambda: weights.save(folder / "again.h5", net),
        "save as float16": lambda: weights.save(folder / "again-half.h5", net, dtype="float16"),
    }
    medians = {name: statistics.median(ms) for name, ms in race(runners, rounds=rounds).items()}
    rows = [{"what": name, "": f"{ms:.0f} ms"} for name, ms in medians.items()]
    ratio = medians["load, all summed up"] / medians["np.fromfile, all summed up"]
    rows.append({"what": "load over np.fromfile, all summed up (1.3 allowed)", "": f"{ratio:.2f} x"})
    rows += [
        {"what": f"size of {path.name}", "": f"{path.stat().st_size / 1e6:.1f} MB"} for path in (full, half)
    ]
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT.format(path=str(full))], capture_output=True, text=True, check=True
    )
    resident = int(re.findall(r"\d+", done.stdout)[-1]) / 1e3
    rows.append({"what": "of the file in memory after a run to conv1_2", "": f"{resident:.1f} MB"})
    for dtype in ("float32", "float16"):
        code = SAVE.format(copy=str(folder / "copy.h5"), path=str(full), dtype=dtype)
        what = f"peak memory of load and save as {dtype}"
        rows.append({"what": what, "": f"{peak_memory(code) / 1e6:.0f} MB"})
    return rows


def _check(net: Net, full: Path, raw: Path) -> None:
    """The same numbers, before any clock runs."""
    if weights.digest(net) != weights.digest(Net(weights.load(full).nodes)):
        raise SystemExit("what was loaded is not what was saved; no use timing it")
    if raw.stat().st_size != 4 * sum(array.size for array in net.params.values()):
        raise SystemExit("the bare bytes are not those of the net")


def _save_raw(net: Net, path: Path) -> None:
    """The bare bytes, as far as the disk."""
    with path.open("wb") as file:
        for array in net.params.values():
            array.tofile(file)
        file.flush()
        os.fsync(file.fileno())


def _sum(net: Net) -> float:
    return sum(float(array.sum()) for array in net.params.values())


def _run(net: Net) -> None:
    net.forwardto(net.init_res(), "conv1_2", np.ones((1, 224, 224, 3), "float32"))
