"""Whether the bare arrays of a file fit the layers of a net, and where they do not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from minidnn.graph import Node
from minidnn.layers.base import Layer
from minidnn.net import Net
from weights_tools.foreign import Arrays

Shapes = Mapping[str, tuple[int, ...]]


def shaped(array: np.ndarray, wanted: tuple[int, ...], flatten: str) -> np.ndarray:
    """Dense weights (in, out) as (h, w, c, k); `flatten` says in which order the map became a vector.

    "hwc": row by row, the channels of a pixel together, as here. "chw": channel by channel.
    """
    array = np.asarray(array)
    if array.shape != wanted and len(wanted) == 4 and array.size == prod(wanted):
        h, w, c, k = wanted
        array = (
            array.reshape(h, w, c, k) if flatten == "hwc" else array.reshape(c, h, w, k).transpose(1, 2, 0, 3)
        )
    return np.ascontiguousarray(array, np.float32)


def difference(layers: Mapping[str, Arrays], banks: Sequence[Node]) -> str | None:
    """The first place where the arrays are not those of these nodes, in words; None where there is none."""
    for (theirs, own), node in zip(layers.items(), banks, strict=False):
        found, wanted = shapes_in(own), shapes_in(arrays_of(node.layer))
        if not agree(found, wanted):
            return f"{theirs!r} holds {told(found)}, {node.name!r} wants {told(wanted)}"
    if len(layers) != len(banks):
        return f"the file has {len(layers)} layers with weights, the net has {len(banks)}"
    return None


def agree(found: Shapes, wanted: Shapes) -> bool:
    """Whether one layer's arrays are of the other's shapes; dense ones may be matrices."""
    if found.keys() != wanted.keys():
        return False
    for key, shape in wanted.items():
        dense = len(shape) == 4 and len(found[key]) == 2 and found[key][1] == shape[3]
        if found[key] != shape and not (dense and prod(found[key]) == prod(shape)):
            return False
    return True


def sorted_like(layers: Mapping[str, Arrays], banks: Sequence[Node]) -> dict[str, Arrays] | None:
    """The layers in the order of these nodes, if the file has each shape as often as they.

    Among layers of one shape their names decide, features.9 before features.10.
    """
    left = sorted(layers.items(), key=lambda item: _natural(item[0]))
    found: dict[str, Arrays] = {}
    for node in banks:
        wanted = shapes_in(arrays_of(node.layer))
        fits = (i for i, (_, own) in enumerate(left) if agree(shapes_in(own), wanted))
        if (first := next(fits, None)) is None:
            return None
        name, arrays = left.pop(first)
        found[name] = arrays
    return None if left else found


def _natural(name: str) -> list[tuple[int, str]]:
    """To sort numbers within names as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def banks_of(net: Net) -> list[Node]:
    """The layers that hold something."""
    return [node for node in net.nodes if arrays_of(node.layer)]


def arrays_of(layer: Layer) -> Arrays:
    return layer.params | layer.buffers


def shapes_in(arrays: Mapping[str, Any]) -> Shapes:
    return {key: np.shape(array) for key, array in arrays.items()}


def told(shapes: Shapes) -> str:
    return ", ".join(f"{key} {shape}" for key, shape in shapes.items()) or "nothing"
