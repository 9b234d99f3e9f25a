"""Ninety ways in which a file may lie, each told off in a sentence by the process behind the wall.

A case is here, or `TESTED_ELSEWHERE` says where. Files are made, never kept; makers of other tests are used.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from PIL import Image

from minidnn import images, weights, zoo
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
from tests import caffewriter, hostile_h5, matwriter, onnxwriter
from tests.fuzz_targets import put_canary
from tests.longworker import ROOT, Worker
from tests.test_matfile import DOUBLE, array, element, mat5, packed
from tests.test_reader_npz import described, npy
from tests.test_reader_pytorch import named, tensor, text, zipped
from tests.test_weights import WORDS
from weights_tools import isolation
from weights_tools.writers import npz

FEATHERS = "red feathers 9b1c"
Maker = Callable[[Path], Any]  # makes files in a folder; gives their paths


class Case(NamedTuple):
    """`kind` is the error, or None where the file is converted; then `words` are in the report."""

    number: int
    name: str
    make: Maker
    kind: type[MinidnnError] | None
    words: str = ""
    preprocessing: str | None = None
    do: str = "convert"


CASES: list[Case] = []


def case(
    number: int, kind: type[MinidnnError] | None, words: str = "", **more: Any
) -> Callable[[Maker], Maker]:
    """The function below makes the file; its name says what is wrong."""

    def listed(make: Maker) -> Maker:
        CASES.append(Case(number, make.__name__.strip("_"), make, kind, words, **more))
        return make

    return listed


def bad(
    number: int,
    name: str,
    content: Any,
    kind: type[MinidnnError] | None,
    words: str = "",
    file: str = "a.bin",
    **more: Any,
) -> None:
    """A case that is only some bytes."""
    CASES.append(Case(number, name, lambda folder: written(folder / file, content), kind, words, **more))


def written(path: Path, content: Any) -> Path:
    path.write_bytes(content() if callable(content) else content)
    return path


# 1 to 10: any file.


@case(1, FileFormatError, r"missing\.h5: no such file")
def no_file(folder):
    return folder / "missing.h5"


@case(2, FileFormatError, "is a directory; name a file in it")
def a_directory(folder):
    return folder


bad(3, "empty", b"", DamagedFileError, "0 bytes; fetch it again")
if os.name == "posix":

    @case(5, UnsafeFileError, "not a regular file")
    def a_pipe(folder):
        os.mkfifo(folder / "pipe")
        return folder / "pipe"

    @case(5, UnsafeFileError, "not a regular file")
    def a_device_without_end(folder):
        return Path("/dev/zero")


@case(6, None, preprocessing="none")
def an_archive_called_h5(folder):
    npz.write(folder / "a.npz", zoo.get("cifar-quick", seed=0))
    return (folder / "a.npz").rename(folder / "a.h5")


bad(
    7,
    "a web page",
    b"<!DOCTYPE html><html>404",
    FileFormatError,
    "web page: the download failed",
    "a.caffemodel",
)
bad(
    8,
    "git lfs",
    b"version https://git-lfs.github.com/spec/v1\noid",
    FileFormatError,
    "git lfs pull",
    "a.onnx",
)

# 11 to 44: our own format. The files and the words are those of tests.hostile_h5 and tests.test_weights.

OURS = {
    11: "cut_by_one_byte",
    12: "cut_to_100_bytes",
    13: "cut_to_the_signature",
    15: "version_2",
    16: "version_as_words version_as_float version_of_five",
    17: "architecture_not_json",
    18: "json_of_9_mib json_claims_a_tebibyte",
    19: "json_nested_10_000_deep",
    20: "json_with_nan json_with_a_key_twice",
    21: "a_cycle",
    22: "unknown_input",
    23: "a_name_twice",
    24: "unknown_ops",
    25: "array_missing",
    27: "array_of_another_shape",
    28: "int8 objects compound complex_numbers big_endian",
    29: "a_tebibyte_of_nothing",
    30: "compressed_zeros",
    31: "unknown_filter",
    32: "a_link_to_another_file",
    33: "a_link_within_the_file",
    34: "virtual",
    35: "kept_in_another_file",
    36: "a_group_within_itself",
    37: "object_references",
    39: "layer_name_climbs layer_name_from_the_root array_path_climbs array_path_from_the_root",
    41: "rank_6 an_empty_axis a_scalar",
    44: "std_of_zero crop_below_nothing",
}


def ours(name: str) -> Maker:
    def make(folder: Path) -> Path:
        path = hostile_h5.sound(folder / "net.h5")
        hostile_h5.CASES[name](path)
        return path

    return make


CASES += [Case(n, name, ours(name), *WORDS[name]) for n, names in OURS.items() for name in names.split()]
CASES += [
    Case(14, "no format", ours("no_format"), FileFormatError, "HDF5, but not a weight file that we know"),
    Case(
        26, "an array to spare", ours("array_to_spare"), None, "no layer uses params/conv9/w; it is left out"
    ),
    Case(
        38, "nan", ours("nan_in_the_weights"), DamagedFileError, "of 90 numbers of 'conv1/w' are not finite"
    ),
    Case(
        40, "a number changed", ours("one_number_changed"), DamagedFileError, "'conv1/w'.*sha256", do="verify"
    ),
    Case(
        42,
        "infinite halves",
        ours("infinite_halves"),
        DamagedFileError,
        "of 90 numbers of 'conv1/w' are not finite",
    ),
]

# 45 to 57: MATLAB.

TAGGED = {
    kind: array(6, (2, 3), struct.pack("<2I", kind, 48) + DOUBLE[8:], b"x") for kind in (0, 8, 19, 20, 255)
}
for kind, part in TAGGED.items():
    bad(
        45,
        f"type {kind}",
        mat5(part),
        DamagedFileError,
        "data of type .* where there should be one of",
        "a.mat",
    )
    bad(
        45,
        f"type {kind} packed",
        mat5(packed(part)),
        DamagedFileError,
        "data of type .*should be one of",
        "a.mat",
    )
bad(46, "zeros", bytes(500), DamagedFileError, "nothing but zeros", "a.mat")
bad(46, "zeros behind the head", mat5(bytes(500)), DamagedFileError, "type 0 .*where an array", "a.mat")
V4 = struct.pack("<5i", 0, 3, 2, 0, 2) + b"x\0" + bytes(48)
bad(48, "version 4", V4, UnsupportedError, "version 4.*save it again", "a.mat")


def quickly_packed(part: bytes) -> bytes:
    data = zlib.compress(part, 1)
    return struct.pack("<2I", 15, len(data)) + data


bad(
    53,
    "a bomb",
    lambda: mat5(quickly_packed(array(6, (1 << 13, 5 << 10), element(9, bytes(5 << 26)), b"x"))),
    TooLargeError,
    "unpack",
    "a.mat",
)


def mat(layers: list[Any] | None, container: str = "v5", **variables: Any) -> Maker:
    about = variables if layers is None else {"layers": layers} | variables
    return lambda folder: matwriter.save(folder / "a.mat", about, container)


def conv(**changes: Any) -> dict[str, Any]:
    """Filters of 3x2, 3 channels to 5, made when the case is run."""
    bank = [np.ones((3, 2, 3, 5), "f4"), np.ones((1, 5), "f4")]
    made = {
        "type": "conv",
        "name": "c1",
        "stride": np.array([1.0, 2.0]),
        "pad": np.zeros((1, 4)),
        "weights": bank,
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


def normalised(**about: Any) -> dict[str, Any]:
    return {"meta": {"normalization": {"imageSize": np.array([[13.0, 17.0, 3.0]]), **about}}}


CASES += [
    Case(47, "version 7.3", mat([conv()], "v7.3", **normalised()), None, preprocessing="none"),
    Case(
        49,
        "no layers",
        mat(None, weather=np.ones((2, 3))),
        MismatchError,
        "not a MatConvNet network.*weather",
    ),
    Case(50, "no weights", mat([conv(weights=None)]), MismatchError, "'c1' has no weights"),
    Case(
        51,
        "weights of one",
        mat([conv(weights=[np.ones((3, 2, 3, 5), "f4")])]),
        MismatchError,
        "'c1' has 1 arr",
    ),
    Case(
        52,
        "a layer of its own",
        mat([conv(), {"type": "custom", "name": "c2"}]),
        UnsupportedError,
        "'custom'",
    ),
    Case(
        54,
        "double",
        mat([conv(weights=[np.ones((3, 2, 3, 5)), np.ones((1, 5))])]),
        None,
        preprocessing="none",
    ),
    Case(
        55, "no mean", mat([conv()], **normalised(averageImage=np.zeros((0, 0)))), None, preprocessing="none"
    ),
    Case(
        55,
        "mean of another size",
        mat([conv()], **normalised(averageImage=np.ones((5, 6, 3), "f4"))),
        MismatchError,
        "average",
    ),
    Case(56, "three pads", mat([conv(pad=np.zeros((1, 3)))]), DamagedFileError, "'c1'.*pad"),
]


@case(52, UnsupportedError, "object of a class")
def an_object(folder):
    with h5py.File(folder / "a.mat", "w", userblock_size=512) as file:
        file["net"] = np.zeros((1, 6), np.uint32)
        file["net"].attrs["MATLAB_class"] = np.bytes_("dagnn.DagNN")
        file["net"].attrs["MATLAB_object_decode"] = np.int32(3)
    with (folder / "a.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return folder / "a.mat"


@case(57, MismatchError, "'c1' wants the param 'lost', which is missing")
def a_parameter_that_is_nowhere(folder):
    block = {"size": np.array([[3.0, 2, 3, 5]]), "hasBias": np.array([[True]]), "pad": np.zeros((1, 4))}
    layer = {
        "name": "c1",
        "type": "dagnn.Conv",
        "inputs": ["input"],
        "outputs": ["x1"],
        "params": ["lost", "b"],
    }
    layer |= {"block": block | {"stride": np.ones((1, 2))}}
    known = {"name": "b", "value": np.ones((1, 5), "f4")}
    net = {"layers": matwriter.Structs([layer]), "params": matwriter.Structs([known])}
    return matwriter.save(folder / "a.mat", {"net": net | {"vars": matwriter.Structs([{"name": "input"}])}})


# 58 to 73: Caffe and ONNX.

field, varint = caffewriter.field, caffewriter.varint
HERE = {"input": ["data"], "input_dim": [1, 4, 11, 8]}
START = field(1, "n\x01") + field(100, field(1, "c1") + field(2, "ReLU"))
deep = b""
for _ in range(10_000):
    deep = field(100, deep)


def bank(shape: Any = (5, 4, 3, 2), **about: Any) -> dict[str, Any]:
    """A layer of Caffe's, 4 channels to 5."""
    geometry = {"num_output": 5, "kernel_h": 3, "kernel_w": 2}
    arrays = [np.ones(shape), np.ones(5)]
    return caffewriter.layer("c1", "Convolution", "data", convolution_param=geometry, blobs=arrays, **about)


