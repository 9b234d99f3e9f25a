"""What becomes of a gradient before the step: other colours, other sizes, and still uphill."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest

from minidnn.arrays import to_device, to_host
from minidnn.dream import NaturalColours, Smooth, Way, dream, squared_norm
from minidnn.dream.canvas import COLOURS
from minidnn.errors import UsageError
from minidnn.images import Preprocess
from minidnn.optim import SGD
from tests.nets import forked
from tests.samples import distinct

SHAPINGS = {
    "colours": NaturalColours(),
    "only natural colours": NaturalColours(1.0),
    "smooth": Smooth(),
    "one width": Smooth((1.5,)),
}
each = pytest.mark.parametrize("shaping", SHAPINGS.values(), ids=SHAPINGS)


def gradient(seed=0, shape=(2, 6, 9, 3)):
    return distinct(np.random.default_rng(seed), shape)


@each
def test_a_shaped_gradient_still_points_uphill(shaping):
    for seed in range(20):
        g = gradient(seed)
        assert (g * shaping(g)).sum() > 0.1 * np.linalg.norm(g) * np.linalg.norm(shaping(g))


@pytest.mark.parametrize(
    "shaping", [*SHAPINGS.values(), (NaturalColours(), Smooth())], ids=[*SHAPINGS, "both"]
)
def test_small_steps_along_it_make_the_value_grow(shaping):
    net = forked()
    net = net.with_nodes(net.nodes, preprocess=Preprocess(scale=1 / 64, mean=(2.0,)))
    picture = np.random.default_rng(3).uniform(50, 200, (1, 8, 10, 3))
    shaping = shaping if isinstance(shaping, tuple) else (shaping,)
    way = Way(SGD(0.01), transforms=(), shaping=shaping)
    frames = islice(dream(net, picture, squared_norm("cat"), way, rng=np.random.default_rng(0)), 6)
    assert all(later > before for before, later in pairwise([frame.value for frame in frames]))


@each
def test_a_gradient_of_zeros_stays_one(shaping):
    assert not shaping(np.zeros((1, 4, 7, 3))).any()


@each
def test_dtype_and_shape_stay_and_nothing_is_changed(shaping):
    for dtype in ("float32", "float64"):
        g = gradient().astype(dtype)
        g.flags.writeable = False
        assert shaping(g).dtype == dtype and shaping(g).shape == g.shape


@each
def test_every_device_shapes_alike(shaping, device):
    g = gradient()
    np.testing.assert_allclose(to_host(shaping(to_device(g, device))), shaping(g), rtol=1e-9, atol=1e-12)


def test_the_share_goes_from_what_the_net_says_to_what_photographs_do():
    g = gradient()
    natural = g @ COLOURS @ COLOURS.T
    assert NaturalColours(0.0)(g) is g
    np.testing.assert_allclose(NaturalColours(1.0)(g), natural)
    np.testing.assert_allclose(NaturalColours(0.25)(g), 0.25 * natural + 0.75 * g)


def test_natural_colours_like_light_better_than_hue():
    light, hue = np.ones((1, 1, 1, 3)), np.array([1.0, -2.0, 1.0]).reshape(1, 1, 1, 3)
    shape = NaturalColours(1.0)
    kept = [np.linalg.norm(shape(g)) / np.linalg.norm(g) for g in (light, hue)]
    assert kept[0] > 10 * kept[1]


def test_grey_pictures_have_no_colours_to_change():
    g = gradient(shape=(1, 4, 5, 1))
    assert NaturalColours()(g) is g


def test_every_width_is_as_loud_as_the_others():
    g = gradient()
    for sigma in (0.5, 3.0):
        assert np.abs(Smooth((sigma,))(g)).mean() == pytest.approx(1)
    np.testing.assert_allclose(Smooth((0.5, 3.0))(g), Smooth((0.5,))(g) + Smooth((3.0,))(g))


def test_no_widths_leave_the_gradient_as_it_is():
    g = gradient()
    assert Smooth(())(g) is g


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range(share):
    with pytest.raises(UsageError, match=f"NaturalColours with share {share}; give 0 .* to 1"):
        NaturalColours(share)


@pytest.mark.parametrize("sigmas", [(0.0,), (1.0, -2.0), (float("nan"),)])
def test_widths_out_of_range(sigmas):
    with pytest.raises(UsageError, match=r"Smooth with sigmas \(.*; give widths above 0, in pixels"):
        Smooth(sigmas)
