"""ONNX files as nets: what becomes of their nodes, and what is refused in which words."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest

from minidnn.errors import (
    DamagedFileError,
    FileError,
    FileFormatError,
    MismatchError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedError,
    UsageError,
)
from minidnn.layers import FC, LRN, BatchNorm, Conv, ConvTranspose, Flatten, MaxPool, ReLU, Softmax
from tests import samples
from tests.onnxwriter import field, model, node, port, tensor, varint, write
from weights_tools.readers import onnx
from weights_tools.readers.onnx_layout import Seen


def numbers(*shape: int) -> np.ndarray:
    return samples.distinct(np.random.default_rng(shape), shape).astype("float32")


@pytest.fixture
def small(tmp_path):
    """Reads a small model, made of nodes and constants."""

    def read(nodes, constants=(), *, input_size=None, **about):
        path = write(tmp_path / "small.onnx", nodes, constants, **about)
        return onnx.read(path, input_size=input_size)

    return read


@pytest.fixture
def bytes_read(tmp_path):
    """Reads a file of these bytes."""

    def read(data, **about):
        path = tmp_path / "small.onnx"
        path.write_bytes(data)
        return onnx.read(path, **about)

    return read


CONV = [node("Conv", "x w b", "y", name="conv1")]
WEIGHTS = {"w": numbers(5, 3, 4, 2), "b": numbers(5)}
RELU = [node("Relu", "x", "y")]


# The real files.


def test_vgg16_has_its_published_weights_and_no_transposes(data):
    foreign = onnx.read(data / "models/vgg16/vgg16_conv_imagenet_head_mri.onnx")
    net = foreign.net
    convs = [one for one in net.nodes if isinstance(one.layer, Conv)]
    assert [conv.layer.w.shape[2:] for conv in convs[:3]] == [(3, 64), (64, 64), (64, 128)]
    assert len(convs) == 13
    first = convs[0].layer
    np.testing.assert_allclose(first.w[0, :, 0, 0], [0.42947057, 0.373467, -0.06136011], rtol=1e-6)
    np.testing.assert_allclose(first.b[:3], [0.73429835, 0.09340367, 0.06775674], rtol=1e-6)
    assert net.input_shape == (240, 240, 3)
    assert net.node("Transpose__90:0").layer.window.kernel == (2, 2)  # the pool that it looked at
    assert net.node("functional_1/dense_1/MatMul").layer.w.shape == (7, 7, 512, 64)
    assert [type(one.layer) for one in net.nodes[-2:]] == [FC, Softmax]
    assert net.node("functional_1/batch_normalization_1/batchnorm/add_1").layer.eps == 0
    assert foreign.hints["opset"] == 13
    assert not foreign.warnings


def test_reading_allocates_little_more_than_the_weights(data):
    path = data / "models/vgg16/vgg16_conv_imagenet_head_mri.onnx"
    tracemalloc.start()
    net = onnx.read(path).net
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(array.nbytes for array in net.params.values()) <= held < 1.02 * path.stat().st_size
    assert most < 1.2 * path.stat().st_size
    assert all(array.flags.aligned and array.flags.c_contiguous for array in net.params.values())


def test_the_digits_net_keeps_its_names_and_gets_its_biases(data):
    net = onnx.read(data / "models/onnx/mnist_cntk.onnx").net
    names = ["Convolution28", "ReLU32", "Pooling66", "Convolution110", "ReLU114", "Pooling160", "Times212"]
    assert net.names == ("data", *names)
    assert net.name_of("Plus30_Output_0") == "Convolution28"
    assert net.name_of("Input3") == "data"
    assert net.node("Convolution28").layer.b.shape == (8,)
    assert net.node("Convolution28").layer.window.pad == (2, 2, 2, 2)  # SAME_UPPER
    assert net.node("Times212").layer.w.shape == (4, 4, 16, 10)


def test_super_resolution_has_no_opset_and_shuffles_pixels_by_a_filter(data):
    foreign = onnx.read(data / "models/onnx/super_resolution.onnx")
    shuffle = foreign.net.node("27").layer
    assert isinstance(shuffle, ConvTranspose)
    assert shuffle.w.shape == (3, 3, 1, 9)
    assert set(np.unique(shuffle.w)) == {0, 1}
    assert foreign.net.shapes((1, 224, 224, 1))[foreign.hints["outputs"][0]] == (1, 672, 672, 1)
    assert "opset" in foreign.warnings[0]
    assert foreign.steps == ["rearranged pixels by fixed filters of 0 and 1"]


@pytest.mark.parametrize("name", ["mnist_cntk", "super_resolution"])
def test_a_damaged_real_file_ends_in_an_error_of_the_family(name, data, bytes_read):
    whole = (data / f"models/onnx/{name}.onnx").read_bytes()
    rng = np.random.default_rng(len(name))
    structure = [i for i in range(len(whole)) if i < 1200 or i > len(whole) - 1200]
    refused = 0
    for _ in range(200):
        data = bytearray(whole)
        for at in rng.choice(structure, 2):
            data[at] = rng.integers(256)
        try:
            bytes_read(data)
        except (FileError, UsageError) as error:
            assert len(str(error)) > 20
            refused += 1
    assert refused > 80


# Nodes that become layers, or vanish.


def test_filters_come_into_our_order(small):
    layer = small(CONV, WEIGHTS).net.node("conv1").layer
    np.testing.assert_array_equal(layer.w, WEIGHTS["w"].transpose(2, 3, 1, 0))
    assert layer.w.flags.c_contiguous


def test_a_constant_that_is_added_becomes_the_bias_unless_somebody_reads_what_was_before(small):
    nodes, constants = (
        [node("Conv", "x w", "a"), node("Add", "a t", "y")],
        {"w": WEIGHTS["w"], "t": numbers(5, 1, 1)},
    )
    net = small(nodes, constants).net
    assert len(net.nodes) == 1
    np.testing.assert_array_equal(net.nodes[0].layer.b, constants["t"].reshape(5))
    assert net.name_of("y") == net.names[1]
    assert "a" not in net.aliases  # what it named is not computed any more
    both = small(nodes, constants, y=("y", "a")).net
    assert [type(one.layer) for one in both.nodes] == [Conv, BatchNorm]
    assert both.nodes[0].layer.b is None


def test_a_scale_is_a_batch_norm_that_takes_the_next_shift_too(small):
    foreign = small(
        [node("Mul", "x s", "a"), node("Add", "a t", "y")], {"s": numbers(3, 1, 1), "t": np.float32(0.5)}
    )
    (norm,) = (one.layer for one in foreign.net.nodes)
    np.testing.assert_array_equal(norm.gamma, numbers(3, 1, 1).reshape(3))
    np.testing.assert_array_equal(norm.beta, [0.5] * 3)
    assert (norm.eps, *norm.mean, *norm.var) == (0, 0, 0, 0, 1, 1, 1)
    assert foreign.steps == ["made a scale or a shift a batch norm of mean 0, variance 1 and eps 0"]


def test_one_tensor_of_two_nodes_stays_one_array(small):
    nodes = [node("Conv", "x w", "a", pads=[1, 0, 2, 1]), node("Conv", "a w", "y")]
    net = small(nodes, {"w": numbers(3, 3, 4, 2)}).net
    assert net.nodes[0].layer.w is net.nodes[1].layer.w
    assert list(net.params) == ["conv_to_a/w"]


def test_lrn_divides_alpha_by_its_size(small):
    (lrn,) = (one.layer for one in small([node("LRN", "x", "y", size=4, alpha=0.6, bias=1.5)]).net.nodes)
    assert isinstance(lrn, LRN)
    assert (lrn.size, lrn.kappa, lrn.beta) == (4, 1.5, 0.75)
    assert lrn.alpha == pytest.approx(0.15)


def test_before_opset_7_a_constant_says_at_which_axis_it_begins(small):
    nodes = [node("Mul", "x s", "y", broadcast=1, axis=1)]
    (norm,) = (one.layer for one in small(nodes, {"s": numbers(3)}, opset=6).net.nodes)
    np.testing.assert_array_equal(norm.gamma, numbers(3))


def test_the_rule_of_softmax_depends_on_the_opset(small):
    assert [type(one.layer) for one in small([node("Softmax", "x", "y", axis=1)]).net.nodes] == [Softmax]
    old = small([node("Softmax", "x", "a", axis=1), node("Flatten", "a", "y")], opset=12).net
    assert [type(one.layer) for one in old.nodes] == [Flatten, Softmax]
    with pytest.raises(UnsupportedError, match="Softmax over axis 3 of"):
        small([node("Softmax", "x", "y")])


def test_a_pad_goes_into_the_window_after_it(small):
    pads = {"p": np.array([0, 0, 1, 2, 0, 0, 3, 4])}
    nodes = [node("Relu", "x", "r"), node("Pad", "r p", "a"), node("MaxPool", "a", "y", kernel_shape=[5, 6])]
    net = small(nodes, pads).net
    assert [type(one.layer) for one in net.nodes] == [ReLU, MaxPool]
    assert net.nodes[1].layer.window.pad == (1, 3, 2, 4)


def test_pads_that_follow_from_the_size_are_told(small):
    foreign = small([node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 3])], {"w": WEIGHTS["w"]})
    assert foreign.net.nodes[0].layer.window.pad == (1, 2, 0, 0)  # (7, 9) rows and columns, windows of (4, 2)
    assert "auto_pad" in foreign.warnings[0]


def test_what_no_output_needs_is_left_out(small):
    net = small([node("Loop", "x", "z"), *RELU, node("If", "y", "q")]).net
    assert len(net.nodes) == 1


def test_several_outputs_are_all_there(small):
    foreign = small([node("Relu", "x", "a"), node("Tanh", "a", "b"), node("Sigmoid", "a", "c")], y=("c", "b"))
    assert foreign.hints["outputs"] == ["sigmoid_to_c", "tanh_to_b"]


def test_channels_last_is_found_out_from_the_first_layer(small):
    nodes = [node("Transpose", "x", "a", perm=[0, 3, 1, 2]), node("Conv", "a w b", "y")]
    net = small(nodes, WEIGHTS, x=(2, 7, 9, 3)).net
    assert net.input_shape == (7, 9, 3)
    assert [one.name for one in net.nodes] == ["conv_to_y"]


# Names.


def test_names_are_legal_and_unique(small):
    names = ["/features/0/Conv", "a b:c", "data", "12", "../x", "é", "all", "/features/0/Conv"]
    nodes = [node("Relu", "x" if i == 0 else f"t{i - 1}", f"t{i}", name=name) for i, name in enumerate(names)]
    net = small(nodes, y=("t7",)).net
    made = ["features/0/Conv", "a_b_c", "data_2", "relu_12", "x", "_", "all_2", "features/0/Conv_2"]
    assert list(net.names[1:]) == made
    assert net.name_of("t7") == "features/0/Conv_2"
    assert net.name_of("12") == "relu_12"


def test_a_node_without_a_name_is_called_by_its_output(bytes_read):
    nameless = field(1, "x") + field(2, "scores:0") + field(4, "Relu")
    assert bytes_read(model([nameless], y=("scores:0",))).net.names == ("data", "scores_0")


# Tensors.


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_become_float32(dtype, small):
    foreign = small(CONV, {name: array.astype(dtype) for name, array in WEIGHTS.items()})
    w = foreign.net.nodes[0].layer.w
    assert w.dtype == np.float32
    np.testing.assert_array_equal(w, WEIGHTS["w"].astype(dtype).astype("f4").transpose(2, 3, 1, 0))
    assert foreign.steps == [f"made {dtype} weights float32, 2 times"]


def typed(name: str, shape: tuple[int, ...], kind: int, number: int, data: bytes) -> bytes:
    return b"".join(field(1, n) for n in shape) + field(2, kind) + field(number, data) + field(8, name)


def test_numbers_written_one_by_one_are_read_too(bytes_read):
    half, shape = numbers(5, 3, 4, 2).astype("float16"), np.array([0, -1])
    bfloat = (numbers(120, 7).view("<u4") >> 16).astype("<u2")
    constants = [
        typed("w", half.shape, 10, 5, b"".join(varint(int(n)) for n in half.view("<u2").reshape(-1))),
        typed("b", (5,), 1, 4, numbers(5).tobytes()),
        typed("s", (2,), 7, 7, b"".join(varint(int(n)) for n in shape)),
        typed("v", (120, 7), 16, 5, b"".join(varint(int(n)) for n in bfloat.reshape(-1))),
    ]
    nodes = [
        node("Conv", "x w b", "a", pads=[2, 0, 0, 1]),
        node("Reshape", "a s", "c"),
        node("MatMul", "c v", "y"),
    ]
    net = bytes_read(model(nodes, constants, x=(2, 3, 4, 8))).net
    conv, dense = (one.layer for one in net.nodes)
    np.testing.assert_array_equal(conv.w, half.astype("f4").transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(conv.b, numbers(5))
    kept = (bfloat.astype("<u4") << 16).view("<f4").reshape(5, 3, 8, 7).transpose(1, 2, 0, 3)
    np.testing.assert_array_equal(dense.w, kept)


@pytest.mark.parametrize(
    ("dims", "error", "words"),
    [
        ((5, 3, 4, 3), MismatchError, r"480 bytes for the shape \(5, 3, 4, 3\) \(expected 720\)"),
        ((5, 3, 4, 1 << 40), MismatchError, "480 bytes for the shape"),
        ((5, 3, -4, 2), DamagedFileError, r"has the shape \(5, 3, -4, 2\)"),
        ((5, 3, 4, 2) + (1,) * 5, DamagedFileError, "has the shape"),
        ((5, 3, 0, 2), MismatchError, "is empty"),
        ((1,) * 70_000, TooLargeError, "a list of more than 65,536 bytes"),
    ],
)
def test_a_tensor_that_lies_about_its_shape_is_refused(dims, error, words, bytes_read):
    lie = tensor(WEIGHTS["w"], "w", dims=dims)
    with pytest.raises(error, match=words):
        bytes_read(model([node("Conv", "x w", "y")], [lie]))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"\x80" * 10 + b"\x01" * 110, DamagedFileError, "more than ten bytes"),
        (varint(7) * 119 + b"\x80", DamagedFileError, "ends within a number|more than ten bytes"),
        (varint(7) * 121, MismatchError, "more numbers than its shape has room for"),
        (varint(7) * 119, MismatchError, r"119 numbers for the shape \(5, 3, 4, 2\) \(expected 120\)"),
    ],
)
def test_damaged_numbers_one_by_one_are_refused(data, error, words, bytes_read):
    with pytest.raises(error, match=words):
        bytes_read(model([node("Conv", "x w", "y")], [typed("w", (5, 3, 4, 2), 10, 5, data)]))


def test_tensors_of_text_and_of_whole_numbers_are_no_weights(small, bytes_read):
    text = field(1, 5) + field(2, 8) + field(6, "no") + field(8, "b")
    with pytest.raises(UnsupportedError, match=r"tensors of type 8 \('conv1'\)"):
        bytes_read(model(CONV, [tensor(WEIGHTS["w"], "w"), text]))
    with pytest.raises(UnsupportedError, match="weights of type int8"):
        small(CONV, WEIGHTS | {"w": np.ones((5, 3, 4, 2), "int8")})


# What is refused.


def test_all_that_we_lack_is_told_at_once(small):
    nodes = [
        node("Relu", "x", "a"),
        node("GRU", "a", "b", name="gru1"),
        node("GRU", "b", "c", name="gru2"),
        node("Clip", "a low high", "d", name="clip1"),
        node("Mystery", "d", "e", name="mystery1", domain="com.example"),
        node("Mul", "a x", "f", name="mul1"),
        node("Sum", "c e f", "y"),
    ]
    with pytest.raises(UnsupportedError, match="4 things that we do not have") as caught:
        small(nodes, {"low": np.float32(-1), "high": np.float32(6)})
    told = str(caught.value)
    assert (
        "GRU ('gru1' and 1 more); Clip from -1 to 6 ('clip1'); Mystery of 'com.example' ('mystery1'); "
        in told
    )
    assert "Mul of two maps ('mul1'); export the model without them" in told


@pytest.mark.parametrize(
    ("nodes", "constants", "words"),
    [
        ([node("Conv", "x w", "y")], {"w": numbers(5, 3, 4)}, "Conv of 1 dimensions"),
        ([node("Relu", "x", "a"), node("Conv", "x a", "y")], {}, "Conv with filters computed from the image"),
        (
            [node("MaxPool", "x", "a z", kernel_shape=[2, 3]), node("Add", "a z", "y")],
            {},
            "more than one output",
        ),
        ([node("MaxPool", "x", "y", kernel_shape=[3])], {}, "MaxPool with a window of 1 sizes"),
        ([node("Conv", "x w", "y", pads=[0, -1, 0, 0])], {"w": numbers(5, 3, 4, 2)}, "that crop"),
        (
            [node("Pad", "x p", "y")],
            {"p": np.array([0, 1, 0, 0, 0, 0, 2, 0])},
            "only rows and columns can grow",
        ),
        ([node("Pad", "x p", "y", mode="reflect")], {"p": np.array([0] * 8)}, "Pad by reflect"),
        ([node("Mul", "x s", "y")], {"s": numbers(7, 1)}, "differs from place to place"),
        ([node("Div", "s x", "y")], {"s": numbers(3, 1, 1)}, "Div by what is computed from the image"),
        ([node("Concat", "x x", "y", axis=2)], {}, "Concat along axis 2 of 4"),
        ([node("Transpose", "x", "y", perm=[1, 0, 2, 3])], {}, "moves the batch"),
        ([node("Reshape", "x s", "y")], {"s": np.array([6, -1])}, "mixes the images of a batch"),
        ([node("Reshape", "x s", "y")], {"s": np.array([2, 9, 21])}, "cuts across rows"),
        ([node("ReduceMean", "x", "y", axes=[1])], {}, "only rows and columns"),
        ([node("Gemm", "x w", "y", transA=1)], {"w": numbers(4, 5)}, "Gemm that transposes the image"),
        ([node("MatMul", "x x", "y")], {}, "MatMul of other than the image by weights"),
        ([node("Cast", "x", "y", to=7)], {}, "Cast of the image to whole numbers"),
        ([node("BatchNormalization", "x s s s s", "y", training_mode=1)], {"s": numbers(3)}, "in training"),
        ([node("Resize", "x - s", "y")], {"s": np.float32([1, 1, 1.5, 2])}, "only by one whole factor"),
        ([node("Resize", "x - s", "y", mode="cubic")], {"s": np.float32([1, 1, 2, 2])}, "Resize cubic"),
        ([node("PRelu", "x s", "y")], {"s": numbers(7, 9)}, "PRelu with a slope for each place"),
        (
            [node("ConvTranspose", "x w", "y", auto_pad="SAME_UPPER")],
            {"w": numbers(3, 5, 4, 2)},
            "ConvTranspose whose pads",
        ),
    ],
)
def test_a_form_of_an_operation_that_we_lack_is_named(nodes, constants, words, small):
    with pytest.raises(UnsupportedError, match=words):
        small(nodes, constants)


@pytest.mark.parametrize(
    ("nodes", "constants", "words"),
    [
        (CONV, WEIGHTS | {"w": numbers(5, 4, 3, 2)}, "filters for 4 x 1 channels, 3 come"),
        (CONV, WEIGHTS | {"b": numbers(6)}, r"wants a bias of shape \(5,\)"),
        ([node("Conv", "x w", "y", kernel_shape=[2, 4])], {"w": WEIGHTS["w"]}, r"kernel_shape \[2, 4\]"),
        ([node("Conv", "x w", "y", strides=[0, 1])], {"w": WEIGHTS["w"]}, "each number must be at least 1"),
        ([node("Conv", "x w", "y", group=0)], {"w": WEIGHTS["w"]}, "filters for 3 x 0 channels"),
        ([node("MaxPool", "x", "y", kernel_shape=[8, 2])], {}, "does not fit on an image of 7x9"),
        ([node("Reshape", "x s", "y")], {"s": np.array([2, 5])}, "not the same count"),
        ([node("Transpose", "x", "y", perm=[0, 1, 1, 3])], {}, r"Transpose by \(0, 1, 1, 3\)"),
        ([node("Unsqueeze", "x s", "y")], {"s": np.array([9])}, r"axes \[9\] of 5"),
        ([node("Squeeze", "x s", "y")], {"s": np.array([1])}, "not of size 1"),
        (
            [node("Gather", "s i", "a"), node("Add", "x a", "y")],
            {"s": numbers(3), "i": np.array(7)},
            "constants do not fit",
        ),
        ([node("Add", "x s", "y")], {"s": numbers(4, 1, 1)}, "a constant of shape"),
        (
            [node("Flatten", "x", "a"), node("Gemm", "a w", "y")],
            {"w": numbers(188, 7)},
            r"weights \(188, 7\) for \(2, 189\)",
        ),
        ([node("LRN", "x", "y", size=0)], {}, "over 0 channels"),
    ],
)
def test_sizes_that_do_not_fit_are_told_with_both(nodes, constants, words, small):
    with pytest.raises(MismatchError, match=words):
        small(nodes, constants)


def test_a_shape_with_two_open_sizes_is_damaged(small):
    with pytest.raises(DamagedFileError, match=r"to \[-1, -1\]: one -1 at most"):
        small([node("Reshape", "x s", "y")], {"s": np.array([-1, -1])})


def test_a_graph_that_does_not_hang_together_is_damaged(small, bytes_read):
    with pytest.raises(DamagedFileError, match="reads 'late', which nothing before it makes"):
        small([node("Add", "x late", "y"), node("Relu", "x", "late")])
    with pytest.raises(DamagedFileError, match="'y' is made twice"):
        small([node("Relu", "x", "y"), node("Tanh", "x", "y")])
    with pytest.raises(DamagedFileError, match="no node makes"):
        small(RELU, y=("z",))
    with pytest.raises(DamagedFileError, match="has no outputs"):
        small(RELU, y=())
    with pytest.raises(DamagedFileError, match="has no filters"):
        small([node("Conv", "x", "y")])
    with pytest.raises(DamagedFileError, match="more than one graph"):
        bytes_read(model(RELU) + field(7, b""))
    with pytest.raises(FileFormatError, match="no graph in it"):
        bytes_read(field(1, 8))
    with pytest.raises(FileFormatError, match="no layers in it"):
        small([node("Identity", "x", "y")])
    with pytest.raises(MismatchError, match="does not depend on the image"):
        small([node("Identity", "s", "y"), node("Relu", "x", "z")], {"s": numbers(3)}, y=("z", "y"))


def test_versions_and_inputs_that_we_do_not_have_are_refused(small, bytes_read):
    with pytest.raises(UnsupportedError, match="opset 99; we read 1 to"):
        small(RELU, opset=99)
    with pytest.raises(UnsupportedError, match="input 'x' of type 7"):
        small(RELU, kind=7)
    with pytest.raises(UnsupportedError, match="of 5 axes"):
        small(RELU, x=(2, 3, 4, 5, 6))
    graph = (
        field(1, node("Add", "x z", "y"))
        + field(11, port("x", (2, 3, 4, 5)))
        + field(11, port("z", (2, 3, 4, 5)))
    )
    with pytest.raises(UnsupportedError, match=r"2 inputs \('x', 'z'\)"):
        bytes_read(field(7, graph + field(12, port("y", None))) + field(8, field(2, 13)))
    with pytest.raises(UnsupportedError, match="1 sparse tensors"):
        bytes_read(field(7, field(1, RELU[0]) + field(15, b"") + field(12, port("y", None))))


def test_an_open_size_is_asked_for(small):
    with pytest.raises(UsageError, match=r"is \?x3x\?x\?; give the size of the images: --input-size HxW"):
        small(CONV, WEIGHTS, x=("n", 3, "h", "w"))
    assert small(CONV, WEIGHTS, x=("n", 3, "h", "w"), input_size=(7, 9)).net.input_shape == (7, 9, 3)
    with pytest.raises(UsageError, match="its channels are left open"):
        small(CONV, WEIGHTS, x=(2, "c", 7, 9))
    with pytest.raises(UsageError, match="an input size of 0x9"):
        small(CONV, WEIGHTS, input_size=(0, 9))


# Hostile files.


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (varint(7 << 3 | 2) + b"\xff" * 10 + b"\x01", "more than ten bytes"),
        (varint(7 << 3 | 2) + varint(1 << 40) + b"short", "claims 1,099,511,627,776 bytes"),
        *((varint(7 << 3 | kind) + b"\x01", f"wire type {kind}") for kind in (3, 4, 6, 7)),
        (field(7, 5), "wire type 0"),
        (b"", "0 bytes"),
    ],
)
def test_a_broken_wire_is_damaged(data, words, bytes_read):
    with pytest.raises(DamagedFileError, match=words):
        bytes_read(data)


def test_messages_within_messages_are_not_followed_down(bytes_read):
    deep = b""
    for _ in range(10_000):
        deep = field(6, field(5, deep))  # a subgraph in an attribute in a node in a subgraph...
    loop = node("Loop", "x", "y") + field(5, field(1, "body") + deep)
    with pytest.raises(UnsupportedError, match="Loop"):
        bytes_read(model([loop]))


def test_more_nodes_than_a_net_has_are_too_many(bytes_read):
    with pytest.raises(TooLargeError, match="100,001 entries in field 1"):
        bytes_read(model([b""] * 100_001))
    chain = [node("Relu", f"t{i}" if i else "x", f"t{i + 1}") for i in range(10_001)]
    with pytest.raises(TooLargeError, match="more than 10,000 layers"):
        bytes_read(model(chain, y=("t10001",)))


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        (
            [node("ConstantOfShape", "s", "w"), node("Conv", "x w", "y")],
            {"s": np.array([1 << 20, 3, 1 << 10, 1 << 10])},
        ),
        ([node("Add", "a b", "c"), node("Add", "x c", "y")], {"a": numbers(1, 9000), "b": numbers(9000, 1)}),
        (
            [node("Gather", "a i", "c"), node("Add", "x c", "y")],
            {"a": numbers(1, 20_000), "i": np.zeros(20_000, "int64")},
        ),
        (
            [
                node("Conv", "x w", "a"),
                node("Reshape", "a s", "b"),
                node("Transpose", "b", "c", perm=[0, 2, 1, 3, 4]),
                node("Reshape", "c t", "d"),
                node("Conv", "d v", "y"),
            ],
            {
                "w": numbers(30_000, 3, 1, 1),
                "s": np.array([2, 100, 300, 7, 9]),
                "t": np.array([2, 30_000, 7, 9]),
                "v": numbers(1, 30_000, 1, 1),
            },
        ),
    ],
    ids=["constant of a shape", "constants against each other", "constants gathered", "channels shuffled"],
)
def test_what_would_need_far_more_memory_than_the_file_is_too_large(nodes, constants, small):
    with pytest.raises(TooLargeError, match="and four times its file"):
        small(nodes, constants)


def test_weights_that_are_turned_a_hundred_ways_are_too_large(small):
    """One tensor of 2.4 MB, of which each of a hundred nodes makes an array of its own."""
    names = ["x", *(f"x{i}" for i in range(1, 101))]
    nodes = [node("Gemm", f"{names[i]} v", names[i + 1], alpha=1 + i / 128) for i in range(100)]
    with pytest.raises(TooLargeError, match="and four times its file"):
        small(nodes, {"v": numbers(775, 775)}, x=(2, 775), y=("x100",))


@pytest.mark.parametrize(
    ("x", "nodes"),
    [
        ((1, 3, 1 << 40, 2), RELU),
        ((1, 1 << 40, 3, 2), RELU),
        ((1, 3, 5000, 6000), [node("AveragePool", "x", "y", kernel_shape=[2, 3])]),
        ((1, 3, 7, 9), [node("MaxPool", "x", "y", kernel_shape=[2000, 3], pads=[1500, 0, 1600, 0])]),
        ((1, 3, 7, 9), [node("Pad", "x", "y", pads=[0, 0, 1 << 50, 0, 0, 0, 0, 0])]),
    ],
)
def test_a_map_that_nobody_could_compute_is_too_large(x, nodes, small):
    with pytest.raises(TooLargeError, match=r"not a net that we could run|the limit is"):
        small(nodes, x=x, opset=9)


def outside(name: str, *, location: str, **more: str) -> bytes:
    """A tensor (5, 3, 4, 2) whose data lie elsewhere."""
    entries = {"location": location, **more}
    lies = b"".join(field(13, field(1, key) + field(2, value)) for key, value in entries.items())
    return b"".join(field(1, n) for n in (5, 3, 4, 2)) + field(2, 1) + field(8, name) + lies + field(14, 1)


@pytest.fixture
def external(tmp_path):
    """Reads a model whose filters lie in that file, of which there is one beside it: w.bin."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(b"\0" * 64 + WEIGHTS["w"].tobytes() + b"tail")
    (tmp_path / "secret").write_bytes(b"\0" * 480)

    def read(location, *, allow=True, **more):
        path = folder / "small.onnx"
        lie = outside("w", location=location, **more)
        path.write_bytes(model([node("Conv", "x w", "y")], [lie]))
        return onnx.read(path, allow_external=allow)

    return read


