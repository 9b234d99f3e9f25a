"""From what a file holds to a net: bare arrays find the net of the zoo that they belong to.

A net that the file wires itself only gets the zoo's names for its layers (`naming`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from minidnn import zoo
from minidnn.errors import MismatchError, UsageError
from minidnn.graph import Node
from minidnn.layers import FC, Add, BatchNorm, Concat, Conv, LeakyReLU, PReLU, ReLU, Softmax
from minidnn.layers.base import Layer
from minidnn.net import Net
from minidnn.window import Window
from weights_tools.foreign import Arrays, Foreign
from weights_tools.naming import Match, named_like_the_zoo, shapes_of

OTHERWISE = "a net of another form has to say how it is wired: export it as ONNX, and convert that"
LENET5 = (
    "LeNet-5 is built in many ways from the same arrays: here with tanh and mean pools, as its paper has it; "
    "one trained with ReLU or largest-of-four pools would answer wrongly"
)
ZERO_PADDING = (
    "the borders are padded with zeros, as in VGG; an encoder trained with reflected borders, as those of "
    "style transfer are, gives other numbers there"
)
# What a cut net keeps behind its last filters.
BEHIND_WEIGHTS = (ReLU, LeakyReLU, PReLU, BatchNorm, Concat, Add)


def matched(foreign: Foreign, arch: str | None = None) -> Match:
    """The net of a foreign file; `arch` names the one it is meant to be."""
    if arch is not None and arch not in zoo.NETS:
        zoo.get(arch)  # which says what there is
    if foreign.net is not None:
        return named_like_the_zoo(foreign.net, arch)
    if not foreign.layers:
        raise MismatchError(f"a {foreign.format} without weights; nothing to convert")
    if arch is not None:
        return _as_asked(foreign, arch)
    nets = {name: shapes_of(name) for name in zoo.NETS}
    fitting = [name for name, net in nets.items() if _difference(foreign.layers, net) is None]
    fitting = fitting or [name for name, net in nets.items() if _sorted_like(foreign.layers, net)]
    fitting = fitting or [name for name, net in nets.items() if _with_head_of(foreign.layers, net)]
    if len(fitting) == 1:
        return _as_asked(foreign, fitting[0])
    if fitting:
        raise UsageError(f"the arrays fit {' and '.join(fitting)} alike; say which: --arch {fitting[0]}")
    raise MismatchError(_nearest(foreign.layers))


# Bare arrays.


def _filled(foreign: Foreign, name: str, net: Net) -> Match:
    step = f"the shapes of all {len(foreign.layers)} layers are those of {name}, in its order"
    if _difference(foreign.layers, net) is not None:
        layers = _sorted_like(foreign.layers, net) or foreign.layers
        foreign = replace(foreign, layers=dict(layers))
        step = f"the shapes of all {len(layers)} layers are those of {name}, once sorted by shapes and names"
    warnings = (LENET5,) if name == "lenet5" else ()
    return _padded_like_torchvision(foreign, Match(_with_arrays(net, foreign), name, (step,), warnings))


def _as_asked(foreign: Foreign, name: str) -> Match:
    """All of that net, or its first layers, or its like in other widths."""
    net, layers = shapes_of(name), foreign.layers
    if _difference(layers, net) is None or _sorted_like(layers, net):
        return _filled(foreign, name, net)
    if headed := _with_head_of(layers, net):
        match = _filled(foreign, name, headed)
        count = _arrays_of(_banks(headed)[-1].layer)["w"].shape[3]
        answers = f"the last layer is the file's own, of {count} answers: such a net was trained further"
        return replace(match, steps=(*match.steps, answers))
    banks = _banks(net)
    if len(layers) < len(banks) and not _difference(layers, net, count=len(layers)):
        cut = _cut_behind(net, {node.name for node in banks[: len(layers)]})
        step = f"the {len(layers)} layers are the first of {name}, which is cut behind {cut.nodes[-1].name!r}"
        return Match(_with_arrays(cut, foreign), name, (step,))
    if narrow := _in_other_widths(layers, net):
        step = f"built like {name} from the file's own widths; the sizes of its filters agree"
        return Match(narrow[0], name, (step, *narrow[1]), (ZERO_PADDING,))
    raise MismatchError(f"not {name}: {_difference(layers, net)}; {OTHERWISE}")


def _with_head_of(layers: Mapping[str, Arrays], net: Net) -> Net | None:
    """The net with as many answers as the last of these layers, if all else agrees: one trained further."""
    last, own = _banks(net)[-1], list(layers.values())[-1]
    if (
        len(_banks(net)) < 3
        or not isinstance(net.nodes[-1].layer, Softmax)
        or np.ndim(own.get("w", ())) not in (2, 4)
    ):
        return None
    k, layer = np.shape(own["w"])[-1], last.layer
    if not isinstance(layer, Conv | FC) or k < 1:
        return None
    bias = None if layer.b is None else _unfilled((k,))
    head = replace(layer, w=_unfilled((*layer.w.shape[:3], k)), b=bias)
    nodes = [node._replace(layer=head) if node.name == last.name else node for node in net.nodes]
    headed = net.with_nodes(nodes, classes=())
    return headed if _difference(layers, headed) is None or _sorted_like(layers, headed) else None


def _unfilled(shape: tuple[int, ...]) -> np.ndarray:
    """A shape without memory, as the zoo's nets without weights have them."""
    return np.broadcast_to(np.float32(0), shape)


