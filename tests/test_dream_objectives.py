"""What a dream climbs: values worked by hand, gradients checked by numbers, small steps that go uphill."""

from __future__ import annotations

import inspect
from itertools import islice, pairwise

import numpy as np
import pytest

from minidnn.arrays import to_device, to_host
from minidnn.dream import Way, dream, objectives
from minidnn.dream.loop import climb
from minidnn.dream.objectives import (
    Objective,
    best_match,
    caricature,
    channel,
    direction,
    diversity,
    guide_dot,
    neuron,
    on_layer,
    score,
    squared_norm,
    strongest,
)
from minidnn.errors import DeviceError, ShapeError, UnknownLayerError, UsageError
from minidnn.gradcheck import check_direction, check_elements
from minidnn.images import Preprocess
from minidnn.optim import SGD
from minidnn.zoo.gabor import gabor
from minidnn.zoo.lenet import lenet
from tests.fakedevice import fake
from tests.nets import forked
from tests.samples import distinct

SHAPE = (2, 3, 5, 4)  # of the map that they are asked about


def toward(shape, seed=7):
    """Numbers like those of a map, to be longed for."""
    return distinct(np.random.default_rng(seed), shape)


# {what: objective of a layer whose output has this shape; guides are made by `toward`}
ALL = {
    "squared_norm": lambda layer, shape, toward: squared_norm(layer),
    "strongest": lambda layer, shape, toward: strongest(layer, 2),
    "channel": lambda layer, shape, toward: channel(layer, 1),
    "neuron": lambda layer, shape, toward: neuron(layer, 3),
    "neuron there": lambda layer, shape, toward: neuron(layer, 0, (0, shape[2] - 1)),
    "score": lambda layer, shape, toward: score(layer, 2),
    "direction": lambda layer, shape, toward: direction(layer, toward((shape[3],))),
    "direction, cosine": lambda layer, shape, toward: direction(layer, toward((shape[3],)), cosine=2.5),
    "guide_dot": lambda layer, shape, toward: guide_dot(layer, toward((1, *shape[1:]))),
    "best_match": lambda layer, shape, toward: best_match(layer, toward((1, 2, 6, shape[3]))),
    "caricature": lambda layer, shape, toward: caricature(layer, toward((1, *shape[1:]))),
    "caricature, cubed": lambda layer, shape, toward: caricature(layer, toward(shape), cosine=3.0),
    "diversity": lambda layer, shape, toward: diversity(layer),
    "a sum": lambda layer, shape, toward: squared_norm(layer) + 0.5 * channel(layer, 3),
    "a difference": lambda layer, shape, toward: squared_norm(layer) - 2 * neuron(layer, 3),
    "a product": lambda layer, shape, toward: squared_norm(layer) * channel(layer, 1),
    "the negative": lambda layer, shape, toward: -strongest(layer, 3),
}
each = pytest.mark.parametrize("name", ALL)


def asked(name, *, dtype="float64", shape=SHAPE):
    """An objective, and what a layer said."""
    y = distinct(np.random.default_rng(1), shape).astype(dtype)
    y.flags.writeable = False
    return ALL[name]("map", shape, toward), y


def value_and_seed(objective, y):
    value, seeds = objective({"map": y})
    return value, seeds["map"]


def test_every_objective_of_the_module_is_tested_here():
    functions = inspect.getmembers(objectives, inspect.isfunction)
    public = {name for name, f in functions if f.__module__ == objectives.__name__ and name[0] != "_"}
    assert public - {"on_layer"} <= set(ALL)


# Gradients


@each
def test_the_gradient_is_that_of_the_value(name):
    objective, y = asked(name)
    seed = value_and_seed(objective, y)[1]
    assert seed.shape == y.shape
    found = check_elements(lambda y: value_and_seed(objective, y)[0], y, seed)
    assert found.error < 1e-6, str(found)


@each
def test_a_network_carries_the_gradient_on_to_the_pixels(name):
    net = forked()
    net = net.with_nodes(net.nodes, preprocess=Preprocess("BGR", 1 / 50, (1.1, 1.3, 1.7), (0.7, 0.9, 1.2)))
    rng = np.random.default_rng(2)
    pixels = rng.uniform(60, 190, (2, 8, 10, 3))
    shape = net.shapes(pixels.shape)["cat"]
    objective = ALL[name]("cat", shape, toward)
    grad = climb(net, net.init_res(), pixels, objective)[1]

    def value(pixels):
        return climb(net, net.init_res(), pixels, objective)[0]

    found = check_direction(value, pixels, grad, rng=rng, eps=1e-5)
    assert found.error < 1e-5, str(found)


