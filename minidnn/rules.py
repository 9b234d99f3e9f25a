"""Other ways back through a layer, to hand to `backwardfrom(rules=...)`: pictures of what a feature saw.

A rule has the signature of a layer's backward with the layer in front, and names the state it reads in the
same way. One for a kind of layer is for that class alone: one for ReLU leaves LeakyReLU as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minidnn import kernels
from minidnn.arrays import Array
from minidnn.layers import MaxPool, ReLU
from minidnn.layers.base import Layer, Shape
from minidnn.net import Rules


def guided() -> Rules:
    """Guided backpropagation: a ReLU passes only what is positive both ways (Springenberg et al. 2015)."""

    def relu(layer: Layer, dzdy: Array, *, aux: Array, **_: Any) -> Array:
        return kernels.relu_backward(dzdy * (dzdy > 0), aux)

    return {ReLU: relu}


def deconvnet(switches: Mapping[str, Array] | None = None) -> Rules:
    """A deconvnet: the ReLU works on what comes back, not on what went forward (Zeiler & Fergus 2014, section
    2.1).

    Max-pooling goes back by the switches of this run; or by those given by layer name, such as another
    image's `{"pool1": other["pool1"].aux}`.
    """

    def relu(layer: Layer, dzdy: Array, **_: Any) -> Array:
        return dzdy * (dzdy > 0)

    def unpool_by(given: Array) -> Any:
        def unpool(layer: MaxPool, dzdy: Array, *, x_shape: Shape, **_: Any) -> Array:
            return kernels.unpool(dzdy, given, x_shape, layer.window)

        return unpool

    return {ReLU: relu, **{name: unpool_by(given) for name, given in (switches or {}).items()}}
