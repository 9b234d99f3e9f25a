"""Nets as MatConvNet reads them: what is written is read as the same net, and what it lacks is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.io

from minidnn import weights, zoo
from minidnn.errors import OutputError, TooLargeError, UnsupportedError, WeightsError
from minidnn.images import VGG, Preprocess
from minidnn.layers import (
    FC,
    LRN,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dropout,
    Flatten,
    GlobalAvgPool,
    LeakyReLU,
    MaxPool,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from minidnn.net import Net, Node
from minidnn.window import Window
from tests.nets import every_layer
from tests.samples import geometry
from weights_tools.readers import matconvnet as reader
from weights_tools.writers import matconvnet as writer
from weights_tools.writers.matconvnet_layers import rounded_down


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def chain(rng):
    """Every layer that MatConvNet has, in a row."""
    norm = BatchNorm(*(rng.uniform(0.5, 1.5, 4).astype("float32") for _ in range(4)), eps=1e-4)
    layers = {
        "conv1": Conv.random(rng, (3, 2), 3, 4, stride=(2, 1), pad=(0, 1, 1, 2), dilation=(1, 2)),
        "bn1": norm,
        "relu1": ReLU(),
        "pool1": MaxPool(Window.of((2, 3), stride=(1, 2), pad=(0, 1, 0, 2))),
        "norm1": LRN(4, 1.5, 0.3, 0.6),
        "conv2": Conv.random(rng, (1, 3), 4, 6, groups=2, bias=False),
        "leaky2": LeakyReLU(0.1),
        "drop2": Dropout(0.3),
        "pool2": AvgPool(Window.of((3, 2), stride=(2, 1), pad=(1, 0, 1, 1))),
        "up": ConvTranspose.random(rng, (4, 5), 6, 5, stride=(2, 3), pad=(1, 0, 2, 1)),
        "sigmoid": Sigmoid(),
        "fc3": FC.random(rng, (7, 17, 5), 7),
        "prob": Softmax(),
    }
    own = replace(VGG, size=(14, 13), resize=20, interpolation="bicubic")
    return Net.chain(layers, input_shape=(14, 13, 3), preprocess=own, classes=list("abcdefg"))


@pytest.fixture
def dag(rng):
    """A fork, two joins, and a weight that two layers share."""
    a = Conv.random(rng, 3, 4, 4, pad=1)
    nodes = [
        Node("conv1", Conv.random(rng, (2, 3), 3, 4), ("image",)),
        Node("a", a, ("conv1",)),
        Node("twin", Conv(a.w, a.b, Window.of(3, pad=2, dilation=2)), ("conv1",)),
        Node("add", Add(), ("a", "twin")),
        Node("cat", Concat(), ("add", "conv1")),
        Node("prob", Softmax(), ("cat",)),
    ]
    return Net(nodes, "image", input_shape=(8, 10, 3))


def output(net: Net, x: np.ndarray) -> np.ndarray:
    return net.forwardto(net.init_res(), net.names[-1], x)


def written(tmp_path, net: Net, **how) -> Net:
    writer.write(tmp_path / "a.mat", net, **how)
    return reader.read(tmp_path / "a.mat").net


def assert_same(found: Net, net: Net, rng) -> None:
    """The same nodes, arrays and pictures, to the last bit."""
    assert [(n.name, n.inputs, type(n.layer)) for n in found.nodes] == [
        (n.name, n.inputs, type(n.layer)) for n in net.nodes
    ]
    for name, array in net.params.items():
        np.testing.assert_array_equal(found.params[name], array)
    assert found.params.keys() == net.params.keys()
    assert (found.input, found.input_shape, found.classes) == (net.input, net.input_shape, net.classes)
    assert found.preprocess == net.preprocess
    x = rng.standard_normal((2, *net.input_shape)).astype("float32")
    np.testing.assert_array_equal(output(found, x), output(net, x))


@pytest.mark.parametrize("compress", [False, True])
def test_a_row_of_layers_is_written_and_read_as_the_same_net(tmp_path, rng, chain, compress):
    assert_same(written(tmp_path, chain, compress=compress), chain, rng)
    assert reader.read(tmp_path / "a.mat").format == "MatConvNet SimpleNN"


@pytest.mark.parametrize("compress", [False, True])
def test_a_graph_is_written_as_a_dagnn_and_shares_its_weights(tmp_path, rng, dag, compress):
    found = written(tmp_path, dag, compress=compress)
    assert_same(found, dag, rng)
    assert found.node("a").layer.w is found.node("twin").layer.w
    assert reader.read(tmp_path / "a.mat").format == "MatConvNet DagNN"


@pytest.mark.parametrize("kind", ["chain", "dag"])
def test_from_mat_to_hdf5_and_back_no_byte_changes(tmp_path, request, kind):
    writer.write(tmp_path / "a.mat", request.getfixturevalue(kind))
    weights.save(tmp_path / "a.h5", reader.read(tmp_path / "a.mat").net)
    writer.write(tmp_path / "b.mat", weights.load(tmp_path / "a.h5"))
    first, second = ((tmp_path / name).read_bytes() for name in ("a.mat", "b.mat"))
    assert first[128:] == second[128:]  # the header has the date


@pytest.mark.parametrize("name", ["dncnn_gray_sigma25_bnorm", "dncnn_dagnn_epoch50"])
def test_real_nets_go_to_hdf5_and_to_mat_and_stay_the_same(tmp_path, data, name):
    net = reader.read(data / "models/matconvnet" / f"{name}.mat").net
    weights.save(tmp_path / "a.h5", net)
    found = written(tmp_path, weights.load(tmp_path / "a.h5"))
    for name, array in (net.params | net.buffers).items():
        np.testing.assert_array_equal((found.params | found.buffers)[name], array)


def test_the_file_has_what_matlab_expects(tmp_path, chain):
    writer.write(tmp_path / "a.mat", chain)
    held = scipy.io.loadmat(tmp_path / "a.mat", struct_as_record=False, squeeze_me=True)
    conv, norm, *_ = held["layers"]
    assert (conv.type, conv.name, conv.pad.tolist(), conv.stride.tolist()) == (
        "conv",
        "conv1",
        [0, 1, 1, 2],
        [2, 1],
    )
    np.testing.assert_array_equal(conv.weights[0], chain.node("conv1").layer.w)
    layer = chain.node("bn1").layer
    np.testing.assert_array_equal(norm.weights[2][:, 0], layer.mean)
    np.testing.assert_allclose(norm.weights[2][:, 1], np.sqrt(layer.var + 1e-4), rtol=1e-7)
    about = held["meta"].normalization
    assert about.averageImage.tolist() == [123.68, 116.779, 103.939]
    assert (about.imageSize.tolist(), about.border.tolist(), about.keepAspect) == ([14, 13, 3], [6, 7], 1)
    assert held["meta"].classes.description.tolist() == list("abcdefg")


def test_vgg16_comes_back_as_the_zoo_has_it_with_the_pads_of_the_converted_files(tmp_path, rng):
    """A sixteenth of its width: the same names, kinds and maps, on pictures of the true size."""
    narrow = {}
    for node in zoo.get("vgg16", seed=None).nodes:
        layer = node.layer
        if isinstance(layer, Conv):
            c, k = (n if n == 3 else n // 16 for n in layer.w.shape[2:])
            layer = Conv.random(rng, 3, c, k, pad=1)
        elif isinstance(layer, FC):
            layer = FC.random(rng, (*layer.w.shape[:2], layer.w.shape[2] // 16), layer.w.shape[3] // 16)
        narrow[node.name] = layer
    net = Net.chain(narrow, input_shape=(224, 224, 3), preprocess=VGG)
    found = written(tmp_path, net)
    assert len(found.nodes) == 37
    assert [(n.name, type(n.layer)) for n in found.nodes] == [(n.name, type(n.layer)) for n in net.nodes]
    assert [n.layer.w.shape for n in found.nodes[-6::2]] == [
        (7, 7, 32, 256),
        (1, 1, 256, 256),
        (1, 1, 256, 62),
    ]
    pools = [node.layer.window for node in found.nodes if isinstance(node.layer, MaxPool)]
    assert pools == [Window.of(2, stride=2, pad=(0, 1, 0, 1))] * 5
    assert found.preprocess == VGG
    for size in ((224, 224), (233, 251)):  # odd sizes: the pads must round up as Caffe does
        shape = (1, *size, 3)
        assert found.shapes(shape, upto=["pool5"])["pool5"] == net.shapes(shape, upto=["pool5"])["pool5"]


# What MatConvNet has otherwise


def test_windows_that_round_up_get_more_pad_and_see_the_same(rng):
    assert rounded_down(Window.of(2, stride=2, ceil=True)) == Window.of(2, stride=2, pad=(0, 1, 0, 1))
    for _ in range(60):
        window, h, w = geometry(rng, dilated=False, pooling=True, ceil=True)
        if max(window.pad[:2]) < window.kernel[0] and max(window.pad[2:]) < window.kernel[1]:
            x = rng.standard_normal((1, h, w, 2))
            for pool in (MaxPool, AvgPool):
                found, expected = (pool(own).forward(x)[0] for own in (rounded_down(window), window))
                np.testing.assert_array_equal(found, expected)
            sizes = [(a, b) for a in range(4, 20) for b in (5, 11)]
            assert all(rounded_down(window).out_size(*size) == window.out_size(*size) for size in sizes)
    assert rounded_down(Window.of(2, stride=3, pad=2, ceil=True)) is None


def test_a_flattened_map_is_read_by_filters_of_its_size(tmp_path, rng):
    layers = {
        "conv1": Conv.random(rng, 3, 2, 4),
        "flat": Flatten(),
        "fc2": FC.random(rng, (1, 1, 3 * 5 * 4), 6),
    }
    net = Net.chain(layers, input_shape=(5, 7, 2))
    found = written(tmp_path, net)
    assert found.node("fc2").layer.w.shape == (3, 5, 4, 6)
    x = rng.standard_normal((2, 5, 7, 2)).astype("float32")
    np.testing.assert_allclose(output(found, x), output(net, x), rtol=1e-5, atol=1e-6)


def test_global_pooling_is_pooling_of_the_whole_map_and_extra_is_cropped_less(tmp_path, rng):
    up = ConvTranspose.random(rng, (4, 5), 2, 3, stride=(3, 2), pad=(1, 2, 1, 2))
    layers = {"up": replace(up, extra=(2, 1)), "gap": GlobalAvgPool()}
    net = Net.chain(layers, input_shape=(5, 7, 2))
    found = written(tmp_path, net)
    assert found.node("up").layer.window.pad == (1, 0, 1, 1)
    x = rng.standard_normal((2, 5, 7, 2)).astype("float32")
    np.testing.assert_allclose(output(found, x), output(net, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_other_conventions_for_pictures_are_worked_into_the_first_filters(tmp_path, rng, order):
    own = Preprocess(order, scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=(8, 9))
    net = Net.chain(
        {"conv1": Conv.random(rng, 3, 3, 4, pad=(0, 1, 2, 1))}, input_shape=(8, 9, 3), preprocess=own
    )
    found = written(tmp_path, net)
    assert (found.preprocess.order, found.preprocess.scale, found.preprocess.std) == ("RGB", 1, (1,))
    pixels = rng.integers(0, 256, (2, 8, 9, 3)).astype("float32")
    expected = output(net, own.to_net(pixels))
    np.testing.assert_allclose(output(found, found.preprocess.to_net(pixels)), expected, rtol=1e-4, atol=1e-5)


def test_what_was_done_to_the_filters_is_said_and_comes_back_to_the_last_bit_where_it_can(tmp_path, rng):
    def pair(**how):
        own = Preprocess(size=(8, 9), **how)
        layers = {"conv1": Conv.random(rng, (3, 2), own.channels, 4)}
        net = Net.chain(layers, input_shape=(8, 9, own.channels), preprocess=own)
        remarks = writer.write(tmp_path / "a.mat", net)
        return net.params["conv1/w"], reader.read(tmp_path / "a.mat").net, remarks

    w, found, remarks = pair(order="RGB", mean=(1.5, 2.5, 3.5))
    np.testing.assert_array_equal(found.params["conv1/w"], w)
    assert (remarks, found.preprocess.mean) == ([], (1.5, 2.5, 3.5))
    w, found, remarks = pair(order="BGR", mean=(103.939, 116.779, 123.68))
    np.testing.assert_array_equal(found.params["conv1/w"], w[:, :, ::-1])
    assert remarks == ["'conv1': the channels of its filters were turned round, from BGR to RGB"]
    assert found.preprocess.mean == (123.68, 116.779, 103.939)
    w, found, remarks = pair(order="GRAY", scale=1 / 256, mean=(0.25,))  # as Caffe's LeNet has it
    np.testing.assert_array_equal(found.params["conv1/w"] * 256, w)
    assert found.preprocess.mean == (64.0,)
    assert "multiplied by 0.00390625 (a power of two, so exactly), for MatConvNet subtracts" in remarks[0]
    w, found, remarks = pair(order="GRAY", scale=1 / 255)
    np.testing.assert_array_max_ulp(found.params["conv1/w"], (w / np.float64(255)).astype("f4"), 1)
    assert "multiplied by 0.00392157 (rounded once)" in remarks[0]


def test_only_filters_can_take_another_convention_on(tmp_path, rng):
    own = Preprocess("BGR", mean=(1, 2, 3), size=(8, 9))
    layers = {"relu0": ReLU(), "conv1": Conv.random(rng, 3, 3, 4)}
    with pytest.raises(UnsupportedError, match=r"no pictures but RGB from 0 to 255, .* read \(relu0: ReLU\)"):
        writer.write(tmp_path / "a.mat", Net.chain(layers, input_shape=(8, 9, 3), preprocess=own))


def test_all_layers_that_cannot_read_its_pictures_are_told_at_once_with_what_else_it_lacks(tmp_path, rng):
    """As a denoiser takes the noise off the picture itself."""
    nodes = [
        Node("conv", Conv.random(rng, 3, 1, 1, pad=1), ("data",)),
        Node("tanh", Tanh(), ("conv",)),
        Node("clean", Add(), ("data", "tanh")),
        Node("both", Concat(), ("clean", "data")),
    ]
    in_units = Net(nodes, input_shape=(8, 9, 1), preprocess=Preprocess("GRAY", scale=1 / 255))
    words = r"no Tanh \(tanh\); no pictures but .* \(clean: Add, both: Concat\); cut the net"
    with pytest.raises(UnsupportedError, match=words):
        writer.write(tmp_path / "a.mat", in_units)
    nodes[1] = Node("tanh", Sigmoid(), ("conv",))
    as_they_are = Net(nodes, input_shape=(8, 9, 1), preprocess=Preprocess("GRAY", mean=(7,), size=(8, 9)))
    assert_same(written(tmp_path, as_they_are), as_they_are, rng)


# What it has not


def test_all_that_matconvnet_lacks_is_told_at_once(tmp_path):
    net = every_layer().astype("float32")
    nodes = [
        node
        for node in net.nodes
        if node.name in ("conv1", "bn1", "relu1", "pool1", "unpool1", "lrn1", "lrn2")
    ]
    nodes += [
        Node("wide", AvgPool(Window.of(3, pad=1), "padded"), ("lrn2",)),
        Node("odd", MaxPool(Window.of(2, dilation=2)), ("wide",)),
        Node("frozen", Dropout(0.5, np.ones((1, 1, 1, 6), "float32")), ("lrn2",)),
    ]
    words = (
        r"MatConvNet has no MaxUnpool \(unpool1\); no LRNWithin \(lrn2\); no average that counts the padding "
        r"\(wide\); no pooling with dilation \(odd\); no dropout with a frozen mask \(frozen\); cut the net"
    )
    with pytest.raises(UnsupportedError, match=words):
        writer.write(tmp_path / "a.mat", Net(nodes))
    assert not list(tmp_path.iterdir())


def test_more_of_what_it_lacks(tmp_path, rng):
    up = ConvTranspose.random(rng, 3, 2, 2, stride=2)
    layers = {
        "up": replace(up, extra=(1, 0)),
        "gap": GlobalAvgPool(),
        "pool": MaxPool(Window.of((2, 5), stride=4, pad=(0, 2, 1, 3), ceil=True)),
    }
    words = r"transposed convolution .*\(up\); no global pooling .*; no pooling with as much pad .*\(pool\)"
    with pytest.raises(UnsupportedError, match=words):
        writer.write(tmp_path / "a.mat", Net.chain(layers))


def test_a_net_without_weights_or_with_too_many_is_not_written(tmp_path, monkeypatch, chain):
    with pytest.raises(WeightsError, match=r"no weights yet in conv1.*; load some first"):
        writer.write(tmp_path / "a.mat", zoo.get("lenet", seed=None))
    monkeypatch.setattr(writer, "MOST", 1000)
    with pytest.raises(TooLargeError, match=r"bytes of weights, a .mat file of version 5 holds 1,000"):
        writer.write(tmp_path / "a.mat", chain)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_an_output_error(tmp_path, chain):
    with pytest.raises(OutputError, match="make the folder first"):
        writer.write(tmp_path / "none" / "a.mat", chain)