def caffe(*layers: dict[str, Any]) -> bytes:
    return caffewriter.binary(caffewriter.net(*layers, **HERE))


def claiming(dims: list[int], count: int) -> bytes:
    """The same layer with an array that says it has those sizes."""
    blob = field(7, field(1, b"".join(varint(n % (1 << 64)) for n in dims)))
    blob += field(5, np.ones(count, "<f4").tobytes())
    geometry = {"num_output": 5, "kernel_h": 3, "kernel_w": 2}
    return caffe(caffewriter.layer("c1", "Convolution", "data", convolution_param=geometry, blobs=[blob]))


bad(58, "a number of 11 bytes", START + b"\x08" + b"\xff" * 11, DamagedFileError, "more than ten bytes")
bad(59, "beyond the end", START + varint(802) + varint(10**6), DamagedFileError, "claims 1,000,000 bytes")
for kind in (3, 4, 6, 7):
    bad(60, f"wire type {kind}", START + bytes([8 | kind]), DamagedFileError, f"wire type {kind} at byte")
bad(61, "10,000 deep", deep, DamagedFileError, "layer ''.* has no type")
bad(62, "less than it says", claiming([5, 4, 3, 2], 100), MismatchError, "100.*120|120.*100")
bad(
    63,
    "2^40 a side",
    claiming([1 << 40, 4, 3, 2], 120),
    (TooLargeError, MismatchError, DamagedFileError),
    "1,?099,?511",
)
bad(63, "a side below 0", claiming([-5, -4, 3, 2], 120), DamagedFileError, "-5|below 0")
bad(
    67,
    "unknown types",
    caffe(bank(), *(caffewriter.layer(n, n.title(), "c1") for n in ("foo", "bar"))),
    UnsupportedError,
    "Foo.*Bar",
)
V0 = field(1, "old\x01") + field(2, field(1, field(1, "conv") + field(2, "conv")) + field(2, "data"))
bad(68, "version 0", V0, UnsupportedError, "upgrade_net_proto_binary")
bad(69, "two million layers", lambda: field(100, b"") * 2_000_000, TooLargeError, "more than 250,000 fields")