def test_data_in_other_files_are_refused_unless_allowed(external):
    with pytest.raises(UnsafeFileError, match=r"lies in another file \('w.bin'\).*--allow-external"):
        external("w.bin", allow=False, offset="64", length="480")
    net = external("w.bin", offset="64", length="480").net
    np.testing.assert_array_equal(net.nodes[0].layer.w, WEIGHTS["w"].transpose(2, 3, 1, 0))
    assert external("w.bin", offset="64").net


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "..", ".", "", "sub/w.bin", "a\\b", "c:w.bin", "w.bin\0", "./w.bin"],
)
def test_other_files_are_plain_names_in_the_same_folder(location, external):
    with pytest.raises(UnsafeFileError, match="not a plain name in the model's folder"):
        external(location)


@pytest.mark.skipif(os.name != "posix", reason="links and pipes as POSIX has them")
def test_links_pipes_and_folders_are_no_plain_files(external, tmp_path):
    folder = tmp_path / "model"
    (folder / "soft").symlink_to(tmp_path / "secret")
    (folder / "inner").symlink_to(folder / "w.bin")
    os.link(tmp_path / "secret", folder / "hard")
    os.mkfifo(folder / "pipe")
    (folder / "sub").mkdir()
    for name in ("soft", "inner", "hard", "pipe", "sub"):
        with pytest.raises(UnsafeFileError, match=r"not a regular file|cannot be opened as a plain file"):
            external(name)


