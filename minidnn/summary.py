"""A net as a table: every layer with its window, its receptive field, its map and its memory.

    rf size   = 1 + sum over the layers of (extent - 1) * (product of the strides before)
    rf stride = product of the strides so far
    rf offset = 1 + sum of ((extent - 1) / 2 - pad) * (product of the strides before): the first centre

A transpose divides the stride, so there are fractions. Where paths meet, the field is the union of theirs.
Added to the columns of MatConvNet's vl_simplenn_display are the two kinds of memory that nobody counts: what
the way back needs beside the maps, and the workspace of the plain kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isclose, prod
from typing import Any, NamedTuple

from minidnn.errors import UsageError
from minidnn.graph import Node
from minidnn.kernels.im2col import ROWS_AT_ONCE
from minidnn.layers import (
    FC,
    LRN,
    AvgPool,
    Conv,
    ConvTranspose,
    Flatten,
    GlobalAvgPool,
    Layer,
    LRNWithin,
    MaxPool,
    MaxUnpool,
    ReLU,
    Upsample,
)
from minidnn.layers.base import reads
from minidnn.net import Net

WORDS = {"MaxPool": "mpool", "AvgPool": "apool", "GlobalAvgPool": "apool", "LRN": "norm", "LRNWithin": "norm"}
WORDS |= {"Softmax": "softmx", "BatchNorm": "bnorm", "ConvTranspose": "convt", "MaxUnpool": "unpool"}


class Field(NamedTuple):
    """The receptive field along one axis: its pixels, its first centre (1 is the first pixel), its stride."""

    size: float = 1
    offset: float = 1
    stride: float = 1

    def through(self, extent: int, stride: float, pad: int) -> Field:
        offset = self.offset + ((extent - 1) / 2 - pad) * self.stride
        return Field(self.size + (extent - 1) * self.stride, offset, self.stride * stride)

    def back_through(self, extent: int, stride: int, pad: float) -> Field:
        """Behind the transpose of such a window, whose pixels lie `stride` times denser."""
        dense = self.stride / stride
        offset = self.offset - ((extent - 1) / 2 - pad) * dense
        return Field(self.size + (extent - 1) * dense, offset, dense)

    def __or__(self, other: Field | None) -> Field | None:
        """The union of two; nothing that can be said if they move at different speeds."""
        if other is None or not isclose(self.stride, other.stride):
            return None
        first = min(self.offset - self.size / 2, other.offset - other.size / 2)
        last = max(self.offset + self.size / 2, other.offset + other.size / 2)
        return Field(last - first, (first + last) / 2, self.stride)


@dataclass(frozen=True)
class Row:
    """One layer. Pairs are (y, x); None is shown as n/a. Bytes are those of the net's dtype."""

    number: int
    name: str
    type: str
    support: tuple[int, int] | None = None
    filt_dim: int | None = None
    filt_dilat: tuple[int, int] | None = None
    num_filts: int | None = None
    stride: tuple[int, int] | None = None
    pad: tuple[int, int, int, int] | None = None
    rf_size: tuple[float, float] | None = None
    rf_offset: tuple[float, float] | None = None
    rf_stride: tuple[float, float] | None = None
    data_size: tuple[int, int] = (0, 0)
    data_depth: int = 0
    data_num: int = 0
    data_mem: int = 0
    param_mem: int = 0
    params: int = 0
    back_mem: int = 0  # dz/dx here, and what the way back reads beside x: bits, switches, energies
    work_mem: int = 0  # scratch of the plain kernel, used again by the next layer


@dataclass(frozen=True)
class Summary:
    """The table and its totals; minidnn.tables writes it out."""

    rows: tuple[Row, ...]

    @property
    def params(self) -> int:
        return sum(row.params for row in self.rows)

    @property
    def totals(self) -> dict[str, int]:
        """Bytes in all; of the workspace the largest, for it is used again and again."""
        sums = {
            part: sum(getattr(row, part) for row in self.rows)
            for part in ("data_mem", "param_mem", "back_mem")
        }
        return sums | {"work_mem": max(row.work_mem for row in self.rows), "params": self.params}


def parameter_counts(net: Net) -> dict[str, int]:
    """{"conv1_1": 1792, ...} for every layer; what several share is counted at the first of them."""
    counts = {node.name: 0 for node in net.nodes}
    for name, array in net.params.items():
        counts[name.rpartition("/")[0]] += array.size
    return counts


def summarise(net: Net, size: tuple[int, int] | None = None, *, batch: int = 1) -> Summary:
    """The table of a net for images of (h, w), by default those it was made for."""
    if net.input_shape is None and size is None:
        raise UsageError(
            "this net was made for images of no particular size; say which: size=(h, w), or --size HxW"
        )
    h, w, c = (*size, _channels(net)) if size is not None else net.input_shape or (0, 0, 0)
    shapes = net.shapes((batch, h, w, c))
    item = net.dtype.itemsize
    fields: dict[str, list[Field | None]] = {net.input: [Field(), Field()]}
    counts = parameter_counts(net)
    rows = [_row(0, net.input, "input", shapes[net.input], [Field(), Field()], item)]
    for number, node in enumerate(net.nodes, start=1):
        x_shapes = [shapes[name] for name in node.inputs]
        fields[node.name] = [
            _field(node.layer, [fields[n][axis] for n in node.inputs], x_shapes[0], axis) for axis in (0, 1)
        ]
        rows.append(
            _row(
                number,
                node.name,
                WORDS.get(type(node.layer).__name__, type(node.layer).__name__.lower()),
                shapes[node.name],
                fields[node.name],
                item,
                params=counts[node.name],
                back=_back(node, shapes, item),
                work=_workspace(node.layer, x_shapes[0], shapes[node.name], item),
                **_geometry(node.layer, x_shapes[0]),
            )
        )
    return Summary(tuple(rows))


