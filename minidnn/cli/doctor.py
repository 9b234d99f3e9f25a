"""`minidnn doctor`: what this machine has to compute with, tried out, and what to type where something is
missing."""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version

import numpy as np
from threadpoolctl import threadpool_info

from minidnn.arrays import to_device, to_host
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
    driver, wheels = cuda_of_driver(), cupy_wheels()
    yield "GPU driver", f"for CUDA {driver}" if driver else "none found (nvidia-smi says nothing)"
    yield "CuPy", advice(driver, wheels)
    if wheels:
        yield "cuda", works("cuda")


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
        return f"fails: {type(error).__name__}: {error}"
    return "works" if np.allclose(found, wanted) else "computes, but wrongly"


def cupy_wheels() -> list[str]:
    """The CuPy packages installed; more than one is a conflict."""
    names = {(dist.metadata["Name"] or "").lower() for dist in distributions()}
    return sorted(name for name in names if re.fullmatch(r"cupy(-cuda\d+x|-rocm.*)?", name))


def cuda_of_driver() -> int | None:
    """The major CUDA version that the driver serves."""
    if shutil.which("nvidia-smi") is None:
        return None
    said = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20, check=False).stdout
    found = re.search(r"CUDA Version:\s*(\d+)", said)
    return int(found[1]) if found else None


def advice(driver: int | None, wheels: list[str]) -> str:
    """What is installed, and the pip line for what should be."""
    if len(wheels) > 1:
        both, names = " and ".join(wheels), " ".join(wheels)
        return f"{both} are in each other's way: pip uninstall -y {names}, then install one"
    if wheels:
        return f"{wheels[0]} {_version(wheels[0])}"
    if driver is None:
        return "not installed; without a GPU there is no need for it"
    extra = WHEELS.get(driver, WHEELS[max(WHEELS)] if driver > max(WHEELS) else WHEELS[min(WHEELS)])
    return f"not installed: pip install 'minidnn[{extra}]'"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return f"missing (pip install {name})"
