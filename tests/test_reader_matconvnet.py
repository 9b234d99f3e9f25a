"""MatConvNet's nets of both kinds and all ages, made here and real ones, and what is wrong with others."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from minidnn import images
from minidnn.errors import DamagedFileError, MismatchError, TooLargeError, UnsupportedError
from minidnn.images import Preprocess
from minidnn.layers import (
    FC,
    LRN,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dropout,
    LeakyReLU,
    MaxPool,
    ReLU,
    Sigmoid,
    Softmax,
)
from minidnn.window import Window
from tests.matwriter import CONTAINERS, Structs, save
from weights_tools.readers import matconvnet
from weights_tools.readers.matconvnet_layers import var_of

NONE = np.zeros((0, 0))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def row(*numbers: float) -> np.ndarray:
    return np.array([numbers], "float64")


def normal(rng, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype("float32")


def conv(rng, name: str = "conv1", shape=(3, 2, 3, 4), **fields) -> dict:
    return {
        "type": "conv",
        "name": name,
        "weights": [normal(rng, *shape), normal(rng, 1, shape[3])],
        **fields,
    }


def pool(name: str = "pool1", **fields) -> dict:
    return {"type": "pool", "name": name, "pool": row(3, 2), **fields}


def photos(size: tuple[int, ...] = (9, 8, 3), **fields) -> dict:
    return {"normalization": {"imageSize": row(*size), "averageImage": np.ones((1, 1, size[2])), **fields}}


def output(net, x: np.ndarray) -> np.ndarray:
    return net.forwardto(net.init_res(), net.names[-1], x)


# SimpleNN


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("within", [True, False], ids=["in net", "at the top"])
@pytest.mark.parametrize("style", ["old", "new"])
def test_a_net_of_either_style_is_the_same_net_in_every_container(tmp_path, rng, container, within, style):
    first = conv(rng, stride=row(2, 1), pad=row(0, 1, 1, 2))
    w, b = first["weights"]
    about = photos(averageImage=np.array([123.68, 116.779, 103.939], "float32").reshape(1, 1, 3))
    classes = {"name": ["n01", "n02", "n03", "n04"], "description": ["tench", "shark", "ray", "cock"]}
    fields = {"layers": [first, {"type": "relu", "name": "relu1"}]}
    if style == "old":
        del first["weights"]
        first |= {"filters": w, "biases": b}
        fields |= about | {"classes": classes}
    else:
        fields["meta"] = about | {"classes": classes}
    found = matconvnet.read(save(tmp_path / "a.mat", {"net": fields} if within else fields, container))
    layer = found.net.nodes[0].layer
    np.testing.assert_array_equal(layer.w, w)
    np.testing.assert_array_equal(layer.b, b[0])
    assert layer.window == Window.of((3, 2), stride=(2, 1), pad=(0, 1, 1, 2))
    assert found.net.names == ("data", "conv1", "relu1")
    assert found.net.input_shape == (9, 8, 3)
    assert (found.format, found.channel_order) == ("MatConvNet SimpleNN", "RGB")
    assert found.preprocess == Preprocess(mean=(123.68, 116.779, 103.939), size=(9, 8))
    assert found.classes == found.net.classes == ("tench", "shark", "ray", "cock")
    assert found.hints["class_ids"] == ("n01", "n02", "n03", "n04")


def test_what_is_not_said_is_as_vl_simplenn_tidy_fills_it_in(tmp_path, rng):
    moments = np.abs(normal(rng, 4, 2)) + 0.1
    layers = [
        {"type": "conv", "weights": [normal(rng, 3, 2, 3, 4), NONE]},
        pool(""),
        {"type": "relu"},
        {"type": "normalize"},
        {"type": "dropout"},
        {"type": "bnorm", "weights": [normal(rng, 4, 1), normal(rng, 4, 1), moments]},
    ]
    nodes = matconvnet.read(save(tmp_path / "a.mat", {"layers": layers})).net.nodes
    assert [node.name for node in nodes] == [f"layer{i}" for i in range(1, 7)]
    first, second, third, fourth, fifth, sixth = (node.layer for node in nodes)
    assert isinstance(first, Conv) and first.window == Window.of((3, 2)) and first.b is None
    assert isinstance(second, MaxPool) and second.window == Window.of((3, 2))
    assert type(third) is ReLU
    assert isinstance(fourth, LRN)
    assert (fourth.size, fourth.kappa, fourth.alpha, fourth.beta) == (5, 1, 0.0001 / 5, 0.75)
    assert isinstance(fifth, Dropout) and fifth.rate == 0.5
    assert isinstance(sixth, BatchNorm) and sixth.eps == 1e-5


def test_what_is_said_is_done(tmp_path, rng):
    layers = [
        conv(rng, dilate=row(1, 2), pad=1.0),
        {"type": "relu", "name": "relu1", "leak": 0.1},
        pool(method="avg", stride=row(2, 1), pad=row(0, 1, 1, 0)),
        {"type": "lrn", "name": "norm1", "param": row(4, 2, 0.3, 0.6)},
        {"type": "sigmoid", "name": "sigmoid1"},
        {"type": "dropout", "name": "drop1", "rate": 0.3},
        {
            "type": "convt",
            "name": "up",
            "weights": [normal(rng, 4, 5, 6, 4), NONE],
            "crop": row(1, 0, 2, 1),
            "upsample": row(2, 3),
        },
        {"type": "softmax", "name": "prob"},
    ]
    first, leaky, average, norm, sigmoid, drop, up, prob = (
        node.layer for node in matconvnet.read(save(tmp_path / "a.mat", {"layers": layers})).net.nodes
    )
    assert first.window == Window.of((3, 2), pad=1, dilation=(1, 2))
    assert isinstance(leaky, LeakyReLU) and leaky.leak == 0.1
    assert isinstance(average, AvgPool) and average.divisor == "real"
    assert average.window == Window.of((3, 2), stride=(2, 1), pad=(0, 1, 1, 0))
    assert (norm.size, norm.kappa, norm.alpha, norm.beta) == (4, 2, 0.3, 0.6)
    assert isinstance(sigmoid, Sigmoid) and isinstance(prob, Softmax) and drop.rate == 0.3
    assert isinstance(up, ConvTranspose) and up.out_channels == 6
    assert up.window == Window.of((4, 5), stride=(2, 3), pad=(1, 0, 2, 1))


def test_groups_are_implied_by_the_channels_that_reach_the_filters(tmp_path, rng):
    layers = [
        conv(rng, "a", (3, 2, 3, 4)),
        pool(),
        conv(rng, "b", (1, 2, 2, 6)),
        conv(rng, "c", (1, 1, 1, 12)),
    ]
    net = matconvnet.read(save(tmp_path / "a.mat", {"layers": layers})).net
    assert [node.layer.groups for node in net.nodes if isinstance(node.layer, Conv)] == [1, 2, 6]


@pytest.mark.parametrize("container", CONTAINERS)
def test_axes_of_size_1_that_matlab_or_others_drop_come_back(tmp_path, rng, container):
    one_filter, one_channel, pointwise = (
        normal(rng, 3, 2, 4, 1),
        normal(rng, 3, 2, 1, 5),
        normal(rng, 1, 1, 5, 4),
    )
    layers = [
        {"type": "conv", "name": "squeezed", "weights": [one_channel[:, :, 0], normal(rng, 5, 1)]},
        {"type": "conv", "name": "matrix", "weights": [pointwise[0, 0], normal(rng, 1, 4)]},
        {"type": "conv", "name": "one", "weights": [one_filter, normal(rng, 1, 1)]},
    ]
    net = matconvnet.read(save(tmp_path / "a.mat", {"layers": layers}, container)).net
    for node, expected in zip(net.nodes, [one_channel, pointwise, one_filter], strict=True):
        np.testing.assert_array_equal(node.layer.w, expected)


def test_filters_that_cover_the_whole_map_are_fully_connected(tmp_path, rng):
    layers = [
        conv(rng, pad=row(1, 1, 1, 0)),  # 9x8 stays 9x8
        pool(stride=row(3, 2)),  # 3x4
        conv(rng, "fc2", (3, 4, 4, 6)),
        conv(rng, "fc3", (1, 1, 6, 5)),
    ]
    net = matconvnet.read(save(tmp_path / "a.mat", {"layers": layers, "meta": photos()})).net
    assert [type(node.layer) for node in net.nodes] == [Conv, MaxPool, FC, FC]
    assert net.node("fc2").layer.w.shape == (3, 4, 4, 6)
    slides = matconvnet.read(save(tmp_path / "b.mat", {"layers": layers})).net  # of no particular size
    assert not any(isinstance(node.layer, FC) for node in slides.nodes)
    x = normal(rng, 2, 9, 8, 3)
    np.testing.assert_allclose(output(net, x), output(slides, x), rtol=1e-5, atol=1e-5)


def test_no_filters_is_a_bank_that_changes_nothing_but_the_size(tmp_path, rng):
    identity = {"type": "conv", "name": "shift", "weights": [NONE, row(1, 2, 3)], "stride": 2.0}
    found = matconvnet.read(save(tmp_path / "a.mat", {"layers": [identity], "meta": photos()}))
    x = normal(rng, 2, 9, 8, 3)
    np.testing.assert_array_equal(output(found.net, x), x[:, ::2, ::2] + np.float32([1, 2, 3]))
    assert "'shift', which has no filters" in found.steps[0]


def test_double_filters_are_converted_and_said_to_be(tmp_path, rng):
    w, b = rng.standard_normal((3, 2, 3, 4)), np.zeros((1, 4), "float32")
    layers = [{"type": "conv", "name": "conv1", "weights": [w, b]}]
    found = matconvnet.read(save(tmp_path / "a.mat", {"layers": layers}))
    assert found.net.dtype == np.float32
    assert found.steps == ["converted float64 to float32 in layer 'conv1'"]


def test_names_are_made_fit_and_unlike_and_a_loss_is_dropped(tmp_path, rng):
    layers = [
        conv(rng, "the first/one"),
        {"type": "relu", "name": "relu"},
        {"type": "relu", "name": "relu"},
        {"type": "relu", "name": "data"},
        {"type": "relu", "name": "../up"},
        {"type": "softmaxloss", "name": "prob"},
        {"type": "loss", "name": "loss"},
    ]
    found = matconvnet.read(save(tmp_path / "a.mat", {"layers": layers}))
    assert found.net.names[1:] == ("the_first/one", "relu", "relu_2", "data_2", "_/up", "prob")
    assert "renamed layer '../up' to '_/up'" in found.steps
    assert "dropped layer 'loss' (loss: for training only)" in found.steps
    assert "read layer 'prob' (softmaxloss) as the softmax that it holds" in found.steps


# Batch normalisation


def test_the_variance_gives_back_the_deviation_to_the_last_bit(rng):
    sigma = np.exp(rng.uniform(-4, 8, 20_000)).astype("float32")
    for eps in (1e-5, 1e-4, 1e-3):
        own = sigma[sigma**2 > 4 * eps]
        var, kept = var_of(own, eps)
        np.testing.assert_array_equal(np.sqrt(var + kept), own)
        assert kept == eps
    tiny = np.array([1e-9, 0.5, 3e-4], "float32")
    var, eps = var_of(tiny, 1e-5)
    assert eps == 0
    np.testing.assert_array_equal(np.sqrt(var + eps), tiny)


def test_bnorm_divides_by_the_deviation_that_the_file_has(tmp_path, rng):
    gamma, beta, moments = normal(rng, 3, 1), normal(rng, 3, 1), np.abs(normal(rng, 3, 2)) + 0.1
    layers = [{"type": "bnorm", "name": "bn1", "weights": [gamma, beta, moments], "epsilon": 1e-4}]
    old = {"type": "bnorm", "name": "bn1", "filters": gamma, "biases": beta, "moments": moments}
    x = normal(rng, 2, 5, 4, 3)
    expected = (x - moments[:, 0]) / moments[:, 1] * gamma[:, 0] + beta[:, 0]
    for number, held in enumerate([layers, [old]]):
        net = matconvnet.read(save(tmp_path / f"{number}.mat", {"layers": held})).net
        np.testing.assert_allclose(output(net, x), expected, rtol=1e-5, atol=1e-5)


def test_bnorm_without_moments_is_read_with_a_warning(tmp_path, rng):
    for number, more in enumerate([[], [np.zeros((3, 2))]]):
        bnorm = {"type": "bnorm", "name": "bn1", "weights": [normal(rng, 3, 1), normal(rng, 3, 1), *more]}
        found = matconvnet.read(save(tmp_path / f"{number}.mat", {"layers": [bnorm]}))
        assert "layer 'bn1' has no moments" in found.warnings[0]
        assert found.net.nodes[0].layer.mean.tolist() == [0, 0, 0]


# What is said of pictures


@pytest.mark.parametrize(
    "fields, rule",
    [
        ({"keepAspect": 1.0, "border": row(2, 3)}, {"rule": "short_side", "size": 11}),
        ({"keepAspect": 0.0, "interpolation": "bicubic"}, {"rule": "exact", "size": (9, 8)}),
        ({"keepAspect": True, "cropSize": row(0.75, 0.5)}, {"rule": "short_side", "size": 16}),
    ],
)
def test_how_pictures_come_to_their_size_is_handed_on(tmp_path, rng, fields, rule):
    found = matconvnet.read(save(tmp_path / "a.mat", {"layers": [conv(rng)], "meta": photos(**fields)}))
    assert found.hints["resize"] == rule | {"interpolation": fields.get("interpolation", "bilinear")}
    assert found.preprocess.resize == (rule["size"] if rule["rule"] == "short_side" else None)


def test_the_average_may_be_a_picture_numbers_or_nothing(tmp_path, rng):
    picture = normal(rng, 9, 8, 3)
    for number, (average, mean) in enumerate([(picture, picture), (row(1, 2, 3), (1, 2, 3)), (NONE, (0,))]):
        about = photos(averageImage=average)
        found = matconvnet.read(save(tmp_path / f"{number}.mat", {"layers": [conv(rng)], "meta": about}))
        np.testing.assert_array_equal(found.preprocess.mean, mean)
    wrong = photos(averageImage=normal(rng, 8, 9, 3))
    with pytest.raises(MismatchError, match=r"averageImage is \(8, 9, 3\), wanted \(9, 8, 3\), or 3 numbers"):
        matconvnet.read(save(tmp_path / "a.mat", {"layers": [conv(rng)], "meta": wrong}))


def test_a_net_for_one_channel_is_grey(tmp_path, rng):
    layers = [conv(rng, shape=(3, 2, 1, 4))]
    assert matconvnet.read(save(tmp_path / "a.mat", {"layers": layers})).channel_order == "GRAY"
    about = photos((9, 8, 1), averageImage=normal(rng, 9, 8))
    found = matconvnet.read(save(tmp_path / "b.mat", {"layers": layers, "meta": about}))
    assert (found.preprocess.order, found.preprocess.mean.shape) == ("GRAY", (9, 8, 1))


# DagNN


def dag(rng, **changes) -> dict:
    """data → a → (left, a) → cat → sum(cat, cat) → prob, and a loss; the layers stand in another order."""
    shared = {
        "params": ["wa", "ba"],
        "block": {"size": row(1, 3, 3, 3), "pad": row(0, 0, 1, 1), "hasBias": True},
    }

    def layer(name: str, kind: str, inputs: list, output: str, **fields) -> dict:
        base = {"name": name, "type": f"dagnn.{kind}", "inputs": inputs, "outputs": [output]}
        return base | {"params": [], "block": {"opts": []}} | fields

    layers = [
        layer("cat", "Concat", ["xl", "xa"], "xcat", block={"dim": 3.0}),
        layer("a", "Conv", ["data"], "xa", **shared),
        layer("left", "Conv", ["xa"], "xl", **shared),
        layer(
            "pool", "Pooling", ["xcat"], "xp", block={"method": "avg", "poolSize": row(2, 3), "stride": 2.0}
        ),
        layer("twice", "Sum", ["xp", "xp"], "x2"),
        layer("bn", "BatchNorm", ["x2"], "xbn", params=["g", "b", "m"], block={"epsilon": 1e-4}),
        layer("prob", "SoftMax", ["xbn"], "y"),
        layer("objective", "Loss", ["y", "label"], "loss", block={"loss": "log"}),
    ]
    arrays = {
        "wa": normal(rng, 1, 3, 3, 3),
        "ba": normal(rng, 1, 3),
        "g": normal(rng, 6, 1),
        "b": normal(rng, 6, 1),
        "m": np.abs(normal(rng, 6, 2)) + 0.1,
    }
    params = Structs({"name": name, "value": value, "learningRate": 1.0} for name, value in arrays.items())
    held = [one | changes.get(one["name"], {}) for one in layers]
    return {
        "vars": Structs([{"name": "data", "precious": False}] * 2),
        "params": params,
        "layers": Structs(held),
    }


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_dag_is_wired_by_its_variables(tmp_path, rng, container):
    found = matconvnet.read(save(tmp_path / "a.mat", dag(rng), container))
    net = found.net
    assert found.format == "MatConvNet DagNN"
    assert net.names == ("data", "a", "left", "cat", "pool", "twice", "bn", "prob")
    assert [node.inputs for node in net.nodes[:3]] == [("data",), ("a",), ("left", "a")]
    assert net.node("twice").inputs == ("pool", "pool")
    assert net.node("a").layer.w is net.node("left").layer.w  # one param
    assert net.name_of("xcat") == "cat"
    assert found.steps == ["dropped layer 'objective' (loss: for training only)"]
    x = normal(rng, 2, 5, 6, 3)
    assert output(net, x).shape == (2, 2, 2, 6)


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"left": {"params": ["wa", "bq"]}}, MismatchError, "'left' wants the param 'bq', which is missing"),
        ({"a": {"inputs": ["xcat"]}}, MismatchError, "one input was expected, found none"),
        ({"left": {"inputs": ["xcat"]}}, DamagedFileError, "wait for each other"),
        (
            {"left": {"inputs": ["other"]}},
            MismatchError,
            "expected, found 'data', 'other'; cut the others off",
        ),
        ({"left": {"outputs": ["xa"]}}, DamagedFileError, "two layers make one variable"),
        ({"left": {"outputs": ["xl", "xr"]}}, MismatchError, "'left' has 2 outputs, or no input"),
        ({"cat": {"block": {"dim": 1.0}}}, UnsupportedError, r"Concat along another axis .*\(cat\)"),
        ({"cat": {"type": "dagnn.Crop"}}, UnsupportedError, r"no layer type 'dagnn.Crop' \(cat\)"),
    ],
)
def test_a_dag_that_cannot_be_wired_is_refused_in_words(tmp_path, rng, changes, error, words):
    with pytest.raises(error, match=words):
        matconvnet.read(save(tmp_path / "a.mat", dag(rng, **changes)))


# What is wrong with others


@pytest.mark.parametrize(
    "layer, error, words",
    [
        ({"type": "conv", "name": "c"}, MismatchError, "layer 'c' has no weights; save the net with them"),
        (
            {"type": "conv", "name": "c", "weights": [np.ones((3, 2, 3, 4))]},
            MismatchError,
            "1 arrays as weights",
        ),
        (
            {"type": "conv", "name": "c", "weights": ["a", "b"]},
            DamagedFileError,
            "weights that are no numbers",
        ),
        (
            {"type": "conv", "name": "c", "weights": [np.ones((3, 2, 3, 4)), row(1, 2)]},
            MismatchError,
            "2 biases",
        ),
        (
            {"type": "conv", "name": "c", "weights": [np.ones((1,) * 4 + (2,)), NONE]},
            MismatchError,
            "of shape",
        ),
        (
            {"type": "conv", "name": "c", "weights": [np.ones((3, 2, 2, 4)), NONE]},
            MismatchError,
            "filters over 2 channels, and reads 3",
        ),
        (
            pool(pad=row(1, 2, 3)),
            DamagedFileError,
            "'pool1': pad has 3 numbers, wanted 1 or 4; fetch it again",
        ),
        (pool(pad=row(0, 3, 0, 1)), DamagedFileError, "pad .* for a pool of 3x2; .* less than the window"),
        (pool(stride=row(1, 1.5)), DamagedFileError, "stride is .*, wanted whole numbers"),
        (pool(stride=row(0, 1)), MismatchError, "stride of a window is .*at least 1"),
        (pool(stride=row(1, np.nan)), DamagedFileError, "stride is no list of numbers"),
        (pool(stride=5000.0), TooLargeError, "stride is .*, the limit is 1,024"),
        ({"type": "pool", "name": "p"}, DamagedFileError, "pool has 0 numbers, wanted 1 or 2"),
        ({"type": "lrn", "name": "n", "param": row(5, 1)}, DamagedFileError, "param has 2 numbers, wanted 4"),
        (
            {"type": "lrn", "name": "n", "param": row(1e9, 1, 2, 3)},
            DamagedFileError,
            "window of 1e.09 channels",
        ),
        ({"type": "dropout", "name": "d", "rate": 2.0}, MismatchError, "Dropout at rate 2"),
        (
            {"type": "bnorm", "name": "b", "weights": [np.ones((2, 1)), np.ones((3, 1))]},
            MismatchError,
            "2 multipliers and 3 biases, and reads 3 channels",
        ),
        (
            {"type": "bnorm", "name": "b", "weights": [np.ones((3, 1)), np.ones((3, 1)), -np.ones((3, 2))]},
            DamagedFileError,
            "deviations from -1.0 to -1.0",
        ),
        (
            {"type": "bnorm", "name": "b", "weights": [np.ones((3, 1)), np.ones((3, 1)), np.ones((2, 3))]},
            MismatchError,
            r"moments \(2, 3\), wanted \(3, 2\)",
        ),
        (
            {"type": "convt", "name": "t", "weights": [np.ones((2, 3, 4, 5)), NONE]},
            MismatchError,
            "filters of 5 channels in 1 groups, and reads 3",
        ),
    ],
)
def test_a_layer_that_makes_no_sense_is_named(tmp_path, layer, error, words):
    with pytest.raises(error, match=words):
        matconvnet.read(save(tmp_path / "a.mat", {"layers": [layer], "meta": photos()}))


def test_a_window_beyond_the_image_is_named(tmp_path, rng):
    layers = [conv(rng, shape=(11, 12, 3, 4))]
    with pytest.raises(MismatchError, match="layer 'conv1': a window of 11x12 pixels does not fit"):
        matconvnet.read(save(tmp_path / "a.mat", {"layers": layers, "meta": photos()}))


@pytest.mark.parametrize(
    "size, error, words",
    [
        ((9, 5000, 3), TooLargeError, "of size .*, the limit is 4,096"),
        ((9, 0, 3), DamagedFileError, "of size"),
        ((9, np.inf, 3), DamagedFileError, "imageSize has numbers that are not finite"),
    ],
)
def test_pictures_of_an_impossible_size_are_refused(tmp_path, rng, size, error, words):
    with pytest.raises(error, match=words):
        matconvnet.read(save(tmp_path / "a.mat", {"layers": [conv(rng)], "meta": photos(size)}))


def test_all_that_we_lack_is_told_at_once(tmp_path, rng):
    layers = [
        {"type": "custom", "name": "mine"},
        conv(rng),
        {"type": "spnorm", "name": "norm1"},
        {"type": "custom", "name": "yours"},
        pool(method="median"),
    ]
    words = (
        r"no layer type 'custom' \(mine, yours\); no layer type 'spnorm' \(norm1\); no pool method 'median'"
    )
    with pytest.raises(UnsupportedError, match=words):
        matconvnet.read(save(tmp_path / "a.mat", {"layers": layers}))


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_without_a_net_says_what_it_has(tmp_path, container):
    path = save(tmp_path / "a.mat", {"images": np.ones((2, 3)), "labels": "cat"}, container)
    with pytest.raises(MismatchError, match="not a MatConvNet network; variables found: images, labels"):
        matconvnet.read(path)


def test_two_nets_in_one_file_no_layers_and_no_cell_are_refused(tmp_path, rng):
    two = {name: {"layers": [conv(rng)]} for name in ("a", "b")}
    with pytest.raises(MismatchError, match="2 networks in one file"):
        matconvnet.read(save(tmp_path / "a.mat", two))
    with pytest.raises(MismatchError, match="without layers"):
        matconvnet.read(save(tmp_path / "b.mat", {"layers": []}))
    with pytest.raises(DamagedFileError, match="layer 1 is no struct"):
        matconvnet.read(save(tmp_path / "c.mat", {"layers": ["conv"]}))
    with pytest.raises(DamagedFileError, match="layers is no cell"):
        matconvnet.read(save(tmp_path / "d.mat", {"layers": "conv"}))


def test_a_net_that_is_an_object_of_a_class_is_unsupported(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["net"] = np.zeros((1, 6), np.uint32)
        file["net"].attrs["MATLAB_class"] = np.bytes_("dagnn.DagNN")
        file["net"].attrs["MATLAB_object_decode"] = np.int32(3)
    with pytest.raises(UnsupportedError, match=r"'net' is an object of a class.*net.saveobj\(\)"):
        matconvnet.read(tmp_path / "a.mat")


# Real nets


@pytest.fixture(scope="module")
def nets(data):
    """The real denoisers."""
    names = {"plain": "gray_sigma25", "bnorm": "gray_sigma25_bnorm", "dag": "dagnn_epoch50"}
    return {
        key: matconvnet.read(data / "models/matconvnet" / f"dncnn_{name}.mat") for key, name in names.items()
    }


@pytest.fixture(scope="module")
def cat(data):
    """A grey crop of 0..1, and the same with noise of sigma 25."""
    clean = images.load(data / "photos/cat_chelsea.png", colour=False)[:, 80:170, 120:240] / 255
    return clean, clean + np.random.default_rng(0).standard_normal(clean.shape).astype("float32") * 25 / 255


def psnr(clean: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(1 / np.mean((clean - other) ** 2)))


def denoised(net, noisy: np.ndarray) -> np.ndarray:
    """SimpleNN gives the noise; the DagNN adds the picture to it, with its sign turned, by itself."""
    found = output(net, noisy)
    return found if net.input == "input" else noisy - found


def exchanged(net, first: int, second: int):
    """The same net with two axes of its filters exchanged, wherever both are of one size."""
    banks = {name: w for name, w in net.params.items() if w.ndim == 4}
    square = {name: w for name, w in banks.items() if w.shape[first] == w.shape[second]}
    return net.replacing({name: np.swapaxes(w, first, second).copy() for name, w in square.items()})


def test_real_denoisers_read_as_what_they_are(nets):
    assert [nets[key].format.split()[1] for key in nets] == ["SimpleNN", "SimpleNN", "DagNN"]
    assert {found.channel_order for found in nets.values()} == {"GRAY"}
    assert [len(found.net.nodes) for found in nets.values()] == [33, 48, 49]
    assert nets["dag"].net.name_of("prediction") == "sum49"


def test_real_denoisers_denoise_and_only_with_channels_in_and_out_where_they_are(nets, cat):
    # Which axis is the height they cannot tell: trained on turned pictures too, they do as well with both
    # exchanged, sometimes better. That is settled by filters of 3x2 in both kinds of container, above.
    clean, noisy = cat
    assert 20 < psnr(clean, noisy) < 20.4
    for key in ("plain", "dag"):
        net = nets[key].net
        assert psnr(clean, denoised(net, noisy)) > 28.5
        assert psnr(clean, denoised(exchanged(net, 2, 3), noisy)) < 20
        turned = psnr(clean, denoised(exchanged(net, 0, 1), noisy))
        assert abs(turned - psnr(clean, denoised(net, noisy))) < 0.1


def test_the_net_with_its_batch_norms_is_the_net_into_which_they_were_multiplied(nets, cat):
    _, noisy = cat
    with_norms, without = (output(nets[key].net, noisy) for key in ("bnorm", "plain"))
    np.testing.assert_allclose(with_norms, without, atol=1e-4 * np.abs(without).max())


def test_the_chain_and_the_dag_find_nearly_the_same_picture(nets, cat):
    _, noisy = cat
    assert psnr(denoised(nets["plain"].net, noisy), denoised(nets["dag"].net, noisy)) > 38


@pytest.mark.oracle
def test_a_real_net_computes_what_torch_does(data, nets, cat):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(cat[1].transpose(0, 3, 1, 2).copy())
    with h5py.File(data / "models/matconvnet/dncnn_gray_sigma25_bnorm.mat") as file, torch.no_grad():
        for ref in file["net/layers"][()].ravel():
            layer = file[ref]
            kind = "".join(map(chr, layer["type"][()].ravel()))
            held = (
                [torch.from_numpy(file[r][()]) for r in layer["weights"][()].ravel()]
                if kind in ("conv", "bnorm")
                else []
            )
            if kind == "conv":  # as h5py has it: K, C, W, H
                w = held[0].reshape((1,) * (4 - held[0].ndim) + tuple(held[0].shape))
                b = held[1].ravel() if held[1].numel() == w.shape[0] else None
                x = torch.nn.functional.conv2d(x, w.permute(0, 1, 3, 2), b, padding=1)
            elif kind == "bnorm":
                gamma, beta, (mean, sigma) = held[0].ravel(), held[1].ravel(), held[2]
                shape = (1, -1, 1, 1)
                x = (x - mean.view(shape)) / sigma.view(shape) * gamma.view(shape) + beta.view(shape)
            elif kind == "relu":
                x = torch.relu(x)
    expected = x.numpy().transpose(0, 2, 3, 1)
    found = output(nets["bnorm"].net, cat[1])
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_real_net_with_layers_that_we_lack_is_refused_in_words(data):
    words = (
        r"no layer type 'SubP' \(layer1, layer32\); no layer type 'concat' \(layer2\); take these layers out"
    )
    with pytest.raises(UnsupportedError, match=words):
        matconvnet.read(data / "models/matconvnet/ffdnet_gray_retrained_matv5.mat")
