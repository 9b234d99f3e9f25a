"""Bare arrays find their net in the zoo, and nets that files wire themselves get the zoo's names."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minidnn import zoo
from minidnn.errors import MismatchError, UsageError
from minidnn.graph import Node
from minidnn.layers import FC, Concat, Conv, Dropout, Flatten, MaxPool, ReLU, Softmax
from minidnn.net import Net
from minidnn.window import Window
from weights_tools.fitting import shaped
from weights_tools.foreign import Foreign
from weights_tools.match import matched
from weights_tools.naming import storable


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def arrays_of(net, prefix="layer"):
    """The weights of a net as a file without wiring has them: dense ones as matrices."""
    layers = {}
    for number, node in enumerate((n for n in net.nodes if n.layer.params), start=1):
        held = dict(node.layer.params | node.layer.buffers)
        if isinstance(node.layer, FC):
            held["w"] = held["w"].reshape(-1, held["w"].shape[3])
        layers[f"{prefix}{number}"] = held
    return layers


def bare(net, *, format="a file", flatten="hwc", count=None, prefix="layer"):
    layers = dict(list(arrays_of(net, prefix).items())[:count])
    return Foreign(format, layers=layers, flatten=flatten)


def test_arrays_of_a_net_of_the_zoo_become_that_net():
    net = zoo.get("lenet", seed=3)
    match = matched(bare(net))
    assert match.arch == "lenet"
    assert match.net.names == net.names
    for name, array in net.params.items():
        np.testing.assert_array_equal(match.net.params[name], array)
    assert match.net.name_of("layer3") == "fc3", "the file's own names go on to work"


def test_a_matrix_written_channel_by_channel_is_turned_into_our_order(rng):
    dense = rng.standard_normal((2 * 3 * 5, 7)).astype("float32")  # a map of 2x3 with 5 channels
    x = rng.standard_normal((1, 2, 3, 5)).astype("float32")
    ours = shaped(dense, (2, 3, 5, 7), "chw")
    flat = x.transpose(0, 3, 1, 2).reshape(1, -1)  # as Caffe and PyTorch lay a map out
    np.testing.assert_allclose(FC(ours, None).forward(x)[0].reshape(1, 7), flat @ dense, rtol=1e-5)
    as_keras = FC(shaped(dense, (2, 3, 5, 7), "hwc"), None).forward(x)[0].reshape(1, 7)
    np.testing.assert_allclose(as_keras, x.reshape(1, -1) @ dense, rtol=1e-5)
    assert not np.allclose(as_keras, flat @ dense)


def test_the_first_layers_of_a_net_are_taken_when_asked_for():
    net = zoo.get("squeezenet1.1", seed=1)
    notop = bare(net, count=25)
    with pytest.raises(MismatchError, match=r"the nearest is squeezenet1.1, .* first 25 of 26: say --arch"):
        matched(notop)
    match = matched(notop, "squeezenet1.1")
    assert match.net.names[-1] == "fire9/concat"
    assert match.net.shapes((1, 227, 227, 3))["fire9/concat"] == (1, 14, 14, 512)


def test_a_net_in_other_widths_is_taken_when_asked_for():
    widths = [3, 2, 2, 4, 4, *[5] * 3]
    shapes = list(itertools.pairwise(widths))
    narrow = {
        f"c{i}": {"w": np.ones((3, 3, a, b), "f4"), "b": np.ones(b, "f4")} for i, (a, b) in enumerate(shapes)
    }
    foreign = Foreign("a file", layers=narrow)
    words = r"in other widths they could be those of .*vgg16, vgg19, .*: say --arch with the one that it is"
    with pytest.raises(MismatchError, match=words):
        matched(foreign)
    assert matched(foreign, "vgg19").net.names[-1] == "relu3_3"


def test_a_cut_net_keeps_the_activation_behind_its_last_filters():
    first_two = bare(zoo.get("lenet", seed=0), count=3)  # conv1, conv2, fc3
    assert matched(first_two, "lenet").net.names[-1] == "relu3"


def test_arrays_of_no_net_name_the_nearest_and_its_first_difference():
    wrong = bare(zoo.get("lenet", seed=0))
    wrong.layers["layer2"]["w"] = np.zeros((5, 5, 20, 51), "float32")
    words = r"the nearest is lenet, the first 1 agree, but 'layer2' holds w \(5, 5, 20, 51\), .*'conv2' wants"
    with pytest.raises(MismatchError, match=words):
        matched(wrong)
    strange = Foreign("a file", layers={"a": {"w": np.zeros((9, 8, 2, 3))}})
    with pytest.raises(MismatchError, match=r"no net of the zoo begins like these 1 layers \('a' holds w"):
        matched(strange)
    with pytest.raises(MismatchError, match="without weights; nothing to convert"):
        matched(Foreign("an empty file"))


@pytest.mark.parametrize("name", ["squeezenet1.1", "lenet"])
def test_a_net_that_was_trained_further_brings_its_own_number_of_answers(name):
    foreign = bare(zoo.get(name, seed=1))
    last = list(foreign.layers.values())[-1]
    last |= {"w": last["w"][..., :7], "b": last["b"][:7]}
    for asked in (None, name):
        match = matched(foreign, asked)
        bank = [node.layer for node in match.net.nodes if node.layer.params][-1]
        assert (match.arch, bank.out_channels, match.net.classes) == (name, 7, ())
        np.testing.assert_array_equal(bank.b, last["b"])
        assert "of 7 answers: such a net was trained further" in match.steps[-1]


def test_arrays_of_lenet5_do_not_say_how_it_is_built_so_it_asks():
    lenet5 = bare(zoo.get("lenet5", seed=0))
    words = (
        r"do not say with which activation and pool it was trained; say it: --arch lenet5 --set activation"
    )
    for arch in (None, "lenet5"):
        with pytest.raises(UsageError, match=words):
            matched(lenet5, arch)
    with pytest.raises(UsageError, match="do not say with which activation it was trained"):
        matched(lenet5, "lenet5", {"pool": "max"})
    match = matched(lenet5, "lenet5", {"pool": "max", "activation": "relu"})
    assert match.net.names[1:4] == ("c1", "c1/relu", "s2")
    assert isinstance(match.net.node("s2").layer, MaxPool)
    assert match.steps[-1] == "lenet5 with pool=max, activation=relu, as --set says"


def test_a_net_of_the_zoo_takes_its_options_from_set():
    places = bare(zoo.get("googlenet", seed=0, classes=7))
    match = matched(places, "googlenet", {"classes": "7", "dropout": "true"})
    assert match.net.node("loss3/classifier").layer.out_channels == 7
    for settings, words in [
        ({"clases": "7"}, "no option 'clases'.* did you mean 'classes'"),
        ({"classes": "seven"}, "--set classes=seven: a whole number is wanted"),
        ({"dropout": "1"}, "--set dropout=1: true or false is wanted"),
    ]:
        with pytest.raises(UsageError, match=words):
            matched(places, "googlenet", settings)
    with pytest.raises(UsageError, match="--set wants to know of which net"):
        matched(places, None, {"classes": "7"})


def test_what_fits_nothing_is_not_sent_in_a_circle():
    wrong = bare(zoo.get("lenet", seed=0))
    wrong.layers["layer2"]["w"] = np.zeros((5, 5, 20, 51), "float32")
    for asked in (None, "lenet"):
        with pytest.raises(MismatchError, match="give a prototxt of it, --arch FILE, or export it as ONNX"):
            matched(wrong, asked)


def test_another_net_than_the_one_asked_for_is_refused():
    with pytest.raises(MismatchError, match=r"not resnet20: 'layer1' holds"):
        matched(bare(zoo.get("lenet", seed=0)), "resnet20")
    resnet = bare(zoo.get("resnet20", seed=0))
    with pytest.raises(MismatchError, match=r"not vgg19: 'layer1' holds"):
        matched(resnet, "vgg19")
    with pytest.raises(UsageError, match=r"--arch lenett: no net of the zoo.*did you mean 'lenet"):
        matched(bare(zoo.get("lenet", seed=0)), "lenett")


def test_layers_in_another_order_are_sorted_by_their_shapes_and_the_numbers_in_their_names():
    net = zoo.get("squeezenet1.1", seed=1)
    layers = list(arrays_of(net, "features.").items())
    shuffled = [layers[i] for i in np.random.default_rng(0).permutation(len(layers))]
    match = matched(Foreign("PyTorch state dict", layers=dict(shuffled)))
    assert (match.arch, "once sorted by shapes and names" in match.steps[0]) == ("squeezenet1.1", True)
    for name, array in net.params.items():
        np.testing.assert_array_equal(match.net.params[name], array)


@pytest.mark.parametrize("prefix, pads", [("features.", 0), ("layer", 1)])
def test_squeezenet_1_0_of_torchvision_has_no_pad_at_its_end(prefix, pads):
    match = matched(bare(zoo.get("squeezenet1.0", seed=1), prefix=prefix))
    assert match.net.node("conv10").layer.window.pad == (pads,) * 4


def test_nets_with_the_same_arrays_are_not_guessed_between(monkeypatch):
    monkeypatch.setitem(zoo.NETS, "lenet-again", zoo.NETS["lenet"])
    with pytest.raises(UsageError, match="fit lenet and lenet-again alike; say which: --arch lenet"):
        matched(bare(zoo.get("lenet", seed=0)))
    assert matched(bare(zoo.get("lenet", seed=0)), "lenet-again").arch == "lenet-again"


def test_a_narrow_net_is_built_from_its_own_widths(rng):
    def conv(kh, c, k):
        return {"w": rng.standard_normal((kh, kh, c, k)).astype("f4"), "b": np.zeros(k, "f4")}

    narrow = Foreign(
        "PyTorch state dict",
        layers={
            "conv0": conv(1, 3, 3),
            "conv11": conv(3, 3, 16),
            "conv12": conv(3, 16, 17),
            "conv21": conv(3, 17, 32),
            "conv21_aux": conv(1, 32, 128),
        },
    )
    match = matched(narrow, "vgg19")
    assert match.net.names == (
        *("data", "conv0", "conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1"),
    )
    assert match.net.node("conv2_1").layer.w.shape == (3, 3, 17, 32)
    assert any("'conv21_aux' left out" in step for step in match.steps)
    assert match.net.shapes((1, 20, 30, 3))["relu2_1"] == (1, 10, 15, 32)


# Nets that the file wires


def small(rng, names, *, pad=0, head=10):
    """LeNet's convolutions under other names, with another geometry and head."""
    conv1 = Conv.random(rng, 5, 1, 20, pad=pad)
    conv2 = Conv.random(rng, 5, 20, 50)
    a, b, c, d, e, f, g = names
    return Net(
        [
            Node(a, conv1, ("input",)),
            Node(b, MaxPool(Window.of(2, stride=2)), (a,)),
            Node("between", Dropout(0.5), (b,)),
            Node(c, conv2, ("between",)),
            Node(d, MaxPool(Window.of(2, stride=2)), (c,)),
            Node(e, Flatten(), (d,)),
            Node(f, FC.random(rng, (1, 1, 800), head), (e,)),
            Node(g, Softmax(), (f,)),
        ],
        "input",
        input_shape=(28, 28, 1),
    )


