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
from minidnn.errors import MinidnnError
from minidnn.layers import Conv

NEEDED = ["numpy", "scipy", "h5py", "pillow", "tqdm", "threadpoolctl"]
WHEELS = {12: "cuda12", 13: "cuda13"}  # of the driver's CUDA version: our extra


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
    yield "CuPy", advice(driver.cuda if driver else None, wheels)
    if wheels:
        yield "cuda", works("cuda")
    yield "--device auto", "takes {}: {}".format(*chosen_device("auto"))


def works(device: str) -> str:
    """A tiny convolution there, compared with one in plain loops here."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 5, 6, 2)), rng.standard_normal((3, 3, 2, 4))
    wanted = [[np.einsum("ijc,ijck->k", x[0, i : i + 3, j : j + 3], w) for j in range(4)] for i in range(3)]
    try:
        layer = Conv.random(rng, 3, 2, 4, bias=False).replacing(w=to_device(w, device))
        found = to_host(layer.forward(to_device(x, device))[0])
    except MinidnnError as error:
        return str(error)
    except Exception as error:  # whatever a broken installation comes up with
        return f"fails: {type(error).__name__}: {error}{_libraries_missing(str(error))}"
    return "works" if np.allclose(found, wanted) else "computes, but wrongly"


def _libraries_missing(said: str) -> str:
    """What to do when CuPy is there, but not what it computes with."""
    if re.search(r"nvrtc|cublas|nvJitLink|CUDA_PATH|\.so|\.dll", said, re.IGNORECASE) is None:
        return ""
    set_by_hand = "; or CUDA_PATH leads to another version: unset it" if os.environ.get("CUDA_PATH") else ""
    driver = driver_there()
    return f"; {install(driver.cuda if driver else None)} brings CUDA's libraries along{set_by_hand}"


def cupy_wheels() -> list[str]:
    """The CuPy packages installed; more than one is a conflict."""
    names = {(dist.metadata["Name"] or "").lower() for dist in distributions()}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\d+x|-rocm.*)?", name))


class Driver(NamedTuple):
    """The NVIDIA driver: its own version, and the major CUDA version that it serves."""

    version: str
    cuda: int


def driver_there() -> Driver | None:
    """As nvidia-smi tells it; None without an answer."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return read_driver(done.stdout)


def read_driver(said: str) -> Driver | None:
    """Out of the head line of nvidia-smi's table."""
    own = re.search(r"Driver Version:\s*([\d.]+)", said)
    cuda = re.search(r"CUDA(?: \w+)? Version:\s*(\d+)", said)
    return Driver(own[1] if own else "of unknown version", int(cuda[1])) if cuda else None


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
    return f"{wheels[0]} {_version(wheels[0])}"


def install(cuda: int | None) -> str:
    """The pip line for a driver that serves that CUDA; the newest where none was found."""
    oldest, newest = min(WHEELS), max(WHEELS)
    return f"pip install 'minidnn[{WHEELS[min(newest, max(oldest, cuda or newest))]}]'"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return f"missing (pip install {name})"