@pytest.mark.parametrize(
    ("about", "error", "words"),
    [
        ({"location": "gone.bin"}, DamagedFileError, "which is not there; fetch it too"),
        (
            {"location": "w.bin", "offset": "69"},
            DamagedFileError,
            "bytes 69 to 549 of 'w.bin', which has 548",
        ),
        ({"location": "w.bin", "offset": "-1"}, DamagedFileError, "bytes -1 to 479"),
        ({"location": "w.bin", "length": "479"}, MismatchError, "479 bytes in 'w.bin', its shape needs 480"),
        ({"location": "w.bin", "offset": "one"}, DamagedFileError, "no number"),
    ],
)
def test_the_place_in_another_file_is_checked(about, error, words, external):
    with pytest.raises(error, match=words):
        external(**about)


# How a tensor lies on a map.


def test_a_reshape_cuts_and_joins_axes_at_their_seams():
    seen = Seen.of("map", 1, (4, 6, 10), "chw")
    cut = seen.reshaped((1, 2, 5, 4, 6)).transposed((0, 2, 1, 3, 4))
    assert cut.shape == (1, 5, 2, 4, 6)
    assert [atom.size for atom in cut.chans] == [2, 5]
    joined = cut.reshaped((1, 10, 24))
    assert [atom.size for atom in joined.axes[0]] == [5, 2]
    assert joined.axes[1] == joined.rows + joined.cols
    assert joined.reshaped((1, 240)).size == (4, 6, 10)


def test_a_constant_says_one_thing_to_each_channel_or_is_not_per_channel():
    seen = Seen.of("map", 2, (4, 6, 10), "chw").reshaped((2, 2, 5, 4, 6)).transposed((0, 2, 1, 3, 4))
    told = seen.per_channel(np.arange(10).reshape(5, 2, 1, 1))
    np.testing.assert_array_equal(told, np.arange(10).reshape(5, 2).T.reshape(-1))
    np.testing.assert_array_equal(seen.per_channel(np.arange(5).reshape(5, 1, 1, 1)), [0, 1, 2, 3, 4] * 2)
    assert seen.per_channel(np.arange(6)) is None
    assert seen.per_channel(np.array([7.0])).tolist() == [7]