def _with_arrays(net: Net, foreign: Foreign) -> Net:
    arrays: dict[str, np.ndarray] = {}
    aliases = dict(net.aliases)
    for node, (theirs, own) in zip(_banks(net), foreign.layers.items(), strict=True):
        for key, wanted in _arrays_of(node.layer).items():
            arrays[f"{node.name}/{key}"] = shaped(own[key], wanted.shape, foreign.flatten)
        if theirs not in net.names:
            aliases[theirs] = node.name
    full = net.replacing(arrays)
    return full.with_nodes(full.nodes, aliases=aliases)


def shaped(array: np.ndarray, wanted: tuple[int, ...], flatten: str) -> np.ndarray:
    """Dense weights (in, out) as (h, w, c, k); `flatten` says in which order the map became a vector.

    "hwc": row by row, the channels of a pixel together, as here. "chw": channel by channel.
    """
    array = np.asarray(array)
    if array.shape != wanted and len(wanted) == 4 and array.size == prod(wanted):
        h, w, c, k = wanted
        array = (
            array.reshape(h, w, c, k) if flatten == "hwc" else array.reshape(c, h, w, k).transpose(1, 2, 0, 3)
        )
    return np.ascontiguousarray(array, np.float32)


def _difference(layers: Mapping[str, Arrays], net: Net, *, count: int | None = None) -> str | None:
    """The first place where the arrays are not those of the net, in words; None where there is none."""
    banks = _banks(net)[:count]
    for (theirs, own), node in zip(layers.items(), banks, strict=False):
        wanted = {key: array.shape for key, array in _arrays_of(node.layer).items()}
        found = {key: np.shape(array) for key, array in own.items()}
        if not _agree(found, wanted):
            return f"{theirs!r} holds {_told(found)}, {node.name!r} wants {_told(wanted)}"
    if len(layers) != len(banks):
        return f"the file has {len(layers)} layers with weights, the net has {len(banks)}"
    return None