def caffe_pair(prototxt: str) -> Maker:
    def make(folder: Path) -> list[Path]:
        (folder / "deploy.prototxt").write_text(prototxt)
        return [written(folder / "net.caffemodel", caffe(bank())), folder / "deploy.prototxt"]

    return make


OTHER = caffewriter.text(caffewriter.net(bank() | {"name": "c7"}, **HERE))
CASES += [
    Case(65, "wrong pair", caffe_pair(OTHER), MismatchError, r"0 of 1 layers .* matched: wrong pair\?"),
    Case(
        66,
        "no quote",
        caffe_pair('layer { type: "ReLU }\n'),
        DamagedFileError,
        r"deploy\.prototxt:1:15: this string",
    ),
    Case(
        66,
        "no brace",
        caffe_pair('layer { type: "ReLU"'),
        DamagedFileError,
        r"deploy\.prototxt:1:7: this block",
    ),
]

FILTERS = {"w": np.ones((5, 4, 3, 2), "f4")}
CONV = onnxwriter.node("Conv", "x w", "y")


def onnx(nodes: list[bytes], constants: Any = (), **about: Any) -> bytes:
    return onnxwriter.model(nodes, constants, **{"x": (1, 4, 11, 8)} | about)


def kept_elsewhere(location: str) -> bytes:
    """A model whose filters lie in another file."""
    lie = onnxwriter.field(13, onnxwriter.field(1, "location") + onnxwriter.field(2, location))
    dims = b"".join(onnxwriter.field(1, n) for n in (5, 4, 3, 2))
    lying = dims + onnxwriter.field(2, 1) + onnxwriter.field(8, "w") + lie + onnxwriter.field(14, 1)
    return onnx([CONV], [lying])


