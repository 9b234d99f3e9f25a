"""Small ONNX files, written field by field: no library stands between a test and what the file says."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

KINDS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}


def varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """A whole number as a varint, a float as 4 bytes, all else with its length before it."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(array: np.ndarray, name: str = "", *, dims: Sequence[int] | None = None) -> bytes:
    """A TensorProto with raw data; `dims` may lie about its shape."""
    array = np.asarray(array)
    shape = array.shape if dims is None else dims
    head = b"".join(field(1, n) for n in shape) + field(2, KINDS[array.dtype.name])
    return head + field(8, name) + field(9, array.tobytes())


def attribute(name: str, value: object) -> bytes:
    """An AttributeProto with the type that the value has."""
    if isinstance(value, np.ndarray):
        return field(1, name) + field(5, tensor(value)) + field(20, 4)
    if isinstance(value, float):
        return field(1, name) + field(2, value) + field(20, 1)
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    if isinstance(value, str):
        return field(1, name) + field(4, value) + field(20, 3)
    return field(1, name) + b"".join(field(8, n) for n in value) + field(20, 7)  # type: ignore[attr-defined]


def node(
    op: str, inputs: str, outputs: str, *, name: str = "", domain: str = "", **attributes: object
) -> bytes:
    """A NodeProto; inputs and outputs are names with spaces between, "-" for one left out."""
    parts = [field(1, "" if one == "-" else one) for one in inputs.split()]
    parts += [field(2, one) for one in outputs.split()]
    parts += [field(3, name or f"{op.lower()}_to_{outputs.split()[0]}"), field(4, op)]
    parts += [field(5, attribute(*one)) for one in attributes.items()]
    return b"".join(parts) + (field(7, domain) if domain else b"")


def port(name: str, dims: Sequence[int | str] | None, kind: int = 1) -> bytes:
    """A ValueInfoProto; a size that is a word is symbolic."""
    shape = b"".join(field(1, field(1 if isinstance(n, int) else 2, n)) for n in dims or ())
    return field(1, name) + field(2, field(1, field(1, kind) + (b"" if dims is None else field(2, shape))))


def model(
    nodes: Sequence[bytes],
    constants: Mapping[str, np.ndarray] | Sequence[bytes] = (),
    *,
    x: Sequence[int | str] = (2, 3, 7, 9),
    y: Sequence[str] = ("y",),
    opset: int | None = 13,
    kind: int = 1,
) -> bytes:
    """A ModelProto from the input "x" of that shape to the outputs y."""
    if isinstance(constants, Mapping):
        constants = [tensor(array, name) for name, array in constants.items()]
    graph = b"".join(field(1, one) for one in nodes) + field(2, "small")
    graph += b"".join(field(5, one) for one in constants)
    graph += field(11, port("x", x, kind)) + b"".join(field(12, port(name, None)) for name in y)
    head = field(1, 8) + field(2, "onnxwriter")
    return head + field(7, graph) + (b"" if opset is None else field(8, field(1, "") + field(2, opset)))


def write(path: Path, *args: object, **about: object) -> Path:
    path.write_bytes(model(*args, **about))  # type: ignore[arg-type]
    return path