def rising(net, picture, objective, *, step=0.4, count=6):
    """The values of a dream by plain steps uphill, the first of which is that long."""
    plain = {"transforms": (), "shaping": ()}
    rng = np.random.default_rng(0)
    first = next(dream(net, picture, objective, Way(SGD(1e-9), **plain), rng=rng))
    way = Way(SGD(step / first.gradient_norm), **plain)
    return [frame.value for frame in islice(dream(net, picture, objective, way, rng=rng), count)]


@each
@pytest.mark.parametrize("build, layer", [(forked, "cat"), (gabor, "relu2")], ids=["forked", "gabor"])
def test_small_plain_steps_go_uphill_all_the_way(name, build, layer):
    net = build().astype("float64")
    net = net.with_nodes(net.nodes, preprocess=Preprocess(scale=1 / 64, mean=(2.0,)))
    picture = np.random.default_rng(3).uniform(50, 200, (2, 9, 11, 3))
    objective = ALL[name](layer, net.shapes(picture.shape)[layer], toward)
    values = rising(net, picture, objective)
    assert all(later > before for before, later in pairwise(values)), values


@pytest.mark.parametrize("layer", ["fc4", "prob"])
def test_a_digit_becomes_more_likely_with_every_step(layer):
    net = lenet(np.random.default_rng(4)).astype("float64")
    net = net.with_nodes(net.nodes, preprocess=Preprocess("GRAY", 1 / 255, (0.5,)))
    picture = np.random.default_rng(5).uniform(100, 150, (1, 28, 28, 1))
    values = rising(net, picture, score(layer, 7))
    assert all(later > before for before, later in pairwise(values)), values


# What the values are


def test_the_squared_norm_worked_by_hand():
    value, seed = value_and_seed(squared_norm("map"), np.array([[[[3.0, -4.0]]]]))
    assert value == 25 and seed.ravel().tolist() == [6, -8]


def test_the_strongest_channels_are_chosen_for_each_picture():
    y = np.zeros((2, 1, 2, 3))
    y[0, 0, :] = [[1, 5, 2], [1, -5, 3]]
    y[1, 0, :] = [[7, 0, 1], [8, 0, 2]]
    value, seed = value_and_seed(strongest("map", 1), y)
    assert value == 2 * 25 + 49 + 64
    assert seed[0, 0].tolist() == [[0, 10, 0], [0, -10, 0]]
    assert seed[1, 0].tolist() == [[14, 0, 0], [16, 0, 0]]


def test_all_channels_being_the_strongest_is_the_squared_norm():
    y = toward(SHAPE)
    ours, theirs = (value_and_seed(o, y) for o in (strongest("map", 4), squared_norm("map")))
    assert ours[0] == pytest.approx(theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_a_channel_is_a_mean_and_a_neuron_one_number_squared():
    y = np.arange(2 * 3 * 5 * 4).reshape(SHAPE).astype(float)
    assert channel("map", 1)({"map": y})[0] == pytest.approx(y[..., 1].mean(axis=(1, 2)).sum())
    assert neuron("map", 2)({"map": y})[0] == (y[:, 1, 2, 2] ** 2).sum()  # the middle of 3x5
    assert neuron("map", 2, (2, 0))({"map": y})[0] == (y[:, 2, 0, 2] ** 2).sum()


def test_a_direction_asks_for_likeness_and_not_only_for_length():
    along, askew = np.array([[[[3.0, 0.0]]]]), np.array([[[[3.0, 4.0]]]])
    v = np.array([1.0, 0.0])
    assert direction("map", v)({"map": askew})[0] == direction("map", v)({"map": along})[0] == 3
    assert direction("map", v, cosine=2)({"map": along})[0] == pytest.approx(3)
    assert direction("map", v, cosine=2)({"map": askew})[0] == pytest.approx(3 * 0.6**2)


def test_a_layer_that_points_away_is_pulled_with_the_least_cosine():
    y = np.array([[[[-2.0, 0.1]]]])
    value, seed = value_and_seed(direction("map", np.array([1.0, 0.0]), cosine=1), y)
    assert value == pytest.approx(-2 * 0.1)
    np.testing.assert_allclose(seed.ravel(), [0.1, 0])


def test_a_layer_of_zeros_has_a_finite_gradient_under_a_cosine():
    for dtype in ("float32", "float64"):
        value, seed = value_and_seed(caricature("map", toward(SHAPE).astype(dtype)), np.zeros(SHAPE, dtype))
        assert value == 0 and np.isfinite(seed).all()


def test_each_place_looks_for_its_best_match_on_the_whole_guide():
    guide = np.array([[[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]]])
    y = np.array([[[[1.0, 0.1]], [[-1.0, 0.3]], [[0.2, 0.9]]]])
    value, seed = value_and_seed(best_match("map", guide), y)
    assert seed[0, :, 0].tolist() == [[1, 0], [-3, 0], [0, 2]]
    assert value == pytest.approx(1 + 3 + 1.8)


def test_the_pictures_of_a_batch_that_are_alike_are_the_least_diverse():
    one = toward((1, 3, 5, 4))
    other = toward((1, 3, 5, 4), seed=8)
    alike = diversity("map")({"map": np.concatenate([one, one])})[0]
    unlike = diversity("map")({"map": np.concatenate([one, other])})[0]
    assert alike == pytest.approx(-2) and alike < unlike < 0


def test_diversity_is_worked_by_hand_for_maps_without_anything_in_common():
    y = np.zeros((3, 1, 1, 3))
    y[0, 0, 0], y[1, 0, 0], y[2, 0, 0] = [2, 0, 0], [0, 5, 0], [1, 1, 0]
    # Gram matrices of length 1: e11, e22, and all four corners at a half: cosines 0, ½, ½, each pair twice
    assert diversity("map")({"map": y})[0] == pytest.approx(-2)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("diversity", "a product")])
