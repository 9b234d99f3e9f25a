"""A net's arrays as a NumPy archive: {"conv1/w": array}, with the axes of minidnn; no clock is in it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from minidnn.files import replacing
from minidnn.net import Net
from weights_tools.writers.safetensors import arrays_of


def write(path: str | os.PathLike, net: Net) -> list[str]:
    """numpy.load(path) opens it; it appears whole, in one instant, or not at all."""
    path = Path(path)
    arrays = arrays_of(path, net)
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # of 1980
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return []  # nothing was changed