for place in ["../../etc/passwd", "/etc/passwd", "soft", "hard", "../canary/secret.txt"]:

    def elsewhere(folder: Path, place: str = place) -> Path:
        (folder / "soft").symlink_to(folder.parent / "canary" / "secret.txt")
        os.link(folder.parent / "canary" / "secret.txt", folder / "hard")
        return written(folder / "a.onnx", kept_elsewhere(place))

    CASES.append(Case(70, f"data in {place}", elsewhere, UnsafeFileError, f"lies in another file .'{place}'"))
bad(71, "opset 99", onnx([CONV], FILTERS, opset=99), UnsupportedError, "opset 99; we read 1 to")
OWN = onnxwriter.node("Magic", "x", "y", domain="my.own")
bad(71, "a domain of its own", onnx([OWN]), UnsupportedError, "Magic")
TWICE = onnx([onnxwriter.node("Reshape", "x s", "y")], {"s": np.array([-1, -1])})
bad(72, "two open sizes", TWICE, DamagedFileError, r"to \[-1, -1\]: one -1 at most")
bad(73, "an open size", onnx([CONV], FILTERS, x=("n", 4, "h", "w")), UsageError, "--input-size HxW")

# 74 to 86: PyTorch, safetensors, NumPy.

WHOLE = {"fc.weight": tensor("0", 6, (2, 3))}


