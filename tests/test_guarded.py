"""The one door to HDF5 files: nothing is followed out of the file, nothing is allocated on its word alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from minidnn.errors import (
    DamagedFileError,
    FileFormatError,
    MismatchError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedError,
)
from minidnn.weights import guarded
from minidnn.weights.guarded import Guarded
from tests.hostile_h5 import claiming, packed
from tests.test_architecture import SOURCES, imports_of, name_of


@pytest.fixture
def path(tmp_path):
    """A file with something of each kind."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["b/numbers"] = np.arange(6, dtype="<f4").reshape(2, 3)
        file["b/packed"] = np.zeros(4)
        file["a"] = [1, 2, 3]
        file["cells"] = np.array([file["a"].ref], dtype=h5py.ref_dtype)
        file.attrs["who"] = np.bytes_("me")
        file["a"].attrs.update({"unit": np.bytes_("m"), "none": h5py.Empty("f4")})
    return tmp_path / "a.h5"


def change(path, how):
    with h5py.File(path, "r+") as file:
        how(file)
    return Guarded(path)


def test_what_is_there_can_be_read(path):
    with Guarded(path) as file:
        assert file.names() == ["a", "b", "cells"] and file.names("b") == ["numbers", "packed"]
        assert list(file.walk()) == ["a", "b/numbers", "b/packed", "cells"]
        assert np.array_equal(file.read("b/numbers"), [[0, 1, 2], [3, 4, 5]])
        assert file.info("b/numbers")[:3] == ((2, 3), np.dtype("<f4"), 24)
        assert file.attributes() == {"who": b"me"}
        assert file.attributes("a", only=["unit", "no"]) == {"unit": b"m"}
        assert isinstance(file.attributes("a")["none"], h5py.Empty)
        assert "b/numbers" in file and "b" in file and "/" in file
        assert "c" not in file and "a/b" not in file and "c/d" not in file
        assert file.is_group("b") and not file.is_group("a")
        assert file.resolve(file.read("cells")[0]) == "a"


@pytest.mark.parametrize("before", [0, 512])
def test_the_bytes_of_a_file_are_mapped_and_stay_after_it_is_closed(path, before):
    path.write_bytes(bytes(before) + path.read_bytes())  # MATLAB puts a block of its own before
    with Guarded(path) as file:
        offset, held = file.info("b/numbers").offset, file.mapped()
    path.unlink()
    assert held[offset : offset + 24].view("<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert not held.flags.writeable


@pytest.mark.parametrize("path_asked", ["c", "b/nombers", "a/b"])
def test_what_is_not_there_is_said(path, path_asked):
    with Guarded(path) as file, pytest.raises(MismatchError, match=r"missing|goes through a dataset"):
        file.read(path_asked)


def test_groups_and_datasets_are_not_taken_for_each_other(path):
    with Guarded(path) as file:
        with pytest.raises(MismatchError, match="'b' is no dataset"):
            file.read("b")
        with pytest.raises(MismatchError, match="'a' is no group"):
            file.names("a")


def test_a_near_name_is_brought_to_mind(path):
    with Guarded(path) as file, pytest.raises(MismatchError, match="did you mean 'numbers'"):
        file.read("b/nummers")


def test_links_lead_nowhere(path):
    def links(file):
        file["soft"], file["out"] = h5py.SoftLink("/a"), h5py.ExternalLink("other.h5", "/")

    with change(path, links) as file:
        for name in ("soft", "out", "out/secret"):
            with pytest.raises(UnsafeFileError, match="only leads elsewhere"):
                file.read(name)
        with pytest.raises(UnsafeFileError, match="only leads elsewhere"):
            list(file.walk())


def test_data_in_other_files_stay_there(path):
    (path.parent / "secret.txt").write_text("secret!!" * 9)

    def elsewhere(file):
        layout = h5py.VirtualLayout((3,), "<f4")
        layout[...] = h5py.VirtualSource("other.h5", "x", (3,))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (9,), "S8", external=[(str(path.parent / "secret.txt"), 0, 72)])

    with change(path, elsewhere) as file:
        for name in ("virtual", "raw"):
            with pytest.raises(UnsafeFileError, match="keeps its data in other files"):
                file.read(name)


def test_groups_within_themselves_have_an_end(path):
    def ring(file):
        file["b/again"], file["b/and"] = file["b"], file["b"]

    with change(path, ring) as file, pytest.raises(UnsafeFileError, match="without end"):
        list(file.walk())


def test_claims_are_held_against_the_size_of_the_file(path):
    def claim(file):
        claiming(file, "a", (1 << 40,), "<f4")
        claiming(file, "b/packed", (5,), "<f4")

    with change(path, claim) as file:
        with pytest.raises(TooLargeError, match="claims 4,398,046,511,104 bytes, the limit is"):
            file.info("a")
        with pytest.raises(DamagedFileError, match="claims 20 bytes and stores 0"):
            file.read("b/packed")


def test_packed_data_need_leave_and_a_filter_that_is_built_in(path):
    def pack(file):
        del file["b/packed"]
        file.create_dataset("b/packed", data=np.zeros(1 << 20), compression="gzip")
        packed(file, "b/numbers", np.ones((2, 3)), 32_015)

    change(path, pack)
    with (
        Guarded(path) as file,
        pytest.raises(UnsafeFileError, match="is compressed; filters are not allowed"),
    ):
        file.read("b/packed")
    with Guarded(path, allow_filters=True) as file:
        with pytest.raises(TooLargeError, match="claims 8,388,608 bytes"):
            file.read("b/packed")
        with pytest.raises(UnsupportedError, match="packed by filter 32015; write it plain, or by gzip"):
            file.read("b/numbers")
    with Guarded(path, allow_filters=True, max_bytes=1 << 23) as file:
        assert not file.read("b/packed").any()


