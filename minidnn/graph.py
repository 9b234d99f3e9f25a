"""The graph of a net: named nodes in an order in which everything is made before it is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from operator import index
from typing import Any, NamedTuple

from minidnn.arrays import no_room
from minidnn.errors import ShapeError, UnknownLayerError, UsageError, did_you_mean
from minidnn.layers import Conv, MaxPool, ReLU
from minidnn.layers.base import Layer, Shape

Handle = str | int  # a layer by its name, or by its number as the summary prints it


class Node(NamedTuple):
    """A layer with its name and the names of what it reads."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]


class Graph:
    """Who reads whom, under which name, in which shape. Number 0 is the input, 1 the first node."""

    def __init__(self, nodes: Iterable[Node], input: str) -> None:
        self.nodes = tuple(
            Node(name, layer, (inputs,) if isinstance(inputs, str) else tuple(inputs))
            for name, layer, inputs in nodes
        )
        self.input = input
        self.aliases: Mapping[
            str, str
        ] = {}  # other names of layers, as the file had them that they came from
        self._numbers = _numbered(self.nodes, input)
        self._known: tuple[Any, dict[str, Shape]] = None, {}  # the shapes that were asked for last

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def name_of(self, layer: Handle) -> str:
        """The name of a layer given by name or number."""
        if isinstance(layer, str):
            name = layer if layer in self._numbers else self.aliases.get(layer, layer)
            if name not in self._numbers:
                known = [*self._numbers, *self.aliases]
                raise UnknownLayerError(f"no layer {layer!r}{did_you_mean(layer, known)}")
            return name
        if not hasattr(layer, "__index__") or not 0 <= index(layer) < len(self._numbers):
            raise UnknownLayerError(f"no layer {layer}: this net has 0 ({self.input}) to {len(self.nodes)}")
        return self.names[layer]

    def names_of(self, layers: Handle | Collection[Handle]) -> tuple[str, ...]:
        names = tuple(self.name_of(layer) for layer in listed(layers))
        if not names:
            raise UsageError("no layer was named; give one, or a list of some")
        return names

    def number_of(self, layer: Handle) -> int:
        return self._numbers[self.name_of(layer)]

    def node(self, layer: Handle) -> Node:
        """The node of that name or number."""
        number = self.number_of(layer)
        if number == 0:
            raise UnknownLayerError(f"{self.input!r} is the input of the net, not a layer of it")
        return self.nodes[number - 1]

    def ancestors(self, names: Iterable[str], *, walls: Collection[str] = ()) -> set[str]:
        """These, and all that they are computed from; what lies behind a wall alone is not looked for."""
        found = set(names)
        for node in reversed(self.nodes):
            if node.name in found and node.name not in walls:
                found.update(node.inputs)
        return found

    def descendants(self, names: Iterable[str]) -> set[str]:
        """All that is computed from these, but not these themselves unless one comes from another."""
        start, found = set(names), set[str]()
        for node in self.nodes:
            if any(name in start or name in found for name in node.inputs):
                found.add(node.name)
        return found

    def shapes(self, image_shape: Shape, upto: Iterable[str] | None = None) -> dict[str, Shape]:
        """The shape of every slot for images of that shape (n, h, w, c); nothing is computed."""
        wanted = self.ancestors(self.names if upto is None else upto)
        asked, (before, known) = (tuple(image_shape), wanted), self._known
        if asked == before:
            return dict(known)
        try:
            found = self._shapes(image_shape, wanted)
            self._known = asked, found
            return dict(found)
        except ShapeError as error:
            least = self._least_size(image_shape, wanted)
            if least is not None and least > min(image_shape[1:3]):
                error.add_note(f"the smallest square image that gets this far is {least}x{least}")
            raise

    def _shapes(self, image_shape: Shape, wanted: set[str]) -> dict[str, Shape]:
        shapes = {self.input: tuple(image_shape)}
        for node in self.nodes:
            if node.name in wanted:
                with noted(node):
                    shapes[node.name] = node.layer.out_shape(*(shapes[name] for name in node.inputs))
        return shapes

    def _least_size(self, image_shape: Shape, wanted: set[str]) -> int | None:
        for size in range(1, 1025):
            try:
                self._shapes((image_shape[0], size, size, image_shape[3]), wanted)
            except ShapeError:
                continue
            return size
        return None


def in_steps(nodes: Sequence[Node], looked_at: Collection[str]) -> list[tuple[Node, ...]]:
    """The nodes in order, but a convolution, the ReLU behind it and the max-pooling behind that as one step:
    where nobody else reads what is between, and nobody looks at it. It stands where its last node stood.
    """
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    steps, passed = dict[str, tuple[Node, ...]](), set[str]()
    for node in nodes:
        step: tuple[Node, ...] = (node,)
        for kind in (ReLU, MaxPool) if type(node.layer) is Conv else ():
            behind = readers.get(step[-1].name, [])
            if step[-1].name in looked_at or [type(other.layer) for other in behind] != [kind]:
                break
            passed.add(step[-1].name)
            step = (*step, behind[0])
        steps.setdefault(step[-1].name, step)
    return [steps[node.name] for node in nodes if node.name not in passed]


def listed(layers: Handle | Collection[Handle]) -> Collection[Handle]:
    """One layer or several, as several."""
    return layers if isinstance(layers, Collection) and not isinstance(layers, str) else [layers]


def as_asked(layers: Handle | Collection[Handle], found: dict[str, Any]) -> Any:
    """What was found for one layer by itself; for a list of layers, all of it by name."""
    return found if listed(layers) is layers else next(iter(found.values()))


@contextmanager
def noted(node: Node) -> Iterator[None]:
    """What goes wrong in here is told with its place."""
    where = f"in layer {node.name!r}, reading {', '.join(map(repr, node.inputs))}"
    try:
        yield
    except MemoryError as error:
        told = no_room(error)
        told.add_note(where)
        raise told from error
    except Exception as error:
        error.add_note(where)
        raise


def _numbered(nodes: tuple[Node, ...], input: str) -> dict[str, int]:
    if not nodes:
        raise UsageError("a net without layers; give at least one node")
    numbers, to_come = {input: 0}, {node.name for node in nodes}
    for number, node in enumerate(nodes, start=1):
        if not isinstance(node.layer, Layer):
            raise UsageError(f"{node.name!r} is {node.layer!r}, not a layer; make one: ReLU(), not ReLU")
        if node.name in ("all", "needed"):
            raise UsageError(
                f"a layer cannot be called {node.name!r}: to forwardto(keep=...) that means another thing"
            )
        if node.name in numbers:
            raise UsageError(f"two layers are called {node.name!r}; give each a name of its own")
        if not node.inputs:
            raise UsageError(f"{node.name!r} reads nothing; name its inputs, e.g. ({input!r},)")
        for name in node.inputs:
            if name in numbers:
                continue
            if name in to_come:
                cause = "a cycle, or the wrong order; put every node after those it reads"
                raise UsageError(f"{node.name!r} reads {name!r}, which is not made before it: {cause}")
            near = did_you_mean(name, numbers)
            raise UnknownLayerError(f"{node.name!r} reads {name!r}, and there is no such layer{near}")
        try:
            signature(node.layer.out_shape).bind(*node.inputs)
        except TypeError:
            what = f"{type(node.layer).__name__} does not take {len(node.inputs)} inputs"
            raise UsageError(f"{node.name!r} reads {', '.join(map(repr, node.inputs))}; a {what}") from None
        numbers[node.name] = number
    return numbers
