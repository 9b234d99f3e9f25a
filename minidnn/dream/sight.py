"""What a net sees of a picture: in which numbers, with which channels, and whether it is large enough."""

from __future__ import annotations

from collections.abc import Collection

from minidnn.arrays import Array
from minidnn.errors import ShapeError
from minidnn.graph import Handle
from minidnn.images import Preprocess
from minidnn.net import Net

Shape = tuple[int, ...]


def eye_of(net: Net, shape: Shape) -> Preprocess:
    """The net's own preprocessing for pictures of this shape (n, h, w, c).

    If it knows none, pixels go in as they are; weighed into brightness if it was built for one channel.
    """
    if net.preprocess is not None:
        return net.preprocess
    wanted = shape[-1] if net.input_shape is None else net.input_shape[2]
    return Preprocess("GRAY" if wanted == 1 else "RGB")


def as_seen(net: Net, pixels: Array) -> Array:
    """Pixels (N, H, W, C), 0..255, as what the net takes."""
    return eye_of(net, pixels.shape).to_net(pixels)


def seen_shape(net: Net, shape: Shape) -> Shape:
    """The shape of what the net takes of pictures of this shape."""
    return (*shape[:3], eye_of(net, shape).channels)


def check_fit(net: Net, layers: Collection[Handle], shape: Shape) -> None:
    """That pictures of this shape are large enough for the layers."""
    net.shapes(seen_shape(net, shape), upto=net.names_of(layers))


def fits(net: Net, layers: Collection[Handle], shape: Shape) -> bool:
    """Whether they are."""
    try:
        check_fit(net, layers, shape)
    except ShapeError:
        return False
    return True
