"""A net in the making: nodes under names of their own, and of each map what the next layer must know."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from minidnn import layers as L
from minidnn.errors import MismatchError, TooLargeError
from minidnn.net import Node
from minidnn.window import Window
from weights_tools.readers.keras.arrays import weight_counts
from weights_tools.readers.keras.config import Wiring
from weights_tools.readers.keras.part import Part

MAX_MAP = 1 << 13  # pixels along an axis
STAND_IN = 1 << 10  # for a size that is left open, to check all the others by
NO_PAD = (0, 0, 0, 0)
KEEPS_SIGN = L.MaxPool | L.AvgPool | L.GlobalAvgPool | L.Concat | L.Add | L.Upsample | L.Flatten | L.Dropout


@dataclass(frozen=True)
class Map:
    """The output of a node. What the file leaves open is None; a vector is a map of one pixel."""

    name: str
    h: int | None
    w: int | None
    c: int | None
    rank: int = 4  # 2 for what is a vector to Keras
    pad: tuple[int, int, int, int] = NO_PAD  # zeros that a ZeroPadding2D wants around it, not there yet
    padding: Part | None = None  # the last layer that asked for them
    is_positive: bool = False  # nothing in it is below 0
    chw: tuple[int, int, int] | None = None  # of a vector: what it was laid out from, channel by channel

    def keras_size(self, is_chw: bool) -> tuple[int | None, ...]:
        """As Keras would state its shape, without the batch."""
        if self.rank == 2:
            return (self.c,)
        return (self.c, self.h, self.w) if is_chw else (self.h, self.w, self.c)


class Assembly:
    """`is_chw`: the model was built for maps (C, H, W); its numbers are turned into our order."""

    def __init__(self, wired: Wiring, arrays_of: Callable[[Part], list[np.ndarray]], is_chw: bool) -> None:
        self.arrays_of, self.is_chw = arrays_of, is_chw
        self.nodes: list[Node] = []
        self.aliases: dict[str, str] = {}
        self.steps: list[str] = []
        self.depends_on_size = False  # whether pads were chosen by the size of the image
        self._arrays: dict[Part, list[np.ndarray]] = {}
        self._first: dict[tuple[Part, str], L.Layer] = {}
        self._reserved = Counter(part.name for part in wired.parts if part.name != wired.input_name)
        self.input = clean(wired.input_name) or "input" if "data" in self._reserved else "data"
        self._taken, self._tries = {self.input, "all", "needed"}, Counter[str]()
        if wired.input_name:
            self.aliases[wired.input_name] = self.input

    def arrays(self, part: Part) -> list[np.ndarray]:
        """The arrays of a layer, as many as its config asks for; two calls of one layer share them."""
        if part not in self._arrays:
            found, wanted = self.arrays_of(part), sum(weight_counts(part))
            if len(found) != wanted:
                raise MismatchError(f"found {len(found)} arrays, expected {wanted}; fetch the file again")
            self._arrays[part] = found
        return self._arrays[part]

    def filters(self, part: Part, rank: int = 4) -> tuple[np.ndarray, np.ndarray | None]:
        """A kernel of so many axes, and its bias if it has one."""
        kernel, *bias = self.arrays(part)
        if kernel.ndim != rank or any(one.ndim != 1 for one in bias):
            shapes = " and ".join(str(one.shape) for one in (kernel, *bias))
            raise MismatchError(f"found arrays {shapes}, expected a kernel of {rank} axes and a bias of one")
        return kernel, bias[0] if bias else None

    def add(
        self,
        part: Part,
        layer: L.Layer,
        *maps: Map,
        suffix: str = "",
        rank: int | None = None,
        chw: bool = False,
    ) -> Map:
        """One node more; `chw` for a vector laid out channel by channel."""
        name, x = self._fresh(part, suffix), maps[0]
        h, w, c = _size_after(layer, maps)
        if max(h or 0, w or 0) > MAX_MAP:
            raise TooLargeError(f"makes a map of {h}x{w}, the limit is {MAX_MAP}; not a net we could run")
        layer = self._shared(part, suffix, layer)
        self.nodes.append(Node(name, layer, tuple(one.name for one in maps)))
        positive = isinstance(layer, L.ReLU | L.Sigmoid | L.Softmax)
        positive |= isinstance(layer, KEEPS_SIGN) and all(one.is_positive for one in maps)
        rank = rank or x.rank
        order = None if isinstance(layer, L.FC) or rank == 4 else x.chw
        if chw and x.c != 1 and (x.h, x.w) != (1, 1):
            if x.h is None or x.w is None or x.c is None:
                raise MismatchError(
                    "lays out a map of unknown size channel by channel; give input_size=(h, w)"
                )
            order = (x.c, x.h, x.w)
        return Map(name, h, w, c, rank, is_positive=positive, chw=order)

    def nothing(self, part: Part, x: Map, *, rank: int | None = None) -> Map:
        """A layer that changes nothing in testing: its name is another name of the node before."""
        if part.kind != "InputLayer":
            self.steps.append(f"dropped {part.name!r} ({part.kind}), which does nothing here")
        self.aliases.setdefault(part.name, x.name)
        return replace(x, rank=rank or x.rank)

    def padded(self, part: Part, x: Map, pad: tuple[int, int, int, int]) -> Map:
        """Zeros around a map, for the window behind it to add."""
        top, bottom, left, right = (a + b for a, b in zip(x.pad, pad, strict=True))
        if max(top, bottom, left, right) > MAX_MAP:
            raise TooLargeError(f"pads a map by {x.pad} and {pad}, the limit is {MAX_MAP}")
        self.steps.append(f"folded {part.name!r} ({part.kind}) into the window behind it")
        self.aliases.setdefault(part.name, x.name)
        return replace(x, pad=(top, bottom, left, right), padding=part)

    def settled(self, x: Map) -> Map:
        """A map whose zeros are there. What cannot pad by itself reads a convolution that does only that."""
        if not any(x.pad) or x.padding is None:
            return x
        if x.c is None:
            raise MismatchError("pads a map of an unknown number of channels; fetch the file again")
        said = f"{x.padding.name!r} ({x.padding.kind})"
        self.steps.append(f"kept {said} as a 1x1 convolution: what is behind it does not pad with zeros")
        if self.aliases.get(x.padding.name) == x.name:
            del self.aliases[x.padding.name]
        ones = np.ones((1, 1, 1, x.c), "float32")
        y = self.add(x.padding, L.Conv(ones, None, Window((1, 1), pad=x.pad), x.c), replace(x, pad=NO_PAD))
        return replace(y, is_positive=x.is_positive)

    def in_our_order(self, array: np.ndarray, x: Map) -> np.ndarray:
        """An array whose first axis runs along a vector, where that was laid out from (c, h, w)."""
        if x.chw is None:
            return array
        if len(array) != np.prod(x.chw):
            raise MismatchError(f"found {len(array)} rows, expected one for each number of {x.chw}")
        return array.reshape(*x.chw, -1).transpose(1, 2, 0, 3).reshape(array.shape)

    def _shared(self, part: Part, suffix: str, layer: L.Layer) -> L.Layer:
        """The second call of a layer holds the very arrays of the first."""
        first = self._first.setdefault((part, suffix), layer)
        held, own = first.params | first.buffers, layer.params | layer.buffers
        same = first is not layer and all(np.array_equal(held[name], array) for name, array in own.items())
        return layer.replacing(**held) if same else layer

    def _fresh(self, part: Part, suffix: str) -> str:
        """The layer's own name if no other has it; else with its model's before it, or a number behind."""
        tail = f"_{suffix}" if suffix else ""
        own = f"{clean(part.name)}{tail}"
        full = f"{clean('/'.join((*part.within, part.name)))}{tail}"
        is_its_own = not part.within or self._reserved[part.name] == 1
        for name in (own, full) if is_its_own else (full,):
            if name not in self._taken and not (suffix and name in self._reserved):
                break
        else:
            name = full
            while name in self._taken or name in self._reserved:
                self._tries[full] += 1
                name = f"{full}_{self._tries[full] + 1}"
        self._taken.add(name)
        if name != part.name and not suffix:
            self.aliases.setdefault(part.name, name)
        return name


def clean(name: str) -> str:
    """A name that can be a path in our own files."""
    parts = (re.sub(r"[^A-Za-z0-9_.-]", "_", part) for part in name.split("/"))
    return "/".join(part if part.strip(".") else "_" for part in parts)[:180].rstrip("/")


def _size_after(layer: L.Layer, maps: tuple[Map, ...]) -> tuple[int | None, int | None, int | None]:
    """(h, w, c) behind a layer; a ShapeError where the maps do not fit it."""
    shapes = []
    for x in maps:
        c = x.c
        if c is None and isinstance(layer, L.FC | L.Conv | L.ConvTranspose):
            groups = layer.groups if isinstance(layer, L.Conv) else 1
            c = layer.w.shape[3 if isinstance(layer, L.ConvTranspose) else 2] * groups
        if c is None:
            return (1, 1, None) if isinstance(layer, L.Flatten | L.GlobalAvgPool) else (x.h, x.w, None)
        shapes.append((1, x.h or STAND_IN, x.w or STAND_IN, c))
    _, h, w, out = layer.out_shape(*shapes)
    one_pixel = isinstance(layer, L.GlobalAvgPool)
    h_open, w_open = any(x.h is None for x in maps), any(x.w is None for x in maps)
    if isinstance(layer, L.Flatten):
        return 1, 1, None if h_open or w_open else out
    return h if one_pixel or not h_open else None, w if one_pixel or not w_open else None, out
