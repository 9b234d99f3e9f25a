"""Keras's files become nets that compute the same, or are refused in words."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from copy import deepcopy
from pathlib import Path

import h5py
import numpy as np
import pytest

from minidnn import layers as L
from minidnn.errors import (
    DamagedFileError,
    FileFormatError,
    MinidnnError,
    MismatchError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedError,
    UsageError,
)
from tests.keraswriter import (
    chain,
    graph,
    image,
    keras3_bytes,
    said,
    write_archive,
    write_keras,
    write_legacy,
)
from tests.samples import distinct
from weights_tools.readers import onnx
from weights_tools.readers.keras import read

RNG = np.random.default_rng(0)


def some(*shape: int) -> np.ndarray:
    return distinct(RNG, shape).astype("float32")


def norm(name: str, c: int, *reads: str, **config) -> object:
    """A batch normalisation; its variances are above 0."""
    config = {"axis": -1, "epsilon": 1e-3, "scale": True, "center": True} | config
    learnt = [some(c) for word in ("scale", "center") if config[word]]
    return said("BatchNormalization", name, *reads, arrays=(*learnt, some(c), 1.5 + some(c)), **config)


def conv(name: str, before: str, shape: tuple, **config) -> object:
    config = {"kernel_size": list(shape[:2]), "filters": shape[3], "padding": "valid"} | config
    return said("Conv2D", name, before, arrays=(some(*shape), some(shape[3])), **config)


def run(foreign, x: np.ndarray) -> np.ndarray:
    return foreign.net.forwardto(foreign.net.init_res(), foreign.hints["outputs"][0], x)


def small() -> tuple[list, list[str]]:
    """An image, a convolution with its ReLU, a dense layer with its softmax."""
    layers = [
        image(7, 6, 3),
        conv("conv", "pic", (3, 2, 3, 4), activation="relu"),
        said("Flatten", "flat", "conv"),
        said("Dense", "out", "flat", arrays=(some(100, 5), some(5)), units=5, activation="softmax"),
    ]
    return layers, ["out"]


def many() -> tuple[list, list[str]]:
    """Nearly every layer that we have, in one net of 13x11 pixels."""
    layers = [
        image(13, 11, 3),
        said("ZeroPadding2D", "pad1", "pic", padding=[[2, 1], [0, 3]]),
        conv("conv1", "pad1", (3, 2, 3, 6), strides=[2, 3], padding="same", activation="relu"),
        norm("bn1", 6, "conv1", scale=False, epsilon=0.02),
        said("DepthwiseConv2D", "deep", "bn1", arrays=(some(2, 3, 6, 2), some(12)),
             kernel_size=[2, 3], strides=[1, 1], padding="same", activation="tanh"),
        said("SeparableConv2D", "sep", "deep", arrays=(some(3, 2, 12, 2), some(1, 1, 24, 5), some(5)),
             kernel_size=[3, 2], padding="same", activation="leaky_relu"),
        conv("grouped", "deep", (3, 3, 6, 4), groups=2, padding="same", dilation_rate=[2, 1]),
        said("PReLU", "prelu", "grouped", arrays=(some(1, 1, 4),), shared_axes=[1, 2]),
        said("Concatenate", "cat", "sep", "prelu", axis=-1),
        said("UpSampling2D", "up", "cat", size=[2, 2], interpolation="bilinear"),
        said("MaxPooling2D", "mp", "up", pool_size=[3, 2], strides=[2, 3], padding="same"),
        said("AveragePooling2D", "ap", "mp", pool_size=[2, 3], strides=[1, 1], padding="same"),
        said("Conv2DTranspose", "turned", "ap", arrays=(some(3, 4, 7, 9), some(7)),
             kernel_size=[3, 4], strides=[2, 3], padding="same", activation="sigmoid"),
        norm("bn2", 7, "turned", center=False),
        said("LeakyReLU", "leaky", "bn2", negative_slope=0.17),
        said("Dropout", "drop", "leaky", rate=0.4),
        said("Add", "add", "leaky", "drop"),
        said("GlobalAveragePooling2D", "gap", "add"),
        said("GlobalMaxPooling2D", "gmp", "add"),
        said("Concatenate", "both", "gap", "gmp", axis=1),
        said("Dense", "out", "both", arrays=(some(14, 5),), use_bias=False, activation="softmax"),
    ]  # fmt: skip
    return layers, ["out"]


# Whole models.


@pytest.mark.oracle
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("make", [small, many])
def test_a_model_computes_what_pytorch_computes_from_its_json(tmp_path, make, version):
    pytest.importorskip("torch")
    from tests import kerastorch

    layers, outputs = make()
    described = graph(layers, outputs, version=version)
    foreign = read(write_legacy(tmp_path / "m.h5", layers, described))
    x = RNG.standard_normal((2, *foreign.net.input_shape)).astype("float32")
    wanted = kerastorch.forward(described, {one.name: list(one.arrays) for one in layers}, x)
    assert np.allclose(run(foreign, x), wanted, rtol=1e-4, atol=1e-6)


def test_an_archive_of_keras_3_holds_the_same_net_as_its_hdf5(tmp_path):
    layers, outputs = many()
    archive = read(write_keras(tmp_path / "m.keras", layers, graph(layers, outputs)))
    old = read(write_legacy(tmp_path / "m.h5", layers, graph(layers, outputs, version=2)))
    assert (archive.format, old.format) == ("Keras 3 model", "Keras model (HDF5)")
    assert archive.net.names == old.net.names
    x = some(2, 13, 11, 3)
    assert np.array_equal(run(archive, x), run(old, x))


@pytest.mark.oracle
def test_the_real_mini_xception_agrees_with_pytorch(data):
    pytest.importorskip("torch")
    from tests import kerastorch

    path = data / "models" / "keras" / "fer2013_mini_XCEPTION.102-0.66.hdf5"
    foreign = read(path)
    assert foreign.net.input_shape == (64, 64, 1)
    assert sum(a.size for a in foreign.net.params.values()) == 56_951
    x = RNG.uniform(-1, 1, (3, 64, 64, 1)).astype("float32")
    wanted = kerastorch.forward(*kerastorch.legacy_file(path), x)
    found = run(foreign, x)
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < 1e-4
    res = foreign.net.init_res()
    assert foreign.net.forwardto(res, "add_3", x).shape == (3, 8, 8, 64)


def test_a_layer_with_an_activation_is_two_nodes(tmp_path):
    foreign = read(write_legacy(tmp_path / "m.h5", small()[0], graph(*small())))
    assert foreign.net.names == ("data", "conv", "conv_relu", "flat", "out", "out_softmax")
    assert foreign.net.name_of("pic") == "data"
    assert foreign.hints == {"name": "net", "input_size": (7, 6), "outputs": ["out_softmax"]}
    assert (foreign.channel_order, foreign.preprocess, foreign.classes) == (None, None, ())


def test_a_layer_that_only_training_has_is_another_name_of_the_one_before(tmp_path):
    layers = [image(5, 4, 3), conv("conv", "pic", (1, 2, 3, 6)), said("GaussianNoise", "noise", "conv")]
    foreign = read(write_legacy(tmp_path / "m.h5", layers, graph(layers, ["noise"])))
    assert foreign.net.names == ("data", "conv")
    assert foreign.net.name_of("noise") == "conv"
    assert foreign.steps == ["dropped 'noise' (GaussianNoise), which does nothing here"]


def test_a_chain_may_say_the_size_of_its_images_in_its_first_layer(tmp_path):
    first = conv("conv", "", (3, 2, 1, 4), batch_input_shape=[None, 8, 7, 1], activation="relu")
    layers = [first, said("MaxPooling2D", "pool", pool_size=[2, 3])]
    for version in (1, 2):
        foreign = read(write_legacy(tmp_path / "m.h5", layers, chain(layers, version=version)))
        assert foreign.net.input_shape == (8, 7, 1)
        assert [type(node.layer) for node in foreign.net.nodes] == [L.Conv, L.ReLU, L.MaxPool]
        assert foreign.net.node("pool").layer.window.stride == (2, 3)


def test_keras_1_said_the_same_in_other_words(tmp_path):
    layers = [
        said("Convolution2D", "conv", nb_filter=4, nb_row=3, nb_col=2, subsample=[2, 1], border_mode="same",
             dim_ordering="tf", bias=False, batch_input_shape=[None, 9, 8, 5]),
        said("Dropout", "drop", p=0.3),
    ]  # fmt: skip
    path = write_legacy(tmp_path / "m.h5", layers, chain(layers, version=1), version="1.2.2")
    kernel = some(3, 2, 5, 4)
    with h5py.File(path, "a") as file:
        file["model_weights/conv/conv_W"] = kernel
        file["model_weights/conv"].attrs["weight_names"] = [b"conv_W"]
    net = read(path).net
    assert np.array_equal(net.node("conv").layer.w, kernel)
    assert net.node("conv").layer.window.pad == (1, 1, 0, 1)
    assert net.node("drop").layer.rate == 0.3


def test_same_padding_puts_the_greater_half_behind(tmp_path):
    def pads(h: int, w: int, **config) -> tuple:
        layers = [image(h, w, 3), conv("conv", "pic", (3, 4, 3, 6), padding="same", **config)]
        net = read(write_legacy(tmp_path / "m.h5", layers, graph(layers, ["conv"]))).net
        return net.node("conv").layer.window.pad

    assert pads(8, 7) == (1, 1, 1, 2)
    assert pads(8, 7, strides=[2, 3]) == (0, 1, 1, 2)
    assert pads(9, 5, strides=[2, 3]) == (1, 1, 1, 1)
    assert pads(8, 7, dilation_rate=[2, 3]) == (2, 2, 4, 5)


def test_a_size_that_is_left_open_is_asked_for_only_where_it_matters(tmp_path):
    layers = [
        image(None, None, 3),
        conv("conv", "pic", (3, 3, 3, 4), padding="same"),
        said("MaxPooling2D", "pool", "conv", pool_size=[2, 2], padding="same"),
        said("GlobalAveragePooling2D", "gap", "pool"),
    ]
    free = read(write_legacy(tmp_path / "m.h5", layers, graph(layers, ["gap"])))
    assert free.net.input_shape is None
    assert run(free, some(1, 9, 7, 3)).shape == (1, 1, 1, 4)
    layers.insert(3, conv("wide", "pool", (5, 3, 4, 6), padding="same", strides=[2, 2]))
    layers[-1] = said("GlobalAveragePooling2D", "gap", "wide")
    path = write_legacy(tmp_path / "n.h5", layers, graph(layers, ["gap"]))
    with pytest.raises(UsageError, match=r"layer 'wide' \(Conv2D\): pads by the size.*input_size=\(h, w\)"):
        read(path)
    told = read(path, input_size=(22, 31))
    assert told.net.input_shape == (22, 31, 3)
    assert told.net.node("wide").layer.window.pad == (2, 2, 0, 1)  # of a map of 11 by 16
    assert "that for images of 22x31" in told.warnings[0]


def test_zeros_before_a_window_become_its_own_where_that_is_the_same(tmp_path):
    layers = [
        image(9, 8, 3),
        conv("conv", "pic", (3, 2, 3, 4), activation="relu"),
        said("ZeroPadding2D", "pad", "conv", padding=[[1, 0], [1, 2]]),
        said("MaxPooling2D", "pool", "pad", pool_size=[2, 3], strides=[1, 1]),
    ]
    net = read(write_legacy(tmp_path / "m.h5", layers, graph(layers, ["pool"]))).net
    assert net.names == ("data", "conv", "conv_relu", "pool")
    assert net.node("pool").layer.window.pad == (1, 0, 1, 2)
    layers[1].config["activation"] = "linear"  # then the zeros may win
    net = read(write_legacy(tmp_path / "n.h5", layers, graph(layers, ["pool"]))).net
    assert net.names == ("data", "conv", "pad", "pool")
    x = some(1, 9, 8, 3)
    res = net.init_res()
    y = net.forwardto(res, "pad", x)
    assert np.array_equal(y, np.pad(res["conv"].x, ((0, 0), (1, 0), (1, 2), (0, 0))))


def test_channels_first_is_turned_into_our_order(tmp_path):
    """The same net in both orders gives the same answer."""

    def model(first: bool) -> list:
        order = {"data_format": "channels_first" if first else "channels_last"}
        axis = 1 if first else -1
        plain = np.arange(4 * 3 * 10).reshape(4, 3, 10)  # (H, W, C) of what is flattened
        rows = plain.transpose(2, 0, 1).ravel() if first else plain.ravel()
        rng = np.random.default_rng(3)
        kernel, slopes, dense = (
            rng.standard_normal(s).astype("float32") for s in ((2, 3, 2, 5), (5,), (120, 7))
        )
        slopes = slopes.reshape((5, 1, 1) if first else (1, 1, 5))
        stats = rng.uniform(0.5, 1.5, (4, 120)).astype("float32")[:, rows]
        return [
            image(2, 9, 8) if first else image(9, 8, 2),
            said("Conv2D", "conv", "pic", arrays=(kernel,), kernel_size=[2, 3], use_bias=False, **order),
            said("MaxPooling2D", "pool", "conv", pool_size=[2, 2], **order),
            said("PReLU", "prelu", "pool", arrays=(slopes,), shared_axes=[2, 3] if first else [1, 2]),
            said("Concatenate", "cat", "prelu", "pool", axis=axis),
            said("Flatten", "flat", "cat", data_format="channels_last"),
            said("BatchNormalization", "bn", "flat", arrays=tuple(stats), axis=-1),
            said("Dense", "out", "bn", arrays=(dense[rows],), use_bias=False),
        ]

    answers = []
    for first in (False, True):
        layers = model(first)
        foreign = read(write_legacy(tmp_path / f"{first}.h5", layers, graph(layers, ["out"])))
        assert foreign.net.input_shape == (9, 8, 2)
        answers.append(run(foreign, np.random.default_rng(4).standard_normal((2, 9, 8, 2))))
    assert np.allclose(*answers, atol=1e-4)


def test_a_flatten_may_turn_the_axes_back_by_itself(tmp_path):
    layers = [
        image(2, 4, 3),
        said("MaxPooling2D", "pool", "pic", pool_size=[1, 1], data_format="channels_first"),
        said("Flatten", "flat", "pool", data_format="channels_first"),
        said("Dense", "out", "flat", arrays=(some(24, 5), some(5))),
    ]
    net = read(write_legacy(tmp_path / "m.h5", layers, graph(layers, ["out"]))).net
    assert np.array_equal(net.node("out").layer.w[0, 0], layers[-1].arrays[0])


def test_a_layer_called_twice_shares_its_weights(tmp_path):
    layers = [
        image(6, 5, 3),
        conv("twin", "pic", (3, 2, 3, 3), padding="same"),
        said("Dense", "mix", "twin", arrays=(some(3, 3), some(3))),
    ]
    described = graph(layers, ["mix"], version=2)
    held = described["config"]
    held["layers"][1]["inbound_nodes"].append([["mix", 0, 0, {}]])
    held["layers"][2]["inbound_nodes"].append([["twin", 1, 0, {}]])
    held["output_layers"] = [["mix", 1, 0]]
    net = read(write_legacy(tmp_path / "m.h5", layers, described)).net
    assert net.names == ("data", "twin", "mix", "twin_2", "mix_2")
    assert list(net.params) == ["twin/w", "twin/b", "mix/w", "mix/b"]


def test_a_model_within_a_model_is_laid_open(tmp_path):
    """Its arrays lie in one list: those trained first, then those only kept, and the frozen ones."""
    inner = [
        image(5, 4, 3, name="inner_pic"),
        conv("conv", "inner_pic", (1, 2, 3, 6)),
        norm("bn", 6, "conv"),
        conv("frozen", "bn", (2, 1, 6, 7), trainable=False),
        conv("last", "frozen", (1, 1, 7, 8)),
    ]
    described = graph(inner, ["last"], version=2)
    outer = [image(5, 4, 3), said("Model", "base", "pic"), conv("conv", "base", (2, 2, 8, 9))]
    whole = graph(outer, ["conv"], version=2)
    whole["config"]["layers"][1]["config"] = described["config"]
    path = write_legacy(tmp_path / "m.h5", outer, whole)
    _, first, stats, frozen, last = inner
    listed = [*first.arrays, *stats.arrays[:2], *last.arrays, *stats.arrays[2:], *frozen.arrays]
    with h5py.File(path, "a") as file:
        group = file["model_weights/base"]
        group.attrs["weight_names"] = [f"w{number}:0".encode() for number in range(len(listed))]
        for number, array in enumerate(listed):
            group[f"w{number}:0"] = array
    net = read(path).net
    assert net.names == ("data", "base/conv", "bn", "frozen", "last", "conv")
    for name, one in (("base/conv", first), ("frozen", frozen), ("last", last), ("conv", outer[2])):
        assert np.array_equal(net.node(name).layer.w, one.arrays[0])
    assert np.array_equal(net.node("bn").layer.var, stats.arrays[3])


def test_keras_3_keeps_the_arrays_of_an_inner_model_within_its_group(tmp_path):
    inner = [image(5, 4, 3, name="inner_pic"), conv("conv", "inner_pic", (1, 2, 3, 6))]
    whole = graph([image(5, 4, 3), said("Functional", "base", "pic")], ["base"])
    whole["config"]["layers"][1]["config"] = graph(inner, ["conv"])["config"]
    held = keras3_bytes(inner, inner=("functional",))
    net = read(write_archive(tmp_path / "m.keras", whole, held)).net
    assert np.array_equal(net.node("conv").layer.w, inner[1].arrays[0])
    path = tmp_path / "m.weights.h5"
    path.write_bytes(held)
    assert list(read(path).layers) == ["conv"]


def test_names_that_a_path_cannot_have_are_cleaned(tmp_path):
    layers = [image(5, 4, 3), conv("../a b", "pic", (1, 2, 3, 6)), said("ReLU", "all", "../a b")]
    foreign = read(write_keras(tmp_path / "m.keras", layers, graph(layers, ["all"])))
    assert foreign.net.names == ("data", "_/a_b", "all_2")
    assert foreign.net.name_of("../a b") == "_/a_b"


# Weights alone.


def test_squeezenet_is_the_net_that_its_other_copy_holds(data):
    folder = data / "models" / "squeezenet"
    foreign = read(folder / "squeezenet_v1.1_keras_notop.h5")
    halves = np.fromfile(folder / "squeezenet_v1.1_openvino_fp16.bin", "<f2")
    assert len(foreign.layers) == 25
    assert (foreign.net, foreign.flatten) == (None, "hwc")
    at = 0
    for arrays in foreign.layers.values():
        w, b = arrays["w"].transpose(3, 2, 0, 1), arrays["b"]
        for array in (w, b):
            assert np.array_equal(array.astype("float16").ravel(), halves[at : at + array.size])
            at += array.size


def test_arrays_are_told_by_order_and_rank(tmp_path):
    layers = [
        image(9, 8, 3),
        conv("block1/conv", "pic", (3, 2, 3, 4)),
        norm("bn", 4),
        norm("plain", 5, scale=False),
        norm("bare", 6, scale=False, center=False),
        said("SeparableConv2D", "sep", arrays=(some(3, 2, 4, 5), some(1, 1, 20, 7), some(7))),
        said("DepthwiseConv2D", "deep", arrays=(some(3, 2, 4, 5), some(20))),
        said("PReLU", "prelu", arrays=(some(1, 1, 4),)),
        said("Dense", "fc", arrays=(some(6, 5), some(5))),
    ]
    for chunk in (0, 2):
        foreign = read(write_legacy(tmp_path / "w.h5", layers, chunk=chunk))
        assert {name: list(arrays) for name, arrays in foreign.layers.items()} == {
            "block1/conv": ["w", "b"],
            "bn": ["gamma", "beta", "mean", "var"],
            "plain": ["beta", "mean", "var"],
            "bare": ["mean", "var"],
            "sep_depthwise": ["w"],
            "sep": ["w", "b"],
            "deep": ["w", "b"],
            "prelu": ["slope"],
            "fc": ["w", "b"],
        }
        assert np.array_equal(foreign.layers["bn"]["var"], layers[2].arrays[3])
        assert foreign.layers["deep"]["w"].shape == (3, 2, 1, 20)
        assert foreign.format == "Keras weights (HDF5)"


def test_theanos_filters_are_turned_by_180_degrees(tmp_path):
    kernel = some(3, 2, 4, 5)
    layers = [said("Conv2D", "conv", arrays=(kernel, some(5)))]
    foreign = read(write_legacy(tmp_path / "w.h5", layers, backend="theano"))
    assert np.array_equal(foreign.layers["conv"]["w"], kernel[::-1, ::-1])
    assert foreign.warnings == ["filters of Theano, which slid them upside down: turned by 180 degrees"]


def test_keras_1_with_theano_kept_its_filters_in_another_order_too(tmp_path):
    kernel = some(3, 2, 4, 5)
    layers = [said("Conv2D", "conv", arrays=(kernel[::-1, ::-1].transpose(3, 2, 0, 1), some(5)))]
    name = "vgg16_weights_th_dim_ordering_th_kernels_notop.h5"
    foreign = read(write_legacy(tmp_path / name, layers, version=""))
    assert np.array_equal(foreign.layers["conv"]["w"], kernel)
    assert foreign.flatten == "chw"
    foreign = read(write_legacy(tmp_path / "mine.h5", layers, version=""))
    assert np.array_equal(foreign.layers["conv"]["w"], kernel[::-1, ::-1])
    assert "put _th_kernels into its name" in foreign.warnings[0]


def counted(path, banks, **about):
    """A file as Keras wrote it before its first version: nothing in it has a name."""
    with h5py.File(path, "w") as file:
        file.attrs["nb_layers"] = len(banks)
        for i, arrays in enumerate(banks):
            group = file.create_group(f"layer_{i}")
            group.attrs["nb_params"] = len(arrays)
            for j, array in enumerate(arrays):
                group[f"param_{j}"] = array
        file.attrs.update(about)
    return path


def test_before_keras_1_layers_were_only_counted(tmp_path):
    kernel, matrix = some(3, 2, 4, 5), some(6, 7)
    banks = [[], [kernel.transpose(3, 2, 0, 1), some(5)], [], *[[]] * 7, [matrix, some(7)]]
    foreign = read(counted(tmp_path / "vgg16_weights.h5", banks))
    assert list(foreign.layers) == ["layer_1", "layer_10"] and foreign.flatten == "chw"
    assert np.array_equal(foreign.layers["layer_1"]["w"], kernel)
    assert np.array_equal(foreign.layers["layer_10"]["w"], matrix)
    assert "put _th_kernels into its name" in foreign.warnings[0]
    for wrong in (-1, 2.5, 1_000_000):
        with pytest.raises(DamagedFileError, match=rf"'nb_layers' of the file is {wrong}, expected a number"):
            read(counted(tmp_path / "wrong.h5", banks, nb_layers=wrong))


@pytest.mark.parametrize("turned", [True, False])
def test_published_filters_of_keras_1_are_known_whichever_way_they_lie(tmp_path, data, turned):
    net = onnx.read(data / "models/vgg16/vgg16_conv_imagenet_head_mri.onnx").net
    layers = [node.layer for node in net.nodes if isinstance(node.layer, L.Conv)][:2]
    banks = [[(bank.w[::-1, ::-1] if turned else bank.w).transpose(3, 2, 0, 1), bank.b] for bank in layers]
    foreign = read(counted(tmp_path / "vgg16_weights.h5", banks))
    for bank, own in zip(layers, foreign.layers.values(), strict=True):
        assert np.array_equal(own["w"], bank.w)
    assert not foreign.warnings
    assert [words for words in foreign.steps if "VGG-16 of its authors" in words] == foreign.steps[:turned]


@pytest.mark.parametrize("container", ["layers", "_layer_checkpoint_dependencies"])
def test_keras_3_numbers_the_layers_of_a_class(tmp_path, container):
    layers = [image(9, 8, 3)] + [conv(f"c{n}", "", (1, 1, n + 1, n + 2)) for n in range(12)]
    layers.append(norm("bn", 5))
    path = tmp_path / "m.weights.h5"
    path.write_bytes(keras3_bytes(layers, container=container))
    foreign = read(path)
    assert list(foreign.layers) == ["bn", *(f"c{n}" for n in range(12))]
    assert np.array_equal(foreign.layers["c11"]["w"], layers[12].arrays[0])
    assert "not between classes" in foreign.steps[0]


def test_other_floats_become_float32(tmp_path):
    values = np.array([1.5, -2.25, 0.375], "float32")
    path = write_legacy(tmp_path / "w.h5", [said("Dense", "fc", arrays=(some(2, 3),))])
    with h5py.File(path, "a") as file:
        group = file["fc"]
        group.attrs["weight_names"] = [b"k", b"b"]
        group["k"] = some(2, 3).astype(">f8")
        group["b"] = (values.view("<u4") >> 16).astype("<u2")
        group["b"].attrs["dtype"] = "bfloat16"
    foreign = read(path)
    assert np.array_equal(foreign.layers["fc"]["b"], values)
    assert foreign.layers["fc"]["w"].dtype == np.float32
    assert foreign.steps == ["turned bfloat16, float64 into float32"]
    with h5py.File(path, "a") as file:
        del file["fc/b"]
        file["fc/b"] = np.arange(3, dtype="int8")
    with pytest.raises(UnsupportedError, match="'fc/b' holds int8, not floats; save the net unquantised"):
        read(path)


# What is refused.


def test_all_that_we_lack_is_told_at_once_and_a_program_is_never_run(tmp_path):
    layers = [
        image(5, 4, 3),
        said("Lambda", "prog", "pic", function=["4wEAAA", None, None]),
        said("LSTM", "memory", "prog"),
        said("Activation", "wave", "memory", activation="swish"),
        conv("conv", "wave", (1, 2, 3, 6)),
    ]
    path = write_keras(tmp_path / "m.keras", layers, graph(layers, ["conv"]))
    wanted = (
        r"'prog' \(Lambda: a program, which is never run\), 'memory' \(LSTM\), 'wave' \(activation 'swish'\)"
    )
    with pytest.raises(UnsupportedError, match=wanted):
        read(path)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (said("ReLU", "x", "pic", max_value=6.0), "ReLU cut off at 6.0"),
        (said("ReLU", "x", "pic", threshold=0.5), "ReLU with a threshold of 0.5"),
        (said("PReLU", "x", "pic", arrays=(some(5, 4, 3),)), "share it: shared_axes"),
        (said("Concatenate", "x", "pic", "pic", axis=1), "along axis 1, expected that of the channels, 3"),
        (norm("x", 3, "pic", axis=2), "along axis 2"),
        (said("UpSampling2D", "x", "pic", size=[2, 3]), "by 2 and 3, 'nearest'"),
        (said("Reshape", "x", "pic", target_shape=[4, 5, 3]), "Reshape from .5, 4, 3. to"),
        (said("Add", "x", "pic"), "expected two maps or more of one size"),
        (conv("x", "pic", (1, 2, 3, 4), padding="causal"), "padding 'causal'"),
    ],
    ids=lambda value: value.kind if hasattr(value, "kind") else "",
)
def test_what_a_layer_asks_for_and_we_lack_is_told(tmp_path, layer, words):
    layers = [image(5, 4, 3), layer]
    path = write_legacy(tmp_path / "m.h5", layers, graph(layers, ["x"]))
    with pytest.raises(UnsupportedError, match=words):
        read(path)


def test_a_class_of_somebodys_own_is_not_taken_for_keras_s(tmp_path):
    layers, outputs = small()
    for word, value, name in [("registered_name", "mine>Conv2D", "mine>Conv2D"), ("module", "mine", "mine")]:
        described = graph(layers, outputs)
        described["config"]["layers"][1][word] = value
        with pytest.raises(UnsupportedError, match=rf"'conv' \({name}"):
            read(write_legacy(tmp_path / "m.h5", layers, described))
    described = graph(layers, outputs) | {"class_name": "MyModel"}
    with pytest.raises(UnsupportedError, match="the model is a class of its own, 'MyModel'"):
        read(write_legacy(tmp_path / "m.h5", layers, described))


def test_a_call_as_in_training_is_refused_where_it_matters(tmp_path):
    layers = [image(5, 4, 3), said("Dropout", "drop", "pic", rate=0.3), conv("conv", "drop", (1, 2, 3, 6))]
    described = graph(layers, ["conv"])
    described["config"]["layers"][2]["inbound_nodes"][0]["kwargs"] = {"training": True}
    read(write_legacy(tmp_path / "m.h5", layers, described))
    described["config"]["layers"][1]["inbound_nodes"][0]["kwargs"] = {"training": True}
    with pytest.raises(UnsupportedError, match=r"'drop' \(always as in training\)"):
        read(write_legacy(tmp_path / "m.h5", layers, described))


def change(described: dict, *path, value) -> str:
    """The JSON with another value at one place."""
    at = described
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return json.dumps(described)


CONV = ("config", "layers", 1, "config")


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("{]", DamagedFileError, "no JSON"),
        ('{"class_name": "\\ud800"}', DamagedFileError, "text that is none"),
        ("[1, 2]", DamagedFileError, r"the model is '\[1, 2\]', expected an object"),
        ('{"a":' * 99_999, DamagedFileError, "nested more than 100 deep"),
        ('{"a":' + "[" * 150 + "]" * 150 + "}", DamagedFileError, "nested more than 100 deep"),
        (" " * (9 << 20), TooLargeError, "config.json"),
        (change(graph(*small()), *CONV, "kernel_size", value=[3, -2]), DamagedFileError, "from 1 to 4,096"),
        (change(graph(*small()), *CONV, "kernel_size", value=[3, 3]), MismatchError, "filters of 3x2"),
        (change(graph(*small()), *CONV, "strides", value=[1, 10**400]), DamagedFileError, "'strides' is"),
        (change(graph(*small()), *CONV, "strides", value=[1, 2, 3]), DamagedFileError, "expected 2 numbers"),
        (change(graph(*small()), *CONV, "use_bias", value=0), DamagedFileError, "expected true or false"),
        (change(graph(*small()), *CONV, "use_bias", value=False), MismatchError, "has 2 arrays"),
        (change(graph(*small()), *CONV, "padding", value=7), DamagedFileError, "expected a word"),
        (change(graph(*small()), "config", "layers", value={}), DamagedFileError, "'layers' is"),
        (change(graph(*small()), "config", "layers", 1, value=[]), DamagedFileError, "a layer is"),
        (change(graph(*small()), "config", "layers", 1, "name", value="flat"), DamagedFileError, "two lay"),
        (change(graph(*small()), "config", "output_layers", value=["x", 0, 0]), DamagedFileError, "'x' is"),
        (change(graph(*small()), "config", "output_layers", value=[["x"]]), DamagedFileError, "no output of"),
        (change(graph(*small()), "config", "input_layers", value=[["a", 0, 0], ["pic", 0, 0]]),
         UnsupportedError, "a model of 2 inputs, given 1"),
        (change(graph(*small()), "config", "layers", 0, "config", "batch_shape", value=[None, -7, 6, 3]),
         DamagedFileError, "images of shape"),
        (change(graph(*small()), "config", "layers", 0, "config", "batch_shape", value=[None, 7, 6]),
         UnsupportedError, "the net reads 2 axes"),
        (change(graph(*small()), "config", "layers", 0, "config", "batch_shape", value=[None, 7, 7, 3]),
         MismatchError, r"layer 'out' \(Dense\): .*"),
    ],
    ids=lambda value: value[-40:] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_config_that_makes_no_sense_is_told_off(tmp_path, text, error, words):
    layers, _ = small()
    path = write_archive(tmp_path / "m.keras", text, keras3_bytes(layers))
    legacy = write_legacy(tmp_path / "m.h5", layers, {})
    with h5py.File(legacy, "a") as file:
        del file.attrs["model_config"]
        if len(text) < 60_000:  # more does not fit into an attribute
            file.attrs["model_config"] = text
    if len(text) < 60_000:
        with pytest.raises(error, match=words):
            read(legacy)
    with pytest.raises(error, match=words.replace("has 2 arrays", "found 2 arrays")):
        read(path)


def test_a_circle_and_a_reader_of_nothing_are_told(tmp_path):
    layers, outputs = small()
    described = graph(layers, outputs, version=2)
    described["config"]["layers"][1]["inbound_nodes"] = [[["flat", 0, 0, {}]]]
    with pytest.raises(DamagedFileError, match="read each other in a circle at 'conv'"):
        read(write_legacy(tmp_path / "m.h5", layers, described))
    described["config"]["layers"][1]["inbound_nodes"] = [[["flut", 0, 0, {}]]]
    with pytest.raises(DamagedFileError, match="'conv' reads 'flut', which there is not"):
        read(write_legacy(tmp_path / "m.h5", layers, described))


def test_models_within_models_that_double_each_time_end(tmp_path):
    inner = graph([image(5, 4, 3), said("ReLU", "relu", "pic")], ["relu"], version=2)
    for _ in range(12):
        outer = graph([image(5, 4, 3), said("Model", "a", "pic")], ["a"], version=2)
        outer["config"]["layers"][1]["config"] = inner["config"]
        outer["config"]["layers"][1]["inbound_nodes"].append([["a", 0, 0, {}]])
        outer["config"]["layers"][1]["inbound_nodes"].append([["a", 1, 0, {}]])
        outer["config"]["output_layers"] = [["a", 2, 0]]
        inner = outer
    with pytest.raises(TooLargeError, match="more than 10,000 layers"):
        read(write_keras(tmp_path / "m.keras", [], inner))


def test_a_model_without_layers_is_nothing_to_convert(tmp_path):
    layers = [image(5, 4, 3)]
    with pytest.raises(MismatchError, match="a model without layers; nothing to convert"):
        read(write_legacy(tmp_path / "m.h5", layers, graph(layers, ["pic"])))


def test_hdf5_that_is_not_keras_s_and_zips_that_are_not(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data/ip1/0"] = some(2, 3)
    with pytest.raises(FileFormatError, match=r"HDF5, but not of Keras \(it holds 'data'\)"):
        read(tmp_path / "x.h5")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(FileFormatError, match=r"no Keras model: 'config.json' is missing"):
        read(tmp_path / "x.zip")


def test_arrays_that_are_missing_or_listed_twice_are_told(tmp_path):
    layers, outputs = small()
    path = write_legacy(tmp_path / "m.h5", layers, graph(layers, outputs))
    with h5py.File(path, "a") as file:
        del file["model_weights/conv/conv_7/bias:0"]
    with pytest.raises(MismatchError, match="bias:0' is missing"):
        read(path)
    with h5py.File(path, "a") as file:
        file["model_weights/conv"].attrs["weight_names"] = [b"conv_7/kernel:0"] * 2
    with pytest.raises(DamagedFileError, match="'conv' lists an array twice"):
        read(path)
    path = write_archive(tmp_path / "m.keras", graph(layers, outputs), keras3_bytes(layers[:2]))
    with pytest.raises(MismatchError, match=r"m.keras: layer 'out' \(Dense\): found 0 arrays, expected 2"):
        read(path)
    path = write_legacy(tmp_path / "w.h5", [conv("a", "", (1, 2, 3, 4))])
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [b"a", b"a"]
    with pytest.raises(DamagedFileError, match="'layer_names' has one name twice"):
        read(path)


def test_one_array_under_many_names_cannot_fill_the_memory(tmp_path):
    path = write_legacy(tmp_path / "w.h5", [said("Dense", "a", arrays=(some(50, 60),))])
    with h5py.File(path, "a") as file:
        for number in range(30):
            file[f"a/{number}"] = file["a/a_7/kernel:0"]
        file["a"].attrs["weight_names"] = [str(number).encode() for number in range(30)]
    with pytest.raises(TooLargeError, match="have more bytes than the file"):
        read(path)


def test_what_leads_out_of_the_file_is_not_followed(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["kernel"] = some(6, 5)
    layers = [said("Dense", "fc", arrays=(some(2, 3), some(3)))]
    kernel = "fc/fc_7/kernel:0"

    def changed(make) -> object:
        path = write_legacy(tmp_path / "w.h5", layers)
        with h5py.File(path, "a") as file:
            del file[kernel]
            make(file)
        return path

    def link(file) -> None:
        file[kernel] = h5py.ExternalLink(str(secret), "/kernel")

    def soft(file) -> None:
        file[kernel] = h5py.SoftLink("/fc/fc_7/bias:0")

    def virtual(file) -> None:
        layout = h5py.VirtualLayout((6, 5), "f4")
        layout[:] = h5py.VirtualSource(str(secret), "kernel", (6, 5))
        file.create_virtual_dataset(kernel, layout)

    def bomb(file) -> None:
        file.create_dataset(kernel, (1 << 40,), "f4")

    def packed(file) -> None:
        file.create_dataset(kernel, (1 << 20,), "f4", compression="gzip", data=np.zeros(1 << 20))

    for make, error, words in [
        (link, UnsafeFileError, "ExternalLink.* links are not followed"),
        (soft, UnsafeFileError, "SoftLink.* links are not followed"),
        (virtual, UnsafeFileError, "keeps its data in other files"),
        (bomb, TooLargeError, "claims 4,398,046,511,104 bytes"),
        (packed, UnsafeFileError, "is compressed"),
    ]:
        with pytest.raises(error, match=words):
            read(changed(make))


def test_an_archive_that_unpacks_to_more_than_it_could_hold_is_refused(tmp_path):
    layers, outputs = small()
    weights = keras3_bytes(layers) + bytes(64 << 20)
    path = write_archive(
        tmp_path / "m.keras", graph(layers, outputs), weights, compression=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(TooLargeError, match="unpacks to"):
        read(path)


def test_an_error_in_the_archives_weights_names_the_archive(tmp_path):
    layers, outputs = small()
    path = write_archive(tmp_path / "m.keras", graph(layers, outputs), b"no HDF5 at all")
    with pytest.raises(FileFormatError, match=r"m.keras > model.weights.h5: not an HDF5 file"):
        read(path)


MUTATE = """
import sys
from pathlib import Path
import numpy as np
from minidnn.errors import MinidnnError
from weights_tools.readers import onnx
from weights_tools.readers.keras import read
whole = Path(sys.argv[1]).read_bytes()
broken = Path(sys.argv[1] + ".broken")
refused = 0
for seed in range(int(sys.argv[2])):
    rng = np.random.default_rng(seed)
    data = bytearray(whole)
    for at in rng.integers(0, len(data), rng.integers(1, 9)):
        data[at] = rng.choice([0, 1, 255, data[at] ^ 1 << int(rng.integers(8)), int(rng.integers(256))])
    broken.write_bytes(data[: rng.integers(1, len(data))] if seed % 10 == 0 else data)
    try:
        read(broken)
    except MinidnnError:
        refused += 1
    except Exception as error:
        raise SystemExit(f"{seed}: {error!r}") from error
