"""The messages of an ONNX file: its graph, nodes and tensors, each checked before it is believed.

Field numbers are those of onnx.proto. Tensors are views of the mapped file; subgraphs are never looked into.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np

from minidnn.errors import (
    DamagedFileError,
    FileFormatError,
    MismatchError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedError,
)
from weights_tools.detect import opened
from weights_tools.room import give_way
from weights_tools.wire import Message, varint

MAX_NODES = 100_000
MAX_TENSORS = 100_000
MAX_RANK = 8
MAX_LIST = 1 << 16  # bytes of a list in an attribute, or of a tensor's shape
BLOCK = 1 << 20  # bytes of varints decoded at once
SPARE = 64 << 20  # bytes that any file may ask for, beside four times its own

Made = TypeVar("Made")

# Number: how a tensor's elements lie in raw_data, and in which field they lie one by one.
TYPES = {
    1: ("<f4", 4),
    2: ("<u1", 5),
    3: ("<i1", 5),
    4: ("<u2", 5),
    5: ("<i2", 5),
    6: ("<i4", 5),
    7: ("<i8", 7),
    9: ("<u1", 5),  # truth values
    10: ("<f2", 5),
    11: ("<f8", 10),
    12: ("<u4", 11),
    13: ("<u8", 11),
    16: ("<u2", 5),  # bfloat16: the upper half of a float32
}
BFLOAT16 = 16
FLOATS = (1, 10, 11, BFLOAT16)


class Source:
    """A model's file, mapped; the files beside it, if allowed; and how much may still be allocated for it."""

    def __init__(self, path: str | os.PathLike, *, allow_external: bool = False) -> None:
        opened(path)
        self.path, self.allow_external = Path(path), allow_external
        self._beside: dict[str, memoryview] = {}
        with self.path.open("rb") as file:
            self.data = mapped(file.fileno(), self.path)
        self.left = SPARE + 4 * len(self.data)

    def take(self, nbytes: int, what: str) -> None:
        """To be called before that much is allocated."""
        self.left -= nbytes
        if self.left < 0:
            raise TooLargeError(
                f"{what}: the arrays of this net take more than {SPARE >> 20} MiB and four times its file; "
                "not a file that we would convert"
            )

    def tensor(self, message: Message, where: str) -> np.ndarray:
        """The array of a TensorProto, its bytes counted before anything is made of them."""
        dims, kind = tuple(few(message, 1)), message.number(2)
        if len(dims) > MAX_RANK or any(n < 0 for n in dims):
            raise DamagedFileError(f"{where} has the shape {dims}; fetch the file again")
        if kind not in TYPES:
            raise UnsupportedError(f"tensors of type {kind}")
        count, (code, field) = prod(dims), TYPES[kind]
        dtype = np.dtype(code)
        if count == 0:
            if len(dims) > 1:
                raise MismatchError(f"{where} is empty (shape {dims}); save the model again")
            return np.empty(dims, dtype)
        if message.number(14) == 1 or 13 in message:
            found = np.frombuffer(self._external(message, where, count * dtype.itemsize), dtype)
        elif 9 in message:
            data = message.bytes(9)[-1]
            if len(data) != count * dtype.itemsize:
                raise miscounted(where, len(data), count * dtype.itemsize, "bytes", dims)
            found = np.frombuffer(data, dtype)
        elif field in (4, 10):
            found = message.reals(field, code)
        else:
            bits = self._whole(message, field, where, count)
            found = bits.astype(f"<u{dtype.itemsize}").view(dtype)  # half floats come as whole numbers too
        if len(found) != count:
            raise miscounted(where, len(found), count, "numbers", dims)
        if kind == BFLOAT16:
            self.take(4 * count, where)
            give_way(found)
            found = (found.astype("<u4") << 16).view("<f4")
        return found.reshape(dims)

    def _whole(self, message: Message, field: int, where: str, count: int) -> np.ndarray:
        """Numbers that were written as varints, decoded in blocks."""
        self.take(10 * count, where)
        parts, found = [], 0
        for _, value in message.fields.get(field, ()):
            part = (
                np.array([value], np.uint64)
                if isinstance(value, int)
                else decoded(value, where, count - found)
            )
            found += len(part)
            if found > count:
                raise MismatchError(
                    f"{where}: more than {count:,} numbers for its shape; fetch the file again"
                )
            parts.append(part)
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def _external(self, message: Message, where: str, nbytes: int) -> memoryview:
        entries = {entry.text(1): entry.text(2) for entry in message.messages(13, "external data")}
        name = entries.get("location", "")
        if not self.allow_external:
            raise UnsafeFileError(
                f"{where} lies in another file ({name!r}), which could be any of yours; if you trust the "
                "model, let it read the files of its own folder: --allow-external (allow_external=True)"
            )
        if name not in self._beside:
            self._beside[name] = beside(self.path, name, where)
            self.left += 4 * len(self._beside[name])
        data = self._beside[name]
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or nbytes)
        except ValueError:
            raise DamagedFileError(f"{where}: its place in {name!r} is no number; fetch it again") from None
        if length != nbytes:
            raise MismatchError(f"{where}: {length:,} bytes in {name!r}, its shape needs {nbytes:,}")
        if not 0 <= offset <= len(data) - nbytes:
            raise DamagedFileError(
                f"{where}: bytes {offset:,} to {offset + nbytes:,} of {name!r}, which has {len(data):,}; "
                "cut short?"
            )
        return data[offset : offset + nbytes]


