"""What all tests share: the devices they run on."""

from __future__ import annotations

import importlib.util

import pytest

from minidnn.arrays import BACKENDS, backend
from minidnn.errors import DeviceError
from tests import fakedevice

BACKENDS["fake"] = lambda: fakedevice.BACKEND


def _devices() -> list[str]:
    devices = ["cpu", "fake"]
    if importlib.util.find_spec("cupy"):
        try:
            backend("cuda")
            devices.append("cuda")
        except DeviceError:
            pass
    return devices


@pytest.fixture(params=_devices())
def device(request) -> str:
    """Each device in turn: the host, a fake one that is as strict as CuPy, and a GPU where there is one."""
    return request.param