def pth(saved: bytes, storages: dict[str, bytes] | None = None, **about: Any) -> Maker:
    held = {"0": bytes(24)} if storages is None else storages
    return lambda folder: zipped(folder / "a.pth", saved, held, **about)


def fc(*about: Any, **more: Any) -> Maker:
    return pth(named({"fc.weight": tensor("0", 6, *about, **more)}))


GLOBALS = ["os.system", "posix.system", "builtins.eval", "pkgutil.resolve_name", "pydoc.locate"]
for name in GLOBALS:
    module, _, attribute = name.rpartition(".")
    trap = f"c{module}\n{attribute}\n(S'touch ../canary/caught'\ntR".encode()
    asks = rf"asks for .*{re.escape(name)}"
    CASES.append(Case(74, f"{name} in a .pth", pth(named(WHOLE | {"x": trap})), UnsafeFileError, asks))
    bad(74, f"{name} in a pickle", b"\x80\x02" + trap + b".", UnsafeFileError, asks, "a.params")
bad(75, "memo 2^31", b"\x80\x02Nr\x00\x00\x00\x80.", UnsafeFileError, "memo number 2,147,483,648, the limit")
bad(76, "a text of 4 GB", b"\x80\x02X\xff\xff\xff\xffabc", DamagedFileError, "claims 4,294,967,295 bytes")
bad(
    77,
    "a tower of tuples",
    b"\x80\x02)" + b"2\x86" * 60 + b".",
    (MismatchError, UnsafeFileError),
    "arrays in a row|levels",
)
CASES += [
    Case(
        78,
        "a short storage",
        pth(named(WHOLE), {"0": bytes(20)}),
        DamagedFileError,
        "has 20 bytes, expected 24",
    ),
    Case(
        79,
        "beyond its storage",
        fc((2, 3), (3, 1), 1),
        UnsafeFileError,
        "reaches to number 6 of a storage of 6",
    ),
    Case(
        79,
        "before its storage",
        fc((2, 3), (3, 1), -1),
        UnsafeFileError,
        "begins or steps before its storage",
    ),
    Case(80, "a terabyte of one", fc((1 << 20, 1 << 18), (0, 0)), TooLargeError, "repeats few numbers often"),
    Case(81, "big-endian", pth(named(WHOLE), order=b"big"), UnsupportedError, "big-endian"),
    Case(
        82,
        "a program",
        pth(named(WHOLE), **{"constants.pkl": b"", "code/net.py": b""}),
        UnsupportedError,
        "TorchScript",
    ),
    Case(82, "exported", pth(named(WHOLE), archive_format=b"pt2"), UnsupportedError, "an exported program"),
]
bad(82, "tar", bytes(257) + b"ustar" + bytes(250), UnsupportedError, "a tar archive", "a.pth")
MODEL = b"ctorch.nn.modules.container\nSequential\n)\x81}" + text("training") + b"\x88sb"
CASES.append(Case(84, "a whole model", pth(MODEL, {}), UnsupportedError, r"save model\.state_dict\(\)"))


@case(83, UnsafeFileError, r"two members are called 'net/data\.pkl'")
def a_member_twice(folder):
    path = zipped(folder / "a.pth", named(WHOLE), {"0": bytes(24)}, **{"data.pk!": b""})
    return written(path, path.read_bytes().replace(b"data.pk!", b"data.pkl"))


