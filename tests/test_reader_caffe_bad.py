"""Caffe files that are damaged, hostile, or of a kind that we do not run: each has its error, cheaply."""

from __future__ import annotations

import os
import tracemalloc

import h5py
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
)
from tests import caffewriter as caffe
from tests.caffewriter import field, layer, varint
from weights_tools.readers.caffe import read, read_mean

HERE = {"input": ["data"], "input_dim": [1, 3, 11, 8]}


def conv(name="conv", bottom="data", k=4, c=3, *, shape=None, **geometry):
    arrays = [np.ones(shape or (k, c, 1, 1)), np.ones(k)]
    geometry = {"num_output": k, "kernel_size": [1]} | geometry
    return layer(name, "Convolution", bottom, blobs=arrays, convolution_param=geometry)


def dense(n, k=5, bottom="conv", **about):
    param = {"num_output": k} | about
    return layer("fc", "InnerProduct", bottom, blobs=[np.ones((k, n)), np.ones(k)], inner_product_param=param)


@pytest.fixture
def model(tmp_path):
    def write(*layers, **about):
        path = tmp_path / "net.caffemodel"
        is_data = len(layers) == 1 and isinstance(layers[0], bytes)
        path.write_bytes(layers[0] if is_data else caffe.binary(caffe.net(*layers, **(about or HERE))))
        return path

    return write


@pytest.fixture
def deploy(tmp_path):
    def write(*layers, **about):
        path = tmp_path / "deploy.prototxt"
        is_text = len(layers) == 1 and isinstance(layers[0], str)
        path.write_text(layers[0] if is_text else caffe.text(caffe.net(*layers, **(about or HERE))))
        return path

    return write


# Not a file of Caffe's at all


def test_what_is_no_file_is_told_off(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        read(tmp_path / "missing.caffemodel")
    with pytest.raises(FileFormatError, match="is a directory"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafeFileError, match="not a regular file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", DamagedFileError, "0 bytes"),
        (b"<!DOCTYPE html><html>404", FileFormatError, "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", FileFormatError, "Git LFS pointer"),
        (b"PK\x03\x04\x00\x00", DamagedFileError, "net.caffemodel: "),
        (b"\x00" * 500, DamagedFileError, "no field has number 0"),
        (field(1, "a name and nothing else, with a \x01 in it"), FileFormatError, "no layers in it"),
    ],
)
def test_a_file_of_another_kind_is_told_off(model, content, kind, words):
    with pytest.raises(kind, match=words):
        read(model(content))


# The wire


def nested(depth):
    data = b""
    for _ in range(depth):
        data = field(100, data)
    return data


WIRE = {
    "a number of more than ten bytes": field(1, "n\x01") + b"\x08" + b"\xff" * 11,
    "field 100 claims 1,000,000 bytes": field(1, "n\x01") + varint(100 << 3 | 2) + varint(10**6),
    "wire type 3 at byte 4": field(1, "n\x01") + b"\x0b",
    "wire type 6 at byte 4": field(1, "n\x01") + b"\x0e",
    "layer '': has no type": nested(10_000),
}


@pytest.mark.parametrize("words", WIRE)
def test_a_damaged_message_says_where(model, words):
    with pytest.raises(DamagedFileError, match=words):
        read(model(WIRE[words]))


