"""Objectives in words: every kind, every way to put them together, and every way to get them wrong."""

from __future__ import annotations

import time

import numpy as np
import pytest

from minidnn import zoo
from minidnn.arrays import to_device, to_host
from minidnn.errors import MinidnnError, UnknownLayerError, UsageError
from minidnn.recipes.goals import KINDS, LONGEST, class_number, named, parsed, scores_of
from tests.dreamers import CLASSES, classy
from tests.samples import distinct

SHAPE = (1, 40, 52, 3)
ARGUMENTS = {
    "strongest": "2",
    "channel": "1,3",
    "neuron": "3@4,2",
    "direction": "0,4",
    "class": "matchstick",
    "probability": "2",
}


@pytest.fixture(scope="module")
def net():
    return classy()


def response(net, seed=3, shape=SHAPE):
    image = distinct(np.random.default_rng(seed), shape).astype("float32")
    return lambda layer: net.forwardto(net.init_res(), layer, image)


def asked(net, text, layers=("conv2",), **given):
    given = {"shape": SHAPE, "guide": response(net), "original": response(net, 4)} | given
    return parsed(text, net, layers, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_value_and_a_gradient(net, kind):
    shape = (2, *SHAPE[1:]) if kind == "diversity" else SHAPE
    text = f"{kind}:{ARGUMENTS[kind]}" if kind in ARGUMENTS else kind
    objective = asked(net, text, shape=shape)
    ys = {layer: response(net, 7, shape)(layer) for layer in objective.layers}
    value, seeds = objective(ys)
    assert np.isfinite(value)
    assert {layer: seed.shape for layer, seed in seeds.items()} == {layer: y.shape for layer, y in ys.items()}


@pytest.mark.parametrize(
    ("text", "told", "layers"),
    [
        ("norm", "squared_norm(conv2)", ("conv2",)),
        (" norm ( relu1 ) ", "squared_norm(relu1)", ("relu1",)),
        ("norm(2)", "squared_norm(relu1)", ("relu1",)),
        ("0.5*norm", "0.5 * (squared_norm(conv2))", ("conv2",)),
        (".5 * norm", "0.5 * (squared_norm(conv2))", ("conv2",)),
        ("-2*channel:4", "-2 * (channel 4(conv2))", ("conv2",)),
        ("1e-3*strongest:2", "0.001 * (strongest 2(conv2))", ("conv2",)),
        ("channel:1,3", "channel 1(conv2) + channel 3(conv2)", ("conv2",)),
        ("neuron:3@4,2(conv1)", "neuron 3(conv1)", ("conv1",)),
        ("norm(1)+2*class:1", "squared_norm(conv1) + 2 * (score 1(fc))", ("conv1", "fc")),
        ("class: crane, lifting machine", "score 1(fc)", ("fc",)),
        ("probability:matchstick", "score 3(prob)", ("prob",)),
    ],
)
def test_the_grammar(net, text, told, layers):
    objective = asked(net, text)
    assert (str(objective), objective.layers) == (told, layers)


def test_a_term_without_a_layer_stands_for_each_that_was_asked_for(net):
    objective = asked(net, "norm + channel:2(pool1)", layers=("conv1", 4))
    assert str(objective) == "squared_norm(conv1) + squared_norm(conv2) + channel 2(pool1)"


def test_a_sum_is_the_sum(net):
    y = response(net)("conv2")
    one, other = (asked(net, text)({"conv2": y})[0] for text in ("norm", "channel:1"))
    assert asked(net, "norm + 3*channel:1")({"conv2": y})[0] == pytest.approx(one + 3 * other)


def test_a_place_is_the_same_point_in_every_octave(net):
    """relu1 is 36x50 for the whole and 16x23 for an octave: row 30 of 36 is row 13 of 16."""
    here, (h, w) = response(net), net.shapes(SHAPE, upto=["relu1"])["relu1"][1:3]
    small = (1, 20, 25, 3)
    there = response(net, shape=small)
    assert (h, w) == (36, 50) and there("relu1").shape[1:3] == (16, 23)
    for (i, j), (down, right) in {(0, 0): (0, 0), (30, 11): (13, 5), (35, 49): (15, 22)}.items():
        text = f"neuron:3@{i},{j}"
        objective = asked(net, text, ["relu1"], shape=small, whole=SHAPE)
        (seed,) = objective({"relu1": there("relu1") + 1})[1].values()
        assert [tuple(place) for place in np.argwhere(seed)] == [(0, down, right, 3)]
        (seed,) = asked(net, text, ["relu1"])({"relu1": here("relu1") + 1})[1].values()
        assert [tuple(place) for place in np.argwhere(seed)] == [(0, i, j, 3)]
    with pytest.raises(UsageError, match="is a map of 36x50 for a picture of 40x52, it has no place 36,2"):
        asked(net, "neuron:3@36,2", ["relu1"], shape=small, whole=SHAPE)


def test_a_direction_lies_where_the_net_does(device, net):
    there = net.to(device)
    objective = parsed("direction:0,4", there, ["conv2"], shape=SHAPE)
    y = response(net)("conv2")
    value, seeds = objective({"conv2": to_device(y, device)})
    wanted, seed = asked(net, "direction:0,4")({"conv2": y})
    assert value == pytest.approx(wanted)
    np.testing.assert_allclose(to_host(seeds["conv2"]), seed["conv2"], rtol=1e-4, atol=1e-7)


def test_channels_are_known_also_where_the_net_has_no_size():
    objective = parsed("direction:3,7", zoo.get("gabor"), ["relu2"], shape=SHAPE)
    assert objective.layers == ("relu2",)
    with pytest.raises(UsageError, match="does not know its input_shape"):
        parsed("direction:3,7", zoo.get("gabor"), ["relu2"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "say it as norm, channel:12"),
        ("norm +", "say it as norm"),
        ("norm norm", "say it as norm"),
        ("1.2.3*norm", "say it as norm"),
        ("norm(", "say it as norm"),
        ("nrom", "no objective 'nrom'; there are norm, .*; did you mean 'norm'"),
        ("1e999*norm", "its factor is inf"),
        ("norm:3", "takes nothing behind the colon, found '3'"),
        ("guide:3", "takes nothing behind the colon"),
        ("channel", "lacks its argument: channel:12"),
        ("channel:one", "give whole numbers"),
        ("channel:-1", "give whole numbers"),
        ("channel:²", "give whole numbers"),
        ("channel:2,5", "'conv2' has 5 channels, 0 to 4"),
        ("direction:5", "'conv2' has 5 channels, 0 to 4"),
        ("neuron:1,2", "give whole numbers"),
        ("neuron:1@2", "give whole numbers"),
        ("neuron:7(conv2)", "'conv2' has 5 channels"),
        ("strongest:6", "'conv2' has 5 channels"),
        ("strongest:0", "'conv2' has 5 channels"),
        ("strongest:2,3", "give whole numbers"),
        ("class:4", "'fc' has 4 channels, 0 to 3"),
        ("class:²", "no class '²'"),
        ("diversity", "of one picture"),
        ("n" * (LONGEST + 1), "an objective of 1,001 characters"),
    ],
)
def test_what_is_wrong_is_told_before_the_dream(net, text, words):
    with pytest.raises(UsageError, match=words):
        asked(net, text)


