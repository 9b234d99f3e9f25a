"""Pickles that hold arrays, and pickles that hold traps: the first come out, the second never spring."""

from __future__ import annotations

import collections
import os
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from minidnn.errors import DamagedFileError, FileError, TooLargeError, UnsafeFileError, UnsupportedError
from weights_tools.pickle_instructions import MAX_INSTRUCTIONS
from weights_tools.pickled_arrays import NUMPY, PickledArray
from weights_tools.pickles import Name, load, ordered

LISTED = {"builtins.set": list, "__builtin__.set": list}


def value_of(data: bytes, allowed=NUMPY, **about):
    return load(data, allowed, "a.pkl", **about)[0]


class Trap:
    """What runs as soon as Python itself loads it."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path):
    """A file that no test may find afterwards."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "a pickle was executed"


# What comes out.


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_out_as_they_went_in(protocol):
    value = {"a": (1, -2, 300, 70_000, 2**40, -(10**20)), "ü": [None, True, False, 2.5, "x\ny"], 7: {"b": ()}}
    assert value_of(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("code", ["<f4", ">f4", "<f2", "<f8", "<i8", "|u1", "|b1"])
def test_arrays_come_out_in_every_protocol_type_and_order(protocol, code):
    plain = (np.arange(6).reshape(2, 3) * 1.25).astype(code)
    for array in (plain, np.asfortranarray(plain), plain[:0], plain[1, 2:3]):
        found = value_of(pickle.dumps([array, array], protocol))[1].array("a.pkl")
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype


@pytest.mark.parametrize("protocol", range(6))
def test_single_numbers_of_numpy_come_out_too(protocol):
    assert value_of(pickle.dumps(np.float32(1.5), protocol)).array("a.pkl") == 1.5


@pytest.mark.parametrize("protocol", range(6))
def test_a_set_comes_out_as_a_list_and_bytes_as_a_view(protocol):
    found = value_of(pickle.dumps([{3}, b"\xff\x00"], protocol), NUMPY | LISTED)
    assert found[0] == [3]
    assert bytes(found[1]) == b"\xff\x00"


def test_strings_of_python_2_are_text_where_they_can_be():
    assert value_of(b"\x80\x02]q\x00(U\x04dataU\x02\xff\xfee.") == ["data", b"\xff\xfe"]
    assert value_of(b"(S'a\\xff'\nS'b c'\nl.") == [b"a\xff", "b c"]


def test_several_pickles_in_a_row_are_read_one_after_another():
    data = pickle.dumps([1], 2) + pickle.dumps({"a": 2}, 4) + b"rest"
    first, at = load(data, {}, "a.pkl")
    second, end = load(data, {}, "a.pkl", at=at)
    assert (first, second, data[end:]) == ([1], {"a": 2}, b"rest")


def test_what_a_pickle_points_to_is_made_by_the_reader():
    assert value_of(b"\x80\x02(U\x07storageK\x05tQ.", persistent=lambda key: ("seen", *key)) == (
        "seen",
        "storage",
        5,
    )
    with pytest.raises(UnsafeFileError, match="points to things outside itself"):
        value_of(b"\x80\x02(U\x07storageK\x05tQ.")


# Traps.


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_named_and_not_run(canary, protocol):
    with pytest.raises(UnsafeFileError, match=r"a\.pkl: asks for (posix|nt)\.system.*nothing was run"):
        value_of(pickle.dumps({"w": np.ones(3), "trap": [Trap(canary)]}, protocol))


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "posix system",
        "builtins eval",
        "__builtin__ eval",
        "pkgutil resolve_name",
        "pydoc locate",
        "profile run",
        "operator attrgetter",
        "numpy load",
        "weights_tools.pickles load",
    ],
)
def test_no_name_is_known_but_those_allowed(name):
    module, attribute = name.split()
    code = f"c{module}\n{attribute}\n(S'x'\ntR.".encode()
    with pytest.raises(UnsafeFileError, match=rf"asks for {module}\.{attribute}, and arrays"):
        value_of(code)
    stacked = f"\x8c{chr(len(module))}{module}\x8c{chr(len(attribute))}{attribute}\x93.".encode("latin-1")
    with pytest.raises(UnsafeFileError, match=rf"asks for {module}\.{attribute}, and arrays"):
        value_of(stacked)
    with pytest.raises(UnsafeFileError, match=rf"asks for {module}\.{attribute}, and arrays"):
        value_of(f"(S'x'\ni{module}\n{attribute}\n.".encode())