print(refused)
"""


@pytest.mark.parametrize("kind", ["model", "weights", "weights3", "archive"])
def test_a_damaged_file_is_read_or_refused_in_words(tmp_path, kind):
    """In a process of its own: HDF5 is C, and may take others with it."""
    layers, outputs = small()
    path = tmp_path / "net"
    if kind == "archive":
        write_keras(path, layers, graph(layers, outputs))
    elif kind == "weights3":
        path.write_bytes(keras3_bytes(layers))
    else:
        write_legacy(path, layers, graph(layers, outputs) if kind == "model" else None)
    code = [sys.executable, "-c", MUTATE, str(path), "120"]
    done = subprocess.run(code, capture_output=True, text=True, cwd=Path(__file__).parent.parent, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) > 12, "the damage was too small to be seen"


HOSTILE = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    "",
    "same",
    "../x",
    [],
    {},
    [[]],
    [None],
    [1, 2],
    [-3, 10**9],
]


def test_a_config_with_anything_anywhere_is_read_or_refused_in_words(tmp_path):
    layers, outputs = many()
    weights, refused = keras3_bytes(layers), 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        described = graph(layers, outputs)
        places = []
        stack: list = [described]
        while stack:
            at = stack.pop()
            for key in list(at) if isinstance(at, dict) else range(len(at)):
                places.append((at, key))
                if isinstance(at[key], dict | list):
                    stack.append(at[key])
        at, key = places[rng.integers(len(places))]
        at[key] = deepcopy(HOSTILE[rng.integers(len(HOSTILE))])
        try:
            read(write_archive(tmp_path / "m.keras", described, weights))
        except MinidnnError:
            refused += 1
    assert refused > 100
