"""The nets of the house: their tables, their published counts, and that they run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from minidnn import images, weights, zoo
from minidnn.errors import FileFormatError, MismatchError, UsageError, WeightsError
from minidnn.layers import Dropout, PadChannels
from minidnn.summary import parameter_counts, summarise
from minidnn.zoo.vgg import vgg16

PARAMETERS = {
    "gabor": 29_196,
    "lenet": 431_080,
    "lenet5": 61_706,
    "cifar-quick": 145_578,
    "tiny": 1_184_106,
    "alexnet": 60_965_224,
    "caffenet": 60_965_224,
    "zfnet": 62_357_608,
    "nin": 7_595_176,
    "vgg-f": 60_834_536,
    "vgg-m": 102_908_520,
    "vgg-s": 102_908_520,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "squeezenet1.0": 1_248_424,
    "squeezenet1.1": 1_235_496,
    "googlenet": 6_998_552,
    "inception-v3-stem": 3_437_856,
    "resnet18": 11_689_512,
    "resnet20": 269_722,
    "resnet50": 25_557_032,
    "sketchanet": 8_508_666,
}
SMALL = ["lenet", "lenet5", "cifar-quick", "squeezenet1.0", "squeezenet1.1", "resnet20", "sketchanet"]

every_net = pytest.mark.parametrize("name", zoo.NETS)


def count(net) -> int:
    return sum(array.size for array in net.params.values())


def sizes(name: str, *layers: str) -> list[int]:
    """One side of the map of each layer, for the images that the net was made for."""
    net = zoo.get(name, seed=None)
    shapes = net.shapes((1, *net.input_shape))
    return [shapes[layer][1] for layer in layers]


def test_every_net_has_the_parameters_of_its_paper():
    assert {name: count(zoo.get(name, seed=None)) for name in zoo.NETS} == PARAMETERS


@every_net
def test_of_every_net_something_is_known(name):
    net, about = zoo.get(name, seed=None), zoo.ABOUT[name]
    assert all(about) and len(about.words) < 50
    if net.preprocess is not None and net.input_shape is not None:
        assert net.preprocess.size == net.input_shape[:2]
        assert net.preprocess.channels == net.input_shape[2]


def test_nothing_is_known_of_nets_that_are_not_there():
    assert list(zoo.ABOUT.keys() - zoo.NETS.keys()) == []


@every_net
def test_every_net_can_be_summed_up_without_weights(name):
    summary = summarise(zoo.get(name, seed=None), (35, 41) if name == "gabor" else None)
    assert summary.params == PARAMETERS[name]


@pytest.mark.parametrize("name", SMALL)
def test_the_small_nets_run_at_their_size_and_give_probabilities(name):
    net = zoo.get(name)
    x = np.random.default_rng(1).standard_normal((2, *net.input_shape)).astype("float32")
    scores = net.forwardto(net.init_res(), net.names[-1], x, keep="needed")
    assert scores.shape[:3] == (2, 1, 1) and scores.dtype == np.float32
    assert np.allclose(scores.sum(axis=3), 1, atol=1e-5)


# What the papers draw


def test_vgg_brings_its_dropout_only_if_asked():
    plain, trained = zoo.get("vgg16", seed=None), vgg16(dropout=True)
    assert plain.names[-6:] == ("fc6", "relu6", "fc7", "relu7", "fc8", "prob")
    assert trained.names[-8:] == ("fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8", "prob")
    assert (len(plain.nodes), len(trained.nodes), len(zoo.get("vgg19", seed=None).nodes)) == (37, 39, 43)


@pytest.mark.parametrize("name", zoo.NETS)
def test_so_does_every_net_that_has_some(name):
    assert not [n.name for n in zoo.get(name, seed=None).nodes if isinstance(n.layer, Dropout)]
    if name in ("squeezenet1.0", "nin", "googlenet", "sketchanet", "alexnet", "vgg-s"):
        drops = [n.name for n in zoo.NETS[name](None, dropout=True).nodes if isinstance(n.layer, Dropout)]
        assert drops in (["drop9"], ["drop"], ["pool5/drop_7x7_s1"], ["drop6", "drop7"])


def test_the_layers_of_the_course_are_those_of_its_numbers():
    net = zoo.get("vgg16", seed=None)
    assert [net.name_of(number) for number in (3, 15, 27)] == ["conv1_2", "conv3_3", "conv5_2"]


def test_the_fully_connected_layers_of_vgg16_hold_most_of_it():
    counts = parameter_counts(zoo.get("vgg16", seed=None))
    assert [counts[name] for name in ("fc6", "fc7", "fc8")] == [102_764_544, 16_781_312, 4_097_000]
    assert sum(n for name, n in counts.items() if name.startswith("conv")) == 14_714_688


def test_alexnet_normalises_then_pools_and_caffenet_the_other_way_round():
    assert zoo.get("alexnet", seed=None).names[1:5] == ("conv1", "relu1", "norm1", "pool1")
    assert zoo.get("caffenet", seed=None).names[1:5] == ("conv1", "relu1", "pool1", "norm1")
    assert [zoo.get("alexnet", seed=None).node(f"conv{i}").layer.groups for i in range(1, 6)] == [
        1,
        2,
        1,
        2,
        2,
    ]


def test_the_maps_have_the_sizes_that_the_papers_draw():
    convs = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]
    assert sizes("zfnet", *convs) == [110, 55, 26, 13, 13, 13, 13, 6]
    assert sizes("alexnet", *convs) == [55, 27, 27, 13, 13, 13, 13, 6]
    assert sizes("vgg-f", *convs) == [54, 27, 27, 13, 13, 13, 13, 6]
    assert sizes("vgg-m", *convs) == [109, 54, 26, 13, 13, 13, 13, 6]
    assert sizes("vgg-s", *convs) == [109, 37, 33, 17, 17, 17, 17, 6]
    assert sizes("nin", "conv1", "pool0", "pool2", "pool3", "cccp8-1024", "pool4") == [54, 27, 13, 6, 6, 1]
    assert sizes("sketchanet", "conv1", "pool1", "conv2", "pool2", "pool5", "fc6") == [71, 35, 31, 15, 7, 1]
    assert sizes("lenet5", "c1", "s2", "c3", "s4", "c5") == [28, 14, 10, 5, 1]
    assert sizes("cifar-quick", "pool1", "pool2", "pool3") == [16, 8, 4]
    assert sizes("squeezenet1.0", "conv1", "pool1", "pool4", "pool8", "conv10") == [111, 55, 27, 13, 15]
    assert sizes("squeezenet1.1", "conv1", "pool1", "pool3", "pool5", "conv10") == [113, 56, 28, 14, 14]
    assert sizes("googlenet", "conv1/7x7_s2", "conv2/3x3", "inception_3a/output") == [112, 56, 28]
    assert sizes("googlenet", "inception_4c/output", "inception_5b/output", "pool5/7x7_s1") == [14, 7, 1]
    assert sizes("inception-v3-stem", "conv", "pool", "pool_1", "mixed_2", "mixed_4") == [149, 73, 35, 35, 17]
    assert sizes("resnet50", "conv1", "maxpool", "layer2/0/relu", "layer4/2/relu") == [112, 56, 28, 7]
    assert sizes("resnet20", "conv1", "layer1/2/relu", "layer2/2/relu", "layer3/2/relu") == [32, 32, 16, 8]


def test_inception_modules_are_as_wide_as_the_paper_says():
    net = zoo.get("googlenet", seed=None)
    shapes = net.shapes((1, 224, 224, 3))
    widths = [shape[3] for name, shape in shapes.items() if name.endswith("/output")]
    assert widths == [256, 480, 512, 512, 512, 528, 832, 832, 1024]
    stem = zoo.get("inception-v3-stem", seed=None).shapes((1, 299, 299, 3))
    assert [stem[name][3] for name in ("mixed", "mixed_1", "mixed_3", "mixed_4")] == [256, 288, 768, 768]


def test_a_squeezenet_is_called_as_caffe_calls_it():
    names = zoo.get("squeezenet1.1", seed=None, dropout=True).names
    assert names[1:11] == (
        *("conv1", "relu_conv1", "pool1", "fire2/squeeze1x1", "fire2/relu_squeeze1x1", "fire2/expand1x1"),
        *("fire2/relu_expand1x1", "fire2/expand3x3", "fire2/relu_expand3x3", "fire2/concat"),
    )
    assert names[-5:] == ("drop9", "conv10", "relu_conv10", "pool10", "prob")


def test_a_sketchanet_may_read_six_channels():
    net = zoo.get("sketchanet", seed=None, channels=6, classes=125)
    assert net.input_shape == (225, 225, 6) and net.preprocess is None
    assert count(net) == 8_508_666 + 15 * 15 * 5 * 64 - 125 * 513


def test_a_net_of_places_has_other_classes():
    places = zoo.get("googlenet", seed=None, classes=205)
    assert count(places) == 6_998_552 - 795 * 1025
    assert count(zoo.get("vgg16", seed=None, classes=205)) == 138_357_544 - 795 * 4097


def test_the_shortcuts_of_resnet20_have_no_parameters():
    net = zoo.get("resnet20", seed=None)
    assert [name for name in net.names if "shortcut" in name] == [
        f"layer{stage}/0/shortcut/{what}" for stage in (2, 3) for what in ("subsample", "pad")
    ]
    assert not [name for name in net.params if "shortcut" in name]
    assert sum(array.size for array in net.buffers.values()) == 1_376


def test_channels_of_zeros_stand_before_and_after():
    x = np.arange(1.0, 13).reshape(1, 2, 3, 2)
    y, _ = PadChannels(2, 1).forward(x)
    assert y.shape == PadChannels(2, 1).out_shape(x.shape) == (1, 2, 3, 5)
    assert y[0, 1, 2].tolist() == [0, 0, 11, 12, 0]
    with pytest.raises(UsageError, match="PadChannels by 2 and -1; give 0 or more of each"):
        PadChannels(2, -1)


def test_the_page_of_the_zoo_has_a_row_for_every_net():
    page = Path(__file__).parents[1] / "docs" / "zoo.md"
    rows = re.findall(
        r"^\| `([^`]+)` \| (\d+) \| ([\d,]+) \|", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    nets = {name: zoo.get(name, seed=None) for name in zoo.NETS}
    assert rows == [(name, str(len(net.nodes)), f"{count(net):,}") for name, net in nets.items()]


# Weights, and none


def test_looking_at_a_net_takes_no_memory_and_running_it_needs_weights():
    net = zoo.get("vgg16", seed=None)
    assert all(
        array.base is not None and not any(array.strides) for array in net.params.values() if array.size > 1
    )
    with pytest.raises(WeightsError, match="has no weights yet"):
        net.forwardto(net.init_res(), "conv1_1", np.zeros((1, 32, 32, 3)))


def test_one_seed_is_one_net():
    first, again, other = (zoo.get("lenet", seed=seed).params["conv1/w"] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(first, zoo.get("lenet").params["conv1/w"])


def test_vgg16_runs_at_any_size_up_to_its_last_convolution():
    net = zoo.get("vgg16", seed=None).replacing(
        {
            name: np.random.default_rng(0).standard_normal(array.shape).astype("float32") * 0.05
            for name, array in zoo.get("vgg16", seed=None).params.items()
            if name.startswith("conv1")
        }
    )
    res = net.init_res()
    assert net.forwardto(res, 5, np.ones((1, 33, 47, 3), "float32")).shape == (1, 17, 24, 64)
    assert net.preprocess.mean == (123.68, 116.779, 103.939)


def in_a_file(monkeypatch, net):
    """Let every path lead to a file that holds this net."""
    monkeypatch.setattr(weights, "load", lambda path: net, raising=False)
    return "mine.h5"


def test_weights_from_a_file_come_with_the_net_of_the_file(monkeypatch):
    mine = zoo.get("lenet", seed=3)
    assert zoo.get("lenet", weights=in_a_file(monkeypatch, mine)) is mine


def test_with_options_the_layers_are_ours_and_the_numbers_those_of_the_file(monkeypatch):
    mine = zoo.get("squeezenet1.1", seed=3)
    net = zoo.get("squeezenet1.1", weights=in_a_file(monkeypatch, mine), dropout=True)
    assert "drop9" in net.names and net.preprocess == mine.preprocess
    assert all(np.array_equal(array, mine.params[name]) for name, array in net.params.items())


def test_weights_of_another_net_are_refused(monkeypatch):
    lenet5 = in_a_file(monkeypatch, zoo.get("lenet5"))
    with pytest.raises(MismatchError, match=r"mine.h5: not lenet: 'c1/b' is of no use; .*; and 13 more;"):
        zoo.get("lenet", weights=lenet5)
    six = in_a_file(monkeypatch, zoo.get("sketchanet", seed=None, channels=6))
    wrong = r"'conv1/w' is \(15, 15, 6, 64\), expected \(15, 15, 1, 64\); give the file of sketchanet, or see"
    with pytest.raises(MismatchError, match=wrong):
        zoo.get("sketchanet", weights=six)


def test_a_folder_is_no_file_of_weights(tmp_path):
    with pytest.raises(FileFormatError, match="a folder, and lenet wants one file of weights; name the file"):
        zoo.get("lenet", weights=tmp_path)


def test_an_unknown_net_brings_a_near_one_to_mind():
    with pytest.raises(
        UsageError, match=r"no net 'vgg15'; there are gabor, lenet, .*; did you mean 'vgg1\d'"
    ):
        zoo.get("vgg15")


def test_an_unknown_option_brings_a_near_one_to_mind():
    with pytest.raises(
        UsageError, match="vgg16 has no option 'dropuot'; it has classes, dropout; did you mean 'dropout'"
    ):
        zoo.get("vgg16", dropuot=True)
    with pytest.raises(UsageError, match="gabor has no option 'channels'; it has none"):
        zoo.get("gabor", channels=1)


@pytest.mark.parametrize("seed", [-1, 0.5, "0"])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(UsageError, match="a seed is a whole number from 0, or None for no weights; found"):
        zoo.get("lenet", seed=seed)


# The one that nobody had to train


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