def _agree(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> bool:
    if found.keys() != wanted.keys():
        return False
    for key, shape in wanted.items():
        dense = len(shape) == 4 and len(found[key]) == 2 and found[key][1] == shape[3]
        if found[key] != shape and not (dense and prod(found[key]) == prod(shape)):
            return False
    return True


def _nearest(layers: Mapping[str, Arrays]) -> str:
    """Which net comes nearest, and where it first differs."""
    nets = {name: shapes_of(name) for name in zoo.NETS}
    same = {name: _in_common(layers, net) for name, net in nets.items()}
    best = max(same, key=lambda name: same[name])
    if not same[best]:
        first, arrays = next(iter(layers.items()))
        found = _told({key: np.shape(array) for key, array in arrays.items()})
        return (
            f"no net of the zoo begins like these {len(layers)} layers ({first!r} holds {found}); {OTHERWISE}"
        )
    what = f"no net of the zoo has these {len(layers)} layers; the nearest is {best}"
    if same[best] == len(layers):
        return f"{what}, and they are its first {same[best]} of {len(_banks(nets[best]))}: say --arch {best}"
    return f"{what}, the first {same[best]} agree, but {_difference(layers, nets[best])}; {OTHERWISE}"


def _in_common(layers: Mapping[str, Arrays], net: Net) -> int:
    """How many layers agree from the start."""
    for count in range(min(len(layers), len(_banks(net))), 0, -1):
        if not _difference(dict(list(layers.items())[:count]), net, count=count):
            return count
    return 0


def _sorted_like(layers: Mapping[str, Arrays], net: Net) -> dict[str, Arrays] | None:
    """The layers in the order of the net, if the file has each shape as often as the net.

    Among layers of one shape their names decide, features.9 before features.10.
    """
    left = sorted(layers.items(), key=lambda item: _natural(item[0]))
    found: dict[str, Arrays] = {}
    for node in _banks(net):
        wanted = {key: array.shape for key, array in _arrays_of(node.layer).items()}
        fits = (
            i for i, (_, own) in enumerate(left) if _agree({k: np.shape(a) for k, a in own.items()}, wanted)
        )
        if (first := next(fits, None)) is None:
            return None
        name, arrays = left.pop(first)
        found[name] = arrays
    return None if left else found


def _natural(name: str) -> list[tuple[int, str]]:
    """To sort numbers within names as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _padded_like_torchvision(foreign: Foreign, match: Match) -> Match:
    """torchvision's SqueezeNet 1.0 is that of the paper but for the pad of its last filters."""
    theirs = all(name.startswith(("features.", "classifier.")) for name in foreign.layers)
    if match.arch != "squeezenet1.0" or not theirs:
        return match
    nodes = [
        node._replace(layer=Conv(node.layer.w, node.layer.b, Window.of(1)))
        if node.name == "conv10" and isinstance(node.layer, Conv)
        else node
        for node in match.net.nodes
    ]
    step = "'conv10' without a pad, as torchvision has it"
    return Match(match.net.with_nodes(nodes), match.arch, (*match.steps, step))


def _in_other_widths(layers: Mapping[str, Arrays], net: Net) -> tuple[Net, list[str]] | None:
    """A net wired like this one, with as many channels as the arrays have; it ends where they end.

    A 1x1 convolution of the colours before the first layer stays; others of 1x1, which hang at the side, are
    left out, and told. Anything else makes it another net.
    """
    convs = [(node.name, node.layer) for node in net.nodes if isinstance(node.layer, Conv)]
    made: dict[str, Layer] = {}
    entry: list[Node] = []
    left_out, channels = [], 3
    for theirs, own in layers.items():
        shape = np.shape(own.get("w", ()))
        if len(shape) != 4 or set(own) - {"w", "b"}:
            return None
        w, b = _float(own["w"]), _float(own.get("b"))
        name, layer = convs[len(made)] if len(made) < len(convs) else ("", None)
        if layer is not None and shape[:3] == (*layer.w.shape[:2], channels):
            made[name] = Conv(w, b, layer.window, layer.groups)
            channels = shape[3]
        elif not made and not entry and shape == (1, 1, 3, 3):
            entry.append(Node(theirs, Conv(w, b, Window.of(1)), (net.input,)))
        elif shape[:2] == (1, 1):
            left_out.append(theirs)
        else:
            return None
    if not made:
        return None
    cut = _cut_behind(net, set(made))
    nodes = [*entry]
    for node in cut.nodes:
        inputs = tuple(entry[0].name if entry and name == net.input else name for name in node.inputs)
        nodes.append(Node(node.name, made.get(node.name, node.layer), inputs))
    steps = [f"layer {name!r} left out: it is none of this net's" for name in left_out]
    return Net(nodes, net.input, input_shape=net.input_shape), steps


def _float(array: Any) -> Any:
    return None if array is None else np.ascontiguousarray(array, np.float32)


def _cut_behind(net: Net, given: set[str]) -> Net:
    """What can be computed from the weights of these layers, up to the last one's activation or join."""
    missing = {node.name for node in _banks(net)} - given
    gone = missing | net.descendants(missing)
    nodes = [node for node in net.nodes if node.name not in gone]
    while nodes and nodes[-1].name not in given and not isinstance(nodes[-1].layer, BEHIND_WEIGHTS):
        nodes.pop()
    return net.with_nodes(nodes, classes=())


# Layers that hold something.


def _banks(net: Net) -> list[Node]:
    return [node for node in net.nodes if _arrays_of(node.layer)]


def _arrays_of(layer: Layer) -> Arrays:
    return layer.params | layer.buffers


def _told(shapes: Mapping[str, Iterable[int]]) -> str:
    return ", ".join(f"{key} {tuple(shape)}" for key, shape in shapes.items()) or "nothing"
