"""A net's arrays as safetensors: {"conv1/w": array}, with the axes of minidnn; the wiring is not in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from minidnn.arrays import to_host
from minidnn.errors import WeightsError
from minidnn.files import replacing
from minidnn.net import Net

CODES = {"float32": "F32", "float64": "F64"}
ALIGNED = 8  # bytes: the arrays begin at a multiple


def write(path: str | os.PathLike, net: Net) -> list[str]:
    """The file appears whole, in one instant, or not at all."""
    path = Path(path)
    arrays = arrays_of(path, net)
    listed: dict[str, object] = {"__metadata__": {"format": "minidnn", "axes": "kh,kw,in,out"}}
    end = 0
    for name, array in arrays.items():
        offsets = [end, end := end + array.nbytes]
        listed[name] = {"dtype": CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(listed, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return []  # nothing was changed


def arrays_of(path: Path, net: Net) -> dict[str, np.ndarray]:
    """All that the net holds, on the host and in one piece, what is shared once."""
    if net.without_weights:
        without = ", ".join(sorted(net.without_weights))
        raise WeightsError(f"{path}: no weights yet in {without}; load some first")
    return {name: np.ascontiguousarray(to_host(array)) for name, array in (net.params | net.buffers).items()}
