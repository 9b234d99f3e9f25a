"""MATLAB's containers: each value comes out as it went in, and no file, however broken, does harm."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from minidnn.errors import DamagedFileError, FileFormatError, TooLargeError, UnsafeFileError, UnsupportedError
from tests.matwriter import CONTAINERS, Structs, save
from weights_tools import mat73, matfile, matvalues
from weights_tools.mat5_walk import check
from weights_tools.matvalues import Cell, Opaque, Struct

ROOT = Path(__file__).parents[1]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<2I", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def array(own: int, dims: tuple[int, ...], content: bytes, name: bytes = b"", flags: int = 0) -> bytes:
    """One array of version 5, written by hand."""
    begin = element(6, struct.pack("<2I", own | flags, 0)) + element(5, struct.pack(f"<{len(dims)}i", *dims))
    return element(14, begin + element(1, name) + content)


def mat5(*parts: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file, made by hand".ljust(124) + b"\x00\x01IM" + b"".join(parts)


def packed(part: bytes) -> bytes:
    data = zlib.compress(part, 9)
    return struct.pack("<2I", 15, len(data)) + data


DOUBLE = element(9, struct.pack("<6d", 1, 2, 3, 4, 5, 6))


# What is in a file


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_value_comes_out_of_every_container_as_it_went_in(tmp_path, rng, container):
    numbers = rng.standard_normal((3, 2, 4, 5)).astype("float32")
    held = {
        "numbers": numbers,
        "whole": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "words": "conv1_1",
        "none": np.zeros((0, 0)),
        "nothing": [],
        "cell": ["a", numbers[:, :, :2], ["deeper", 3.5]],
        "one": {"type": "conv", "pad": np.array([[0.0, 1, 2, 3]])},
        "many": Structs([{"name": "a", "value": 1.5}, {"name": "b", "value": 2.5}]),
    }
    found = matfile.load(save(tmp_path / "a.mat", held, container))
    np.testing.assert_array_equal(found["numbers"], numbers)
    np.testing.assert_array_equal(found["whole"], held["whole"])
    assert found["words"] == "conv1_1"
    assert found["none"].size == 0
    assert (found["nothing"], type(found["nothing"])) == ([], Cell)
    letter, part, deeper = found["cell"]
    assert (letter, deeper[0], float(deeper[1][0, 0])) == ("a", "deeper", 3.5)
    np.testing.assert_array_equal(part, numbers[:, :, :2])
    assert isinstance(found["one"], Struct) and found["one"][0]["pad"].tolist() == [[0, 1, 2, 3]]
    assert [(one["name"], float(one["value"][0, 0])) for one in found["many"]] == [("a", 1.5), ("b", 2.5)]


def test_big_endian_files_are_read(tmp_path):
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    flags, dims = struct.pack(">4I", 6, 8, 6, 0), struct.pack(">2I2i", 5, 8, 1, 3)
    body = flags + dims + struct.pack(">2H", 1, 1) + b"x\0\0\0" + struct.pack(">2I3d", 9, 24, 7, 8, 9)
    (tmp_path / "a.mat").write_bytes(header + struct.pack(">2I", 14, len(body)) + body)
    assert matfile.load(tmp_path / "a.mat")["x"].tolist() == [[7, 8, 9]]


def test_functions_and_objects_are_no_data(tmp_path):
    inner = array(6, (1, 1), element(9, struct.pack("<d", 1)))
    function = array(16, (1, 1), inner, b"f")
    flags = element(6, struct.pack("<2I", 17, 0))
    opaque = element(14, flags + element(1, b"o") + element(1, b"MCOS") + element(1, b"dagnn.DagNN") + inner)
    (tmp_path / "a.mat").write_bytes(mat5(function, opaque))
    assert check(tmp_path / "a.mat") == ["f", "o"]
    found = matfile.load(tmp_path / "a.mat")
    assert isinstance(found["f"], Opaque)
    with h5py.File(tmp_path / "b.mat", "w") as file:
        file.create_group("net").attrs["MATLAB_class"] = np.bytes_("function_handle")
        file["object"] = np.zeros((1, 6), np.uint32)
        file["object"].attrs["MATLAB_class"] = np.bytes_("dagnn.DagNN")
        file["object"].attrs["MATLAB_object_decode"] = np.int32(3)
    assert matfile.load(tmp_path / "b.mat") == {
        "net": Opaque("function_handle"),
        "object": Opaque("dagnn.DagNN"),
    }


# What is no MATLAB file, or not one that we read


@pytest.mark.parametrize(
    "content, error, words",
    [
        (bytes(500), DamagedFileError, r"nothing but zeros where a file begins; fetch it again"),
        (b"\0" + mat5(array(6, (2, 3), DOUBLE))[1:], FileFormatError, "not a MATLAB file"),
        (b"hello" * 100, FileFormatError, r"not a MATLAB file .*name one saved by MATLAB"),
        (
            b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01XX" + DOUBLE,
            DamagedFileError,
            "and then it is damaged",
        ),
        (b"MATLAB 5.0 MAT", DamagedFileError, "and then it is damaged"),
        (
            struct.pack("<5i", 0, 3, 2, 0, 2) + b"x\0" + bytes(48),
            UnsupportedError,
            "version 4.*save it again",
        ),
        (b"", DamagedFileError, "0 bytes"),
    ],
)
def test_what_is_no_matlab_file_is_refused_in_words(tmp_path, content, error, words):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(error, match=words):
        matfile.load(tmp_path / "a.mat")


def test_a_file_that_scipy_wrote_as_version_4_is_unsupported(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.eye(3)}, format="4")
    with pytest.raises(UnsupportedError, match="version 4"):
        matfile.load(tmp_path / "a.mat")


def test_sparse_and_complex_arrays_are_unsupported(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": scipy.sparse.csc_array(np.eye(3))})
    with pytest.raises(UnsupportedError, match=r"sparse array; save it as full"):
        matfile.load(tmp_path / "a.mat")
    scipy.io.savemat(tmp_path / "b.mat", {"x": np.array([[1j, 2]])})
    with pytest.raises(UnsupportedError, match="complex numbers; save their real part"):
        matfile.load(tmp_path / "b.mat")


# Hostile files of version 5: none of them reaches scipy


@pytest.mark.parametrize("kind", [0, 8, 10, 11, 14, 15, 19, 20, 255, 70_000])
def test_a_type_that_does_not_exist_never_reaches_scipy(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: pytest.fail("scipy got it"))
    for wrap in (bytes, packed):
        data = struct.pack("<2I", kind, 48) + DOUBLE[8:]
        (tmp_path / "a.mat").write_bytes(mat5(wrap(array(6, (2, 3), data, b"x"))))
        with pytest.raises(DamagedFileError, match=r"data of type .* where there should be one of 1, 2, 3"):
            matfile.load(tmp_path / "a.mat")


FIELDS = element(5, struct.pack("<i", 8))
HOSTILE = {
    "longer than the file": (array(6, (2, 3), DOUBLE, b"x")[:-8], r"claims \d+ bytes, \d+ are left"),
    "a part of a tag": (array(6, (2, 3), DOUBLE, b"x") + b"\x0e\0\0", "cut short at byte"),
    "no array": (element(9, bytes(8)), "type 9 .*where an array"),
    "an empty variable": (element(14, b""), "cut short"),
    "more numbers than data": (array(6, (2, 4), DOUBLE), "array of 8 numbers has 48 bytes"),
    "fewer numbers than data": (array(6, (2, 2), DOUBLE), "array of 4 numbers has 48 bytes"),
    "2^62 numbers": (array(6, (1 << 30, 1 << 30, 4), DOUBLE), "array of 4,611,686,018,427,387,904 numbers"),
    "negative dimensions": (array(6, (-2, -3), DOUBLE), r"dimensions \(-2, -3\)"),
    "one dimension": (array(6, (6,), DOUBLE), "are not 2 to 8 numbers"),
    "nine dimensions": (array(6, (1,) * 9, DOUBLE), "36 bytes where at most 32"),
    "a class that does not exist": (array(42, (2, 3), DOUBLE), "no array has class 42"),
    "a text without letters": (array(4, (1, 5000), element(16, b"")), "text of 5,000 letters has 0 bytes"),
    "a text of numbers": (array(4, (1, 1), element(9, bytes(8))), "data of type 9"),
    "a name that is no text": (array(6, (2, 3), DOUBLE, b"\xff\xfe"), "a name b'"),
    "a cell that ends too early": (array(1, (1, 3), array(6, (2, 3), DOUBLE)), "cut short"),
    "a cell that goes on": (array(1, (1, 1), array(6, (2, 3), DOUBLE) * 2), "an array ends at byte"),
    "field names of no width": (array(2, (1, 1), element(5, bytes(4)) + element(1, b"a" * 8)), "names of 0"),
    "a field name without end": (array(2, (1, 1), FIELDS + element(1, b"a" * 8)), "cannot be called"),
    "a field that hides another": (array(2, (1, 1), FIELDS + element(1, b"_fields\0")), "cannot be called"),
    "a field twice": (array(2, (1, 1), FIELDS + element(1, b"ab\0....." * 2)), "two fields .* one name"),
}


@pytest.mark.parametrize("wrap", [bytes, packed], ids=["plain", "packed"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_damaged_in_words(tmp_path, name, wrap, monkeypatch):
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: pytest.fail("scipy got it"))
    part, words = HOSTILE[name]
    if wrap is packed and name in ("longer than the file", "a part of a tag"):
        words = "an array ends|longer or shorter"
    (tmp_path / "a.mat").write_bytes(mat5(wrap(part)))
    with pytest.raises(DamagedFileError, match=words):
        matfile.load(tmp_path / "a.mat")


def test_a_small_element_of_more_than_4_bytes_is_damaged(tmp_path):
    (tmp_path / "a.mat").write_bytes(mat5(array(6, (1, 1), struct.pack("<2H", 9, 8) + bytes(4))))
    with pytest.raises(DamagedFileError, match="data of type 9 in 8 bytes"):
        matfile.load(tmp_path / "a.mat")


def test_a_packed_part_must_be_whole_and_its_checksum_right(tmp_path):
    good = packed(array(6, (2, 3), DOUBLE, b"x"))
    torn = zlib.compress(array(6, (2, 3), DOUBLE, b"x"))[:-4]
    bad = {
        "cannot be unpacked": good[:-1] + bytes([good[-1] ^ 1]),
        "longer or shorter": struct.pack("<2I", 15, len(torn)) + torn,
        "cut short": struct.pack("<2I", 15, 8) + zlib.compress(b""),
    }
    for words, part in bad.items():
        (tmp_path / "a.mat").write_bytes(mat5(part))
        with pytest.raises(DamagedFileError, match=words):
            matfile.load(tmp_path / "a.mat")


def test_a_bomb_of_zeros_is_too_large_before_it_goes_off(tmp_path, monkeypatch):
    monkeypatch.setattr(matvalues, "SLACK", 1 << 20)
    bomb = packed(array(7, (1 << 10, 1 << 10), element(7, bytes(1 << 22)), b"x"))
    (tmp_path / "a.mat").write_bytes(mat5(bomb))
    with pytest.raises(TooLargeError, match=r"unpacks to more than 1,0.* bytes.*save it without compression"):
        matfile.load(tmp_path / "a.mat")
    save(tmp_path / "b.mat", {"x": np.zeros((1 << 10, 1 << 10), "float32")}, "v7.3 packed")
    with pytest.raises(TooLargeError, match="claims 4,194,304 bytes, the limit is"):
        matfile.load(tmp_path / "b.mat")


def test_arrays_without_number_and_without_end_are_refused(tmp_path):
    (tmp_path / "a.mat").write_bytes(mat5(array(1, (1 << 20, 1 << 10), b"")))
    with pytest.raises(TooLargeError, match="more than 200,000 arrays"):
        matfile.load(tmp_path / "a.mat")
    no_fields = element(5, struct.pack("<i", 8)) + element(1, b"")
    (tmp_path / "a.mat").write_bytes(mat5(array(2, (1 << 20, 1 << 10), no_fields)))
    with pytest.raises(TooLargeError, match="more than 200,000 arrays"):
        matfile.load(tmp_path / "a.mat")
    nested = array(6, (2, 3), DOUBLE)
    for _ in range(1000):
        nested = array(1, (1, 1), nested)
    (tmp_path / "a.mat").write_bytes(mat5(nested))
    with pytest.raises(UnsafeFileError, match="arrays within arrays, more than 32 deep"):
        matfile.load(tmp_path / "a.mat")


def test_what_scipy_stumbles_over_all_the_same_is_damaged(tmp_path):
    twice = array(6, (2, 3), DOUBLE, b"x") * 2
    (tmp_path / "a.mat").write_bytes(mat5(twice))
    with pytest.raises(DamagedFileError, match=r"scipy cannot read it .*Duplicate variable name"):
        matfile.load(tmp_path / "a.mat")


# Hostile files of version 7.3


def test_a_cell_that_holds_itself_ends(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        cell = file.create_dataset("net", (1, 1), h5py.ref_dtype)
        cell.attrs["MATLAB_class"] = np.bytes_("cell")
        cell[0, 0] = cell.ref
    with pytest.raises(UnsafeFileError, match="cells within cells, more than 32 deep"):
        matfile.load(tmp_path / "a.mat")


def test_a_cell_that_doubles_at_every_level_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(mat73, "MAX_ARRAYS", 300)
    with h5py.File(tmp_path / "a.mat", "w") as file:
        inner = file.create_dataset("#refs#/0", data=np.zeros((1, 1)))
        inner.attrs["MATLAB_class"] = np.bytes_("double")
        for level in range(1, 20):
            path = f"#refs#/{level}" if level < 19 else "net"
            cell = file.create_dataset(path, (2, 1), h5py.ref_dtype)
            cell.attrs["MATLAB_class"] = np.bytes_("cell")
            cell[...] = inner.ref
            inner = cell
    with pytest.raises(TooLargeError, match="more than 300 arrays"):
        matfile.load(tmp_path / "a.mat")


@pytest.mark.parametrize(
    "dims, kind, error, words",
    [
        ([1 << 40, 1], "struct", TooLargeError, "a struct of 1,099,511,627,776 elements"),
        ([3, 2], "cell", DamagedFileError, "is empty and has 6 elements"),
    ],
)
def test_what_is_empty_must_be_empty(tmp_path, dims, kind, error, words):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["net"] = np.array(dims, np.uint64)
        file["net"].attrs["MATLAB_class"] = np.bytes_(kind)
        file["net"].attrs["MATLAB_empty"] = np.uint8(1)
    with pytest.raises(error, match=words):
        matfile.load(tmp_path / "a.mat")


def test_version_73_refuses_what_leads_elsewhere_and_what_is_no_number(tmp_path):
    def one(name: str, kind: str, make) -> Path:
        with h5py.File(tmp_path / name, "w") as file:
            made = make(file)
            made.attrs["MATLAB_class"] = np.bytes_(kind)
        return tmp_path / name

    refs = h5py.ref_dtype
    cases = {
        "dangling": (
            "cell",
            lambda f: f.create_dataset("x", (1, 1), refs),
            DamagedFileError,
            "leads nowhere",
        ),
        "texts": (
            "char",
            lambda f: f.create_dataset("x", data=np.zeros((2, 2))),
            DamagedFileError,
            "a text of",
        ),
        "floats": (
            "cell",
            lambda f: f.create_dataset("x", data=np.ones(3)),
            UnsupportedError,
            "of references",
        ),
        "complex": ("double", lambda f: f.create_dataset("x", data=[1j]), UnsupportedError, "save real ones"),
    }
    for name, (kind, make, error, words) in cases.items():
        with pytest.raises(error, match=words):
            matfile.load(one(f"{name}.mat", kind, make))
    with h5py.File(tmp_path / "link.mat", "w") as file:
        file["x"] = h5py.ExternalLink("dangling.mat", "x")
    with pytest.raises(UnsafeFileError, match="ExternalLink"):
        matfile.load(tmp_path / "link.mat")


def test_fields_of_a_struct_array_must_agree(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        ref = file.create_dataset("#refs#/0", data=np.zeros((1, 1)))
        ref.attrs["MATLAB_class"] = np.bytes_("double")
        net = file.create_group("net")
        net.attrs["MATLAB_class"] = np.bytes_("struct")
        for name, count in [("a", 2), ("b", 3)]:
            net[name] = np.array([ref.ref] * count, h5py.ref_dtype)
    with pytest.raises(DamagedFileError, match=r"its fields have \[2, 3\] elements"):
        matfile.load(tmp_path / "a.mat")


# Any damage at all


@pytest.mark.parametrize("container, count", [("v5", 300), ("v5 packed", 300), ("v7.3", 40)])
def test_hundreds_of_damaged_files_end_in_errors_of_ours(tmp_path, rng, container, count):
    weights = [rng.standard_normal((3, 2, 3, 4)).astype("float32"), np.zeros((1, 4), "float32")]
    conv = {"type": "conv", "name": "conv1", "weights": weights, "pad": np.array([[0.0, 1, 2, 3]])}
    pool = {"type": "pool", "name": "pool1", "method": "avg", "pool": np.array([[2.0, 3]])}
    about = {"normalization": {"imageSize": np.array([[9.0, 8, 3]]), "averageImage": np.ones((1, 1, 3))}}
    path = save(tmp_path / "a.mat", {"layers": [conv, pool], "meta": about}, container)
    command = [sys.executable, "-m", "tests.mutate_mat", str(path), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "DamagedFileError=" in done.stdout
