"""A net as MatConvNet reads it: a SimpleNN where the layers stand in a row, else a DagNN.

    net = load('net.mat');                              % SimpleNN
    net = dagnn.DagNN.loadobj(load('net.mat'));         % DagNN

What MatConvNet has otherwise is converted (matconvnet_layers); what it has not is refused all at once.
Its pictures are RGB from 0 to 255, so other conventions are worked into the first filters.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from minidnn.errors import TooLargeError, UnsupportedError, WeightsError
from minidnn.files import replacing
from minidnn.layers import Add, Concat, Flatten
from minidnn.net import Net
from minidnn.params import sharers
from weights_tools.writers import matconvnet_pictures as pictures
from weights_tools.writers.matconvnet_layers import BLOCKS, Fields, cell, lacking, record

MOST = (1 << 31) - 1  # bytes of one variable in a file of version 5


def write(path: str | os.PathLike, net: Net, *, compress: bool = False) -> list[str]:
    """Write a .mat file of version 5; it appears whole, in one instant, or not at all.

    What comes back is what was changed: filters that take the place of a scale, or of an order of channels.
    """
    path = Path(path)
    if net.without_weights:
        raise WeightsError(
            f"{path}: no weights yet in {', '.join(sorted(net.without_weights))}; load some first"
        )
    if any(isinstance(node.layer, Flatten) for node in net.nodes):
        net = net.as_convolutional()
    if wanting := lacking(net) + pictures.lacking(net):
        advice = "cut the net before these layers"
        raise UnsupportedError(f"{path}: MatConvNet has no {'; no '.join(wanting)}; {advice}")
    nbytes = sum(array.nbytes for array in (net.params | net.buffers).values())
    if nbytes > MOST:
        raise TooLargeError(f"{path}: {nbytes:,} bytes of weights, a .mat file of version 5 holds {MOST:,}")
    net, remarks = pictures.seen_as_rgb(net)
    variables = _simplenn(net) if _is_row(net) else _dagnn(net)
    variables["meta"] = pictures.described(net)
    with replacing(path) as partial:
        scipy.io.savemat(partial, variables, appendmat=False, do_compression=compress, long_field_names=True)
    return remarks


def _is_row(net: Net) -> bool:
    """Whether each layer reads the one before, joins nothing, and shares its weights with no other."""
    before = [net.input, *(node.name for node in net.nodes)]
    row = all(node.inputs == (name,) for node, name in zip(net.nodes, before, strict=False))
    shared = any(
        len(holders) > 1 for role in ("params", "buffers") for holders, _ in sharers(net.nodes, role)
    )
    return row and not shared and not any(isinstance(node.layer, Concat | Add) for node in net.nodes)


def _simplenn(net: Net) -> dict[str, Any]:
    """`layers`, a cell of structs."""
    layers = []
    for node in net.nodes:
        made = record(node, net)
        fields: Fields = {"type": made.type, "name": node.name, **made.fields}
        if made.arrays:
            empty = np.zeros((0, 0), "float32")
            fields["weights"] = cell(empty if array is None else array for array in made.arrays.values())
        layers.append(fields)
    return {"layers": cell(layers)}


def _dagnn(net: Net) -> dict[str, Any]:
    """`layers`, `params` and `vars`: struct arrays; a variable is called like the layer that makes it."""
    owners = {
        id(array): "_".join(holders[0])
        for role in ("params", "buffers")
        for holders, array in sharers(net.nodes, role)
    }
    layers, params = [], dict[str, np.ndarray]()
    for node in net.nodes:
        made = record(node, net)
        held = {name: array for name, array in made.arrays.items() if array is not None}
        names = []
        for name, array in held.items():
            owner = owners.get(id(made.sources[name]), f"{node.name}_{name}")
            shared = np.array_equal(params.setdefault(owner, array), array)
            names.append(owner if shared else f"{node.name}_{name}")
            params[names[-1]] = array
        kind = f"dagnn.{made.block}"
        block = {BLOCKS.get((made.block, name), name): value for name, value in made.fields.items()}
        if made.block in ("Conv", "ConvTranspose"):
            block |= {"size": np.array(held["w"].shape, "float64"), "hasBias": "b" in held}
        fields = {"name": node.name, "type": kind, "inputs": cell(node.inputs), "outputs": cell([node.name])}
        layers.append(fields | {"params": cell(names), "block": block})
    rates = {"learningRate": 1.0, "weightDecay": 1.0}
    return {
        "layers": _structs(layers),
        "params": _structs({"name": name, "value": value, **rates} for name, value in params.items()),
        "vars": _structs({"name": name, "precious": False} for name in net.names),
    }


def _structs(elements: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """A struct array of one row."""
    held = list(elements)
    names = list(held[0]) if held else ["name", "value"]
    array = np.empty((1, len(held)), dtype=[(name, object) for name in names])
    for number, element in enumerate(held):
        for name in names:
            array[name][0, number] = element[name]
    return array
