"""safetensors: a real file, files put together by hand, and each rule broken once."""

from __future__ import annotations

import json
import random

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
from weights_tools.readers import safetensors

CODES = {"f4": "F32", "f8": "F64", "f2": "F16", "i8": "I64"}


def written(path, listed, data: bytes):
    text = listed if isinstance(listed, bytes) else json.dumps(listed).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def of_arrays(path, arrays: dict[str, np.ndarray], **more):
    """As the format wants it, in the order given."""
    listed, data = dict(more), b""
    for name, array in arrays.items():
        begin, data = len(data), data + array.tobytes()
        code = CODES[array.dtype.str[1:]]
        listed[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    return written(path, listed, data)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def one(path, data=bytes(24), **changes):
    """A file of one array, (2, 3) of float32, with something changed."""
    return written(path, {"a/w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes}, data)


def test_a_real_file_has_its_layers_in_order(data):
    foreign = safetensors.read(data / "models/safetensors/mnist_denograd.safetensors")
    shapes = {name: own["w"].shape for name, own in foreign.layers.items() if "w" in own}
    assert shapes == {
        "layers.0": (5, 5, 1, 32),
        "layers.2": (5, 5, 32, 32),
        "layers.6": (3, 3, 32, 64),
        "layers.8": (3, 3, 64, 64),
        "layers.13": (576, 10),
    }
    assert list(foreign.layers["layers.4"]) == ["gamma", "beta", "mean", "var"]
    assert foreign.flatten == "chw"


@pytest.mark.oracle
def test_a_real_file_has_the_numbers_that_lie_in_it(data):
    torch = pytest.importorskip("torch")
    path = data / "models/safetensors/mnist_denograd.safetensors"
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    listed, layers = json.loads(raw[8:begin]), safetensors.read(path).layers
    for name in ("layers.0.weight", "layers.13.weight"):
        start, end = (begin + offset for offset in listed[name]["data_offsets"])
        wanted = torch.frombuffer(bytearray(raw[start:end]), dtype=torch.float32).reshape(
            listed[name]["shape"]
        )
        turned = wanted.permute(2, 3, 1, 0) if wanted.ndim == 4 else wanted.T
        np.testing.assert_array_equal(layers[name.removesuffix(".weight")]["w"], turned.numpy())


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_floats_of_every_width_become_float32(path, dtype):
    array = np.array([[1.5, -2.0, 0.25], [3.0, -4.5, 6.0]], dtype)
    found = safetensors.read(of_arrays(path, {"fc/w": array})).layers["fc"]["w"]
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.flags.aligned) == (np.float32, True)


def test_bfloat16_is_the_upper_half_of_a_float32(path):
    array = np.array([[1.5, -2.0, 0.25]], "<f4")
    raw = (array.view("<u4") >> 16).astype("<u2").tobytes()
    one(path, raw, dtype="BF16", shape=[1, 3], data_offsets=[0, 6])
    np.testing.assert_array_equal(safetensors.read(path).layers["a"]["w"], array)


def test_remarks_are_handed_on(path):
    of_arrays(path, {"fc/w": np.ones((2, 3), "f4")}, __metadata__={"format": "pt"})
    assert safetensors.read(path).hints == {"metadata": {"format": "pt"}}
    for remarks in (["pt"], {"format": 3}):
        of_arrays(path, {"fc/w": np.ones((2, 3), "f4")}, __metadata__=remarks)
        with pytest.raises(DamagedFileError, match="'__metadata__' holds more than texts"):
            safetensors.read(path)


def test_names_of_keras_and_of_ours_keep_their_axes(path):
    bank, dense = np.zeros((3, 2, 5, 4), "f4"), np.zeros((6, 7), "f4")
    norm = {f"bn/{name}": np.ones(4, "f4") for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    keras = of_arrays(
        path, {"conv/kernel": bank, "conv/bias": np.ones(4, "f4"), **norm, "act/alpha": bank[:1, :1, :1]}
    )
    foreign = safetensors.read(keras)
    assert foreign.layers["conv"]["w"].shape == (3, 2, 5, 4)
    assert list(foreign.layers["bn"]) == ["gamma", "beta", "mean", "var"]
    assert foreign.layers["act"]["slope"].shape == (4,)
    assert foreign.flatten == "hwc"
    ours = safetensors.read(of_arrays(path, {"a/b/w": bank, "fc/w": dense, "fc/b": np.ones(7, "f4")}))
    assert {name: own["w"].shape for name, own in ours.layers.items()} == {"a/b": (3, 2, 5, 4), "fc": (6, 7)}


def test_the_order_of_the_alphabet_is_put_right(path):
    names = ["classifier.1", "features.0", "features.10", "features.3"]
    foreign = safetensors.read(of_arrays(path, {f"{n}.weight": np.ones((2, 3), "f4") for n in names}))
    assert list(foreign.layers) == ["features.0", "features.3", "features.10", "classifier.1"]
    assert "by the alphabet" in foreign.warnings[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [2, 4]}, r"'a/w' is \(2, 4\) of F32: found 24 bytes, expected 32"),
        ({"shape": [-2, -3]}, "a side below 0"),
        ({"shape": [1 << 62, 6]}, "beyond all measure"),
        ({"shape": [2.0, 3]}, "no row of whole numbers"),
        ({"shape": [True, 3]}, "no row of whole numbers"),
        ({"data_offsets": [4, 24]}, "does not lie between the array before it"),
        ({"data_offsets": [0, 28]}, "does not lie between the array before it"),
        ({"data_offsets": [0, 20], "shape": [1, 5]}, "4 bytes behind the last array"),
        ({"data_offsets": [24, 0]}, "does not lie between"),
        ({"data_offsets": [0, -1]}, "does not lie between"),
        ({"data_offsets": [0]}, "is not described by"),
        ({"data_offsets": [0, 24.0]}, "is not described by"),
        ({"dtype": 7}, "is not described by"),
        ({"more": 1}, "is not described by"),
    ],
)
def test_an_array_that_lies_wrong_is_damaged(path, changes, words):
    with pytest.raises(DamagedFileError, match=words):
        safetensors.read(one(path, **changes))