def test_a_net_gets_the_names_of_the_zoo_and_keeps_its_own_geometry(rng):
    net = small(rng, ["c1", "p1", "c2", "p2", "flat", "dense", "softmax"], head=500)
    match = matched(Foreign("ONNX", net=net))
    assert match.arch == "lenet"
    assert match.net.names[:6] == ("data", "conv1", "pool1", "between", "conv2", "pool2")
    assert match.net.name_of("c2") == "conv2"
    image = rng.standard_normal((2, 28, 28, 1)).astype("float32")
    wanted = net.forwardto(net.init_res(), net.names[-1], image)
    np.testing.assert_array_equal(
        match.net.forwardto(match.net.init_res(), match.net.names[-1], image), wanted
    )


def test_a_head_of_its_own_keeps_its_names(rng):
    match = matched(Foreign("ONNX", net=small(rng, ["c1", "p1", "c2", "p2", "flat", "dense", "softmax"])))
    assert match.net.names[-3:] == ("flat", "dense", "softmax")
    assert "fc3" not in match.net.names


def test_a_name_that_now_means_another_layer_is_not_given_twice(rng):
    match = matched(Foreign("ONNX", net=small(rng, ["pool1", "conv1", "c2", "p2", "flat", "conv2", "s"])))
    assert match.net.names == ("data", "conv1", "pool1", "between", "conv2", "pool2", "flat", "conv2_", "s")
    assert match.net.name_of("conv1") == "conv1", "a name of the zoo is never an alias of another layer"


