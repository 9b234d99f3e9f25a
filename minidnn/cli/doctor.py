"""`minidnn doctor`: what this machine has to compute with, tried out, and what to type to mend it."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_info

from minidnn.arrays import chosen_device, to_device, to_host
from minidnn.errors import DeviceError, MinidnnError
from minidnn.kernels import Kernel
from minidnn.layers import Conv

NEEDED = ["numpy", "scipy", "h5py", "pillow", "tqdm", "threadpoolctl"]
WHEELS = {12: "cuda12", 13: "cuda13"}  # of the driver's CUDA version: our extra
TURING = 7.5  # the oldest cards that CUDA 13 still computes on
OLDEST_CUPY = 14
ASKS_US = "minidnn doctor says what is missing"
ASKED = ["--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(args: argparse.Namespace) -> int:
    for what, found in report():
        print(f"{what:<14}{found}")
    healthy = works("cpu") == "works"
    print("all well: NumPy on the CPU works" if healthy else "NumPy on the CPU does not work; see above")
    return 0 if healthy else 5


def report() -> Iterator[tuple[str, str]]:
    """What there is, line by line."""
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "packages", ", ".join(f"{name} {_version(name)}" for name in NEEDED)
    for pool in threadpool_info():
        if pool["user_api"] == "blas":
            kind = f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', '?')})"
            yield "BLAS", f"{kind}, {pool['num_threads']} threads"
    yield "cpu", works("cpu")
    driver, wheels = driver_there(), cupy_wheels()
    if driver is None:
        yield "GPU driver", "none found (nvidia-smi says nothing)"
    else:
        yield "GPU driver", f"{driver.version}, for CUDA {driver.cuda}"
    cards = cards_there()
    for card in cards:
        old = ", too old for CUDA 13" if card.capability < TURING else ""
        what = f"{card.memory_mib / 1024:.0f} GiB, compute capability {card.capability}{old}"
        yield "GPU", f"{card.name}, {what}"
    yield "CuPy", advice(serves(driver, cards), wheels)
    if wheels:
        yield "cuda", works("cuda")
    yield "--device auto", "takes {}: {}".format(*chosen_device("auto"))


def works(device: str) -> str:
    """A tiny convolution there, by CuPy's products and by our own, compared with one in plain loops here."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 5, 6, 2)), rng.standard_normal((3, 3, 2, 4))
    wanted = [[np.einsum("ijc,ijck->k", x[0, i : i + 3, j : j + 3], w) for j in range(4)] for i in range(3)]
    try:
        layer = Conv.random(rng, 3, 2, 4, bias=False).replacing(w=to_device(w, device))
        there, ways = to_device(x, device), map(Kernel, ("im2col", "shifted"))
        found = [to_host(layer.forward(there, how=how)[0]) for how in ways]
    except DeviceError as error:
        return str(error).replace(ASKS_US, missing())
    except MinidnnError as error:
        return str(error)
    except Exception as error:  # whatever a broken installation comes up with
        return f"fails: {type(error).__name__}: {error}{_libraries_missing(str(error))}"
    return "works" if np.allclose(found, wanted) else "computes, but wrongly"


