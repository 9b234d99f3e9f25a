"""The facts of the GPU that something was measured on."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from minidnn.cli.doctor import cupy_wheels, driver_there


def facts(device: str) -> dict[str, Any]:
    """Its name, size and generation, and what drives it; of the CPU only that it is none."""
    if device != "cuda":
        return {"name": "the CPU, as a rehearsal"}
    import cupy
    from cupy_backends.cuda.libs import cublas

    runtime, here = cupy.cuda.runtime, cupy.cuda.Device()
    about, driver = runtime.getDeviceProperties(here.id), driver_there()
    return {
        "name": about["name"].decode(),
        "memory GB": about["totalGlobalMem"] / 1e9,
        "compute capability": f"{about['major']}.{about['minor']}",
        "multiprocessors": about["multiProcessorCount"],
        "driver": driver.version if driver else "unknown",
        "CUDA of the driver": runtime.driverGetVersion(),
        "CUDA": runtime.runtimeGetVersion(),
        "cuBLAS": cublas.getVersion(cupy.cuda.device.get_cublas_handle()),
        "wheels": [f"{wheel} {version(wheel)}" for wheel in cupy_wheels()],
    }