def test_a_model_cut_short_anywhere_is_damaged(model, data):
    whole = (data / "models" / "caffe" / "mtcnn_det1.caffemodel").read_bytes()
    for end in range(7, len(whole), len(whole) // 50):
        with pytest.raises((DamagedFileError, MismatchError, FileFormatError)):
            read(model(whole[:end]))


def test_two_million_tiny_layers_are_too_many(model):
    with pytest.raises(TooLargeError, match="more than 250,000 fields"):
        read(model(field(100, b"") * 2_000_000))
    with pytest.raises(TooLargeError, match="10,001 layers, the limit is 10,000"):
        read(model(field(100, b"") * 10_001))


# Arrays


def with_blob(blob):
    return layer(
        "conv", "Convolution", "data", blobs=[blob], convolution_param={"num_output": 4, "kernel_size": [1]}
    )


def claiming(dims, count):
    return field(7, field(1, b"".join(map(varint, dims)))) + field(5, np.zeros(count, "<f4").tobytes())


@pytest.mark.parametrize(
    ("blob", "kind", "words"),
    [
        (
            claiming([4, 3, 1, 2], 23),
            MismatchError,
            r"shape \(4, 3, 1, 2\) with 23 numbers in it, expected 24",
        ),
        (claiming([1 << 40], 3), MismatchError, "with 3 numbers in it, expected 1,099,511,627,776"),
        (claiming([1 << 40] * 8, 3), MismatchError, "with 3 numbers in it"),
        (claiming([-2, -6], 12), DamagedFileError, r"an array of shape \(-2, -6\)"),
        (claiming([1] * 9, 1), DamagedFileError, "an array of shape"),
        (field(1, 3) + claiming([12], 12), MismatchError, r"shape \(3, 0, 0, 0\)"),
        (claiming([12], 12)[:-1], DamagedFileError, "claims"),
        (field(7, field(1, b"\x03")) + field(5, b"\0" * 11), DamagedFileError, "holds no whole floats"),
    ],
)
def test_arrays_that_are_not_what_they_claim_are_refused(model, blob, kind, words):
    with pytest.raises(kind, match=f"layer 'conv'.*{words}" if kind is MismatchError else words):
        read(model(with_blob(blob)))


def test_of_two_shapes_the_old_one_counts(model):
    """As in Caffe: whatever `shape` says, num, channels, height and width go before it."""
    values = np.arange(12, dtype="f4").reshape(4, 3, 1, 1)
    both = field(7, field(1, b"\x02\x06")) + caffe.blob(values, style="legacy")
    bias = field(7, field(1, b"\x02\x02")) + caffe.blob(np.arange(4), style="legacy")
    record = with_blob(both)
    record["blobs"].append(bias)
    found = read(model(record)).net.node("conv").layer
    np.testing.assert_array_equal(found.w[0, 0], values[:, :, 0, 0].T)
    np.testing.assert_array_equal(found.b, range(4))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([conv(shape=(4, 2, 1, 1))], r"'conv': array 0: found \(4, 2, 1, 1\), expected \(4, 3, 1, 1\)"),
        ([conv(shape=(4, 3, 3, 2))], r"found \(4, 3, 3, 2\), expected \(4, 3, 1, 1\)"),
        ([conv(bias_term=False)], "'conv': found 2 arrays, expected 1"),
        ([conv(group=2)], "2 groups cannot share 3 channels and 4 filters evenly"),
        ([conv(), dense(351)], r"'fc': array 0: found \(5, 351\), expected \(5, 352\)"),
        ([conv(), layer("bn", "BatchNorm", "conv")], "'bn': found 0 arrays, expected 3"),
        ([conv(kernel_size=[20], shape=(4, 3, 20, 20))], "'conv': a window of 20x20 pixels does not fit"),
        ([conv(), layer("sum", "Eltwise", ["conv", "data"])], "'sum': Add wants maps of one shape"),
        ([conv(bottom="blob")], "'conv': reads 'blob', which nothing writes"),
    ],
)
def test_what_does_not_fit_together_is_told_with_its_place(model, records, words):
    with pytest.raises(MismatchError, match=words):
        read(model(*records))


def test_a_net_whose_images_have_no_known_size_asks_for_it(model, deploy):
    fc = dense(12, bottom="data")
    given = {"input": ["data"]}
    with pytest.raises(MismatchError, match=r"'fc': how large its images are .* give the deploy .prototxt"):
        read(model(fc, **given))
    with pytest.raises(MismatchError, match="'fc': 13 numbers are no square map of 4 channels"):
        read(model(conv(), dense(13), **given))
    with pytest.raises(MismatchError, match="'all': how large its images are"):
        read(model(conv(), layer("all", "Pooling", "conv", pooling_param={"global_pooling": True}), **given))
    with pytest.raises(MismatchError, match=r"deploy.prototxt: how large its images are"):
        read(deploy(conv(), **given))


# Fields