def test_all_foreign_names_are_told_at_once():
    code = b"(cos\nsystem\ncshutil\nrmtree\ncsocket\nsocket\nl."
    with pytest.raises(UnsafeFileError, match=r"asks for os\.system, shutil\.rmtree, socket\.socket, and"):
        value_of(code)
    many = b"(" + b"".join(b"cm%d\nx\n" % i for i in range(10)) + b"l."
    with pytest.raises(UnsafeFileError, match=r"m5\.x and 4 more, and"):
        value_of(many)


def test_a_pickle_cannot_change_what_stands_in_for_a_name():
    for code in [b"cnumpy\ndtype\n}U\x01aK\x01sb.", b"}}b.", b"]}b.", b"K\x01}b."]:
        with pytest.raises(DamagedFileError, match=r"BUILD before byte .* gives a state to what has none"):
            value_of(b"\x80\x02" + code)


@pytest.mark.parametrize("code", [b"\x82\x01.", b"(cnumpy\nndarray\no.", b"Px\n.", b"\x97."])
def test_instructions_that_arrays_do_not_need_are_refused(code):
    with pytest.raises(UnsafeFileError, match=r"the instruction [A-Z0-9_]+, of which arrays have no need"):
        value_of(code)


def test_only_what_can_be_called_is_called():
    for code in [b"cnumpy\nndarray\n)R.", b"K\x01)R.", b"cnumpy\ndtype\nK\x01R."]:
        with pytest.raises(DamagedFileError, match=r"REDUCE before byte .* calls what cannot be called"):
            value_of(code)
    with pytest.raises(DamagedFileError, match=r"calls numpy\.dtype with what it does not take"):
        value_of(b"cnumpy\ndtype\n)R.")


# Bombs.


def test_a_memo_number_beyond_measure_takes_no_memory():
    with pytest.raises(UnsafeFileError, match="memo number 2,147,483,648, the limit is 1,000,000"):
        value_of(b"\x80\x02Nr" + struct.pack("<I", 1 << 31) + b".")


