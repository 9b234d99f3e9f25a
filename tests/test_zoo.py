"""The nets of the house: their tables, and that they run."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import images, zoo
from minidnn.errors import UsageError, WeightsError
from minidnn.zoo.vgg import vgg16

PARAMETERS = {"gabor": 29_196, "lenet": 431_080, "vgg16": 138_357_544, "vgg19": 143_667_240}


def test_every_net_has_the_parameters_of_its_paper():
    found = {name: sum(array.size for array in zoo.get(name).params.values()) for name in zoo.names()}
    assert found == PARAMETERS


def test_vgg_brings_its_dropout_only_if_asked():
    plain, trained = zoo.get("vgg16"), vgg16(dropout=True)
    assert plain.names[-6:] == ("fc6", "relu6", "fc7", "relu7", "fc8", "prob")
    assert trained.names[-8:] == ("fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8", "prob")
    assert (len(plain.nodes), len(trained.nodes), len(zoo.get("vgg19").nodes)) == (37, 39, 43)


def test_looking_at_a_net_takes_no_memory_and_running_it_needs_weights():
    net = zoo.get("vgg16")
    assert all(
        array.base is not None and not any(array.strides) for array in net.params.values() if array.size > 1
    )
    with pytest.raises(WeightsError, match="has no weights yet"):
        net.forwardto(net.init_res(), "conv1_1", np.zeros((1, 32, 32, 3)))


def test_vgg16_runs_at_any_size_up_to_its_last_convolution():
    net = zoo.get("vgg16").replacing(
        {
            name: np.random.default_rng(0).standard_normal(array.shape).astype("float32") * 0.05
            for name, array in zoo.get("vgg16").params.items()
            if name.startswith("conv1")
        }
    )
    res = net.init_res()
    assert net.forwardto(res, 5, np.ones((1, 33, 47, 3), "float32")).shape == (1, 17, 24, 64)
    assert net.preprocess.mean == (123.68, 116.779, 103.939)


def test_lenet_tells_digits_apart_by_ten_scores():
    net = zoo.get("lenet", np.random.default_rng(0))
    scores = net.forwardto(net.init_res(), "prob", np.random.default_rng(1).random((2, 28, 28, 1)))
    assert scores.shape == (2, 1, 1, 10)
    assert np.allclose(scores.sum(axis=3), 1)


def test_the_filters_of_gabor_answer_to_their_own_direction():
    net = zoo.get("gabor")
    bank = net.node("conv1").layer.w
    assert np.allclose((bank**2).sum(axis=(0, 1, 2)), 1, atol=1e-5)
    assert np.allclose(bank[..., :16].sum(axis=(0, 1, 2)), 0, atol=1e-4), "an even grey says nothing"
    stripes = np.zeros((1, 31, 31, 3), "float32")
    stripes[:, :, 15:] = 1  # an upright edge
    answers = np.abs(net.forwardto(net.init_res(), "conv1", stripes))[0, 15, 15, :8]
    upright = bank[..., answers.argmax()].sum(axis=2)
    assert np.allclose(upright, upright[::-1], atol=1e-5), (
        "the winner is the filter that is the same upside down"
    )


def test_a_dream_of_gabor_makes_its_curls_stronger():
    net = zoo.get("gabor")
    res, x = net.init_res(), images.clouds_over_hills(40, 60) - 128
    y = net.forwardto(res, "relu2", x)
    dzdx = net.backwardfrom(res, {"relu2": 2 * y})
    better = net.forwardto(res, "relu2", x + dzdx / np.abs(dzdx).mean())
    assert (better**2).sum() > 1.1 * (y**2).sum()


def test_an_unknown_net_brings_a_near_one_to_mind():
    with pytest.raises(
        UsageError, match=r"no net 'vgg15'; there are gabor, lenet, vgg16, vgg19; did you mean 'vgg1[69]'"
    ):
        zoo.get("vgg15")