@pytest.mark.parametrize(
    ("record", "kind", "words"),
    [
        (
            conv(kernel_size=[0]),
            DamagedFileError,
            "'kernel_size' is 0, expected a whole number from 1 to 16,384",
        ),
        (conv(stride=[1 << 40]), DamagedFileError, "'stride' is 1,099,511,627,776, expected"),
        (conv(pad=[-1]), DamagedFileError, "'pad' is -1"),
        (conv(kernel_size=[]), DamagedFileError, "has no kernel_size"),
        (conv(num_output=0), DamagedFileError, "'num_output' is 0"),
        (layer("n", "LRN", "data", lrn_param={"local_size": 4}), DamagedFileError, "expected an odd number"),
        (layer("n", "LRN", "data", lrn_param={"beta": float("nan")}), DamagedFileError, "'beta' is nan"),
        (
            layer("d", "Dropout", "data", dropout_param={"dropout_ratio": 1.0}),
            DamagedFileError,
            "expected a share",
        ),
        (
            layer("b", "BatchNorm", "data", blobs=[np.ones(3), -np.ones(3), [1.0]]),
            DamagedFileError,
            "variances",
        ),
    ],
)
def test_a_field_that_makes_no_sense_is_damage(model, record, kind, words):
    with pytest.raises(kind, match=words):
        read(model(record))


def test_a_layer_that_reads_nothing_is_damage(model):
    with pytest.raises(DamagedFileError, match="'lost': reads nothing"):
        read(model(conv(), conv("lost", [])))


def test_all_that_we_lack_is_told_at_once(model):
    """And in the words of the file."""
    records = [
        conv(),
        layer("crop", "Crop", ["conv", "data"]),
        layer("mul", "Eltwise", ["conv", "crop"], eltwise_param={"operation": "PROD"}),
        layer("minus", "Eltwise", ["conv", "crop"], eltwise_param={"coeff": [1.0, -1.0]}),
        layer("shift", "Power", "conv", power_param={"shift": 2.0}),
        layer("some", "Reshape", "conv", reshape_param={"shape": {"dim": [0, 2, -1]}}),
        layer("cut", "Slice", "conv", ["cut1", "cut2"]),
        layer("lucky", "Pooling", "conv", pooling_param={"pool": "STOCHASTIC"}),
        layer("across", "Softmax", "conv", softmax_param={"axis": 2}),
        conv("deep", "conv", 5, 4, kernel_size=[1, 2, 3]),
        *(layer(f"norm{i}", "Normalize", "conv") for i in range(5)),
    ]
    with pytest.raises(UnsupportedError) as error:
        read(model(*records))
    for words in [
        "Crop ('crop')",
        "Eltwise PROD ('mul')",
        "Eltwise SUM with coefficients ('minus')",
        "Power (2 + 1 x)^1 ('shift')",
        "Reshape to 0 x 2 x -1 ('some')",
        "Slice ('cut')",
        "Pooling by STOCHASTIC ('lucky')",
        "Softmax along axis 2 ('across')",
        "kernel_size along 3 axes ('deep')",
        "Normalize ('norm0', 'norm1', 'norm2' and 2 more)",
    ]:
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("records", "about", "words"),
    [
        ([conv(), layer("p", "Pooling", "conv", ["p", "mask"])], HERE, "Pooling with 2 outputs"),
        ([conv(), layer("s", "Scale", ["conv", "data"], blobs=[np.ones(4)])], HERE, "Scale of 2 inputs"),
        ([layer("b", "BatchNorm", "data", blobs=[np.ones(3)] * 5)], HERE, "BatchNorm of 5 arrays"),
        ([conv(), layer("f", "Flatten", "conv", flatten_param={"axis": 2})], HERE, "Flatten along axis 2"),
        ([conv(), layer("f", "Flatten", "conv"), layer("l", "LRN", "f")], HERE, "LRN of a flattened map"),
        ([conv(), dense(5, axis=2)], HERE, "InnerProduct along axis 2"),
        ([conv()], {"input": ["data"], "input_shape": [{"dim": [1, 3, 5, 9, 8]}]}, "an input of 5 axes"),
        (
            [conv(), conv("c2", "info"), layer("sum", "Eltwise", ["conv", "c2"])],
            {"input": ["data", "info"], "input_dim": [1, 3, 11, 8] * 2},
            "a net of 'data' and 'info'; we run nets of one image",
        ),
    ],
)
def test_what_we_do_not_run_is_said_in_a_few_words(model, records, about, words):
    with pytest.raises(UnsupportedError, match=words):
        read(model(*records, **about))


