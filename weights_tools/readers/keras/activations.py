"""The functions that a layer of Keras carries along: nodes of their own, `conv1_relu` behind `conv1`."""

from __future__ import annotations

from collections.abc import Callable

from minidnn import layers as L
from minidnn.errors import UnsupportedError
from weights_tools.readers.keras.assembly import Assembly, Map
from weights_tools.readers.keras.part import Part

ACTIVATIONS: dict[str, Callable[[], L.Layer]] = {
    "relu": L.ReLU,
    "softmax": L.Softmax,
    "sigmoid": L.Sigmoid,
    "tanh": L.Tanh,
    "leaky_relu": lambda: L.LeakyReLU(0.2),
}


def activation_name(part: Part) -> str:
    """The name of the function, which some versions wrap up in an object."""
    found = part.config.get("activation")
    if isinstance(found, dict):
        inner = found.get("config")
        found = inner if isinstance(inner, str) else found.get("class_name")
    return "linear" if found is None else str(found)


def activated(net: Assembly, part: Part, y: Map, *, suffixed: bool = True) -> Map:
    name = activation_name(part)
    if name == "linear":
        return y if suffixed else net.nothing(part, y)
    if name == "softmax" and y.rank == 4 and net.is_chw:
        raise UnsupportedError("softmax over the columns of a channels_first map")
    return net.add(part, ACTIVATIONS[name](), y, suffix=name.replace("_", "") if suffixed else "")
