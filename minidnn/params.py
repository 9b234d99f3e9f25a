"""The arrays of a net: who shares which, and the same net with others.

Two nodes share a weight when they hold the very same array; whatever is done to it is done once, for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

import numpy as np

from minidnn.arrays import Array, device_of, to_device
from minidnn.errors import UnknownLayerError, UsageError, WeightsError, did_you_mean
from minidnn.graph import Graph, Node
from minidnn.kernels import Kernels
from minidnn.layers import FC, Conv, Dropout, Flatten, GradientReversal, LeakyReLU, ReLU, Sigmoid, Tanh
from minidnn.layers.base import drawn, is_placeholder, lacks_weights
from minidnn.res import Res

POINTWISE = ReLU | LeakyReLU | Sigmoid | Tanh | Dropout | GradientReversal  # as good on a map as on a vector


class Weighted(Graph):
    """A graph whose layers hold arrays. They are not writeable, except within `updating()`."""

    def __init__(self, nodes: Iterable[Node], input: str, **about: Any) -> None:
        super().__init__(nodes, input)
        self.nodes = mapped(self.nodes, read_only)
        self.about = about  # what else the net is known by, handed on to the nets made from it
        self.version = 0  # of the weights: a run that began with another one cannot go on
        self.prepared = Kernels(self.names[1:], about.get("kernels", "auto"))
        self._open = False  # whether updating() is under way
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

    def check_ready(self, node: Node) -> None:
        """That the weights of this layer are there, before it runs; a net in a file looks at them first."""
        if lacks_weights(node.layer):
            raise WeightsError(f"{node.name!r} has no weights yet, only shapes; draw or load some")

    @cached_property
    def dtype(self) -> np.dtype:
        """That of the weights; float32 for a net that has none."""
        return np.result_type(*{array.dtype for array in self.params.values()} or [np.dtype("float32")])

    @property
    def device(self) -> str:
        """Where the weights lie, "cpu" or "cuda"; "cpu" for a net that has none."""
        return next(map(device_of, self.params.values()), "cpu")

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
        return self.with_nodes(mapped(self.nodes, lambda array: new.get(id(array), array)))

    def astype(self, dtype: Any) -> Self:
        """The same net computing in that dtype: float64 for checks, float32 for work."""
        if dtype not in (np.float32, np.float64, "float32", "float64"):
            raise UsageError(f"a net computes in float32 or float64, not in {dtype!r}")

        def converted(array: Array) -> Array:
            known = not is_placeholder(array)
            return array.astype(dtype, copy=False) if known else drawn(None, array.shape, 1, dtype)

        return self.with_nodes(mapped(self.nodes, converted))

    def to(self, device: str) -> Self:
        """The same net with its weights on that device: "cpu" or "cuda"."""
        return self.with_nodes(mapped(self.nodes, lambda a: a if is_placeholder(a) else to_device(a, device)))

    @contextmanager
    def updating(self) -> Iterator[dict[str, Array]]:
        """The one door to changing weights in place: `with net.updating() as w: w["conv1/w"] -= step`.

        The first time the arrays are copied, so those that this net was made of never change, nor do nets
        made from it by its methods. What was taken out of it since (net.params, net.nodes) shows every later
        change.
        """
        if self.without_weights:
            raise WeightsError(
                f"no weights yet in {', '.join(sorted(self.without_weights))}; draw or load some"
            )
        if self._open:
            raise UsageError("net.updating() within net.updating(): write to the weights of the outer one")
        owned: set[int] = set()

        def own(array: Array) -> Array:
            mine = array if id(array) in self._owned else array.copy()
            owned.add(id(mine))
            return mine

        self.nodes = mapped(self.nodes, own)
        self._owned, self._open = owned, True
        arrays = WrittenThrough(self.params | self.buffers)
        set_writeable(arrays.values(), True)
        try:
            yield arrays
        finally:
            set_writeable(arrays.values(), False)
            self.version += 1
            self.prepared.forget()
            self._open = False

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
        """The same net by "auto", "im2col", "winograd2" … where it suits, or by {layer: one that obeys}."""
        return self.with_nodes(self.nodes, kernels=setting)

    def as_convolutional(self) -> Self:
        """Every FC as a Conv that slides: a larger image then gives a map of scores (Long et al. 2015)."""
        made_for = self.about.get("input_shape")
        maps = self.shapes((1, *made_for)) if made_for else {}
        flattened: dict[str, str] = {}  # what is flat, by now or since it was flattened: the map that it was
        nodes = []
        for name, layer, inputs in self.nodes:
            map_before = flattened.get(inputs[0])
            if map_before is not None:
                if map_before not in maps:
                    raise UsageError(f"{name!r} reads the flat {inputs[0]!r}: give the net its input_shape")
                if not isinstance(layer, FC | POINTWISE):
                    what = f"a {type(layer).__name__} that reads the flat {inputs[0]!r}"
                    raise UsageError(f"{name!r} is {what}, which cannot slide over a map")
            if isinstance(layer, Flatten):
                flattened[name] = inputs[0]
            elif isinstance(layer, FC):
                layer = layer.as_conv(maps[map_before][1:] if map_before else None)
            elif map_before is not None:
                flattened[name] = map_before
            nodes.append(Node(name, layer, inputs))
        straight = {node.name: node.inputs[0] for node in nodes if isinstance(node.layer, Flatten)}
        ends = straight.keys() - {name for node in nodes for name in node.inputs}
        return self.with_nodes(
            node._replace(inputs=tuple(straight.get(name, name) for name in node.inputs))
            for node in nodes
            if node.name not in straight or node.name in ends
        )

    def __repr__(self) -> str:
        count = sum(array.size for array in self.params.values())
        path = f"{self.input!r} to {self.nodes[-1].name!r}"
        return f"<{type(self).__name__} of {len(self.nodes)} layers from {path}, {count:,} parameters>"

    def with_nodes(self, nodes: Iterable[Node], **about: Any) -> Self:
        """A net of these nodes that is known by the same things as this one, but for what is given."""
        self._owned = set()  # the new net holds these arrays too
        new = type(self)(nodes, self.input, **self.about | about)
        new.version = self.version
        return new


class WrittenThrough(dict[str, Array]):
    """Arrays by name; to set one is to write into it."""

    def __setitem__(self, name: str, value: Array) -> None:
        if name not in self:
            raise UnknownLayerError(f"no weights {name!r}{did_you_mean(name, self)}")
        if value is not self[name]:  # after w["conv1/w"] -= step it is, and written to already
            self[name][...] = value


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