@case(83, UnsafeFileError, "leads out of the archive")
def a_member_outside(folder):
    path = zipped(folder / "a.pth", named(WHOLE), {"0": bytes(24)}, **{"-/x": b""})
    return written(path, path.read_bytes().replace(b"net/-/x", b"net/../"))


@case(83, TooLargeError, "unpacks to|claims|the limit is")
def a_bomb(folder):
    with zipfile.ZipFile(folder / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + named(WHOLE) + b".")
        archive.writestr("net/data/0", bytes(100 << 20))
    return folder / "a.pth"


@case(83, UnsupportedError, "is encrypted")
def a_lock(folder):
    path = zipped(folder / "a.pth", named(WHOLE), {"0": bytes(24)})
    data = bytearray(path.read_bytes())
    for found in re.finditer(rb"PK(\x03\x04|\x01\x02)", bytes(data)):
        data[found.start() + (6 if found[1] == b"\x03\x04" else 8)] |= 1
    return written(path, bytes(data))


def safetensors(listed: Any, data: bytes = bytes(24)) -> bytes:
    told = listed if isinstance(listed, bytes) else json.dumps(listed).encode()
    return len(told).to_bytes(8, "little") + told + data


def entry(*offsets: int, shape: Any = (2, 3), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets or (0, 24))}


TEXT = json.dumps(entry()).encode()
SAFETENSORS = {
    "a header of 2^63": (
        (1 << 63).to_bytes(8, "little") + b"{}",
        (TooLargeError, FileFormatError),
        "9,223,372|no weight file",
    ),
    "overlap": (
        safetensors({"a/w": entry(), "b/w": entry(20, 44)}, bytes(44)),
        DamagedFileError,
        "'b/w' does not lie",
    ),
    "a hole": (
        safetensors({"a/w": entry(), "b/w": entry(28, 52)}, bytes(52)),
        DamagedFileError,
        "'b/w' does not lie",
    ),
    "bytes behind": (
        safetensors({"a/w": entry()}, bytes(28)),
        DamagedFileError,
        "4 bytes behind the last array",
    ),
    "a name twice": (
        safetensors(b'{"a/w":%b,"a/w":%b}' % (TEXT, TEXT)),
        UnsafeFileError,
        "'a/w' is listed twice",
    ),
    "a side below 0": (safetensors({"a/w": entry(shape=(-2, -3))}), DamagedFileError, "a side below 0"),
    "float8": (
        safetensors({"a/w": entry(0, 6, dtype="F8_E4M3")}, bytes(6)),
        UnsupportedError,
        "arrays of F8_E4M3",
    ),
}
for name, (content, error, words) in SAFETENSORS.items():
    bad(85, name, content, error, words, "a.safetensors")
bad(
    86,
    "objects",
    npy(described("'|O'"), b"cos\nsystem\n(S'x'\ntR."),
    UnsafeFileError,
    "Python objects",
    "a.npy",
)
HUGE = b"\x93NUMPY\x02\x00" + struct.pack("<I", (1 << 31) - 1) + b"{}"
bad(86, "a header of 2 GB", HUGE, TooLargeError, "claims a header of 2,147,483,647 bytes", "a.npy")
bad(
    86,
    "a side below 0",
    npy(described(shape="(-2, -3)"), bytes(24)),
    DamagedFileError,
    "a side below 0",
    "a.npy",
)

# Where the others are.