def test_a_chunk_larger_than_allowed_is_not_unpacked(path):
    def chunk(file):
        file.create_dataset("c", (3,), "<f4", maxshape=(None,), chunks=(1 << 26,), compression="gzip")

    with change(path, chunk) as file:
        file.allow_filters = True
        with pytest.raises(TooLargeError, match="chunks larger than the limit"):
            file.read("c")


def test_words_of_no_fixed_length_are_not_read_as_data(path):
    file = change(path, lambda file: file.create_dataset("words", data=["a", "bc"]))
    with file, pytest.raises(UnsupportedError, match="no fixed length"):
        file.read("words")


def test_attributes_have_a_size_limit(path, monkeypatch):
    monkeypatch.setattr(guarded, "MAX_ATTRIBUTE", 100)
    monkeypatch.setattr(guarded, "MAX_STRINGS", 2)
    for value in (np.zeros(20), ["x", "y", "z"]):
        file = change(path, lambda file, value=value: file.attrs.update(long=value))
        with file, pytest.raises(TooLargeError, match="attribute 'long' of '/' is too large"):
            file.attributes()


@pytest.fixture
def boastful(path):
    """Its attribute says that it is 4 GiB long, which HDF5 would take before it looks."""
    words = "as long as nothing else is"
    change(path, lambda file: file.attrs.update(words=words))
    whole = path.read_bytes()
    at = whole.index(len(words).to_bytes(4, "little"))
    path.write_bytes(whole[:at] + b"\xff" * 4 + whole[at + 4 :])
    return path


def test_words_of_no_fixed_length_are_left_out_or_read_in_little_memory(path):
    change(path, lambda file: file.attrs.update(words="of any length"))
    with Guarded(path) as file:
        assert file.attributes() == {"who": b"me"}
    with Guarded(path, allow_texts=True) as file:
        assert file.attributes() == {"who": b"me", "words": "of any length"}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how much is used")
def test_words_that_claim_4_gib_take_none_of_it(boastful):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = r"attribute 'words' of '/': .*fetch it again"
    with Guarded(boastful, allow_texts=True) as file, pytest.raises(DamagedFileError, match=words):
        file.attributes()
    after = resource.getrlimit(resource.RLIMIT_AS), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after[0] == before[0] and after[1] - before[1] < 100_000, "in kilobytes"


@pytest.mark.parametrize("size", [8, 20, 60, 100, -1])
def test_a_file_cut_short_says_by_how_much(path, size):
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    size %= len(whole)
    promised = "at least 48" if size < 48 else f"{len(whole):,}"
    with pytest.raises(DamagedFileError, match=rf"truncated: {size:,} of {promised} bytes; fetch it again"):
        Guarded(path)


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "v112"])
def test_every_kind_of_header_tells_the_size(tmp_path, libver):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=(libver, "latest")) as file:
        file["a"] = np.arange(500)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DamagedFileError, match=f"truncated: {size - 7:,} of {size:,} bytes"):
        Guarded(path)


def test_what_is_no_hdf5_file_is_told_off(tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(FileFormatError, match="no such file"):
        Guarded(path)
    with pytest.raises(FileFormatError, match="is a directory; name a file in it"):
        Guarded(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DamagedFileError, match="0 bytes"):
        Guarded(path)
    path.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(FileFormatError, match="not an HDF5 file; other formats: minidnn weights convert"):
        Guarded(path)
    path.write_text("\n<!DOCTYPE html>")
    with pytest.raises(FileFormatError, match="looks like a web page: the download failed"):
        Guarded(path)
    with pytest.raises(FileFormatError, match=r"did you mean 'a\.h5'"):
        Guarded(tmp_path / "b.h5")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UnsafeFileError, match="not a regular file"):
            Guarded(path)


def test_a_file_in_use_and_one_that_is_not_ours_are_told_apart(path, monkeypatch):
    code = f"import h5py; held = h5py.File({str(path)!r}, 'r+'); print('held', flush=True); input()"
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with writer:
        writer.stdout.readline()
        with pytest.raises(FileFormatError, match="is locked, in use by another program"):
            Guarded(path)
        writer.stdin.write("\n")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", refused)
    with pytest.raises(FileFormatError, match="permission denied; look at its owner and mode"):
        Guarded(path)


def test_a_file_changed_anywhere_ends_in_a_word_of_ours(path):
    """Every byte of the header and many behind it, one after the other."""
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(96), *rng.integers(96, len(whole), 300)]
    for place in places:
        torn = bytearray(whole)
        torn[place] ^= int(rng.integers(1, 256))
        path.write_bytes(torn)
        try:
            with Guarded(path, allow_filters=True) as file:
                file.attributes()
                for name in file.walk():
                    file.read(name), file.attributes(name)
        except (
            DamagedFileError,
            FileFormatError,
            MismatchError,
            TooLargeError,
            UnsafeFileError,
            UnsupportedError,
        ):
            pass


def test_no_other_file_of_ours_reads_hdf5():
    reads, writes = (
        {"minidnn/weights/guarded.py"},
        {"minidnn/weights/writing.py", "minidnn/train/featurefile.py"},
    )
    users = {name_of(p) for p in SOURCES if any(m.partition(".")[0] == "h5py" for m, _ in imports_of(p))}
    assert users == reads | writes
    for path in (p for p in SOURCES if name_of(p) in writes):
        opened = [
            [ast.literal_eval(a) for a in call.args[1:2]]
            for call in ast.walk(ast.parse(path.read_text()))
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "h5py.File"
        ]
        assert opened == [["w"]]
