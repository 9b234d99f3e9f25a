"""Arrays in .npz files: nothing runs, nothing is larger than its file, and trees of values come back."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

from minidnn import npz
from minidnn.arrays import device_of, to_device
from minidnn.errors import DamagedFileError, FileFormatError, TooLargeError, UnsafeFileError


def test_npz_reads_nothing_that_could_run_or_that_is_larger_than_its_file(tmp_path):
    path = tmp_path / "some.npz"
    np.savez(path, labels=np.array([print], object), allow_pickle=True)
    with pytest.raises(UnsafeFileError, match="holds Python objects"):
        npz.read(path)
    np.savez(path, x=np.arange(6))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(6,)", b"(9,)"))
    with pytest.raises(DamagedFileError):
        npz.read(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(DamagedFileError, match=r"'x.npy' tells of \(1099511627776,\) float32, and has"):
        npz.read(path)
    path.write_bytes(whole[:-30])
    with pytest.raises(DamagedFileError, match=r"no whole \.npz"):
        npz.read(path)
    path.write_bytes(b"hello")
    with pytest.raises(FileFormatError, match=r"no whole \.npz"):
        npz.read(path)
    with pytest.raises(FileFormatError, match="no such file"):
        npz.read(tmp_path / "none.npz")
    np.savez(path, x=np.zeros(1000))
    with pytest.raises(TooLargeError, match="the limit is"):
        npz.read(path, max_bytes=500)


TREE = {"a": [1, 2.5, None, "words", True], "b": {"c": (3, [np.arange(6).reshape(2, 3)]), "d": {}}, "e": ()}


def test_a_tree_comes_back_with_its_lists_and_tuples(tmp_path):
    arrays: dict = {}
    npz.write(tmp_path / "tree.npz", {"tree": npz.packed(TREE, arrays)}, arrays)
    told, found = npz.reopen(tmp_path / "tree.npz")
    tree = npz.unpacked(told["tree"], found)
    kept = tree["b"]["c"][1][0]
    assert repr(tree) == repr(TREE | {"b": {"c": (3, [kept]), "d": {}}})
    assert np.array_equal(kept, np.arange(6).reshape(2, 3))


def test_arrays_of_a_device_come_home_and_go_where_they_are_asked_to(device):
    arrays: dict = {}
    told = npz.packed({"x": to_device(np.arange(4), device)}, arrays)
    assert isinstance(arrays["array0"], np.ndarray)
    there = npz.unpacked(told, {name: to_device(array, device) for name, array in arrays.items()})
    assert device_of(there["x"]) == device


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"dict": 3},
        {"dict": [1]},
        {"list": "abc"},
        {"tuple": {"a": 1}},
        {"array": "array1"},
        {"array": 0},
        {"set": [1]},
        {"list": [], "tuple": []},
    ],
    ids=str,
)
def test_what_is_no_tree_is_said(told):
    with pytest.raises(ValueError, match="no part of a tree"):
        npz.unpacked(told, {"array0": np.zeros(2)})


def test_a_tree_too_deep_is_not_followed():
    told = json.loads('{"list": [' * 40 + "]}" * 40)
    with pytest.raises(ValueError, match="nested deeper than 20"):
        npz.unpacked(told, {})


def test_a_file_with_nothing_told_or_more_than_it_has(tmp_path):
    path = tmp_path / "tree.npz"
    for arrays in ({"x": np.zeros(2)}, {"told": np.frombuffer(b"{", np.uint8)}, {"told": np.ones(2)},
                   {"told": np.frombuffer(b"[" * 100_000, np.uint8)}):  # fmt: skip
        np.savez(path, **arrays)
        with pytest.raises(DamagedFileError, match=r"no whole checkpoint \(nothing is told of it"):
            npz.reopen(path)
    np.savez_compressed(path, told=np.zeros(100_000))
    with pytest.raises(DamagedFileError, match="claims to hold more than it has"):
        npz.reopen(path)
    with pytest.raises(FileFormatError, match="no such file"):
        npz.reopen(tmp_path / "none.npz")
