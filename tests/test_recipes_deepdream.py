"""The settings of a dream: each does something, none is taken unlooked at; and classes as dreams."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from minidnn import images, zoo
from minidnn.arrays import to_device, to_host
from minidnn.cli import dream
from minidnn.cli.main import COMMANDS
from minidnn.dream.priors import MIDDLE
from minidnn.errors import DivergedError, ShapeError, UsageError
from minidnn.layers import ReLU
from minidnn.net import Net
from minidnn.recipes.classvis import ABLATION, DEVIATION, ClassVis
from minidnn.recipes.deepdream import CANVASES, STEPS, DeepDream, deepdream, layers_of, prepared
from minidnn.recipes.goals import KINDS
from tests.dreamers import SIZE, classy, quick


def dreamed(job=None, **settings):
    *_, last = (job or quick(**settings)).opened().frames()
    return last.picture


# A value for each setting, other than its default, that makes another picture of the photo (blend: of films).
OTHERS = {
    "layers": ("conv1",),
    "objective": "strongest:2",
    "steps": 1,
    "octaves": 2,
    "factor": 1.7,
    "rule": "unit",
    "rate": 0.7,
    "canvas": "fourier",
    "jitter": 3,
    "turn": 7.0,
    "scale": 0.2,
    "flip": True,
    "window": "random",
    "colours": 0.1,
    "smooth": (),
    "tv": 20.0,
    "norm": 500.0,
    "decay": 100.0,
    "blur": 1.2,
    "bilateral": 1.1,
    "seed": 4,
}
TOGETHER = {
    "window_share": ({"window": "in-turn"}, (0.2, 0.3)),
    "tv_exponent": ({"tv": 20.0}, 2.0),
    "blur_every": ({"blur": 1.2}, 2),
    "blur_border": ({"blur": 1.2}, "matlab"),
}
ELSEWHERE = {"slide", "blend", "max_memory"}  # large nets, folders and large pictures: tested where they are


def test_no_setting_is_forgotten_here():
    assert OTHERS.keys() | TOGETHER.keys() | ELSEWHERE == {f.name for f in fields(DeepDream)}


@pytest.fixture(scope="module")
def usual():
    return dreamed()


@pytest.mark.parametrize("name", OTHERS)
def test_each_setting_changes_the_picture(usual, name):
    picture = dreamed(**{name: OTHERS[name]})
    assert picture.shape == usual.shape and np.isfinite(picture).all()
    assert not np.array_equal(picture, usual)


@pytest.mark.parametrize("name", TOGETHER)
def test_each_setting_that_needs_another_changes_the_picture(name):
    others, value = TOGETHER[name]
    assert not np.array_equal(dreamed(**others), dreamed(**others, **{name: value}))


@pytest.mark.parametrize(
    "settings",
    [
        {"canvas": "cppn"},
        {"canvas": "fourier", "rule": "adam", "rate": 0.05},
        {"rule": "plain", "rate": 1e-6},
        {"rule": "adam", "rate": 2.0},
        {"rule": "lbfgs"},
        {"rule": "lbfgs", "canvas": "fourier", "rate": 0.01},
        {"window": "random", "window_share": (0.3, 0.3)},
        {"window": "in-turn", "steps": 7},
        {"jitter": 0, "turn": 180.0, "scale": 0.9, "flip": True},
    ],
    ids=str,
)
def test_other_ways_run_and_stay_within_the_colours(settings):
    picture = dreamed(**settings)
    assert picture.min() >= 0 and picture.max() <= 255 and picture.std() > 1


def test_the_same_seed_gives_the_same_bits():
    settings = {"window": "random", "turn": 5.0, "flip": True}
    assert np.array_equal(dreamed(**settings), dreamed(**settings))
    assert not np.array_equal(dreamed(**settings), dreamed(**settings, seed=1))


def test_by_curvature_it_goes_without_what_is_on_by_default():
    way = DeepDream(rule="lbfgs").way()
    assert (way.transforms, way.shaping, way.filters) == ((), (), ())
    assert DeepDream(rule="lbfgs").left_out == ("jitter", "colours", "smooth")
    assert DeepDream(rule="lbfgs", colours=0.0).left_out == ("jitter", "smooth")
    assert DeepDream(rule="lbfgs", jitter=0, colours=0.0, smooth=()).left_out == DeepDream().left_out == ()
    values = [frame.value for frame in quick(rule="lbfgs", octaves=1, steps=6).opened().frames()]
    assert values == sorted(values) and values[-1] > values[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rule": "newton"}, "rule 'newton'; there are mean-abs, unit, plain, adam, lbfgs"),
        ({"canvas": "oil"}, "canvas 'oil'; there are pixels, fourier, cppn"),
        ({"window": "all"}, "window 'all'; there are random, in-turn"),
        ({"blur": 1.0, "blur_border": "black"}, "border 'black'"),
        ({"steps": 0}, "steps 0; give 1 to 50,000"),
        ({"steps": -3}, "steps -3; give 1"),
        ({"octaves": 10**9}, "octaves 1000000000; give 1 to 50"),
        ({"factor": 1.0}, "factor 1.0; give 1.01"),
        ({"rate": 0.0}, "rate 0"),
        ({"rate": -1.0}, "rate -1"),
        ({"rate": float("nan")}, "rate nan"),
        ({"rate": float("inf")}, "rate inf"),
        ({"jitter": -1}, "jitter -1; give 0"),
        ({"scale": 1.0}, "scale 1.0; give 0 to 0.9"),
        ({"turn": float("inf")}, "turn inf"),
        ({"colours": 1.5}, "colours 1.5; give 0 to 1"),
        ({"tv": float("nan")}, "tv nan"),
        ({"blur": 1e9}, "blur 1000000000.0; give 0 to 100"),
        ({"blur_every": 0}, "blur_every 0; give 1"),
        ({"blend": 1.1}, "blend 1.1"),
        ({"seed": -1}, "seed -1; give 0"),
        ({"smooth": (1.0, 0.0)}, "smooth .*; give widths above 0"),
        ({"smooth": (float("nan"),)}, "give widths above 0"),
        ({"window_share": (0.5,)}, "window_share .*; give two"),
        ({"window": "random", "window_share": (0.8, 0.4)}, "Window of"),
        ({"canvas": "cppn", "blur": 1.0}, "leave out blur and bilateral"),
        ({"rule": "lbfgs", "turn": 3.0}, "would take turn for curvature; leave out turn, or lbfgs"),
        ({"rule": "lbfgs", "flip": True, "blur": 1.0}, "leave out flip and blur, or lbfgs"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(settings, words):
    with pytest.raises(UsageError, match=words):
        DeepDream(**settings)


def test_the_favourite_layer():
    favourite = {name: layers_of(zoo.get(name, seed=None), DeepDream())[0] for name in zoo.NETS}
    assert (favourite["tiny"], favourite["vgg16"], favourite["squeezenet1.1"]) == (
        "relu8",
        "relu5_2",
        "fire8/concat",
    )
    assert favourite["gabor"] == "relu2", "behind a convolution three quarters up"
    assert favourite["alexnet"] == favourite["vgg-f"] == "relu4"
    assert favourite["resnet18"] == "layer4/0/relu1", "behind a norm too"
    assert layers_of(classy(), DeepDream()) == ("conv2",)
    assert layers_of(classy(), DeepDream(layers=("1", 3))) == ("conv1", "pool1")
    with pytest.raises(UsageError, match="has no favourite layer: choose of data, relu"):
        layers_of(Net.chain({"relu": ReLU()}), DeepDream())


@pytest.mark.parametrize("kind", ["guide", "match", "caricature", "0.5*caricature(conv1) + match"])
def test_guides_of_another_size_and_all_octaves(kind):
    job = replace(quick(objective=kind), guide=None)
    net, picture = zoo.get("gabor"), images.clouds_over_hills(*SIZE)
    guide = images.clouds_over_hills(31, 70, seed=9)
    frames = list(deepdream(net, picture, job.settings, guide=guide))
    assert [frame.octave for frame in frames] == [0, 0, 1, 1, 2, 2]
    assert frames[-1].picture.shape == picture.shape


def test_an_all_zero_gradient_is_told():
    grey = np.full((1, 24, 31, 3), 128.0, "float32")
    with pytest.raises(DivergedError, match=r"has no gradient on this picture: .* take another picture"):
        next(deepdream(zoo.get("gabor"), grey, DeepDream(steps=2, octaves=2)))


def test_a_picture_that_is_too_small_for_the_net():
    with pytest.raises(ShapeError) as caught:
        next(deepdream(classy(), images.clouds_over_hills(6, 9), DeepDream(layers=("conv2",))))
    assert "the smallest square image that gets this far is" in " ".join(caught.value.__notes__)


def test_octaves_too_small_for_the_net_are_left_out():
    job = replace(quick(octaves=9), size=(22, 27))
    net = classy()
    sizes = {
        frame.picture.shape[1:3] for frame in deepdream(net, job.opened().picture, replace(job.settings))
    }
    assert (22, 27) in sizes and len(sizes) > 1


def test_a_step_that_is_too_large_says_where_it_diverged():
    with pytest.raises(DivergedError, match="step 1 moved the pixels by"):
        dreamed(rate=1e10)
    with pytest.raises(DivergedError, match="step 1"):
        dreamed(rate=1e19, rule="plain")


def test_a_mean_picture_becomes_a_mean_colour():
    net = classy()
    mean = np.full((33, 29, 3), (10.0, 20.0, 30.0))
    net = net.with_nodes(net.nodes, preprocess=replace(net.preprocess, mean=mean))
    assert prepared(net).preprocess.mean == (10.0, 20.0, 30.0)


def test_sliding_lets_the_full_connections_see_more():
    picture = images.clouds_over_hills(40, 52)
    flat = Net.chain(
        {"conv": classy().node("conv1").layer, "fc": _connected(15, 13)}, input_shape=(19, 15, 3)
    )
    with pytest.raises(ShapeError):
        next(deepdream(flat, picture, DeepDream(layers=("fc",), octaves=1)))
    frame = next(deepdream(flat, picture, DeepDream(layers=("fc",), octaves=1, slide=True)))
    assert frame.gradient_norm > 0


def _connected(h, w):
    from minidnn.layers import FC

    return FC.random(np.random.default_rng(2), (h, w, 7), 4)


@pytest.mark.parametrize("canvas", CANVASES)
def test_dreams_on_every_device(device, canvas):
    settings = DeepDream(steps=1, octaves=2, canvas=canvas)
    picture = images.clouds_over_hills(20, 27)
    here = [to_host(f.picture) for f in deepdream(zoo.get("gabor"), picture, settings)]
    net = zoo.get("gabor").to(device)
    there = [to_host(f.picture) for f in deepdream(net, to_device(picture, device), settings)]
    assert all(np.abs(a - b).max() < 1 for a, b in zip(here, there, strict=True))


def test_every_rule_is_one():
    assert {type(DeepDream(rule=rule).optimiser()) for rule in STEPS} == set(STEPS.values())


# Classes as dreams.


def test_the_numbers_of_the_practical():
    found = ClassVis("matchstick").as_dream()
    assert (found.objective, found.steps, found.octaves) == ("class:matchstick", 200, 1)
    assert (found.rule, found.rate) == ("unit", pytest.approx(5 * 0.225 * 255))
    assert (found.blur, found.blur_every, found.jitter, found.smooth) == (0.5, 10, 16, ())


def test_the_regularisation_counts_in_deviations():
    """regularisation * |x|², x in deviations, is held against the class in a dream that counts in pixels."""
    (penalty,) = ClassVis("1", regularisation=0.02).as_dream().way().penalties
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 3))
    value, grad = penalty(MIDDLE + DEVIATION * x)
    assert value == pytest.approx(0.02 * (x**2).sum())
    assert np.allclose(grad * DEVIATION, 2 * 0.02 * x)


def test_behind_the_softmax_without_blur_and_painted():
    assert ClassVis("3", after_softmax=True).as_dream().objective == "probability:3"
    assert ClassVis("3", blur_every=0).as_dream().blur == 0
    painted = ClassVis("3", painted=True).as_dream()
    assert (painted.canvas, painted.rule, painted.decay, painted.blur) == ("fourier", "adam", 0, 0)
    assert ClassVis("3").as_dream(steps=7).steps == 7
    assert [*ABLATION] == ["none", "moderate", "strong"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"blur_every": -1}, "blur 0.5 every -1 steps"),
        ({"blur": -0.5}, "blur -0.5 every"),
        ({"rate": 0.0}, "rate 0"),
        ({"regularisation": float("nan")}, "decay nan"),
        ({"steps": 0}, "steps 0"),
    ],
    ids=str,
)
def test_classes_asked_for_in_vain(settings, words):
    with pytest.raises(UsageError, match=words):
        ClassVis("3", **settings).as_dream()


@pytest.mark.parametrize("is_painted", [True, False])
def test_a_class_grows(is_painted):
    net = classy()
    settings = ClassVis("2", steps=12, jitter=3, painted=is_painted).as_dream()
    start = np.random.default_rng(0).normal(127.5, 12, (1, 33, 29, 3)).astype("float32")
    values = [frame.value for frame in deepdream(net, start, settings)]
    assert values[-1] > values[0]


# The page about dreaming.

PAGE = (Path(__file__).parents[1] / "docs/dreaming.md").read_text(encoding="utf-8")


def test_the_page_names_every_setting_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", PAGE, re.MULTILINE))
    for setting in fields(DeepDream):
        assert setting.name in rows, f"docs/dreaming.md lacks the setting {setting.name}"
        value = setting.default
        if value not in ((), None, ""):
            told = ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value).lower()
            assert rows[setting.name] == (f"{value:g}" if isinstance(value, float) else told)


def test_the_page_names_every_objective_and_command():
    assert [kind for kind in KINDS if not re.search(rf"^\| `{kind}[:`]", PAGE, re.MULTILINE)] == []
    commands = ("dream", "imagine", "zoom", "experiment", "replay")
    assert [name for name in commands if f"minidnn {name}" not in PAGE] == []
    assert set(commands) <= set(COMMANDS)


def test_the_page_names_every_option_of_a_dream():
    parser = argparse.ArgumentParser(add_help=False)
    dream.add_arguments(parser)
    options = [option for action in parser._actions for option in action.option_strings if option != "-o"]
    told = {"--net", "--output", "--device"}  # are told where nets and outputs are
    assert [option for option in options if option not in PAGE and option not in told] == []