def mapped(handle: int, path: Path) -> memoryview:
    try:
        return memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{path}: cannot be mapped ({error}); copy it to a local disk") from None


def beside(model: Path, name: str, where: str) -> memoryview:
    """A plain file in the model's own folder, or an error: no path, no link, nothing that leads elsewhere."""
    refused = f"{where} lies in {name!r}"
    if name in ("", ".", "..") or set(name) & set("/\\:\0"):
        raise UnsafeFileError(f"{refused}, which is not a plain name in the model's folder")
    path = model.parent / name
    try:
        handle = os.open(
            path,
            os.O_RDONLY
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_NONBLOCK", 0)
            | getattr(os, "O_BINARY", 0),
        )
    except FileNotFoundError:
        raise DamagedFileError(f"{refused}, which is not there; fetch it too, beside {model.name}") from None
    except OSError as error:
        raise UnsafeFileError(
            f"{refused}, which cannot be opened as a plain file ({error.strerror})"
        ) from None
    try:
        found = os.fstat(handle)
        is_plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and not path.is_symlink()
        if not is_plain or path.resolve().parent != model.parent.resolve():
            raise UnsafeFileError(
                f"{refused}, which is a link or not a regular file; put a copy in its place"
            )
        if found.st_size == 0:
            raise DamagedFileError(f"{refused}, which has 0 bytes; fetch it again")
        return mapped(handle, path)
    finally:
        os.close(handle)


def miscounted(where: str, found: int, expected: int, what: str, dims: tuple[int, ...]) -> MismatchError:
    return MismatchError(
        f"{where}: {found:,} {what} for the shape {dims} (expected {expected:,}); cut short?"
    )


def few(message: Message, field: int) -> list[int]:
    """A short list of whole numbers; a long one is refused before it is unpacked."""
    held = message.fields.get(field, ())
    if sum(1 if isinstance(value, int) else len(value) for _, value in held) > MAX_LIST:
        raise TooLargeError(
            f"{message.what}: a list of more than {MAX_LIST:,} bytes; not a net that we could run"
        )
    return message.numbers(field)


