"""What a file is, by its content and never by its name; and the door at which what is no file is told off.

`opened` reads a few bytes and is safe everywhere. `kind_of` may open HDF5 and zip files: it belongs into the
reading process.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
import struct
import zipfile
from pathlib import Path

from minidnn.errors import (
    DamagedFileError,
    FileError,
    FileFormatError,
    UnsafeFileError,
    UnsupportedError,
    did_you_mean,
)
from minidnn.weights.guarded import Guarded
from minidnn.zoo.raw import MANIFEST
from weights_tools.wire import BYTES, VARINT, fields

HEAD = 4096  # bytes that tell the kind
MAX_LOOK = 64  # fields of a message that tell whose it is

HDF5 = b"\x89HDF\r\n\x1a\n"
LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of torch's magic number

# What we know by sight and do not read: how it begins, what it is, what to do.
STRANGERS = [
    (b"\x1f\x8b", "gzip archive", "unpack it first: gunzip"),
    (b"BZh", "bzip2 archive", "unpack it first: bunzip2"),
    (b"\xfd7zXZ\x00", "xz archive", "unpack it first: unxz"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive", "unpack it first"),
    (b"Rar!", "rar archive", "unpack it first"),
    (b"GGUF", "GGUF file of a language model", "minidnn has convolutional nets only"),
    (b"7767517\n", "ncnn graph", "convert the model that it was made from"),
    (b"\x89PNG", "picture (PNG)", "name the weight file"),
    (b"\xff\xd8\xff", "picture (JPEG)", "name the weight file"),
    (b"%PDF", "PDF document", "name the weight file"),
]

RESAVE = "in MATLAB, load it and save it again: save('net.mat', '-struct', 'net', '-v7.3')"
MAT4 = f"a MATLAB file of version 4, which has no cells or structs; {RESAVE}"

NAMES = {
    "minidnn": "weights of minidnn (HDF5)",
    "mat5": "MATLAB 5 file",
    "mat73": "MATLAB 7.3 file",
    "keras": "Keras file (HDF5)",
    "keras-zip": "Keras 3 file (.keras)",
    "caffe-h5": "Caffe weights (HDF5)",
    "caffemodel": "Caffe weights",
    "binaryproto": "Caffe mean image",
    "prototxt": "Caffe net (prototxt)",
    "onnx": "ONNX model",
    "torch-zip": "PyTorch file",
    "torch-legacy": "PyTorch file of before 1.6",
    "pickle": "pickle, as Lasagne saves weights",
    "safetensors": "safetensors file",
    "npz": "NumPy archive",
    "npy": "NumPy array",
    "raw": "list of raw files",
}


def opened(path: str | os.PathLike) -> bytes:
    """The first bytes of a regular file with something in it; anything else is an error in words."""
    path = Path(path)
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise FileFormatError(f"{path}: is a directory; name a file in it")
        if not stat.S_ISREG(found.st_mode):
            raise UnsafeFileError(f"{path}: not a regular file; copy its content to one")
        # What was looked at may be another thing by now: a pipe would keep us waiting, so never wait.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UnsafeFileError(f"{path}: not a regular file; copy its content to one")
            head = file.read(HEAD)
    except FileNotFoundError:
        near = [other.name for other in path.parent.glob("*") if other.is_file()]
        raise FileFormatError(f"{path}: no such file{did_you_mean(path.name, near)}") from None
    except PermissionError:
        raise FileFormatError(f"{path}: permission denied; look at its owner and mode") from None
    except (OSError, ValueError) as error:  # a name with a NUL in it is a ValueError
        raise FileFormatError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not head:
        raise DamagedFileError(f"{path}: 0 bytes; fetch it again")
    _not_a_download_gone_wrong(path, head)
    return head


def listed(path: Path) -> Path:
    """A folder of raw files is known by its list of them."""
    return path / MANIFEST if (path / MANIFEST).is_file() else path


def held(path: Path) -> mmap.mmap:
    """All bytes of a file that has some, read from the disk when they are looked at: they take no memory."""
    with path.open("rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DamagedFileError(f"{path}: cannot be mapped ({error}); copy it to a local disk") from None


def _not_a_download_gone_wrong(path: Path, head: bytes) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")) and b"<net" not in start:
        raise FileFormatError(f"{path}: looks like a web page: the download failed; fetch it again")
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise FileFormatError(f"{path}: a Git LFS pointer, the data is not here; run: git lfs pull")


def kind_of(path: str | os.PathLike) -> str:
    """One of `NAMES`, or why it is none."""
    path = Path(path)
    head = opened(path)
    for start, what, advice in STRANGERS:
        if head.startswith(start):
            raise UnsupportedError(f"{path}: a {what}; {advice}")
    if head[257:262] == b"ustar":
        raise UnsupportedError(f"{path}: a tar archive; unpack it first, or save a state_dict again")
    if head[4:8] == b"TFL3":
        raise UnsupportedError(f"{path}: a TensorFlow Lite model; convert the model that it was made from")
    if head.startswith(b"MATLAB 7.3"):
        return "mat73"
    if head.startswith(b"MATLAB 5.0"):
        return "mat5"
    if head.startswith(HDF5) or HDF5 in (head[512:520], head[1024:1032], head[2048:2056]):
        return _kind_of_hdf5(path)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(path)
    if head.startswith(LEGACY_TORCH):
        return "torch-legacy"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if _is_safetensors(path, head):
        return "safetensors"
    if re.match(rb"\x80[\x02-\x05]", head) or re.match(rb"\(?[ld]p\d+\n|cnumpy|ccopy_reg|\([dl]p", head):
        return "pickle"
    if head.startswith(b"file,bytes,sha256"):
        return "raw"
    if re.match(
        rb"\s*(#[^\n]*\s+)*(name|layers?|input|input_shape|input_dim|state|force_backward)\s*[:{]", head
    ):
        return "prototxt"
    if kind := _kind_of_message(path):
        return kind
    if not any(head):
        raise DamagedFileError(f"{path}: nothing but zeros where a file begins; fetch it again")
    if is_version_4(head):
        raise UnsupportedError(f"{path}: {MAT4}")
    raise FileFormatError(
        f"{path}: no weight file that we know (begins {head[:12]!r}); there are {', '.join(NAMES.values())}"
    )


def _kind_of_hdf5(path: Path) -> str:
    with Guarded(path, allow_filters=True, allow_texts=True) as file:
        about, inside = file.attributes(), set(file.names())
    known = set(about)
    if "format" in known and str(_text(about["format"])).startswith("minidnn"):
        return "minidnn"
    if known & {"MATLAB_class", "MATLAB_version"} or "#refs#" in inside:
        return "mat73"
    if known & {"layer_names", "layer_names0", "nb_layers", "keras_version", "model_config", "backend"}:
        return "keras"
    if inside & {"model_weights", "layers", "_layer_checkpoint_dependencies", "vars"}:
        return "keras"
    if "data" in inside:
        return "caffe-h5"
    found = ", ".join(sorted(inside)[:6]) or "nothing"
    raise FileFormatError(f"{path}: HDF5, but not a weight file that we know: it holds {found}")


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise DamagedFileError(f"{path}: a damaged zip archive ({error}); fetch it again") from None
    inside = set(names)
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return "torch-zip"
    if {"config.json", "model.weights.h5"} <= inside:
        return "keras-zip"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    found = ", ".join(names[:4]) or "nothing"
    raise FileFormatError(f"{path}: a zip archive, but not a weight file that we know: it holds {found}")


def _kind_of_message(path: Path) -> str | None:
    """Caffe's and ONNX's files have no magic number; their first fields tell them apart."""
    seen: set[tuple[int, int]] = set()
    whole = True
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held,
            memoryview(held) as data,
        ):
            for count, (number, wire, value) in enumerate(fields(data, path.name)):
                seen.add((number, wire))
                if isinstance(value, memoryview):
                    value.release()
                if count > MAX_LOOK:
                    break
    except FileError:
        whole = False  # perhaps cut short: its reader will say where
    if (7, BYTES) in seen and (1, VARINT) in seen:
        return "onnx"
    if (100, BYTES) in seen or (2, BYTES) in seen:
        return "caffemodel"
    blob = {(number, VARINT) for number in range(1, 5)} | {(number, BYTES) for number in range(5, 10)}
    if whole and seen & {(5, BYTES), (8, BYTES)} and seen <= blob:
        return "binaryproto"
    return None


def _is_safetensors(path: Path, head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= max(path.stat().st_size, 100_000_000)


def is_version_4(head: bytes) -> bool:
    """MATLAB's header of five numbers: four decimal digits MOPT, rows, columns, imaginary, name length."""
    if len(head) < 20:
        return False
    for order in "<>":
        mopt, rows, columns, imaginary, name = struct.unpack(f"{order}5i", head[:20])
        digits = mopt // 1000, mopt // 100 % 10, mopt // 10 % 10, mopt % 10
        known = 0 <= digits[0] <= 4 and digits[1] == 0 and digits[2] <= 5 and digits[3] <= 2
        if known and min(rows, columns) >= 0 and imaginary in (0, 1) and 1 <= name <= 64:
            return True
    return False


def _text(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