def test_the_value_of_a_batch_is_the_sum_over_its_pictures(name):
    guided = {"caricature, cubed": lambda i: caricature("map", toward(SHAPE)[i : i + 1], cosine=3.0)}
    objective, y = asked(name)
    parts = [guided.get(name, lambda i: objective)(i)({"map": y[i : i + 1]})[0] for i in range(2)]
    assert value_and_seed(objective, y)[0] == pytest.approx(sum(parts))


# Putting them together


def test_objectives_add_and_scale_like_numbers():
    y = {"map": toward(SHAPE)}
    a, b = squared_norm("map"), channel("map", 2)
    together = 2 * a - b * np.float64(3) + -b
    value, seeds = together(y)
    assert value == pytest.approx(2 * a(y)[0] - 4 * b(y)[0])
    np.testing.assert_allclose(seeds["map"], 2 * a(y)[1]["map"] - 4 * b(y)[1]["map"])


def test_a_product_follows_the_product_rule_over_two_layers():
    y = {"map": toward(SHAPE), "other": toward((2, 1, 1, 6))}
    a, b = squared_norm("map"), channel("other", 4)
    value, seeds = (a * b)(y)
    assert value == pytest.approx(a(y)[0] * b(y)[0])
    np.testing.assert_allclose(seeds["map"], b(y)[0] * a(y)[1]["map"])
    np.testing.assert_allclose(seeds["other"], a(y)[0] * b(y)[1]["other"])
    assert (a * b).layers == ("map", "other")


def test_a_square_is_a_product_with_itself():
    y, a = {"map": toward(SHAPE)}, channel("map", 1)
    value, seeds = (a * a)(y)
    assert value == pytest.approx(a(y)[0] ** 2)
    np.testing.assert_allclose(seeds["map"], 2 * a(y)[0] * a(y)[1]["map"])


def test_one_layer_by_its_name_and_by_its_number_is_one_layer():
    net = forked()
    pixels = np.random.default_rng(6).uniform(0, 255, (2, 8, 10, 3))
    number = net.number_of("a")
    twice = climb(net, net.init_res(), pixels, squared_norm("a") + squared_norm(number))
    once = climb(net, net.init_res(), pixels, squared_norm("a"))
    assert twice[0] == pytest.approx(2 * once[0])
    np.testing.assert_allclose(twice[1], 2 * once[1])
    assert twice[2] == once[2] == {"a": pytest.approx(np.sqrt(once[0]))}


def test_a_sum_over_layers_is_the_sum_of_their_gradients():
    net = forked()
    pixels = np.random.default_rng(6).uniform(0, 255, (2, 8, 10, 3))
    parts = [squared_norm("b"), 0.01 * channel("relu1", 3), score("cat", 5)]
    whole = climb(net, net.init_res(), pixels, parts[0] + parts[1] + parts[2])
    alone = [climb(net, net.init_res(), pixels, part) for part in parts]
    assert whole[0] == pytest.approx(sum(value for value, _, _ in alone))
    np.testing.assert_allclose(whole[1], sum(grad for _, grad, _ in alone), atol=1e-12)
    assert set(whole[2]) == {"b", "relu1", "cat"}