def decoded(data: memoryview, where: str, most: int) -> np.ndarray:
    """All varints of a packed run as uint64: of each the seven low bits of every byte, the lowest first."""
    raw = np.frombuffer(data, np.uint8)
    if np.count_nonzero(raw < 0x80) > most:
        raise MismatchError(f"{where}: more numbers than its shape has room for; fetch the file again")
    parts, at = [], 0
    while at < len(raw):
        block = raw[at : at + BLOCK]
        ends = np.flatnonzero(block < 0x80)
        if len(ends) == 0 or np.diff(ends, prepend=-1).max() > 10:
            varint(data[at:], 0, where)  # says what is wrong
            raise DamagedFileError(f"{where}: a number of more than ten bytes; fetch it again")
        starts, values = np.concatenate([[0], ends[:-1] + 1]), np.zeros(len(ends), np.uint64)
        for byte in range(int((ends - starts).max()) + 1):
            has = ends - starts >= byte
            bits = (block[starts[has] + byte] & 0x7F).astype(np.uint64)
            values[has] |= bits << np.uint64(7 * byte)
        parts.append(values)
        at += int(ends[-1]) + 1
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One operation; "" among the inputs is one that was left out."""

    op: str
    name: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Message]
    where: str
    source: Source

    def integer(self, name: str, default: int) -> int:
        return self.attributes[name].number(3) if name in self.attributes else default

    def real(self, name: str, default: float) -> float:
        return self.attributes[name].real(2) if name in self.attributes else default

    def text(self, name: str, default: str) -> str:
        return self.attributes[name].text(4) if name in self.attributes else default

    def integers(self, name: str) -> list[int] | None:
        return few(self.attributes[name], 8) if name in self.attributes else None

    def tensor(self, name: str) -> np.ndarray:
        message = self.attributes[name].message(5, "tensor")
        return self.source.tensor(message, f"{self.where}: attribute {name!r}")


@dataclass(frozen=True)
class Port:
    """An input of the graph; None: a size that the file leaves open."""

    name: str
    kind: int
    dims: tuple[int | None, ...]


class Model:
    """What a ModelProto says, in words of Python."""

    def __init__(self, source: Source) -> None:
        path = source.path
        message = Message(source.data, str(path))
        if 7 not in message:
            raise FileFormatError(f"{path}: no graph in it, so no ONNX model; fetch it again")
        if len(message.bytes(7)) > 1:  # protobuf would join them, and then each reader sees another model
            raise DamagedFileError(f"{path}: more than one graph; fetch it again")
        graph = message.message(7, "graph")
        self.source, self.name, self.producer = source, graph.text(2), message.text(2)
        opsets = {one.text(1): one.number(2) for one in message.messages(8, "opset")}
        self.opset = opsets.get("", opsets.get("ai.onnx"))
        self.nodes = self._each(graph, 1, MAX_NODES, self._node)
        tensors = self._each(graph, 5, MAX_TENSORS, lambda one: one)
        self.initializers = {one.text(8): one for one in tensors}
        self.sparse = len(graph.bytes(15))
        self.inputs = self._each(graph, 11, MAX_TENSORS, port)
        self.outputs = [one.text(1) for one in self._each(graph, 12, MAX_TENSORS, lambda one: one)]

    def initializer(self, name: str) -> np.ndarray:
        return self.source.tensor(self.initializers[name], f"{self.source.path}: tensor {name!r}")

    def _each(self, graph: Message, field: int, most: int, made: Callable[[Message], Made]) -> list[Made]:
        parts = graph.bytes(field)
        if len(parts) > most:
            raise TooLargeError(
                f"{graph.what}: {len(parts):,} entries in field {field}, the limit is {most:,}"
            )
        return [made(Message(part, f"{graph.what} > {field}[{i}]")) for i, part in enumerate(parts)]

    def _node(self, message: Message) -> OnnxNode:
        op, name, outputs = message.text(4), message.text(3), tuple(message.texts(2))
        known_as = name or (outputs[0] if outputs else "")
        attributes = {one.text(1): one for one in message.messages(5, "attribute")}
        where = f"{self.source.path}: {op} {known_as!r}"
        return OnnxNode(
            op, name, message.text(7), tuple(message.texts(1)), outputs, attributes, where, self.source
        )


def port(message: Message) -> Port:
    tensor = message.message(2, "type").message(1, "tensor type")
    dims = tensor.message(2, "shape").messages(1, "dim")
    if len(dims) > MAX_RANK:
        raise DamagedFileError(f"{message.what}: a shape of {len(dims)} sizes; fetch it again")
    sizes = [dim.number(1) if 1 in dim and dim.number(1) > 0 else None for dim in dims]
    return Port(message.text(1), tensor.number(1), tuple(sizes))
