"""Bare arrays whose wiring stands in another file: a prototxt, our JSON, or weights of ours."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from minidnn import weights, zoo
from minidnn.errors import DamagedFileError, MismatchError, TooLargeError, UnsupportedError, UsageError
from minidnn.graph import Node
from minidnn.layers import FC, BatchNorm, Conv, Flatten, MaxPool, ReLU
from minidnn.net import Net
from minidnn.window import Window
from weights_tools.cli import main
from weights_tools.convert import Options, convert
from weights_tools.foreign import Foreign
from weights_tools.match import matched
from weights_tools.wiring import graph_text, wired_by, wiring_in


def layer(kind, says=""):
    """A layer of a prototxt, to be told its name and what it reads."""
    return f'layer {{{{ name: "{{0}}" type: "{kind}" bottom: "{{1}}" top: "{{0}}" {says} }}}}\n'


CONV = layer("Convolution", "convolution_param {{ {2} }}")
RELU = 'layer {{ name: "relu{0}" type: "ReLU" bottom: "conv{0}" top: "conv{0}" }}\n'
NORM = 'layer {{ name: "norm{0}" type: "BatchNorm" bottom: "{1}" top: "norm{0}" }}\n' + (
    'layer {{ name: "scale{0}" type: "Scale" bottom: "norm{0}" top: "norm{0}" '
    "scale_param {{ bias_term: true }} }}\n"
)
POOL = layer("Pooling", "pooling_param {{ kernel_size: 2 stride: 2 }}")
DENSE = layer("InnerProduct", "inner_product_param {{ num_output: {2} }}")
FLAT = layer("Flatten")
HEAD = 'input: "data"\ninput_shape {{ dim: 1 dim: {2} dim: {0} dim: {1} }}\n'
MNIST = "".join(
    [
        HEAD.format(28, 28, 1),
        CONV.format("conv1", "data", "num_output: 32 kernel_size: 5") + RELU.format(1),
        CONV.format("conv2", "conv1", "num_output: 32 kernel_size: 5") + RELU.format(2),
        NORM.format(2, "conv2") + POOL.format("pool2", "norm2"),
        CONV.format("conv3", "pool2", "num_output: 64 kernel_size: 3") + RELU.format(3),
        CONV.format("conv4", "conv3", "num_output: 64 kernel_size: 3") + RELU.format(4),
        NORM.format(4, "conv4") + POOL.format("pool4", "norm4") + DENSE.format("fc", "pool4", 10),
        'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n',
    ]
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def written(tmp_path):
    def write(text, name="net.prototxt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def digits(data, count):
    folder = data / "datasets/mnist"
    images, labels = (folder / f"t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1"))
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    return pixels.reshape(-1, 28, 28, 1)[:count], labels[:count]


def right(net, data, count=400):
    pixels, labels = digits(data, count)
    x = net.preprocess.to_net(net.preprocess.fit(pixels.astype("float32")))
    answers = net.forwardto(net.init_res(), net.names[-1], x, keep=()).reshape(count, -1)
    return int((answers.argmax(axis=1) == labels).sum())


# The real file


def test_a_safetensors_net_of_digits_is_wired_by_a_prototxt(data, written, tmp_path):
    source, out = data / "models/safetensors/mnist_denograd.safetensors", tmp_path / "net.h5"
    report = convert([source], out, Options(arch=str(written(MNIST)), preprocessing="none"))
    assert "wired as net.prototxt says: 0 layers found by their names, 7 by shapes" in report
    assert "activations, pools and pads are those of net.prototxt" in report
    net = weights.load(out)
    assert (net.name_of("layers.13"), len(net.nodes)) == ("fc", 14)
    assert right(net, data) >= 394  # of 400; 1976 of the first 2,000


def test_lenet5_of_pytorch_reads_digits_once_its_variant_is_said(data, tmp_path):
    source, out = data / "models/pytorch/lenet_mnist_cnn.pt", tmp_path / "net.h5"
    with pytest.raises(
        UsageError, match=r"lenet_mnist_cnn.pt: the arrays are those of lenet5, and do not say"
    ):
        convert([source], out, Options(preprocessing="none"), in_process=True)
    said = {"activation": "relu", "pool": "max"}
    report = convert(
        [source], out, Options(arch="lenet5", settings=said, preprocessing="none"), in_process=True
    )
    assert "lenet5 with activation=relu, pool=max, as --set says" in report
    assert right(weights.load(out), data) >= 393
    paper = {"activation": "tanh", "pool": "mean"}
    convert([source], out, Options(arch="lenet5", settings=paper, preprocessing="none"), in_process=True)
    assert right(weights.load(out), data) < 200, "it was trained otherwise"


# By name, then by shape


def bare(rng, **shapes):
    layers = {}
    for name, shape in shapes.items():
        w = rng.standard_normal(shape).astype("f4")
        layers[name] = {"w": w, "b": rng.standard_normal(shape[-1]).astype("f4")}
    return Foreign("PyTorch state dict", layers=layers, flatten="chw")


TWO = HEAD.format(7, 9, 2) + "".join(
    CONV.format(name, before, "num_output: 2 kernel_h: 3 kernel_w: 1 pad_h: 1")
    for name, before in [("a", "data"), ("b", "a"), ("c", "b")]
)


def test_names_go_before_shapes_and_where_both_say_nothing_the_order_decides_and_is_told(rng, written):
    foreign = bare(rng, second=(3, 1, 2, 2), a=(3, 1, 2, 2), first=(3, 1, 2, 2))
    match = wired_by(written(TWO), foreign)
    for mine, theirs in [("a", "a"), ("b", "second"), ("c", "first")]:
        np.testing.assert_array_equal(match.net.params[f"{mine}/w"], foreign.layers[theirs]["w"])
    assert match.net.name_of("second") == "b"
    assert "1 layers found by their names, 2 by shapes" in match.steps[0]
    assert "of equal shapes are 'second', 'first': their order in the file decided" in match.warnings[0]


def test_layers_in_another_order_are_found_by_their_shapes(rng, written):
    text = HEAD.format(7, 9, 2) + CONV.format("a", "data", "num_output: 3 kernel_size: 1")
    text += CONV.format("b", "a", "num_output: 5 kernel_size: 3")
    match = wired_by(written(text), bare(rng, x=(3, 3, 3, 5), y=(1, 1, 2, 3)))
    assert (match.net.name_of("y"), match.net.name_of("x"), match.warnings) == ("a", "b", ())


def test_arrays_of_another_net_are_refused_with_the_first_difference(rng, written):
    with pytest.raises(
        MismatchError, match=r"'a' holds w \(3, 3, 2, 2\).*'a' of net.prototxt wants w \(3, 1, 2, 2\)"
    ):
        wired_by(written(TWO), bare(rng, a=(3, 3, 2, 2), b=(3, 1, 2, 2), c=(3, 1, 2, 2)))
    words = "1 of 3 layers found by name, the others not by shape: the file has 1 layers"
    with pytest.raises(MismatchError, match=words):
        wired_by(written(TWO), bare(rng, a=(3, 1, 2, 2), x=(3, 1, 2, 2)))


@pytest.mark.parametrize("between", ["", FLAT.format("flat", "conv")])
def test_a_dense_layer_behind_a_map_gets_its_rows_in_our_order_flattened_or_not(rng, written, between):
    conv, fc = "num_output: 4 kernel_h: 2 kernel_w: 1", DENSE.format("fc", "flat" if between else "conv", 5)
    net = written(HEAD.format(3, 4, 2) + CONV.format("conv", "data", conv) + between + fc)
    foreign = bare(rng, conv=(2, 1, 2, 4), fc=(2 * 4 * 4, 5))
    found = wired_by(net, foreign).net
    x = rng.standard_normal((1, 3, 4, 2)).astype("f4")
    res = found.init_res()
    answer = found.forwardto(res, "fc", x)
    vector = res["conv"].x.transpose(0, 3, 1, 2).reshape(1, -1)  # channel by channel
    wanted = vector @ foreign.layers["fc"]["w"] + foreign.layers["fc"]["b"]
    np.testing.assert_allclose(answer.reshape(1, 5), wanted, rtol=1e-4, atol=1e-5)


def test_a_norm_of_a_flattened_map_is_refused_where_it_would_need_another_order(rng, written):
    net = HEAD.format(3, 4, 2) + FLAT.format("flat", "data") + NORM.format(1, "flat")
    norm = {key: rng.uniform(1, 2, 24).astype("f4") for key in ("gamma", "beta", "mean", "var")}
    with pytest.raises(UnsupportedError, match=r"a number for each place of a flattened map \('norm1'\)"):
        wired_by(written(net), Foreign("PyTorch state dict", layers={"bn": norm}, flatten="chw"))
    found = wired_by(written(net), Foreign("npz", layers={"bn": norm}, flatten="hwc")).net
    np.testing.assert_array_equal(found.buffers["norm1/var"], norm["var"])


def test_what_the_wiring_shares_is_filled_once(rng, tmp_path):
    conv = Conv.random(rng, (1, 3), 2, 2, pad=(0, 0, 1, 1))
    net = Net.chain({"a": conv, "r": ReLU(), "again": conv}, input_shape=(4, 5, 2))
    path = tmp_path / "net.json"
    path.write_text(graph_text(net), encoding="utf-8")
    found = wired_by(path, bare(rng, only=(1, 3, 2, 2))).net
    assert found.node("a").layer.w is found.node("again").layer.w


# Our JSON, and weights of ours


def test_a_graph_is_written_by_inspect_and_read_by_arch(rng, tmp_path, capsys):
    nodes = [
        Node("conv", Conv.random(rng, (3, 2), 1, 4), ("data",)),
        Node("norm", BatchNorm(*rng.uniform(1, 2, (4, 4)).astype("f4")), ("conv",)),
        Node("pool", MaxPool(Window.of((2, 3), stride=(1, 2))), ("norm",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", FC.random(rng, (1, 1, 4 * 5 * 4), 6), ("flat",)),
    ]
    net = Net(nodes, input_shape=(7, 12, 1))
    ours, graph, arrays = tmp_path / "ours.h5", tmp_path / "graph.json", tmp_path / "arrays.npz"
    weights.save(ours, net)
    assert main(["inspect", str(ours), "--graph", str(graph), "--in-process"]) == 0
    assert f"wrote {graph}: how it is wired" in capsys.readouterr().out
    assert main(["export", str(arrays), str(ours)]) == 0
    for wiring in (graph, ours):
        out = tmp_path / f"by-{wiring.suffix[1:]}.h5"
        convert([arrays], out, Options(arch=str(wiring), preprocessing="none"), in_process=True)
        again = weights.load(out)
        assert again.names == net.names
        x = rng.standard_normal((2, 7, 12, 1)).astype("f4")
        np.testing.assert_array_equal(
            again.forwardto(again.init_res(), "fc", x), net.forwardto(net.init_res(), "fc", x)
        )


def test_a_file_without_wiring_has_none_to_write(data, tmp_path, capsys):
    source = data / "models/safetensors/mnist_denograd.safetensors"
    assert main(["inspect", str(source), "--graph", str(tmp_path / "g.json"), "--in-process"]) == 2
    assert "does not say how it is wired, so there is no --graph" in capsys.readouterr().err


def changed(change):
    document = json.loads(graph_text(zoo.get("lenet", seed=None)))
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda d: d.pop("shapes"), DamagedFileError, '"shapes" has to give the shape of every array'),
        (lambda d: d["shapes"].update({"fc3/w": "many"}), DamagedFileError, '"shapes" has to give'),
        (
            lambda d: d["shapes"].update({"fc3/w": [-1, 4]}),
            DamagedFileError,
            "'fc3/w' is .*expected 1 to 5 sizes",
        ),
        (lambda d: d["shapes"].update({"fc3/w": [1 << 30] * 4}), TooLargeError, "'fc3/w' is"),
        (lambda d: d["shapes"].pop("fc3/w"), MismatchError, "'fc3/w'.*the file lacks it"),
        (lambda d: d["nodes"][0].update(op="System"), UnsupportedError, "of a kind we lack: System"),
        (lambda d: d["nodes"][0].update(inputs=["prob"]), DamagedFileError, "is no net"),
        (lambda d: d.update(nodes=[]), DamagedFileError, "is no net"),
    ],
)
def test_a_damaged_graph_is_told_in_words(written, change, error, words):
    with pytest.raises(error, match=words):
        wiring_in(written(changed(change), "net.json"))


def test_json_that_is_none_or_is_nested_or_is_no_mapping(written):
    for text, words in [('{"a": ', "is not JSON"), ("{" + '"a":[' * 40, "nested 41 deep")]:
        with pytest.raises(DamagedFileError, match=words):
            wiring_in(written(text, "net.json"))


def test_what_arch_may_be(rng, written, tmp_path):
    foreign = bare(rng, a=(3, 1, 2, 2))
    np.save(tmp_path / "a.npy", np.ones(3, "f4"))
    with pytest.raises(
        UsageError, match=r"a.npy: NumPy array; a deploy .prototxt, JSON as inspect --graph writes"
    ):
        wired_by(tmp_path / "a.npy", foreign)
    with pytest.raises(
        UsageError, match=r"--arch nowhere.json: no net of the zoo, and no such file with a wiring"
    ):
        matched(foreign, "nowhere.json")
    path = str(written(TWO))
    with pytest.raises(UsageError, match="says itself how it is wired; leave it out"):
        matched(Foreign("ONNX", net=zoo.get("lenet", seed=None)), path)
    with pytest.raises(UsageError, match="--set is for nets of the zoo"):
        matched(foreign, path, {"pool": "max"})
    with pytest.raises(MismatchError, match="without weights; nothing to convert"):
        matched(Foreign("npz"), path)


def test_a_wired_net_gets_the_names_of_the_zoo_if_it_is_one_of_its_nets(data, rng):
    net = zoo.get("lenet", seed=2)
    layers = {f"n{i}": dict(n.layer.params) for i, n in enumerate(n for n in net.nodes if n.layer.params)}
    prototxt = data / "models/caffe/lenet_mnist_deploy.prototxt"
    match = matched(Foreign("npz", layers=layers), str(prototxt))
    assert match.arch == "lenet"
    assert match.net.name_of("n2") == "fc3"
    np.testing.assert_array_equal(match.net.params["fc3/w"], net.params["fc3/w"])
