"""NumPy's archives and arrays, those of NumPy itself and those that NumPy should not be asked to open."""

from __future__ import annotations

import random
import struct
import zipfile

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
from tests.samples import distinct
from weights_tools.readers import npz
from weights_tools.readers.npz import array_of


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + data


def described(descr="'<f4'", fortran="False", shape="(2, 3)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.npz"


@pytest.mark.parametrize("code", ["<f4", ">f4", "<f2", "<f8", "<i8", "|u1", "|b1"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3), (2, 3, 4)])
def test_an_array_comes_out_as_numpy_wrote_it(tmp_path, code, shape):
    plain = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(code)
    for array in (plain, np.asfortranarray(plain)):
        np.save(tmp_path / "a.npy", array)
        found = array_of((tmp_path / "a.npy").read_bytes(), "a.npy")
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_named_arrays_are_layers(path, rng, save):
    bank, dense = distinct(rng, (3, 2, 5, 4)), distinct(rng, (6, 7))
    save(path, **{"fire/conv/w": bank, "fire/conv/b": np.ones(4), "fc/w": dense, "act/slope": np.ones(4)})
    foreign = npz.read(path)
    assert {name: list(own) for name, own in foreign.layers.items()} == {
        "fire/conv": ["w", "b"],
        "fc": ["w"],
        "act": ["slope"],
    }
    np.testing.assert_array_equal(foreign.layers["fire/conv"]["w"], bank.astype("f4"))
    assert foreign.flatten == "hwc"


def test_names_of_torch_have_its_axes(path, rng):
    bank = distinct(rng, (4, 5, 3, 2)).astype("f4")
    np.savez(path, **{"conv.weight": bank})
    foreign = npz.read(path)
    np.testing.assert_array_equal(foreign.layers["conv"]["w"], bank.transpose(2, 3, 1, 0))
    assert foreign.flatten == "chw"


