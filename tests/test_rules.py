"""Guided backpropagation and deconvnets: other ways back through the same net."""

from __future__ import annotations

import numpy as np

from minidnn import kernels
from minidnn import layers as L
from minidnn.net import Net
from minidnn.rules import deconvnet, guided
from minidnn.window import Window
from tests.nets import forked, photo


def run(net, image):
    res = net.init_res()
    net.forwardto(res, net.names[-1], image)
    return res


def seed_for(res, name):
    return {name: np.random.default_rng(3).standard_normal(res[name].shape)}


def test_guided_passes_only_what_is_positive_both_ways():
    net = Net.chain({"relu": L.ReLU()})
    image = np.array([-1.0, 2.0, 3.0, -4.0]).reshape(1, 1, 1, 4)
    seed = np.array([5.0, -6.0, 7.0, -8.0]).reshape(1, 1, 1, 4)
    assert net.backwardfrom(run(net, image), {"relu": seed}, rules=guided()).ravel().tolist() == [0, 0, 7, 0]


def test_a_deconvnet_asks_only_what_comes_back():
    net = Net.chain({"relu": L.ReLU()})
    image = np.array([-1.0, 2.0, 3.0, -4.0]).reshape(1, 1, 1, 4)
    seed = np.array([5.0, -6.0, 7.0, -8.0]).reshape(1, 1, 1, 4)
    assert net.backwardfrom(run(net, image), {"relu": seed}, rules=deconvnet()).ravel().tolist() == [
        5,
        0,
        7,
        0,
    ]


def test_guided_is_the_masked_gradient_layer_by_layer():
    net, image = forked(), photo(forked())
    res = run(net, image)
    found = net.backwardfrom(res, seed_for(res, "pool1"), rules=guided())
    at_relu = kernels.unpool(
        seed_for(res, "pool1")["pool1"], res["pool1"].aux, res["relu1"].shape, Window.of(2, stride=2)
    )
    at_conv = at_relu * (res["relu1"].x > 0) * (at_relu > 0)
    conv = net.node("conv1").layer
    assert np.allclose(found, conv.backward(at_conv, x_shape=image.shape), rtol=1e-12)


def test_a_deconvnet_unpools_by_its_own_switches_or_by_those_given():
    net, image = forked(), photo(forked())
    mine, other = run(net, image), run(net, photo(net, seed=8))
    seed = seed_for(mine, "pool1")
    own = net.backwardfrom(mine, seed, rules=deconvnet(), to="relu1")
    given = net.backwardfrom(mine, seed, rules=deconvnet({"pool1": other["pool1"].aux}), to="relu1")
    assert np.array_equal(own, net.backwardfrom(mine, seed, to="relu1"))
    assert np.array_equal(given, net.backwardfrom(other, seed, to="relu1"))
    assert not np.array_equal(own, given)


def test_a_rule_for_one_name_comes_before_one_for_its_kind():
    net, image = forked(), photo(forked())
    res = run(net, image)
    seed = {"relu1": np.ones(res["relu1"].shape)}

    def nothing(layer, dzdy, **_):
        return 0 * dzdy

    assert not net.backwardfrom(res, seed, rules=guided() | {"relu1": nothing}).any()
    assert not net.backwardfrom(res, seed, rules=guided() | {2: nothing}).any()


def test_rules_leave_the_weight_gradients_to_the_layer():
    net, image = forked(), photo(forked())
    res = run(net, image)
    net.backwardfrom(res, seed_for(res, "out"), rules=deconvnet(), params=True)
    assert set(net.gradients(res)) == set(net.params)
