"""How a net is wired, from a file of its own (`--arch FILE`), for bare arrays that fit no net of the zoo.

A deploy .prototxt of Caffe, our own JSON as `inspect --graph` writes it, or a weight file of ours, of which
only the wiring is taken. Layers find their arrays by name, the rest by shape, in the order of the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from minidnn import weights
from minidnn.errors import DamagedFileError, MismatchError, TooLargeError, UnsupportedError, UsageError
from minidnn.graph import Node
from minidnn.layers import FC, BatchNorm, Flatten, PReLU
from minidnn.net import Net
from minidnn.params import POINTWISE, mapped, once
from minidnn.weights.blueprint import Blueprint, Shape, described, restored
from minidnn.weights.jsons import check_size, parsed
from minidnn.weights.typed import decoded, encoded
from weights_tools.detect import NAMES, kind_of, opened
from weights_tools.fitting import agree, arrays_of, banks_of, difference, shaped, shapes_in, sorted_like, told
from weights_tools.foreign import Arrays, Foreign
from weights_tools.naming import Match

MAX_RANK = 5
MAX_NUMBERS = 1 << 40  # of one array: only its shape is held
SHOWN = 6


def graph_text(net: Net) -> str:
    """The wiring of a net and the shapes of its arrays as JSON, to be read and written by people too."""
    shapes = {
        name: list(array.shape)
        for role in ("params", "buffers")
        for name, array in once(net.nodes, role).items()
    }
    document = encoded(described(net)) | {"shapes": shapes}
    return (
        "{\n"
        + ",\n".join(f" {json.dumps(name)}: {_by_lines(part)}" for name, part in document.items())
        + "\n}\n"
    )


def _by_lines(part: list[Any] | dict[str, Any]) -> str:
    """JSON with a line for each entry."""
    if isinstance(part, dict):
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in part.items()]
    else:
        lines = [f"  {json.dumps(value)}" for value in part]
    begin, end = "{}" if isinstance(part, dict) else "[]"
    return "\n".join([begin, ",\n".join(lines), f" {end}"]) if lines else begin + end


def wired_by(path: Path, foreign: Foreign) -> Match:
    """The net that the file at `path` tells of, with the bare arrays of the foreign file in it."""
    if foreign.net is not None:
        raise UsageError(
            f"--arch {path}: this {foreign.format} file says itself how it is wired; leave it out"
        )
    if not foreign.layers:
        raise MismatchError(f"a {foreign.format} without weights; nothing to convert")
    net = wiring_in(path)
    pairs, by_name = _paired(foreign.layers, net, path.name)
    step = (
        f"wired as {path.name} says: {by_name} layers found by their names, {len(pairs) - by_name} by shapes"
    )
    return Match(_filled(net, pairs, foreign), None, (step,), _doubts(pairs, foreign.layers, by_name))


def wiring_in(path: Path) -> Net:
    """A net without weights."""
    if opened(path).lstrip().startswith(b"{"):
        return _net_of(_from_json(path))
    kind = kind_of(path)
    if kind == "minidnn":
        return _net_of(weights.Weights.open(path).blueprint)
    if kind != "prototxt":
        wanted = "a deploy .prototxt, JSON as inspect --graph writes it, or a .h5 of ours is wanted"
        raise UsageError(f"--arch {path}: {NAMES[kind]}; {wanted}")
    from weights_tools.readers import caffe

    found = caffe.read(path).net
    if found is None:
        raise MismatchError(f"{path}: wires no layers; give the deploy .prototxt")
    return found


def _net_of(blueprint: Blueprint) -> Net:
    graph, input_shape, _ = blueprint
    return Net(graph.nodes, graph.input, input_shape=input_shape, aliases=graph.aliases)


def _from_json(path: Path) -> Blueprint:
    what = f"{path}: its wiring"
    check_size(path.stat().st_size, what)
    document = parsed(np.frombuffer(path.read_bytes(), np.uint8), what)
    try:
        shapes = decoded(document.get("shapes"), dict[str, Shape])
    except ValueError as error:
        words = '"shapes" has to give the shape of every array, {"conv1/w": [5, 5, 1, 20]}'
        raise DamagedFileError(f"{what}: {words} ({error}); mend it") from None
    for name, shape in shapes.items():
        if not shape or len(shape) > MAX_RANK or min(shape) < 1:
            raise DamagedFileError(
                f"{what}: {name[:80]!r} is {shape}, expected 1 to {MAX_RANK} sizes; mend it"
            )
        if prod(shape) > MAX_NUMBERS:
            raise TooLargeError(f"{what}: {name[:80]!r} is {shape}, the limit is {MAX_NUMBERS:,} numbers")
    return restored(document, shapes, str(path))


# Which layer's arrays are whose.


def _paired(layers: Mapping[str, Arrays], net: Net, where: str) -> tuple[dict[str, str], int]:
    """{node: layer of the file}, and how many of them by name."""
    banks = _unshared(net)
    aliases = {node: other for other, node in net.aliases.items() if other in layers}
    pairs = {}
    for node in banks:
        theirs = node.name if node.name in layers else aliases.get(node.name)
        if theirs is not None:
            found, wanted = shapes_in(layers[theirs]), shapes_in(arrays_of(node.layer))
            if not agree(found, wanted):
                raise MismatchError(
                    f"{theirs!r} holds {told(found)}, {node.name!r} of {where} wants {told(wanted)}"
                )
            pairs[node.name] = theirs
    by_name = len(pairs)
    left = {name: arrays for name, arrays in layers.items() if name not in pairs.values()}
    open_banks = [node for node in banks if node.name not in pairs]
    if why := difference(left, open_banks):
        ordered = sorted_like(left, open_banks)
        if ordered is None:
            matched = f"{by_name} of {len(banks)} layers found by name, the others not by shape"
            raise MismatchError(f"not the net of {where}: {matched}: {why}")
        left = ordered
    return pairs | {node.name: theirs for node, theirs in zip(open_banks, left, strict=True)}, by_name


def _unshared(net: Net) -> list[Node]:
    """The layers that hold arrays, of those that share them the first."""
    seen: set[int] = set()
    found = []
    for node in banks_of(net):
        held = {id(array) for array in arrays_of(node.layer).values()}
        if not held <= seen:
            found.append(node)
        seen |= held
    return found


def _doubts(pairs: Mapping[str, str], layers: Mapping[str, Arrays], by_name: int) -> tuple[str, ...]:
    """Where shapes alone cannot tell two layers apart."""
    names = list(pairs.values())[by_name:]
    often = Counter(told(shapes_in(layers[name])) for name in names)
    alike = [name for name in names if often[told(shapes_in(layers[name]))] > 1]
    if not alike:
        return ()
    more = f" and {len(alike) - SHOWN} more" if len(alike) > SHOWN else ""
    listed = ", ".join(map(repr, alike[:SHOWN]))
    return (f"of equal shapes are {listed}{more}: their order in the file decided, see that it is right",)


def _filled(net: Net, pairs: Mapping[str, str], foreign: Foreign) -> Net:
    """The net with its arrays; what is shared stays shared."""
    vectors = _flattened(net)
    _check_vectors(net, vectors, foreign.flatten)
    arrays: dict[int, np.ndarray] = {}
    for node in net.nodes:
        if node.name not in pairs:
            continue
        for key, wanted in arrays_of(node.layer).items():
            own = foreign.layers[pairs[node.name]][key]
            shape = (
                (*vectors[node.name], wanted.shape[3])
                if key == "w" and node.name in vectors
                else wanted.shape
            )
            arrays[id(wanted)] = shaped(own, shape, foreign.flatten).reshape(wanted.shape)
    nodes = mapped(net.nodes, lambda array: arrays.get(id(array), array))
    aliases = dict(net.aliases) | {theirs: node for node, theirs in pairs.items() if theirs not in net.names}
    return net.with_nodes(nodes, aliases=aliases)


def _flattened(net: Net) -> dict[str, Shape]:
    """The layers with weights that read a flattened map, each with that map's (h, w, c)."""
    flat: dict[str, str] = {}  # a vector: the map that it was
    for node in net.nodes:
        if isinstance(node.layer, Flatten):
            flat[node.name] = flat.get(node.inputs[0], node.inputs[0])
        elif node.inputs[0] in flat and isinstance(node.layer, POINTWISE | BatchNorm | PReLU):
            flat[node.name] = flat[node.inputs[0]]
    readers = {n.name: flat[n.inputs[0]] for n in net.nodes if arrays_of(n.layer) and n.inputs[0] in flat}
    if not readers:
        return {}
    if net.input_shape is None:
        raise UsageError(
            f"{next(iter(readers))!r} reads a flattened map: let the wiring say how large images are"
        )
    shapes = net.shapes((1, *net.input_shape))
    return {name: shapes[before][1:] for name, before in readers.items()}


def _check_vectors(net: Net, vectors: Mapping[str, Shape], flatten: str) -> None:
    """A dense layer's rows are put in our order; what else holds a number for each place we leave alone."""
    if flatten == "hwc":
        return
    others = [n.name for n in net.nodes if n.name in vectors and not isinstance(n.layer, FC)]
    if others:
        what = f"layers that hold a number for each place of a flattened map ({', '.join(map(repr, others))})"
        raise UnsupportedError(f"{what}; let them stand before the map is flattened, or export it as ONNX")