def missing() -> str:
    """Why CuPy finds no GPU, and what to do about it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and not re.match(r"\s*(\d|GPU-|MIG-)", hidden):
        return f"CUDA_VISIBLE_DEVICES={hidden} hides them all: unset it"
    if driver_there() is None:
        return "no NVIDIA driver answers: install it until nvidia-smi does; docker run wants --gpus all"
    try:
        import cupy

        return f"the driver answers, and CuPy counts {cupy.cuda.runtime.getDeviceCount()}: start anew"
    except Exception as error:  # CUDA's own words
        return f"the driver answers, but not to CuPy: {error}"


def _libraries_missing(said: str) -> str:
    """What to do when CuPy is there, but not what it computes with."""
    if re.search(r"nvrtc|cublas|nvJitLink|CUDA_PATH|\.so|\.dll", said, re.IGNORECASE) is None:
        return ""
    set_by_hand = "; or CUDA_PATH leads to another version: unset it" if os.environ.get("CUDA_PATH") else ""
    return f"; {install(serves(driver_there(), cards_there()))} brings CUDA's libraries along{set_by_hand}"


def cupy_wheels() -> list[str]:
    """The CuPy packages installed; more than one is a conflict."""
    names = {(dist.metadata["Name"] or "").lower() for dist in distributions()}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\d+x|-rocm.*)?", name))


class Driver(NamedTuple):
    """The NVIDIA driver: its own version, and the major CUDA version that it serves."""

    version: str
    cuda: int


class Card(NamedTuple):
    """One GPU; the capability is CUDA's number for its generation."""

    name: str
    capability: float
    memory_mib: float


def driver_there() -> Driver | None:
    """As nvidia-smi tells it; None without an answer."""
    return read_driver(_nvidia_smi())


def cards_there() -> list[Card]:
    return read_cards(_nvidia_smi(*ASKED))


def _nvidia_smi(*options: str) -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", *options]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def read_driver(said: str) -> Driver | None:
    """Out of the head line of nvidia-smi's table."""
    own = re.search(r"Driver Version:\s*([\d.]+)", said)
    cuda = re.search(r"CUDA(?: \w+)? Version:\s*(\d+)", said)
    return Driver(own[1] if own else "of unknown version", int(cuda[1])) if cuda else None


def read_cards(said: str) -> list[Card]:
    """A line a GPU; drivers of before 2021 do not know what they are asked."""
    found = re.findall(r"^\s*(.+?)\s*,\s*(\d+\.\d+)\s*,\s*(\d+(?:\.\d+)?)\s*$", said, re.MULTILINE)
    return [Card(name, float(capability), float(memory)) for name, capability, memory in found]


def serves(driver: Driver | None, cards: list[Card]) -> int | None:
    """The major CUDA version that driver and cards can both do; CUDA 13 has left the older cards."""
    if driver is None:
        return None
    old = bool(cards) and min(card.capability for card in cards) < TURING
    return min(driver.cuda, 12) if old else driver.cuda


def advice(cuda: int | None, wheels: list[str]) -> str:
    """What CuPy is installed, and the pip line for what should be, with a driver for that major CUDA."""
    oldest = min(WHEELS)
    anew = f"pip uninstall -y {' '.join(wheels)} && {install(cuda)}"
    if len(wheels) > 1:
        return f"{' and '.join(wheels)}, all imported as cupy, are in each other's way: {anew}"
    if not wheels and cuda is None:
        return "not installed; without a GPU there is no need for it"
    if cuda is not None and cuda < oldest:
        return f"wants a driver for CUDA {oldest} or later, this one serves {cuda}: update the driver"
    if not wheels:
        return f"not installed: {install(cuda)}"
    made_for = re.fullmatch(r"cupy-cuda(\d+)x", wheels[0])
    if cuda is not None and made_for and int(made_for[1]) > cuda:
        return f"{wheels[0]} is too new for a driver that serves CUDA {cuda}: {anew}"
    if not made_for and wheels[0] != "cupy":
        return f"{wheels[0]} is not for NVIDIA's cards: {anew}"
    found = _version(wheels[0])
    if (major := re.match(r"\d+", found)) and int(major[0]) < OLDEST_CUPY:
        return f"{wheels[0]} {found} is too old, {OLDEST_CUPY} or later is wanted: {anew}"
    return f"{wheels[0]} {found}"


def install(cuda: int | None) -> str:
    """The pip line for a driver that serves that CUDA; the newest where none was found."""
    oldest, newest = min(WHEELS), max(WHEELS)
    return f"pip install 'minidnn[{WHEELS[min(newest, max(oldest, cuda or newest))]}]'"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return f"missing (pip install {name})"
