"""The layers of a MatConvNet net as records of one kind, whether they stood in a row or named each other."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from minidnn.errors import DamagedFileError, MismatchError, TooLargeError, did_you_mean
from weights_tools.matvalues import Cell, Opaque, Struct, Value

Fields = Mapping[str, Value]

KINDS = {"conv", "convt", "pool", "relu", "lrn", "softmax", "dropout", "bnorm", "sigmoid", "join", "add"}
SAME = {"normalize": "lrn", "softmaxloss": "softmax", "join": "join of a row", "add": "add of a row"}
MAX_LAYERS = 10_000

# The blocks of DagNN, and what their fields are called in SimpleNN.
BLOCKS: dict[str, tuple[str, dict[str, str]]] = {
    "Conv": ("conv", {}),
    "ConvTranspose": ("convt", {}),
    "Pooling": ("pool", {"poolSize": "pool"}),
    "ReLU": ("relu", {}),
    "LRN": ("lrn", {}),
    "SoftMax": ("softmax", {}),
    "DropOut": ("dropout", {}),
    "BatchNorm": ("bnorm", {}),
    "Sigmoid": ("sigmoid", {}),
    "Concat": ("join", {}),
    "Sum": ("add", {}),
}


@dataclass(frozen=True)
class Record:
    """One layer: what it is, what it reads, its settings and arrays; `known_as` is another name for it."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    fields: Fields
    arrays: tuple[Value | None, ...] | None  # None: there is no place for them at all
    known_as: str = ""


def unsupported(records: Iterable[Record]) -> list[str]:
    """Everything that no layer of ours does, kind by kind with the names of the layers."""
    names: dict[str, list[str]] = {}
    for record in records:
        if lacking := _lacking(record):
            names.setdefault(lacking, []).append(record.name)
    return [f"{lacking} ({_some(layers)})" for lacking, layers in names.items()]


def _lacking(record: Record) -> str | None:
    if record.kind not in KINDS:
        return f"layer type {record.kind!r}"
    if any(isinstance(value, Opaque) for value in record.fields.values()):
        return f"{record.kind!r} that calls functions"
    if record.kind == "pool" and (method := text(record.fields.get("method"), "max")) not in ("max", "avg"):
        return f"pool method {method!r}"
    dim = record.fields.get("dim")
    if record.kind == "join" and isinstance(dim, np.ndarray) and dim.size and dim.ravel()[0] != 3:
        return "Concat along another axis than the channels"
    return None


def simplenn_records(path: str, fields: Fields, steps: list[str]) -> tuple[list[Record], str]:
    """The layers of a row, and the name of its input."""
    layers = fields["layers"]
    if not isinstance(layers, Cell):
        raise DamagedFileError(f"{path}: layers is no cell; fetch it again")
    _check_count(path, layers)
    names, before, records = Names("data", steps), "data", []
    for number, held in enumerate(layers, start=1):
        if not isinstance(held, Struct) or len(held) != 1:
            raise DamagedFileError(f"{path}: layer {number} is no struct of one layer; fetch it again")
        layer = held[0]
        name, kind = text(layer.get("name"), f"layer{number}"), text(layer.get("type"), "nothing")
        if kind == "loss":
            steps.append(f"dropped layer {name!r} (loss: for training only)")
            continue
        if kind == "softmaxloss":
            steps.append(f"read layer {name!r} (softmaxloss) as the softmax that it holds")
        own = names.free(name)
        records.append(Record(own, SAME.get(kind, kind), (before,), layer, _arrays(layer)))
        before = own
    return records, "data"


def _arrays(layer: Fields) -> tuple[Value, ...] | None:
    """`weights`, or what was called filters and biases until 2015."""
    if "weights" in layer:
        held = layer["weights"]
        return tuple(held) if isinstance(held, Cell) else ()
    if "filters" in layer:
        return (layer["filters"], layer.get("biases", np.zeros((0, 0))), *_moments(layer))
    return None


def _moments(layer: Fields) -> tuple[Value, ...]:
    return (layer["moments"],) if "moments" in layer else ()