def test_they_say_what_they_are():
    told = 0.5 * squared_norm("a") + channel("b", 12) * neuron(3, 4)
    assert str(told) == "0.5 * (squared_norm(a)) + (channel 12(b)) * (neuron 4(3))"
    assert str(score("fc8", 88)) == "score 88(fc8)"


def test_one_of_your_own():
    loudest = on_layer("map", "loudest", lambda y: (y.max(), (y == y.max()).astype(y.dtype)))
    assert isinstance(loudest, Objective) and str(2 * loudest) == "2 * (loudest(map))"
    value, seed = value_and_seed(loudest, toward(SHAPE))
    assert value == toward(SHAPE).max() and seed.sum() == 1


def test_the_input_itself_can_be_asked_about():
    net = forked()
    pixels = np.random.default_rng(6).uniform(0, 255, (2, 8, 10, 3))
    np.testing.assert_array_equal(climb(net, net.init_res(), pixels, squared_norm(0))[1], 2 * pixels)


# Every array


@each
def test_the_dtype_stays_and_the_value_is_a_plain_number(name):
    for dtype in ("float32", "float64"):
        objective, y = asked(name, dtype=dtype)
        value, seed = value_and_seed(objective, y)
        assert type(value) is float and seed.dtype == dtype


@each
def test_every_device_says_the_same(name, device):
    objective, y = asked(name)
    there = ALL[name]("map", SHAPE, lambda *how: to_device(toward(*how), device))
    value, seed = value_and_seed(objective, y)
    value_there, seed_there = value_and_seed(there, to_device(y, device))
    assert value_there == pytest.approx(value)
    np.testing.assert_allclose(to_host(seed_there), seed, rtol=1e-12, atol=1e-15)


# Errors


def refused(objective, error, words, shape=SHAPE):
    with pytest.raises(error, match=words):
        objective({"map": np.ones(shape)})


def test_a_channel_that_is_not_there():
    for wrong in (4, -1):
        for objective in (channel("map", wrong), neuron("map", wrong), score("map", wrong)):
            refused(objective, UsageError, f"'map' has channels 0 to 3, not {wrong}")


def test_more_strongest_channels_than_there_are():
    for wrong in (0, 5):
        refused(
            strongest("map", wrong),
            UsageError,
            f"'map' has 4 channels: the strongest are 1 to that many, not {wrong}",
        )


def test_a_place_off_the_map():
    for i, j in [(3, 0), (0, 5), (-1, 0)]:
        refused(
            neuron("map", 1, (i, j)), UsageError, rf"a map of 3x5 for this picture.*no place \({i}, {j}\)"
        )


def test_a_direction_of_other_channels():
    refused(
        direction("map", np.ones(6)), ShapeError, "direction has 6 channels, 'map' has 4; make them agree"
    )


@pytest.mark.parametrize("shape", [(1, 3, 6, 4), (3, 3, 5, 4)], ids=["another size", "another batch"])
def test_a_guide_of_another_size(shape):
    for objective in (guide_dot("map", np.ones(shape)), caricature("map", np.ones(shape))):
        refused(
            objective, ShapeError, r"response at 'map' is \(.*the picture's \(2, 3, 5, 4\).*use best_match"
        )


def test_a_guide_through_another_net():
    refused(
        best_match("map", np.ones((1, 2, 3, 5))), ShapeError, "the guide has 5 channels at 'map', y has 4"
    )


def test_one_picture_is_not_diverse():
    refused(diversity("map"), UsageError, "diversity at 'map' of one picture.*two or more", (1, 3, 5, 4))


def test_a_guide_on_the_host_and_a_picture_on_the_device():
    for objective in (
        guide_dot("map", toward(SHAPE)),
        best_match("map", toward(SHAPE)),
        direction("map", toward((4,))),
    ):
        with pytest.raises(DeviceError, match="meets"):
            objective({"map": fake.put(toward(SHAPE))})


def test_a_layer_that_the_net_does_not_have():
    net = forked()
    with pytest.raises(UnknownLayerError, match="no layer 'relu_1'; did you mean 'relu1'"):
        climb(net, net.init_res(), np.zeros((1, 8, 10, 3)), squared_norm("relu_1"))
