"""Caffe's nets as rows of records, the same for both versions of the binary format, prototxt and HDF5.

A record has the layer's name, type, wiring and fields, and its arrays as views into the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from minidnn.errors import DamagedFileError, FileFormatError, MismatchError, TooLargeError, UnsupportedError
from minidnn.weights.guarded import Guarded
from weights_tools.detect import held
from weights_tools.prototxt import parse
from weights_tools.readers.caffe_schema import (
    LAYER,
    NET,
    OLD_LAYER,
    TYPES,
    Fields,
    Schema,
    from_text,
    from_wire,
)
from weights_tools.wire import Message

MAX_BYTES = (1 << 31) - 1  # of a binary file: protobuf itself ends there
MAX_LAYERS = 10_000
MAX_RANK = 8
LAYERS, OLD_LAYERS = 100, 2  # where a net keeps its layers, and those of the first version
BLOBS, OLD_BLOBS = 7, 6  # where they keep their arrays


def mapped(path: Path) -> memoryview:
    """The file as it lies on the disk: only what is looked at is read."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise TooLargeError(f"{path}: {size:,} bytes, Caffe's files end at {MAX_BYTES:,}; fetch it again")
    return memoryview(held(path))


@dataclass(frozen=True)
class Blob:
    """An array as it lies in the file: all its numbers in a row."""

    shape: tuple[int, ...]
    values: np.ndarray

    def shaped(self, shape: tuple[int, ...], what: str) -> np.ndarray:
        """In the shape that is wanted; leading ones do not count, old files have four axes whatever it is."""
        if _without_leading_ones(self.shape) != _without_leading_ones(shape):
            raise MismatchError(
                f"{what}: found {self.shape}, expected {shape}; do graph and weights belong together?"
            )
        return self.values.reshape(shape)


@dataclass(frozen=True)
class Record:
    """One layer as the file describes it."""

    what: str  # "deploy.prototxt: layer 'conv1'", for errors
    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    fields: Fields
    blobs: tuple[Blob, ...] = ()

    def part(self, name: str) -> Fields:
        """What it says for itself in "convolution_param" and the like."""
        return replace(self.fields.part(name), what=self.what)

    @property
    def in_test_phase(self) -> bool:
        """Whether Caffe would have this layer when it tests, at level 0 and at no particular stage."""
        include, exclude = self.fields.all("include"), self.fields.all("exclude")
        return any(map(_holds_in_tests, include)) if include else not any(map(_holds_in_tests, exclude))


@dataclass(frozen=True)
class Described:
    """A whole net: its records in order, and the inputs that are declared outside of them."""

    where: str
    name: str
    inputs: Mapping[str, Sequence[int]]  # by name, n c h w
    records: tuple[Record, ...]

    @property
    def is_wired(self) -> bool:
        return any(record.bottoms for record in self.records)


def from_binary(data: memoryview, where: str) -> Described:
    """A .caffemodel, or whatever else is a NetParameter."""
    message = Message(data, where)
    counts = {number: len(message.bytes(number)) for number in (LAYERS, OLD_LAYERS)}
    _check_layers(counts[LAYERS], counts[OLD_LAYERS], where)
    if counts[LAYERS]:
        number, schema, blobs = LAYERS, LAYER, BLOBS
    else:
        number, schema, blobs = OLD_LAYERS, OLD_LAYER, OLD_BLOBS
    records = []
    for layer in message.messages(number, "layer"):
        fields = from_wire(layer, schema)
        record = _record(fields, where, "upgrade_net_proto_binary")
        arrays = tuple(_blob(blob, record.what) for blob in layer.messages(blobs, "blob"))
        records.append(replace(record, blobs=arrays))
    return _described(from_wire(message, NET), records, where)


def from_prototxt(text: str, where: str) -> Described:
    root = parse(text, where)
    now, old = root.blocks("layer"), root.blocks("layers")
    _check_layers(len(now), len(old), where)
    schema: Schema = LAYER if now else OLD_LAYER
    layers = [from_text(block, schema, f"{block.at} layer") for block in now or old]
    records = [_record(fields, where, "upgrade_net_proto_text") for fields in layers]
    return _described(from_text(root, NET, where), records, where)


