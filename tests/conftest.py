"""What all tests share: the devices they run on."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from minidnn.arrays import BACKENDS, backend
from minidnn.errors import DeviceError
from minidnn.net import Net
from tests import fakedevice
from tests.nets import forked, photo

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


@pytest.fixture
def net() -> Net:
    """The small net that forks, joins and shares a weight."""
    return forked()


@pytest.fixture
def image(net) -> np.ndarray:
    """Two images for it."""
    return photo(net)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real models, data sets and photos, which is not part of the project."""
    folder = Path(os.environ.get("MINIDNN_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real files at {folder}: set MINIDNN_TEST_DATA")
    return folder
