"""From what a file holds to a net: bare arrays find the net of the zoo that they belong to.

A net that the file wires itself only gets the zoo's names for its layers (`naming`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minidnn import zoo
from minidnn.errors import MismatchError, UsageError, did_you_mean
from minidnn.graph import Node
from minidnn.layers import FC, Add, BatchNorm, Concat, Conv, LeakyReLU, PReLU, ReLU, Softmax
from minidnn.layers.base import Layer
from minidnn.net import Net
from minidnn.window import Window
from weights_tools.fitting import arrays_of, banks_of, difference, shaped, shapes_in, sorted_like, told
from weights_tools.foreign import Arrays, Foreign
from weights_tools.naming import NOTHING, Match, Settings, named_like_the_zoo, shapes_of
from weights_tools.wiring import wired_by

OTHERWISE = (
    "a net of another form has to say how it is wired: give a prototxt of it, --arch FILE, or export it as "
    "ONNX, and convert that"
)
NO_ARCH = "no net of the zoo, and no such file with a wiring; there are"
# What the arrays of a net leave open, and what its paper says.
LEFT_OPEN = {"lenet5": {"activation": "tanh", "pool": "mean"}}
ZERO_PADDING = (
    "the borders are padded with zeros, as in VGG; an encoder trained with reflected borders, as those of "
    "style transfer are, gives other numbers there"
)
# What a cut net keeps behind its last filters.
BEHIND_WEIGHTS = (ReLU, LeakyReLU, PReLU, BatchNorm, Concat, Add)


def matched(foreign: Foreign, arch: str | None = None, settings: Settings = NOTHING) -> Match:
    """The net of a foreign file; `arch` names the one it is meant to be, or a file with its wiring."""
    if arch is not None and arch not in zoo.NETS:
        if not Path(arch).is_file():
            raise UsageError(f"--arch {arch}: {NO_ARCH} {', '.join(zoo.NETS)}{did_you_mean(arch, zoo.NETS)}")
        if settings:
            raise UsageError("--set is for nets of the zoo; what a file wires stands in the file")
        return _named(wired_by(Path(arch), foreign))
    if settings and arch is None:
        raise UsageError("--set wants to know of which net: --arch lenet5 --set pool=max")
    if foreign.net is not None:
        return named_like_the_zoo(foreign.net, arch, settings)
    if not foreign.layers:
        raise MismatchError(f"a {foreign.format} without weights; nothing to convert")
    if arch is not None:
        return _as_asked(foreign, arch, settings)
    nets = {name: shapes_of(name) for name in zoo.NETS}
    fitting = [name for name, net in nets.items() if difference(foreign.layers, banks_of(net)) is None]
    fitting = fitting or [name for name, net in nets.items() if sorted_like(foreign.layers, banks_of(net))]
    fitting = fitting or [name for name, net in nets.items() if _with_head_of(foreign.layers, net)]
    if len(fitting) == 1:
        return _as_asked(foreign, fitting[0])
    if fitting:
        raise UsageError(f"the arrays fit {' and '.join(fitting)} alike; say which: --arch {fitting[0]}")
    raise MismatchError(_nearest(foreign.layers))


def _named(match: Match) -> Match:
    """With the zoo's names where it is one of its nets after all."""
    named = named_like_the_zoo(match.net)
    return replace(named, steps=(*match.steps, *named.steps), warnings=match.warnings)


# Bare arrays.


def _filled(foreign: Foreign, name: str, net: Net) -> Match:
    step = f"the shapes of all {len(foreign.layers)} layers are those of {name}, in its order"
    if difference(foreign.layers, banks_of(net)) is not None:
        layers = sorted_like(foreign.layers, banks_of(net)) or foreign.layers
        foreign = replace(foreign, layers=dict(layers))
        step = f"the shapes of all {len(layers)} layers are those of {name}, once sorted by shapes and names"
    return _padded_like_torchvision(foreign, Match(_with_arrays(net, foreign), name, (step,)))


def _as_asked(foreign: Foreign, name: str, settings: Settings = NOTHING) -> Match:
    """That net, or a part of it, once it is said what its arrays leave open."""
    match = _fitted(foreign, name, settings)
    unsaid = {option: paper for option, paper in LEFT_OPEN.get(name, {}).items() if option not in settings}
    if unsaid:
        paper = " ".join(f"--set {option}={value}" for option, value in unsaid.items())
        what = (
            f"the arrays are those of {name}, and do not say with which {' and '.join(unsaid)} it was trained"
        )
        others = "activation relu or sigmoid and pool max are as common"
        raise UsageError(f"{what}; say it: --arch {name} {paper} is its paper's, {others}")
    said = ", ".join(f"{option}={value}" for option, value in settings.items())
    return replace(match, steps=(*match.steps, f"{name} with {said}, as --set says")) if said else match