def _row(
    number: int,
    name: str,
    word: str,
    shape: tuple[int, ...],
    field: Iterable[Field | None],
    item: int,
    *,
    params: int = 0,
    back: int | None = None,
    work: int = 0,
    **geometry: Any,
) -> Row:
    n, h, w, c = shape
    y, x = field
    known = y is not None and x is not None
    rf = {f"rf_{part}": (getattr(y, part), getattr(x, part)) if known else None for part in Field._fields}
    mem = item * prod(shape)
    back = mem if back is None else back
    data = {"data_size": (h, w), "data_depth": c, "data_num": n, "data_mem": mem}
    memory = {"params": params, "param_mem": params * item, "back_mem": back, "work_mem": work}
    return Row(number, name, word, **geometry, **rf, **data, **memory)  # type: ignore[arg-type]


def _channels(net: Net) -> int:
    """The channels of the images, from the net or from its first filters."""
    if net.input_shape is not None:
        return net.input_shape[2]
    for node in net.nodes:
        if isinstance(node.layer, Conv):
            return node.layer.w.shape[2] * node.layer.groups
        if isinstance(node.layer, ConvTranspose):
            return node.layer.w.shape[3]
    return 3


def _geometry(layer: Layer, x_shape: tuple[int, ...]) -> dict[str, Any]:
    """The columns from support to pad; FC is shown as the convolution that it is."""
    if isinstance(layer, FC):
        return _geometry(layer.as_conv(), x_shape)
    if isinstance(layer, GlobalAvgPool):
        return {"support": x_shape[1:3], "stride": (1, 1), "pad": (0, 0, 0, 0)}
    if not isinstance(layer, Conv | ConvTranspose | MaxPool | AvgPool | MaxUnpool):
        return {}
    window = layer.window
    shown: dict[str, Any] = {"support": window.kernel, "stride": window.stride, "pad": window.pad}
    if isinstance(layer, Conv | ConvTranspose):
        dim = layer.w.shape[2 if isinstance(layer, Conv) else 3]
        shown |= {"filt_dilat": window.dilation, "filt_dim": dim, "num_filts": layer.out_channels}
    return shown


def _field(layer: Layer, before: list[Field | None], x_shape: tuple[int, ...], axis: int) -> Field | None:
    """The receptive field behind this layer, along one axis."""
    field = before[0]
    for other in before[1:]:
        field = field | other if field is not None else None
    if field is None or isinstance(layer, MaxUnpool):  # where it puts things, the image decides
        return None
    if isinstance(layer, Conv | ConvTranspose | MaxPool | AvgPool):
        window = layer.window
        way = field.back_through if isinstance(layer, ConvTranspose) else field.through
        return way(window.extent[axis], window.stride[axis], window.pad[2 * axis])
    if isinstance(layer, Upsample):  # as the transpose of a window that is as wide as its weights
        factor = layer.factor
        extent = factor if layer.method == "nearest" else 2 * factor - factor % 2
        return field.back_through(extent, factor, (extent - factor) / 2)
    if isinstance(layer, LRNWithin):
        return field.through(layer.size, 1, layer.size // 2)
    if isinstance(layer, FC | GlobalAvgPool | Flatten):
        return field.through(x_shape[1 + axis], 1, 0)
    return field


def _back(node: Node, shapes: dict[str, tuple[int, ...]], item: int) -> int:
    """Bytes of dz/dx at this slot, and of the layer's aux where its way back reads one."""
    own = item * prod(shapes[node.name])
    if "aux" not in reads(type(node.layer).backward):
        return own
    if isinstance(node.layer, ReLU):
        return own + -(-prod(shapes[node.name]) // 8)
    if isinstance(node.layer, MaxPool | MaxUnpool):
        switches = shapes[node.name] if isinstance(node.layer, MaxPool) else shapes[node.inputs[0]]
        return own + prod(switches) * (1 if node.layer.window.taps <= 256 else 4)
    return own + (item * prod(shapes[node.inputs[0]]) if isinstance(node.layer, LRN) else 0)


def _workspace(layer: Layer, x_shape: tuple[int, ...], y_shape: tuple[int, ...], item: int) -> int:
    """Bytes of the matrix of windows that a plain convolution lays out at once."""
    if isinstance(layer, ConvTranspose):
        x_shape, y_shape = y_shape, x_shape
    if not isinstance(layer, Conv | ConvTranspose):
        return 0
    one = prod(y_shape[1:3]) * layer.window.taps * (x_shape[3] // layer.groups)
    return item * one * min(x_shape[0], max(1, ROWS_AT_ONCE // one))