def test_version_0_is_refused_with_the_tool_that_helps(model, deploy):
    with pytest.raises(UnsupportedError, match="upgrade_net_proto_binary"):
        read(
            model(
                field(1, "old\x01")
                + field(2, field(1, field(1, "conv") + field(2, "conv")) + field(2, "data"))
            )
        )
    with pytest.raises(UnsupportedError, match="upgrade_net_proto_text"):
        read(
            deploy('input: "data"\nlayers { layer { name: "conv" type: "conv" } bottom: "data" top: "conv" }')
        )


def test_layers_of_both_versions_in_one_net_are_damage(model):
    both = field(100, field(2, "ReLU")) + field(2, field(5, 18))
    with pytest.raises(DamagedFileError, match="layers of two versions"):
        read(model(both))


# Graph and weights


def test_graph_and_weights_that_do_not_belong_together_are_told_apart(data, tmp_path):
    folder = data / "models"
    graph = (folder / "squeezenet" / "squeezenet_v1.1_deploy.prototxt").read_text()
    (tmp_path / "squeezenet_v1.1_deploy.prototxt").write_text(graph.replace('"conv1"', '"conv0"'))
    with pytest.raises(MismatchError, match=r"0 of 26 layers of .*v1.1_deploy.* matched: wrong pair\?"):
        read(
            folder / "caffe" / "cifar10_quick_iter_4000.caffemodel",
            prototxt=tmp_path / "squeezenet_v1.1_deploy.prototxt",
        )
    with pytest.raises(MismatchError, match=r"found \(64, 3, 3, 3\), expected \(96, 3, 7, 7\)"):
        read(
            folder / "squeezenet" / "squeezenet_v1.1.caffemodel",
            prototxt=folder / "squeezenet" / "squeezenet_v1.0_deploy.prototxt",
        )


def test_a_few_missing_layers_are_named(model, deploy):
    with pytest.raises(
        MismatchError, match=r"1 of 2 layers of .* matched; missing is 'fc8'; did you mean 'fc8_old'"
    ):
        read(model(conv(), conv("fc8_old", "conv", 5, 4)), prototxt=deploy(conv(), conv("fc8", "conv", 5, 4)))


def test_two_layers_of_one_name_with_weights_are_refused_where_names_count(model, deploy):
    twins = [conv(), conv("conv", "conv", 4, 4)]
    with pytest.raises(MismatchError, match="two layers of that name have weights"):
        read(model(*twins), prototxt=deploy(*twins))


def test_a_prototxt_that_is_broken_says_line_and_column(model, deploy):
    with pytest.raises(
        DamagedFileError, match=r"deploy.prototxt:2:12: found 'five', expected a whole number"
    ):
        read(model(conv()), prototxt=deploy('input: "data"\ninput_dim: five\nlayer { type: "ReLU" }'))
    with pytest.raises(DamagedFileError, match=r"deploy.prototxt:1:7: this block is never closed"):
        read(model(conv()), prototxt=deploy('layer { type: "ReLU"'))
    with pytest.raises(DamagedFileError, match=r"deploy.prototxt:1:15: this string is never closed"):
        read(model(conv()), prototxt=deploy('layer { type: "ReLU }\n'))