def test_a_net_that_the_zoo_does_not_know_stays_as_it_is(rng):
    net = Net.chain({"first": Conv.random(rng, 3, 2, 4), "r": ReLU()}, "x")
    match = matched(Foreign("ONNX", net=net))
    assert (match.net, match.arch) == (net, None)
    assert "the file's own names stay" in match.steps[0]
    with pytest.raises(
        MismatchError, match=r"not lenet: 'first' has filters \(3, 3, 2, 4\), 'conv1' \(5, 5, 1, 20\)"
    ):
        matched(Foreign("ONNX", net=net), "lenet")


def test_names_that_our_files_cannot_hold_are_changed_and_still_work(rng):
    layers = {"a b:0": Conv.random(rng, 3, 2, 4), "a_b_0": ReLU(), "../c": ReLU(), "é": ReLU()}
    net = storable(Net.chain(layers, "x:0"))
    assert net.names == ("x_0", "a_b_0_", "a_b_0", "c", "_")
    assert (net.name_of("a b:0"), net.name_of("é"), net.input) == ("a_b_0_", "_", "x_0")
    fine = Net.chain({"conv": Conv.random(rng, 3, 2, 4)})
    assert storable(fine) is fine


def test_forks_and_joins_are_followed(rng):
    like = zoo.get("squeezenet1.1", seed=0)
    renamed = {name: f"n{number}" for number, name in enumerate(like.names)}
    nodes = [Node(renamed[n.name], n.layer, tuple(renamed[i] for i in n.inputs)) for n in like.nodes]
    match = matched(Foreign("ONNX", net=Net(nodes, "n0", input_shape=(227, 227, 3))))
    assert match.net.names == like.names
    assert isinstance(match.net.node("fire5/concat").layer, Concat)