TESTED_ELSEWHERE = {
    4: "test_detect.py test_a_file_that_we_may_not_read",
    9: "test_cli_weights.py test_fetch_refuses_what_is_not_what_was_published",
    31: "test_guarded.py test_packed_data_need_leave_and_a_filter_that_is_built_in",
    43: "test_guarded.py test_a_file_in_use_and_one_that_is_not_ours_are_told_apart",
    64: "test_reader_caffe_bad.py test_of_two_shapes_the_old_one_counts",
    87: "test_images.py test_a_bomb_does_not_go_off",
    88: "test_images.py test_a_picture_cut_short_at_any_place_is_an_error_or_a_picture",
    89: "test_convert.py test_outputs_that_cannot_be",
}
PICTURES_ELSEWHERE = [  # the rest of 88
    "test_flipped_bytes_make_an_error_of_the_family_or_a_picture",
    "test_something_else_is_no_picture",
    "test_pixels_without_a_white_are_not_guessed_at",
    "test_printers_colours_are_converted",
    "test_what_is_transparent_is_white",
    "test_a_transparent_entry_of_a_palette_and_a_transparent_colour_are_white_too",
    "test_16_bit_grey_is_scaled_not_clipped",
    "test_a_turned_photo_is_set_upright",
    "test_odd_sizes_are_fine",
    "test_odd_names_are_fine",
]
FOR_THE_STUDIO = {10, 90}  # uploads: it is not built yet


def test_none_of_the_ninety_is_forgotten():
    known = {case.number for case in CASES} | TESTED_ELSEWHERE.keys() | FOR_THE_STUDIO
    assert known == set(range(1, 91))
    assert not FOR_THE_STUDIO & {case.number for case in CASES}


@pytest.mark.parametrize(
    "place", [*TESTED_ELSEWHERE.values(), *(f"test_images.py {n}" for n in PICTURES_ELSEWHERE)]
)
def test_what_is_tested_elsewhere_is_there(place):
    file, name = place.split()
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# Through the wall.


@pytest.fixture(scope="module")
def wall(tmp_path_factory):
    """One process for all files; where one ends it, the next begins in a new one."""
    home = tmp_path_factory.mktemp("wall")
    workers: list[Worker] = []

    def ask(job):
        if not workers or workers[-1].process.poll() is not None:
            workers.append(Worker("tests.longworker", home))
        return workers[-1].ask(job, seconds=60)

    yield ask
    for worker in workers:
        worker.close()


@pytest.fixture
def folder(tmp_path):
    """Where the file lies; beside it lies what it may not look at."""
    put_canary(tmp_path / "canary", FEATHERS)
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.mark.parametrize("case", CASES, ids=[f"{case.number} {case.name}" for case in CASES])
def test_a_hostile_file_gets_a_sentence(case, wall, folder, tmp_path):
    made = case.make(folder)
    paths = made if isinstance(made, list) else [made]
    output = tmp_path / "net.h5"
    job = {"do": case.do, "what": paths[0].name, "inputs": list(map(str, paths)), "output": str(output)}
    before = sorted(tmp_path.rglob("*"))
    answer = wall(job | {"options": {"preprocessing": case.preprocessing}})
    if case.kind is None:
        assert "result" in answer, answer
        assert case.words in answer["result"]["report"]
        assert weights.verify(output).is_sound
    else:
        with pytest.raises(case.kind, match=case.words) as told:
            raise isolation.revived(answer)
        message = str(told.value)
        assert any(path.name in message for path in paths) and FEATHERS not in message
        assert len(message) < 1500 and message.isprintable()
        assert not output.exists()
    assert sorted(path for path in tmp_path.rglob("*") if path != output) == before