def test_arrays_must_neither_overlap_nor_leave_gaps(path):
    for second in ([20, 44], [28, 52]):
        listed = {
            name: {"dtype": "F32", "shape": [2, 3], "data_offsets": offsets}
            for name, offsets in [("a/w", [0, 24]), ("b/w", second)]
        }
        with pytest.raises(
            DamagedFileError, match=r"'b/w' does not lie between the array before it \(byte 24\)"
        ):
            safetensors.read(written(path, listed, bytes(second[1])))


def test_a_name_may_not_come_twice(path):
    entry = '{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'
    with pytest.raises(UnsafeFileError, match=r"net\.safetensors: 'a/w' is listed twice"):
        safetensors.read(written(path, f'{{"a/w":{entry},"a/w":{entry}}}'.encode(), bytes(24)))


def test_lengths_are_not_believed(path):
    path.write_bytes((1 << 63).to_bytes(8, "little") + b"{}")
    with pytest.raises(TooLargeError, match="a list of 9,223,372,036,854,775,808 bytes"):
        safetensors.read(path)
    path.write_bytes((99).to_bytes(8, "little") + b"{}")
    with pytest.raises(DamagedFileError, match="no list of 99 bytes"):
        safetensors.read(path)
    path.write_bytes(b"{}")
    with pytest.raises(FileFormatError, match="less than 8 bytes"):
        safetensors.read(path)


@pytest.mark.parametrize(
    "text", [b"{]", b'{"a":NaN}', b'{"a":' * 9000, b'{"a":' + b"9" * 5000 + b"}", b"{\xff}"]
)
def test_a_list_that_is_no_json_is_damaged(path, text):
    with pytest.raises(DamagedFileError, match="its list is no JSON"):
        safetensors.read(written(path, text, b""))


def test_types_that_we_do_not_read_are_named(path):
    with pytest.raises(UnsupportedError, match="arrays of F8_E4M3, which we do not read"):
        safetensors.read(one(path, bytes(6), dtype="F8_E4M3", data_offsets=[0, 6]))
    with pytest.raises(UnsupportedError, match="'a' holds int64, not floats"):
        safetensors.read(one(path, bytes(48), dtype="I64", data_offsets=[0, 48]))


def test_a_file_without_layers_is_told_so(path):
    with pytest.raises(MismatchError, match="no arrays in it"):
        safetensors.read(written(path, {}, b""))
    with pytest.raises(MismatchError, match=r"no names that we know \('x'\); call them 'conv1/w'"):
        safetensors.read(of_arrays(path, {"x": np.ones((2, 3), "f4")}))


def test_400_mutations_end_in_arrays_or_in_words(path):
    rng = random.Random(0)
    whole = of_arrays(
        path, {"a/w": np.ones((2, 3), "f4"), "a/b": np.ones(3, "f4"), "c/w": np.ones((4, 5), "f2")}
    )
    whole = whole.read_bytes()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randint(8, 4 * len(data))])
        try:
            safetensors.read(path)
        except FileError as error:
            assert str(error).startswith(str(path))
