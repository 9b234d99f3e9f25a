"""The arrays of a net: who shares which, and the same net with others.

Two nodes share a weight when they hold the very same array; whatever is done to it is done once, for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from minidnn.arrays import Array, to_device
from minidnn.errors import UnknownLayerError, UsageError, did_you_mean
from minidnn.graph import Graph, Node
from minidnn.kernels import Kernels
from minidnn.layers import FC, Conv, Flatten
from minidnn.layers.base import lacks_weights
from minidnn.res import Res


class Weighted(Graph):
    """A graph whose layers hold arrays. They are not writeable, except within `updating()`."""

    def __init__(self, nodes: Iterable[Node], input: str, **about: Any) -> None:
        super().__init__(nodes, input)
        self.nodes = mapped(self.nodes, read_only)
        self.about = about  # what else the net is known by, handed on to the nets made from it
        self.prepared = Kernels(self.names[1:], about.get("kernels", "auto"))  # derived from the weights
        self._owned: set[int] = set()  # ids of arrays that no one else holds: updating() may write to them

    @property
    def params(self) -> dict[str, Array]:
        """{"conv1/w": array}: every trained array once, under the first node that holds it."""
        return once(self.nodes, "params")

    @property
    def buffers(self) -> dict[str, Array]:
        """{"bn1/mean": array}: every stored but untrained array once."""
        return once(self.nodes, "buffers")

    @property
    def without_weights(self) -> frozenset[str]:
        """The layers of which only the shape of the weights is known."""
        return frozenset(node.name for node in self.nodes if lacks_weights(node.layer))

    @property
    def dtype(self) -> np.dtype:
        """That of the weights; float32 for a net that has none."""
        return np.result_type(*{array.dtype for array in self.params.values()} or [np.dtype("float32")])

    def gradients(self, res: Res) -> dict[str, Array]:
        """dz/dw of the last backward(s) with params=True, by the names of `params`; sharers are summed."""
        sums = {}
        for holders, _ in sharers(self.nodes, "params"):
            parts = [res[node].dzdw[name] for node, name in holders if res[node].dzdw]
            if parts:
                sums["/".join(holders[0])] = sum(parts[1:], start=parts[0])
        return sums

    def replacing(self, arrays: Mapping[str, Array]) -> Self:
        """The same net with other arrays, by the names of `params` and `buffers`."""
        old = self.params | self.buffers
        for name in arrays:
            if name not in old:
                raise UnknownLayerError(f"no weights {name!r}{did_you_mean(name, old)}")
        new = {id(old[name]): array for name, array in arrays.items()}
        return self._with(mapped(self.nodes, lambda array: new.get(id(array), array)))

    def astype(self, dtype: Any) -> Self:
        """The same net computing in that dtype: float64 for checks, float32 for work."""
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise UsageError(f"a net computes in float32 or float64, not in {np.dtype(dtype)}")
        return self._with(mapped(self.nodes, lambda array: array.astype(dtype, copy=False)))

    def to(self, device: str) -> Self:
        """The same net with its weights on that device: "cpu" or "cuda"."""
        return self._with(mapped(self.nodes, lambda array: to_device(array, device)))

    @contextmanager
    def updating(self) -> Iterator[dict[str, Array]]:
        """The one door to changing weights in place: `with net.updating() as w: w["conv1/w"] -= step`.

        What others hold too (the caller's array, a mapped file, a net made from this one) is copied first, so
        only this net changes.
        """
        owned: set[int] = set()

        def own(array: Array) -> Array:
            mine = array if id(array) in self._owned else array.copy()
            owned.add(id(mine))
            return mine

        self.nodes = mapped(self.nodes, own)
        self._owned = owned
        arrays = self.params | self.buffers
        set_writeable(arrays.values(), True)
        try:
            yield arrays
        finally:
            set_writeable(arrays.values(), False)
            self.prepared.forget()

    def kernels(self, size: tuple[int, int] | None = None) -> dict[str, str]:
        """{"conv1_1": "im2col", ...}: what computes the convolutions for images of that (h, w)."""
        if self.about.get("input_shape") is None:
            raise UsageError("made for images of no particular size: give the net its input_shape=(h, w, c)")
        h, w, c = self.about["input_shape"]
        convs = {n.name: (n.layer, n.inputs[0]) for n in self.nodes if isinstance(n.layer, Conv)}
        shapes = self.shapes((1, *(size or (h, w)), c), upto=convs)
        return {
            name: self.prepared[name].algorithm(shapes[before], conv.w, conv.window, conv.groups)
            for name, (conv, before) in convs.items()
        }

    def with_kernels(self, setting: str | Mapping[str, str]) -> Self:
        """The same net by "im2col", "winograd2", "winograd4" or "auto", or by {layer: one of these}."""
        return type(self)(self.nodes, self.input, **self.about | {"kernels": setting})

    def as_convolutional(self) -> Self:
        """Every FC as a Conv that slides: a larger image then gives a map of scores (Long et al. 2015)."""
        flat = {node.name: node.inputs[0] for node in self.nodes if isinstance(node.layer, Flatten)}
        made_for = self.about.get("input_shape")
        maps = self.shapes((1, *made_for)) if made_for else {}
        nodes = []
        for name, layer, inputs in self.nodes:
            if isinstance(layer, FC):
                unflattened = flat.get(inputs[0])
                if unflattened is not None and unflattened not in maps:
                    raise UsageError(f"{name!r} reads the flat {inputs[0]!r}: give the net its input_shape")
                layer = layer.as_conv(None if unflattened is None else maps[unflattened][1:])
                inputs = (unflattened or inputs[0],)
            nodes.append(Node(name, layer, inputs))
        read = {name for node in nodes for name in node.inputs} | {self.nodes[-1].name}
        return self._with(node for node in nodes if node.name in read or node.name not in flat)

    def __repr__(self) -> str:
        count = sum(array.size for array in self.params.values())
        path = f"{self.input!r} to {self.nodes[-1].name!r}"
        return f"<{type(self).__name__} of {len(self.nodes)} layers from {path}, {count:,} parameters>"

    def _with(self, nodes: Iterable[Node]) -> Self:
        self._owned = set()  # the new net holds these arrays too
        return type(self)(nodes, self.input, **self.about)


def sharers(nodes: Iterable[Node], role: str) -> list[tuple[list[tuple[str, str]], Array]]:
    """Every array of that role ("params", "buffers") once, with all the (node, name) that hold it."""
    found: dict[int, tuple[list[tuple[str, str]], Array]] = {}
    for node in nodes:
        for name, array in getattr(node.layer, role).items():
            found.setdefault(id(array), ([], array))[0].append((node.name, name))
    return list(found.values())


def once(nodes: Iterable[Node], role: str) -> dict[str, Array]:
    """{"conv1/w": array}: every array of that role once, under the first node that holds it."""
    return {"/".join(holders[0]): array for holders, array in sharers(nodes, role)}


def mapped(nodes: Iterable[Node], change: Callable[[Array], Array]) -> tuple[Node, ...]:
    """The nodes with every array changed; what was shared stays shared."""
    done: dict[int, Array] = {}
    new_nodes = []
    for node in nodes:
        own = node.layer.params | node.layer.buffers
        for array in own.values():
            if id(array) not in done:
                done[id(array)] = change(array)
        new = {name: done[id(array)] for name, array in own.items()}
        same = all(new[name] is array for name, array in own.items())
        new_nodes.append(node if same else node._replace(layer=node.layer.replacing(**new)))
    return tuple(new_nodes)


def read_only(array: Array) -> Array:
    """The same memory, safe from writing (CuPy has no such lock)."""
    if not isinstance(array, np.ndarray) or not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def set_writeable(arrays: Iterable[Array], allowed: bool) -> None:
    for array in arrays:
        if isinstance(array, np.ndarray):
            array.flags.writeable = allowed