def dagnn_records(path: str, fields: Fields, steps: list[str]) -> tuple[list[Record], str]:
    """The layers, each after those that it reads, and the name of the input."""
    held = _structs(fields, "layers")
    _check_count(path, held)
    layers = [_dagnn_layer(path, number, layer) for number, layer in enumerate(held, start=1)]
    kept = [layer for layer in layers if not layer.kind.endswith("Loss")]
    steps += [
        f"dropped layer {layer.name!r} (loss: for training only)" for layer in layers if layer not in kept
    ]
    params = {text(param.get("name")): param.get("value") for param in _structs(fields, "params")}
    made = {layer.output for layer in kept}
    if len(made) < len(kept):
        raise DamagedFileError(f"{path}: two layers make one variable; fetch it again")
    sources = list(dict.fromkeys(name for layer in kept for name in layer.inputs if name not in made))
    if kept and len(sources) != 1:
        found = ", ".join(map(repr, sources)) or "none"
        raise MismatchError(f"{path}: a net with one input was expected, found {found}; cut the others off")
    input = _clean(sources[0]) if sources else "data"
    names = Names(input, steps)
    called = {layer.output: names.free(layer.name) for layer in kept} | dict.fromkeys(sources, input)
    records = {layer.output: _record(path, layer, called, params) for layer in kept}
    return [records[output] for output in _in_order(path, kept, sources)], input


@dataclass(frozen=True)
class _Layer:
    """A layer of a DagNN as the file has it."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    params: tuple[str, ...]
    block: Fields


def _dagnn_layer(path: str, number: int, layer: Fields) -> _Layer:
    name = text(layer.get("name"), f"layer{number}")
    outputs, block = texts(layer.get("outputs")), layer.get("block")
    if not texts(layer.get("inputs")) or len(outputs) != 1:
        raise MismatchError(
            f"{path}: layer {name!r} has {len(outputs)} outputs, or no input; one of each wanted"
        )
    settings: Fields = block[0] if isinstance(block, Struct) and block else {}
    kind = text(layer.get("type"), "nothing").removeprefix("dagnn.")
    return _Layer(name, kind, texts(layer.get("inputs")), outputs[0], texts(layer.get("params")), settings)


def _record(
    path: str, layer: _Layer, called: Mapping[str, str], params: Mapping[str, Value | None]
) -> Record:
    own = called[layer.output]
    for name in layer.params:
        if name not in params:
            near = did_you_mean(name, params)
            raise MismatchError(f"{path}: layer {own!r} wants the param {name!r}, which is missing{near}")
    kind, renamed = BLOCKS.get(layer.kind, (f"dagnn.{layer.kind}", {}))
    fields = {renamed.get(name, name): value for name, value in layer.block.items()}
    arrays: tuple[Value | None, ...] = tuple(params[name] for name in layer.params)
    if kind == "conv" and len(arrays) == 1:
        arrays += (np.zeros((0, 0)),)  # hasBias is false
    return Record(own, kind, tuple(called[name] for name in layer.inputs), fields, arrays, layer.output)


def _in_order(path: str, layers: list[_Layer], sources: list[str]) -> list[str]:
    """The outputs of the layers, everything after what it reads, else as in the file."""
    readers, waits = defaultdict(list), []
    for number, layer in enumerate(layers):
        awaited = set(layer.inputs).difference(sources)
        waits.append(len(awaited))
        for name in awaited:
            readers[name].append(number)
    ready = [number for number, count in enumerate(waits) if count == 0]
    heapify(ready)
    order = []
    while ready:
        made = layers[heappop(ready)].output
        order.append(made)
        for number in readers[made]:
            waits[number] -= 1
            if waits[number] == 0:
                heappush(ready, number)
    if len(order) < len(layers):
        stuck = _some(layer.name for layer in layers if layer.output not in order)
        raise DamagedFileError(f"{path}: the layers {stuck} wait for each other; fetch it again")
    return order


def _check_count(path: str, layers: list) -> None:
    if len(layers) > MAX_LAYERS:
        raise TooLargeError(f"{path}: {len(layers):,} layers, the limit is {MAX_LAYERS:,}; not a net")


def _structs(fields: Fields, name: str) -> Struct:
    held = fields.get(name)
    return held if isinstance(held, Struct) else Struct()


class Names:
    """Names that are fit for a file and for each other."""

    def __init__(self, input: str, steps: list[str]) -> None:
        self.taken, self.steps = {input, "all", "needed"}, steps

    def free(self, name: str) -> str:
        """The name itself; or one like it, and then the user is told."""
        new = base = _clean(name)
        number = 1
        while new in self.taken:
            number += 1
            new = f"{base}_{number}"
        if new != name:
            self.steps.append(f"renamed layer {name!r} to {new!r}")
        self.taken.add(new)
        return new


def _clean(name: str) -> str:
    parts = re.sub(r"[^A-Za-z0-9_./-]", "_", name[:150]).split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def text(value: Value | None, default: str = "") -> str:
    return value if isinstance(value, str) and value else default


def texts(value: Value | None) -> tuple[str, ...]:
    """The strings of a cell, or the only one."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, Cell) else ()


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return ", ".join(listed[:8]) + more