def test_the_biases_tell_whose_axes_a_bare_w_has(path, rng):
    bank, matrix = distinct(rng, (4, 5, 3, 2)).astype("f4"), distinct(rng, (6, 7)).astype("f4")
    np.savez(path, conv1_1_W=bank, conv1_1_b=np.ones(2, "f4"), fc6_W=matrix, fc6_b=np.ones(7, "f4"))
    ours = npz.read(path)
    np.testing.assert_array_equal(ours.layers["conv1_1"]["w"], bank)
    np.testing.assert_array_equal(ours.layers["fc6"]["w"], matrix)
    named = {"conv1_1/W": bank, "conv1_1/b": np.ones(4, "f4"), "fc6/W": matrix, "fc6/b": np.ones(6, "f4")}
    np.savez(path, **named)
    chainers = npz.read(path)
    np.testing.assert_array_equal(chainers.layers["conv1_1"]["w"], bank.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(chainers.layers["fc6"]["w"], matrix.T)
    assert (ours.flatten, chainers.flatten) == ("hwc", "chw")


def test_a_bare_w_whose_axes_nothing_tells_is_refused(path, rng):
    for named in [
        {"fc6_W": np.ones((6, 6)), "fc6_b": np.ones(6)},
        {"fc6_W": np.ones((6, 7))},
        {"fc6_W": np.ones((6, 7)), "fc6_b": np.ones(7), "fc7_W": np.ones((8, 7)), "fc7_b": np.ones(8)},
    ]:
        np.savez(path, **named)
        with pytest.raises(MismatchError, match="do not tell which axis of a W is its outputs; call them"):
            npz.read(path)


def test_names_with_underscores_have_their_endings_too(path, rng):
    bank = distinct(rng, (4, 5, 3, 2)).astype("f4")
    np.savez(path, vgg0_conv0_weight=bank, vgg0_conv0_bias=np.ones(4, "f4"))  # MXNet's names
    np.testing.assert_array_equal(npz.read(path).layers["vgg0_conv0"]["w"], bank.transpose(2, 3, 1, 0))


def test_numbered_arrays_are_those_of_lasagne(path, rng):
    arrays = [distinct(rng, (4, 5, 3, 2)), np.arange(1, 5.0), *(np.full(4, i + 0.5) for i in range(4))]
    arrays += [distinct(rng, (7, 6)), np.arange(6.0), *(distinct(rng, (6, 6)) for _ in range(4))]
    np.savez(path, *arrays)
    foreign = npz.read(path)
    assert list(foreign.layers) == ["conv1", "bn1", "fc1", "fc2", "fc3", "fc4", "fc5"]
    np.testing.assert_array_equal(foreign.layers["fc5"]["w"], arrays[11].astype("f4"))


def test_headers_of_other_writers_are_read():
    data = np.arange(6, dtype="<f4").tobytes()
    for header in [
        "{'descr':'<f4','fortran_order':False,'shape':(2,3)}",
        "{'shape': (2L, 3L), 'fortran_order': False, 'descr': '<f4'}",
        "{ 'fortran_order' : False, 'descr' : '<f4', 'shape' : ( 2, 3, ), }   \n",
    ]:
        assert array_of(npy(header, data), "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert array_of(npy(described(), data, version=2), "a.npy").shape == (2, 3)


@pytest.mark.parametrize(
    ("header", "error", "words"),
    [
        (described("'|O'"), UnsafeFileError, "holds Python objects, not numbers"),
        (described("'<c8'"), UnsupportedError, "numbers of type '<c8'"),
        (described("'<f4'", shape="(-2, -3)"), DamagedFileError, "a side below 0"),
        (described(shape="(2, 4)"), DamagedFileError, r"is \(2, 4\) of float32: found 24 bytes, expected 32"),
        (described(shape=f"({1 << 40}, {1 << 40})"), DamagedFileError, "found 24 bytes, expected"),
        (described(shape=f"({'9' * 3000},)"), DamagedFileError, "beyond all measure"),
        (described("[('a', '<f4')]"), UnsupportedError, "no array of plain numbers"),
        (described(fortran="print(1)"), UnsupportedError, "no array of plain numbers"),
        (described()[:-4] + ", 'x': (1,)}", UnsupportedError, "no array of plain numbers"),
        ("", UnsupportedError, "no array of plain numbers"),
    ],
)
def test_a_header_that_asks_for_more_is_refused(header, error, words):
    with pytest.raises(error, match=rf"a\.npy.*{words}"):
        array_of(npy(header, bytes(24)), "a.npy")


def test_the_length_of_a_header_is_not_believed():
    huge = b"\x93NUMPY\x02\x00" + struct.pack("<I", (1 << 31) - 1) + b"{}"
    with pytest.raises(TooLargeError, match="claims a header of 2,147,483,647 bytes, the limit is 4,096"):
        array_of(huge, "a.npy")
    with pytest.raises(DamagedFileError, match="ends within its header"):
        array_of(npy(described())[:40], "a.npy")
    with pytest.raises(UnsupportedError, match="is of version 9"):
        array_of(npy(described(), version=9), "a.npy")
    with pytest.raises(FileFormatError, match=r"is not an \.npy file"):
        array_of(b"\x93NUMPX", "a.npy")


def test_pickled_arrays_stay_closed(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "conv1/w.npy", npy(described("'|O'", shape="()"), b"cposix\nsystem\n(S'touch x'\ntR.")
        )
    with pytest.raises(UnsafeFileError, match=r"'conv1/w\.npy': holds Python objects"):
        npz.read(path)


def test_archives_and_arrays_that_are_no_net_are_told(path, tmp_path):
    np.save(tmp_path / "alone.npy", np.ones((2, 3)))
    with pytest.raises(MismatchError, match=r"no names that we know \('alone'\)"):
        npz.read(tmp_path / "alone.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "dear")
    with pytest.raises(FileFormatError, match=r"not of NumPy \(it holds 'letter\.txt'\)"):
        npz.read(path)
    np.savez(path)
    with pytest.raises(MismatchError, match="no arrays in it"):
        npz.read(path)
    np.savez(path, **{"a/w": np.ones((2, 3, 4)), "b/gamma": np.ones(3), "c/w": np.ones((2, 3), "i4")})
    with pytest.raises(
        UnsupportedError, match=r"'a' holds w \(2, 3, 4\).*'b' holds gamma.*'c' holds int32, not"
    ):
        npz.read(path)


def test_400_mutations_end_in_arrays_or_in_words(path):
    rng = random.Random(0)
    np.savez(path, **{"a/w": np.ones((2, 3), "f4"), "a/b": np.ones(3, "f4")})
    whole = path.read_bytes()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randint(8, 4 * len(data))])
        try:
            npz.read(path)
        except FileError as error:
            assert str(error).startswith(str(path))
    one = npy(described(), bytes(24))
    for _ in range(200):
        data = bytearray(one)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            array_of(bytes(data), "a.npy")
        except FileError as error:
            assert str(error).startswith("a.npy")
