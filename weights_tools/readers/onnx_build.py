"""Building a net of ours while walking through a graph of ONNX: what every operation needs for that.

A value is a constant array, or a map of ours as the file sees it; nodes come into being only where numbers
change.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from minidnn.errors import DamagedFileError, TooLargeError, UnsupportedError
from minidnn.graph import Node
from minidnn.layers import FC, BatchNorm, Conv, ConvTranspose, Flatten, Layer
from minidnn.window import Window
from weights_tools.readers.onnx_layout import Atoms, Seen, extent, positions
from weights_tools.readers.onnx_proto import Model, OnnxNode
from weights_tools.room import give_way

MAX_SIDE = 8192  # of a map
MAX_NUMBERS = 1 << 26  # of a map
INPUT = "data"
TAKEN = (INPUT, "all", "needed")

Value = Seen | np.ndarray


class Lost(Exception):
    """An operation reads what could not be made; that has been reported already."""


class Builder:
    """The nodes made so far, and what every tensor of the file has become."""

    def __init__(self, model: Model, opset: int, uses: Counter[str]) -> None:
        self.model, self.source, self.opset, self.uses = model, model.source, opset, uses
        self.nodes: dict[str, Node] = {}
        self.sizes: dict[str, tuple[int, int, int]] = {}
        self.values: dict[str, Value | None] = {}
        self.known_as: dict[str, list[str]] = {}
        self.done: Counter[str] = Counter()  # what the report should say, and how often it happened
        self.warnings: dict[str, None] = {}
        self._takers: Counter[str] = Counter()  # of a name: how many had to be given another
        self._final: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}

    # What an operation reads.

    def value(self, node: OnnxNode, i: int) -> Value | None:
        """Input number i; None if it was left out."""
        name = node.inputs[i] if i < len(node.inputs) else ""
        if not name:
            return None
        if name not in self.values and name in self.model.initializers:
            self.values[name] = self.model.initializer(name)
        if name not in self.values:
            raise DamagedFileError(
                f"{node.where} reads {name!r}, which nothing before it makes; fetch it again"
            )
        value = self.values[name]
        if value is None:
            raise Lost
        return value

    def map(self, node: OnnxNode, i: int = 0, *, padded: bool = True) -> Seen:
        """Input number i, as a map; its pads put around it unless the caller sees to them."""
        value = self.value(node, i)
        if value is None:
            raise DamagedFileError(f"{node.where} has no input {i}; fetch the file again")
        if not isinstance(value, Seen):
            raise UnsupportedError(f"{node.op} of a constant only")
        return self.with_pad(node, value) if padded and any(value.pad) else value

    def constant(self, node: OnnxNode, i: int, what: str) -> np.ndarray:
        value = self.optional(node, i, what)
        if value is None:
            raise DamagedFileError(f"{node.where} has no {what}; fetch the file again")
        return value

    def optional(self, node: OnnxNode, i: int, what: str) -> np.ndarray | None:
        value = self.value(node, i)
        if isinstance(value, Seen):
            raise UnsupportedError(f"{node.op} with {what} computed from the image")
        return value

    def listed(self, node: OnnxNode, name: str, i: int | None = None) -> list[int] | None:
        """Whole numbers that are an attribute in old files and input number i in new ones."""
        found = node.integers(name)
        if found is None and i is not None and (array := self.optional(node, i, name)) is not None:
            if array.size > 64 or array.dtype.kind not in "iu":
                raise DamagedFileError(
                    f"{node.where}: {name} is no short list of whole numbers; fetch it again"
                )
            found = [int(n) for n in array.reshape(-1)]
        return found

    # What an operation makes.

    def emit(self, node: OnnxNode, layer: Layer, *inputs: Seen, suffix: str = "") -> str:
        """A new node of the net; its name."""
        name = self._named((node.name or node.outputs[0]) + suffix, node.op)
        shape = layer.out_shape(*((1, *self.sizes[x.node]) for x in inputs))
        self.sizes[name] = self.checked(node.where, shape[1:])
        self.nodes[name] = Node(name, layer, tuple(x.node for x in inputs))
        self.known_as[name] = []
        return name

    def checked(self, where: str, size: Iterable[int]) -> tuple[int, int, int]:
        """(h, w, c), if such a map could ever be computed."""
        h, w, c = size
        if not (h <= MAX_SIDE and w <= MAX_SIDE and h * w * c <= MAX_NUMBERS):
            raise TooLargeError(f"{where}: a map of {h:,}x{w:,}x{c:,}; not a net that we could run")
        return h, w, c

    def layer(self, x: Seen) -> Layer | None:
        return self.nodes[x.node].layer if x.node in self.nodes else None

    def retouch(self, x: Seen, layer: Layer) -> Seen:
        """Give the node whose output this is another layer; its names of before are not right any more."""
        self.nodes[x.node] = self.nodes[x.node]._replace(layer=layer)
        self.known_as[x.node] = []
        return x

    def final(self, array: np.ndarray, how: tuple, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """An array as a layer keeps it: changed, float32, in one aligned piece of its own.

        The same array changed in the same way is one array, which its layers share.
        """
        if array.dtype.kind != "f":
            raise UnsupportedError(f"weights of type {array.dtype}")
        key = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str, how)
        if key not in self._final:
            self.source.take(4 * array.size, f"{self.source.path}")
            give_way(array)
            made = np.ascontiguousarray(change(array), np.float32)
            if np.may_share_memory(made, array):  # it would keep the file open, at whatever byte it lies
                made = made.copy()
            if array.dtype != np.float32:
                self.done[f"made {array.dtype} weights float32"] += 1
            self._final[key] = array, made  # the first is kept so that no other takes its address
        return self._final[key][1]

    def bind(self, node: OnnxNode, values: list[Value | None]) -> None:
        """The outputs of an operation; what comes after the first may not be used by anyone."""
        for i, name in enumerate(node.outputs):
            if name and (name in self.values or name in self.model.initializers):
                raise DamagedFileError(f"{node.where}: {name!r} is made twice; fetch the file again")
            value = values[i] if i < len(values) else None
            if isinstance(value, Seen):
                value = replace(value, sole=value.sole and self.uses[name] == 1)
                self.known_as[value.node] += [name, node.name]
            self.values[name] = value

    # Maps in the order in which a layer wants them.

    def as_image(self, node: OnnxNode, x: Seen, *, suffix: str = "_order") -> Seen:
        """x with the axes (c, h, w), as the file's convolutions want it."""
        if len(x.axes) != 3:
            raise UnsupportedError(f"{node.op} of {len(x.axes) + 1} axes")
        if any(x.pad) and x.order != "chw":
            x = self.with_pad(node, x)
        return self.rearranged(node, x, x.axes[1], x.axes[2], x.axes[0], suffix)

    def as_vector(self, node: OnnxNode, x: Seen) -> Seen:
        """x as a map of one pixel, in whatever order."""
        if not (x.rows or x.cols):
            return x
        name = self.emit(node, Flatten(), x, suffix="_flat")
        return replace(x, node=name, rows=(), cols=(), chans=x.ours, sole=True)

    def rearranged(
        self, node: OnnxNode, x: Seen, rows: Atoms, cols: Atoms, chans: Atoms, suffix: str = "_order"
    ) -> Seen:
        """x on a map of these axes: by no layer at all, or by filters of 0 and 1, which are exact.

        What moves from the channels to the place is a convolution transposed (pixel shuffle); the other way
        round, and for channels that only change their order, it is a convolution.
        """
        new = replace(x, rows=rows, cols=cols, chans=chans)
        if new.ours == x.ours and (len(rows), len(cols)) == (len(x.rows), len(x.cols)):
            return x
        if not rows and not cols and chans == x.ours:
            return self.as_vector(node, x)
        if x.rows[: len(rows)] == rows and x.cols[: len(cols)] == cols:
            a, b = x.rows[len(rows) :], x.cols[len(cols) :]
            kernel, seen = (extent(a), extent(b)), a + b + x.chans
            w = self._filters(node, kernel, seen, chans)
            layer: Layer = Conv(w, None, Window.of(kernel, stride=kernel))
        elif rows[: len(x.rows)] == x.rows and cols[: len(x.cols)] == x.cols:
            a, b = rows[len(x.rows) :], cols[len(x.cols) :]
            kernel, seen = (extent(a), extent(b)), a + b + chans
            w = self._filters(node, kernel, seen, x.chans)
            layer = ConvTranspose(w, None, Window.of(kernel, stride=kernel))
        else:
            raise UnsupportedError(f"{node.op} of a map whose rows, columns and channels change places")
        self.done["rearranged pixels by fixed filters of 0 and 1"] += 1
        return replace(new, node=self.emit(node, layer, x, suffix=suffix), sole=True)

    def _filters(self, node: OnnxNode, kernel: tuple[int, int], taps: Atoms, chans: Atoms) -> np.ndarray:
        """(kh, kw, a, b), where each tap and channel, counted along `taps`, meets one channel of `chans`."""
        self.source.take(4 * extent(taps) * extent(chans), node.where)
        w = np.zeros((extent(taps), extent(chans)), np.float32)
        w[np.arange(len(w)), positions(chans, taps)] = 1
        return w.reshape(*kernel, -1, extent(chans))

    def with_pad(self, node: OnnxNode, x: Seen) -> Seen:
        """x with its zeros around it, by a filter of 1 for each channel."""
        if x.fill != 0:
            raise UnsupportedError(f"Pad with {x.fill:g} before {node.op}")
        c = x.size[2]
        self.source.take(4 * c, node.where)
        layer = Conv(np.ones((1, 1, 1, c), np.float32), None, Window.of(1, pad=x.pad), groups=c)
        name = self.emit(node, layer, x, suffix="_pad")
        self.done["padded by a filter of 1 for each channel"] += 1
        return Seen.of(name, x.batch, self.sizes[name], x.order or "chw")

    # Scales and shifts.

    def scaled(self, node: OnnxNode, x: Seen, scale: np.ndarray | None, shift: np.ndarray | None) -> Seen:
        """x * scale + shift with a number for each channel, or one for all: in the layer before, if only
        this reads it, else by a batch norm of mean 0, variance 1 and eps 0.
        """
        c, layer = x.size[2], self.layer(x)
        self.source.take(16 * c, node.where)
        gamma = np.ones(c, np.float32) if scale is None else wide(scale, c)
        beta = np.zeros(c, np.float32) if shift is None else wide(shift, c)
        if x.sole and scale is None and isinstance(layer, Conv | ConvTranspose | FC):
            b = beta if layer.b is None else layer.b + beta
            return self.retouch(x, replace(layer, b=b))
        if x.sole and isinstance(layer, BatchNorm):
            return self.retouch(x, replace(layer, gamma=layer.gamma * gamma, beta=layer.beta * gamma + beta))
        self.done["made a scale or a shift a batch norm of mean 0, variance 1 and eps 0"] += 1
        norm = BatchNorm(gamma, beta, np.zeros(c, np.float32), np.ones(c, np.float32), eps=0.0)
        return x.on(self.emit(node, norm, x))

    # Names.

    def _named(self, wanted: str, op: str) -> str:
        """A name like that, which is legal in a weight file and not taken. A bare number would be mistaken
        for the number of a layer.
        """
        parts = [part for part in re.sub(r"[^A-Za-z0-9_./-]", "_", wanted).split("/") if part.strip(".")]
        name = "/".join(parts)[-180:].strip("/") or op.lower()
        if name.isdecimal():
            name = f"{op.lower()}_{name}"
        unique = name
        while unique in self.nodes or unique in TAKEN:
            self._takers[name] += 1
            unique = f"{name}_{self._takers[name] + 1}"
        return unique


def wide(numbers: np.ndarray, c: int) -> np.ndarray:
    """A number for each channel, float32."""
    return np.broadcast_to(numbers, (c,)).astype(np.float32)