def blobs_from_h5(path: Path) -> dict[str, tuple[Blob, ...]]:
    """The arrays of a .caffemodel.h5 by layer: it has no more than that, data/<layer>/<0, 1, ...>."""
    found: dict[str, dict[int, Blob]] = {}
    with Guarded(path, allow_texts=True) as file:
        if "data" not in file:
            raise FileFormatError(f"{path}: HDF5, but no 'data' in it; Caffe keeps its weights there")
        for dataset in file.walk("data"):
            _, *names, number = dataset.split("/")
            if not names or not number.isdecimal() or len(number) > 4:
                raise FileFormatError(
                    f"{path}: {dataset[:60]!r} is not named as Caffe names weights: data/conv1/0"
                )
            if file.info(dataset).dtype.kind != "f":
                raise UnsupportedError(
                    f"{path}: {dataset[:60]!r} holds {file.info(dataset).dtype}, floats are wanted"
                )
            array = file.read(dataset)
            found.setdefault("/".join(names), {})[int(number)] = Blob(array.shape, array.reshape(-1))
    return {name: tuple(blobs[n] for n in sorted(blobs)) for name, blobs in found.items()}


def mean_blob(data: memoryview, where: str) -> Blob:
    """A .binaryproto: one array and nothing else."""
    return _blob(Message(data, where), where)


def _record(fields: Fields, where: str, upgrade: str) -> Record:
    if "layer" in fields:
        advice = f"Caffe's own tool {upgrade} makes a newer one of it"
        raise UnsupportedError(f"{where}: a net of version 0, as in 2013; {advice}")
    name, kind = str(fields.last("name", ""))[:200], str(fields.last("type", ""))[:200]
    what = f"{where}: layer {name[:80]!r}"
    if not kind:
        raise DamagedFileError(f"{what}: has no type; fetch the file again")
    kind = TYPES.get(kind, kind)
    return Record(what, name, kind, tuple(fields.all("bottom")), tuple(fields.all("top")), fields)


def _described(fields: Fields, records: Sequence[Record], where: str) -> Described:
    names, shapes = fields.all("input"), [shape.all("dim") for shape in fields.all("input_shape")]
    if not shapes:
        dims = fields.all("input_dim")
        shapes = [dims[at : at + 4] for at in range(0, len(dims), 4)]
    if len(shapes) not in (0, len(names)):
        found = f"{len(names)} inputs and {len(shapes)} shapes for them"
        raise DamagedFileError(f"{where}: {found}; each wants one of its own")
    inputs = dict(zip(names, shapes or [()] * len(names), strict=True))
    return Described(where, str(fields.last("name", ""))[:200], inputs, tuple(records))


def _check_layers(now: int, old: int, where: str) -> None:
    if now and old:
        raise DamagedFileError(
            f"{where}: has layers of two versions, 'layer' and 'layers'; leave one kind out"
        )
    if now + old > MAX_LAYERS:
        raise TooLargeError(
            f"{where}: {now + old:,} layers, the limit is {MAX_LAYERS:,}; not a net that we could run"
        )
    if not now + old:
        raise FileFormatError(f"{where}: no layers in it; is it a Caffe net at all?")


def _blob(message: Message, what: str) -> Blob:
    """Caffe's rule: if any of the four old dimensions is there, they are the shape, whatever else is said."""
    if any(number in message for number in (1, 2, 3, 4)):
        shape = tuple(message.number(number) for number in (1, 2, 3, 4))
    else:
        shape = tuple(message.message(7, "shape").numbers(1))
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        raise DamagedFileError(f"{what}: an array of shape {str(shape)[:60]}; fetch the file again")
    values = message.reals(8, "<f8") if 8 in message else message.reals(5)
    if prod(shape) != len(values):
        found = f"an array of shape {shape} with {len(values):,} numbers in it"
        raise MismatchError(f"{what}: {found}, expected {prod(shape):,}; fetch the file again")
    return Blob(shape, values)


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    first = next((axis for axis, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]


def _holds_in_tests(rule: Fields) -> bool:
    return (
        rule.last("phase", "TEST") == "TEST"
        and rule.last("min_level", 0) <= 0 <= rule.last("max_level", 0)
        and not rule.all("stage")
    )
