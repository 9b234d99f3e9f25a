"""What a net sees of a picture: its own numbers and channels, or pixels as they are."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn.dream.sight import as_seen, check_fit, eye_of, fits, seen_shape
from minidnn.errors import ShapeError
from minidnn.images import LUMA, Preprocess
from minidnn.layers import ReLU
from minidnn.net import Net
from minidnn.zoo.lenet import lenet
from tests.dreamers import classy

COLOUR, GREY = (2, 40, 52, 3), (2, 40, 52, 1)


def blind(channels):
    """A net without preprocessing that takes so many channels, or does not say how many."""
    return Net.chain({"relu": ReLU()}, input_shape=None if channels is None else (33, 29, channels))


def test_its_own_preprocessing_comes_first():
    own = Preprocess("GRAY", 1 / 64)
    net = classy().with_nodes(classy().nodes, preprocess=own)
    assert eye_of(net, COLOUR) is own
    assert seen_shape(net, COLOUR) == GREY


@pytest.mark.parametrize(
    ("takes", "picture", "shape"),
    [(3, COLOUR, COLOUR), (1, GREY, GREY), (1, COLOUR, GREY), (None, COLOUR, COLOUR), (None, GREY, GREY)],
)
def test_without_any_pixels_go_in_with_as_many_channels_as_it_takes(takes, picture, shape):
    pixels = np.random.default_rng(0).uniform(0, 255, picture)
    assert seen_shape(blind(takes), picture) == as_seen(blind(takes), pixels).shape == shape
    wanted = (pixels * LUMA).sum(axis=3, keepdims=True) if shape != picture else pixels
    assert np.allclose(as_seen(blind(takes), pixels), wanted)


def test_a_grey_picture_for_a_net_that_takes_colour_is_told():
    with pytest.raises(ShapeError, match=r"RGB wants images \(N, H, W, 3\)"):
        as_seen(blind(3), np.zeros(GREY))


def test_what_is_large_enough():
    net = classy()
    assert fits(net, ["conv2"], COLOUR) and not fits(net, ["conv2"], (1, 6, 9, 3))
    with pytest.raises(ShapeError):
        check_fit(net, ["conv2"], (1, 6, 9, 3))
    assert fits(lenet(np.random.default_rng(2)), ["fc4"], (1, 28, 28, 3)), "colour is weighed for it"