def _fitted(foreign: Foreign, name: str, settings: Settings) -> Match:
    """All of that net, or its first layers, or its like in other widths."""
    net, layers = shapes_of(name, settings), foreign.layers
    if difference(layers, banks_of(net)) is None or sorted_like(layers, banks_of(net)):
        return _filled(foreign, name, net)
    if headed := _with_head_of(layers, net):
        match = _filled(foreign, name, headed)
        count = arrays_of(banks_of(headed)[-1].layer)["w"].shape[3]
        answers = f"the last layer is the file's own, of {count} answers: such a net was trained further"
        return replace(match, steps=(*match.steps, answers))
    banks = banks_of(net)
    if len(layers) < len(banks) and not difference(layers, banks[: len(layers)]):
        cut = _cut_behind(net, {node.name for node in banks[: len(layers)]})
        step = f"the {len(layers)} layers are the first of {name}, which is cut behind {cut.nodes[-1].name!r}"
        return Match(_with_arrays(cut, foreign), name, (step,))
    if narrow := _in_other_widths(layers, net):
        step = f"built like {name} from the file's own widths; the sizes of its filters agree"
        return Match(narrow[0], name, (step, *narrow[1]), (ZERO_PADDING,))
    raise MismatchError(f"not {name}: {difference(layers, banks_of(net))}; {OTHERWISE}")


def _with_head_of(layers: Mapping[str, Arrays], net: Net) -> Net | None:
    """The net with as many answers as the last of these layers, if all else agrees: one trained further."""
    last, own = banks_of(net)[-1], list(layers.values())[-1]
    if (
        len(banks_of(net)) < 3
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
    return (
        headed
        if difference(layers, banks_of(headed)) is None or sorted_like(layers, banks_of(headed))
        else None
    )


def _unfilled(shape: tuple[int, ...]) -> np.ndarray:
    """A shape without memory, as the zoo's nets without weights have them."""
    return np.broadcast_to(np.float32(0), shape)


def _with_arrays(net: Net, foreign: Foreign) -> Net:
    arrays: dict[str, np.ndarray] = {}
    aliases = dict(net.aliases)
    for node, (theirs, own) in zip(banks_of(net), foreign.layers.items(), strict=True):
        for key, wanted in arrays_of(node.layer).items():
            arrays[f"{node.name}/{key}"] = shaped(own[key], wanted.shape, foreign.flatten)
        if theirs not in net.names:
            aliases[theirs] = node.name
    full = net.replacing(arrays)
    return full.with_nodes(full.nodes, aliases=aliases)


def _nearest(layers: Mapping[str, Arrays]) -> str:
    """Which net comes nearest, and where it first differs."""
    nets = {name: shapes_of(name) for name in zoo.NETS}
    same = {name: _in_common(layers, net) for name, net in nets.items()}
    best = max(same, key=lambda name: same[name])
    if not same[best]:
        if like := [name for name, net in nets.items() if _in_other_widths(layers, net)]:
            what = f"no net of the zoo has these {len(layers)} layers; in other widths"
            return f"{what} they could be those of {', '.join(like)}: say --arch with the one that it is"
        first, arrays = next(iter(layers.items()))
        found = told(shapes_in(arrays))
        return (
            f"no net of the zoo begins like these {len(layers)} layers ({first!r} holds {found}); {OTHERWISE}"
        )
    what = f"no net of the zoo has these {len(layers)} layers; the nearest is {best}"
    if same[best] == len(layers):
        return (
            f"{what}, and they are its first {same[best]} of {len(banks_of(nets[best]))}: say --arch {best}"
        )
    return (
        f"{what}, the first {same[best]} agree, but {difference(layers, banks_of(nets[best]))}; {OTHERWISE}"
    )


def _in_common(layers: Mapping[str, Arrays], net: Net) -> int:
    """How many layers agree from the start."""
    for count in range(min(len(layers), len(banks_of(net))), 0, -1):
        if not difference(dict(list(layers.items())[:count]), banks_of(net)[:count]):
            return count
    return 0


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
    missing = {node.name for node in banks_of(net)} - given
    gone = missing | net.descendants(missing)
    nodes = [node for node in net.nodes if node.name not in gone]
    while nodes and nodes[-1].name not in given and not isinstance(nodes[-1].layer, BEHIND_WEIGHTS):
        nodes.pop()
    return net.with_nodes(nodes, classes=())
