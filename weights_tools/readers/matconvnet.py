"""MatConvNet's nets: SimpleNN, a cell of layers in a row, and DagNN, layers that name what they read.

Both become records (matconvnet_records) and then layers of ours (matconvnet_layers). MatConvNet rounds the
size of a pooled map down; where a pool has more pad at the bottom and right, the net came from Caffe, and the
pads stay as they are.
"""

from __future__ import annotations

import os
from pathlib import Path

from minidnn.errors import MismatchError, ShapeError, UnsupportedError, UsageError
from minidnn.graph import Node
from minidnn.layers import Layer
from minidnn.net import Net
from minidnn.weights.classes import SYNSET
from weights_tools import matfile
from weights_tools.foreign import Foreign
from weights_tools.matvalues import Opaque, Struct, Value
from weights_tools.readers.matconvnet_layers import Builder, channels_after
from weights_tools.readers.matconvnet_meta import Meta, meta_of
from weights_tools.readers.matconvnet_records import (
    Fields,
    Record,
    dagnn_records,
    simplenn_records,
    unsupported,
)

RESAVE = "in MATLAB: s = net.saveobj(); save('net.mat', '-struct', 's')"


def read(path: str | os.PathLike) -> Foreign:
    """The net in a .mat file, of any age of MatConvNet."""
    path = Path(path)
    fields = _net_in(path, matfile.load(path))
    is_dag = "params" in fields or isinstance(fields["layers"], Struct)
    foreign = Foreign("MatConvNet DagNN" if is_dag else "MatConvNet SimpleNN")
    records, input = (dagnn_records if is_dag else simplenn_records)(str(path), fields, foreign.steps)
    if lacking := unsupported(records):
        advice = "take these layers out in MATLAB and save the net again"
        raise UnsupportedError(f"{path}: minidnn has no {'; no '.join(lacking)}; {advice}")
    if not records:
        raise MismatchError(f"{path}: a MatConvNet network without layers; save one that has some")
    meta = meta_of(str(path), fields, foreign)
    foreign.net = _wired(str(path), records, input, meta, foreign)
    foreign.channel_order = meta.order
    foreign.preprocess, foreign.classes, foreign.hints = meta.preprocess, meta.classes, meta.hints
    ids = tuple(meta.hints.get("class_ids", ()))
    foreign.class_ids = ids if len(ids) == len(meta.classes) and all(map(SYNSET.fullmatch, ids)) else ()
    return foreign


def _net_in(path: Path, variables: dict[str, Value]) -> Fields:
    """The fields of the net: variables of their own, or those of one variable."""
    if "layers" in variables:
        return variables
    nets = [v[0] for v in variables.values() if isinstance(v, Struct) and len(v) == 1 and "layers" in v[0]]
    if len(nets) == 1:
        return nets[0]
    if len(nets) > 1:
        raise MismatchError(f"{path}: {len(nets)} networks in one file; save each in a file of its own")
    objects = [name for name, value in variables.items() if isinstance(value, Opaque)]
    if objects:
        what = f"{', '.join(map(repr, objects))} is an object of a class, which only MATLAB can read"
        raise UnsupportedError(f"{path}: {what}; {RESAVE}")
    found = ", ".join(sorted(variables)[:20]) or "none"
    raise MismatchError(f"{path}: not a MatConvNet network; variables found: {found}; wanted: layers, or net")


def _wired(path: str, records: list[Record], input: str, meta: Meta, foreign: Foreign) -> Net:
    """The net; how many channels reach a layer tells its groups, and the size whether it is an FC."""
    builder = Builder(path, foreign)
    channels = meta.channels or builder.first_channels(records, input)
    size = meta.size
    reached: dict[str, tuple[int, ...]] = {input: (*(size or ()), channels)}  # (h, w, c), or (c,)
    nodes: list[Node] = []
    for record in records:
        before = [reached[name] for name in record.inputs]
        layer = builder.layer(record, before)
        reached[record.name] = _after(path, record, layer, before)
        nodes.append(Node(record.name, layer, record.inputs))
    names = {input, *(record.name for record in records)}
    aliases = {record.known_as: record.name for record in records if record.known_as not in {"", *names}}
    meta.settle(path, channels, reached[records[-1].name][-1], foreign)
    shape = (*size, channels) if size else None
    try:
        return Net(
            nodes, input, input_shape=shape, preprocess=meta.preprocess, classes=meta.classes, aliases=aliases
        )
    except (ShapeError, UsageError) as error:
        raise MismatchError(f"{path}: its layers do not fit together: {error}; fetch it again") from error


def _after(path: str, record: Record, layer: Layer, before: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of a layer's output: with its size, where that of its inputs is known."""
    try:
        if all(len(shape) == 3 for shape in before):
            return layer.out_shape(*((1, *shape) for shape in before))[1:]
        return (channels_after(layer, [shape[-1] for shape in before]),)
    except (ShapeError, TypeError) as error:
        raise MismatchError(f"{path}: layer {record.name!r}: {error}; fetch it again") from error