def test_a_layer_that_is_not_there(net):
    with pytest.raises(UnknownLayerError, match="no layer 'conv3'; did you mean 'conv2'"):
        asked(net, "norm(conv3)")


def test_guides_and_first_pictures_are_asked_for(net):
    for kind in ("guide", "match"):
        with pytest.raises(UsageError, match="wants a guide picture: --guide PHOTO"):
            asked(net, kind, guide=None)
    with pytest.raises(UsageError, match="wants a first picture"):
        asked(net, "caricature", original=None)


def test_words_of_a_stranger_do_not_keep_us_busy(net):
    began = time.perf_counter()
    for text in ("norm:" + " " * 900 + ")", "9" * 900, "norm(" + " " * 900, "a:" + "b " * 450 + ")"):
        with pytest.raises(MinidnnError):
            asked(net, text)
    assert time.perf_counter() - began < 2


def test_classes_by_number_name_and_part_of_a_name(net):
    assert [class_number(net, name) for name in ("3", " 2 ", "matchstick", "lifting machine", "STICK")] == [
        *(3, 2, 3, 1, 3)
    ]
    assert class_number(net, CLASSES[2]) == 2


def test_class_names_that_many_or_none_have(net):
    with pytest.raises(UsageError, match="2 classes are called 'crane': 0 'crane, wading bird', 1 'crane, l"):
        class_number(net, "crane")
    with pytest.raises(UsageError, match="no class 'matchstik'; did you mean 'matchstick'"):
        class_number(net, "matchstik")
    with pytest.raises(UsageError, match=r"no class .zebra.; there are 4: crane, .*, matchstick$"):
        class_number(net, "zebra")
    many = net.with_nodes(net.nodes, classes=tuple(f"thing {k}, stuff" for k in range(1000)))
    with pytest.raises(UsageError, match=r"there are 1,000: thing 0, thing 1, .*, thing 11, …$"):
        class_number(many, "zebra")
    with pytest.raises(UsageError, match="knows no names of classes: ask for 'bee' by its number"):
        class_number(zoo.get("gabor"), "bee")


def test_probabilities_are_for_nets_that_end_in_them(net):
    assert (scores_of(net, after_softmax=False), scores_of(net, after_softmax=True)) == ("fc", "prob")
    with pytest.raises(UsageError, match="ends in 'relu2', which is no softmax: ask for class"):
        scores_of(zoo.get("gabor"), after_softmax=True)


def test_layers_by_number_as_people_type_it(net):
    assert [named(net, layer) for layer in ("conv2", "4", 4, " 4 ", 0)] == ["conv2"] * 4 + ["data"]