def test_weights_in_hdf5_want_a_graph_and_their_own_names(tmp_path, deploy):
    path = tmp_path / "net.caffemodel.h5"
    with h5py.File(path, "w") as file:
        file["data/fire2/conv/0"] = np.ones((4, 3, 1, 1), "<f8")
        file["data/fire2/conv/1"] = np.arange(4, dtype=">f4")
    with pytest.raises(MismatchError, match=r"weights without a graph; give the deploy \.prototxt"):
        read(path)
    found = read(path, prototxt=deploy(conv("fire2/conv"))).net
    np.testing.assert_array_equal(found.node("fire2/conv").layer.b, range(4))
    for name, value, kind, words in [
        ("data/conv/w", np.ones(3), FileFormatError, "not named as Caffe names weights"),
        ("data/conv/0", np.ones(3, int), UnsupportedError, "floats are wanted"),
        ("weights", np.ones(3), FileFormatError, "no 'data' in it"),
    ]:
        with h5py.File(path, "w") as file:
            file[name] = value
        with pytest.raises(kind, match=words):
            read(path, prototxt=deploy(conv()))
    with h5py.File(path, "w") as file:
        file["data/conv/0"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(UnsafeFileError, match="links are not followed"):
        read(path, prototxt=deploy(conv()))


def test_a_prototxt_of_giants_takes_no_memory_and_is_refused(deploy):
    size = {"input": ["data"], "input_dim": [1, 16384, 16384, 16384]}
    fc = layer("fc", "InnerProduct", "data", inner_product_param={"num_output": 1 << 24})
    with pytest.raises(TooLargeError, match="the limit is 1,099,511,627,776 numbers"):
        read(deploy(fc, **size))
    flat = [layer("flat", "Flatten", "data"), layer("p", "PReLU", "flat")]
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="weights of"):
        read(deploy(*flat, **size))
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    with pytest.raises(MismatchError, match="expected sizes from 1 to 16,384"):
        read(deploy(fc, input=["data"], input_dim=[1, 3, 0, 16385]))
    with pytest.raises(DamagedFileError, match="1 inputs and 2 shapes"):
        read(deploy(fc, input=["data"], input_dim=[1, 3, 9, 8, 7]))


# Chance


@pytest.mark.parametrize("name", ["mtcnn_det1", "cifar10_quick_iter_4000"])
def test_whatever_chance_does_to_a_file_ends_in_words(data, model, name):
    """Bytes changed, cut out, doubled: at both ends, where there is more structure than arrays."""
    rng = np.random.default_rng(0)
    whole = (data / "models" / "caffe" / f"{name}.caffemodel").read_bytes()
    structure = np.concatenate([np.arange(1200), np.arange(len(whole) - 1500, len(whole))])
    graph_of = {"mtcnn_det1": "mtcnn_det1", "cifar10_quick_iter_4000": "cifar10_quick_deploy"}
    prototxt = data / "models" / "caffe" / f"{graph_of[name]}.prototxt"
    outcomes = set()
    for _ in range(150):
        mutant = bytearray(whole)
        for at in rng.choice(structure, rng.integers(1, 4)):
            match rng.integers(4):
                case 0:
                    mutant[at] = rng.integers(256)
                case 1:
                    mutant[at] ^= 1 << int(rng.integers(8))
                case 2:
                    del mutant[at : at + int(rng.integers(1, 40))]
                case 3:
                    mutant[at:at] = mutant[at : at + int(rng.integers(1, 40))]
        path = model(bytes(mutant))
        for graph in [None, prototxt]:
            try:
                outcomes.add(type(read(path, prototxt=graph)).__name__)
            except FileError as error:
                outcomes.add(type(error).__name__)
                assert str(error).strip()
    assert {"Foreign", "DamagedFileError"} <= outcomes


def test_whatever_chance_does_to_a_prototxt_ends_in_words(data, deploy):
    rng = np.random.default_rng(0)
    whole = (data / "models" / "caffe" / "mtcnn_det1.prototxt").read_text()
    outcomes = set()
    for _ in range(200):
        at, length = int(rng.integers(len(whole))), int(rng.integers(1, 12))
        put = rng.choice(["", "{", "}", '"', "-", "9" * 30, " dim: 0 ", "nan", whole[at : at + 3 * length]])
        try:
            outcomes.add(type(read(deploy(whole[:at] + put + whole[at + length :]))).__name__)
        except FileError as error:
            outcomes.add(type(error).__name__)
    assert {"Foreign", "DamagedFileError", "MismatchError"} <= outcomes


def test_whatever_chance_does_to_a_mean_ends_in_words(tmp_path):
    rng = np.random.default_rng(0)
    whole, path = caffe.blob(np.ones((1, 3, 4, 5))), tmp_path / "mean"
    for _ in range(200):
        mutant = bytearray(whole)
        mutant[int(rng.integers(20))] = int(rng.integers(256))
        path.write_bytes(bytes(mutant))
        try:
            assert read_mean(path).shape[2] in (1, 3)
        except FileError as error:
            assert str(error).strip()