@pytest.mark.parametrize(
    "make, code, words",
    [
        (
            lambda folder: written(folder / "a.params", b"\x80\x02cposix\nsystem\nX\x01\x00\x00\x00x\x85R."),
            4,
            "posix.system",
        ),
        (lambda folder: written(folder / "a.mat", mat5(TAGGED[255])), 3, "fetch it again"),
        (lambda folder: written(folder / "a.onnx", kept_elsewhere("/etc/passwd")), 4, "/etc/passwd"),
        (
            lambda folder: written(folder / "a.caffemodel", caffe(bank() | {"type": "\x1b[31mX"})),
            3,
            r"\x1b[31m",
        ),
        (lambda folder: folder / "gone.h5", 3, "no such file"),
    ],
)
def test_the_whole_program_says_one_sentence_and_leaves_nothing(make, code, words, folder, tmp_path):
    path = make(folder)
    command = [sys.executable, "-m", "weights_tools", "convert", str(path), str(tmp_path / "out.h5")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert ran.stderr.startswith("minidnn: ") and words in ran.stderr
    assert "Traceback" not in ran.stderr and "\x1b" not in ran.stderr and path.name in ran.stderr
    assert sorted(found.name for found in tmp_path.iterdir()) == ["canary", "files"]


SEEN_BY_THE_SYSTEM = {
    5,
    6,
    31,
    32,
    33,
    34,
    35,
    47,
    70,
    74,
    83,
    86,
}  # what would lead elsewhere, and what is fine


@pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace tells what HDF5 opens, which Python does not"
)
def test_the_system_saw_no_look_at_another_file_and_no_other_program(tmp_path):
    put_canary(tmp_path / "canary", FEATHERS)
    home, log, jobs = tmp_path / "home", tmp_path / "seen", []
    home.mkdir()
    chosen = [case for case in CASES if case.number in SEEN_BY_THE_SYSTEM]
    for number, case in enumerate(sorted(chosen, key=lambda case: case.kind is not None)):  # sound ones first
        folder = tmp_path / f"files{number}"
        folder.mkdir()
        jobs.append({"do": case.do, "what": "it", "inputs": [str(case.make(folder))]})
        jobs[-1] |= {"output": str(home / "net.h5"), "options": {"preprocessing": case.preprocessing}}
    trace = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=open,openat,creat,execve,connect,unlink,rename",
        "-o",
        str(log),
    ]
    limits = json.dumps(isolation.limits_for([]))
    ran = subprocess.run(
        [*trace, sys.executable, "-B", "-P", "-m", "tests.longworker", "--behind", limits],
        input="".join(json.dumps(job) + "\n" for job in jobs).encode(),
        cwd=home,
        env=isolation._environment(home),
        capture_output=True,
    )
    if b"ptrace" in ran.stderr:
        pytest.skip("strace may not trace here")
    assert ran.stdout.count(b"\n") == len(jobs), ran.stderr
    _, second, seen = log.read_text().partition("files1/")  # the first job imports, which opens many files
    assert second
    for line in seen.splitlines():
        assert "execve(" not in line and "connect(" not in line, line
        assert not re.search(r"canary|/etc/passwd|soft|hard", line), line
        if re.search(r"O_WRONLY|O_RDWR|O_CREAT|creat\(|unlink\(|rename\(", line) and "ENOENT" not in line:
            assert str(home) in line or "/dev/null" in line or re.search(r"files\d+/a", line), line


# Pictures, whose door is images.load.


def test_a_png_of_the_warning_zone_is_refused_before_it_is_decoded(tmp_path):
    for side in (12_000, 60_000):
        png = io.BytesIO()
        Image.new("L", (3, 2)).save(png, "PNG")
        data = bytearray(png.getvalue())
        data[16:24] = struct.pack(">2I", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
        with pytest.raises(TooLargeError, match="pixels"):
            images.load(written(tmp_path / "a.png", bytes(data)))


@pytest.mark.parametrize(
    "content", [b'<svg xmlns="http://www.w3.org/2000/svg"/>', b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_a_drawing_is_no_picture(tmp_path, content):
    with pytest.raises(FileFormatError, match="no picture that we read"):
        images.load(written(tmp_path / "a.png", content))


def test_of_100_000_frames_one_is_decoded(tmp_path):
    held = io.BytesIO()
    Image.new("P", (4, 3)).save(held, "GIF")
    data = held.getvalue()
    frame = data.index(b"\x2c\x00\x00\x00\x00\x04")
    many = data[:frame] + data[frame:-1] * 100_000 + b";"
    assert images.load(written(tmp_path / "a.gif", many)).shape == (1, 3, 4, 3)