@pytest.mark.parametrize(
    "code", [b"X\xff\xff\xff\xff", b"B\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"T\xff\xff\xff\xff"]
)
def test_a_text_longer_than_the_file_is_not_believed(code):
    with pytest.raises(DamagedFileError, match=r"claims -?[\d,]+ bytes, 3 are left"):
        value_of(code + b"abc")


def test_a_tower_of_shared_tuples_is_neither_walked_nor_hashed():
    tower = b")" + b"2\x86" * 60
    value_of(tower + b".")
    with pytest.raises(UnsupportedError, match="a mapping by a tuple"):
        value_of(b"}" + tower + b"K\x01s.")


def test_such_a_tower_is_not_shown_in_an_error_either():
    tower = b")" + b"2\x86" * 60
    kind = value_of(b"cnumpy\ndtype\n(" + tower + b"tR.")
    with pytest.raises(UnsupportedError, match="numbers of type a tuple"):
        kind.dtype("a.pkl")
    made = value_of(
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR" + tower + b"tR."
    )
    with pytest.raises(UnsafeFileError, match="holds Python objects"):
        made.array("a.pkl")
    with pytest.raises(DamagedFileError, match="a mapping of what are no named things"):
        value_of(
            b"ccollections\nOrderedDict\n" + tower + b"K\x01\x86\x85\x85R.",
            {"collections.OrderedDict": ordered},
        )


def test_deep_nesting_ends_in_words():
    with pytest.raises(UnsafeFileError, match="more than 200 levels of nesting"):
        value_of(b"(" * 300 + b".")
    assert value_of(b"]" * 50_000 + b"a" * 49_999 + b".") is not None


def test_numbers_and_instructions_beyond_measure_are_refused():
    with pytest.raises(UnsafeFileError, match="a whole number of 5,000 bytes"):
        value_of(b"\x8b" + struct.pack("<i", 5000) + b"\x01" * 5000 + b".")
    with pytest.raises(DamagedFileError, match=r"LONG before byte .* Exceeds the limit"):
        value_of(b"L" + b"9" * 5000 + b"L\n.")
    with pytest.raises(TooLargeError, match="more than 1,000,000 instructions"):
        value_of(b"N0" * (MAX_INSTRUCTIONS // 2 + 1))


# Damage.


def test_a_broken_pickle_is_damaged():
    for code, words in [
        (b"", "never stops"),
        (b"N", "never stops"),
        (b"\xfe.", "byte 0 is no instruction"),
        (b".", "STOP before byte 1 takes what is not there"),
        (b"h\x05.", "BINGET before byte 2 takes what is not there"),
        (b"K", "claims 1 bytes, 0 are left"),
        (b"X\x01", "ends within BINUNICODE"),
        (b"X\x01\x00\x00\x00\xff.", "BINUNICODE before byte 6"),
        (b"Iabc\n.", "INT before byte 5"),
        (b"I12", "INT claims"),
        (b"Sabc\n.", "holds no quoted string"),
        (b"K\x01K\x02a.", "adds to what is no list"),
        (b"](K\x01u.", "sets what is no mapping"),
        (b"K\x01K\x02\x93.", "names what is no text"),
        (b"t.", "TUPLE before byte 1 takes what is not there"),
        (b"N\x86.", "TUPLE2 before byte 2 takes what is not there"),
    ]:
        with pytest.raises(DamagedFileError, match=words):
            value_of(code)
    with pytest.raises(UnsupportedError, match="a pickle of protocol 9"):
        value_of(b"\x80\x09N.")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data": b"1234567"}, DamagedFileError, r"an array \(2, 3\) of uint8: found 7 bytes, expected 6"),
        ({"shape": (1 << 40, 1 << 40)}, DamagedFileError, "found 6 bytes, expected"),
        ({"shape": (-2, -3)}, DamagedFileError, "a side below 0"),
        ({"shape": (1 << 60,)}, DamagedFileError, "beyond all measure"),
        ({"shape": (2.0, 3)}, DamagedFileError, "no row of whole numbers"),
        ({"shape": (1,) * 9}, UnsupportedError, "9 axes, we take up to 8"),
        ({"data": [1, 2]}, UnsafeFileError, "holds Python objects"),
        ({"kind": None}, DamagedFileError, "an array without a type"),
    ],
)
def test_an_array_whose_parts_disagree_is_refused(changes, error, words):
    made = value_of(pickle.dumps(np.arange(6, dtype="u1").reshape(2, 3), 2))
    about = {"shape": made.shape, "kind": made.kind, "data": made.data} | changes
    with pytest.raises(error, match=words):
        PickledArray(is_fortran=False, **about).array("a.pkl")


def test_arrays_of_objects_and_records_are_refused():
    with pytest.raises(UnsafeFileError, match="holds Python objects, not numbers"):
        value_of(pickle.dumps(np.array([None, {}], object), 2)).array("a.pkl")
    with pytest.raises(UnsupportedError, match="numbers of type 'a record'"):
        value_of(pickle.dumps(np.zeros(2, [("a", "f4")]), 2)).array("a.pkl")
    with pytest.raises(UnsupportedError, match="numbers of type 'c8'"):
        value_of(pickle.dumps(np.zeros(2, "c8"), 2)).array("a.pkl")


def test_500_mutations_end_in_a_value_or_in_words(canary):
    rng = random.Random(0)
    arrays = [np.arange(6, dtype="f4").reshape(2, 3), np.ones(4, ">f8")]
    whole = [pickle.dumps({"a": arrays, "b": Trap(canary)}, p) for p in range(6)]
    whole += [pickle.dumps(collections.OrderedDict(a=arrays), p) for p in range(6)]
    for _ in range(500):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            found = value_of(bytes(data[: rng.randint(1, 2 * len(data))]), NUMPY | {"posix.system": None})
            assert not callable(found) or isinstance(found, Name)
        except FileError as error:
            assert str(error).startswith("a.pkl: ")
