"""Zip archives: members come out whole, and nothing in them leads out, repeats itself or swells."""

from __future__ import annotations

import random
import struct
import zipfile

import pytest

from minidnn.errors import (
    DamagedFileError,
    FileError,
    FileFormatError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedError,
)
from weights_tools import zipped
from weights_tools.zipped import Archive


def archive_of(path, members, **about):
    """An archive of these (name, bytes)."""
    with zipfile.ZipFile(path, "w", **about) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, archive.compression)
    return path


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_come_out_whole_and_in_order(tmp_path, packing):
    path = archive_of(tmp_path / "a.zip", [("b/c", b"second" * 99), ("a", b"first")], compression=packing)
    with Archive(path) as archive:
        assert archive.names == ["b/c", "a"]
        assert archive.size("b/c") == 594
        assert archive.read("a", limit=5) == b"first"
        assert archive.read("b/c", limit=600) == b"second" * 99


def test_folders_are_no_members(tmp_path):
    assert Archive(archive_of(tmp_path / "a.zip", [("a/", b""), ("a/b", b"1")])).names == ["a/b"]


def test_a_member_that_is_not_there_is_missing(tmp_path):
    with Archive(archive_of(tmp_path / "a.zip", [("a", b"1")])) as archive:
        with pytest.raises(DamagedFileError, match="'b' is missing from the archive"):
            archive.read("b", 10)
        with pytest.raises(TooLargeError, match=r"'a' claims 1 bytes, the limit is 0; nothing was read"):
            archive.read("a", 0)


@pytest.mark.parametrize("name", ["../a", "a/../b", "/etc/passwd", "C:/a", "a\\b", "a//b", "./a", ".."])
def test_a_name_that_leads_out_is_unsafe(tmp_path, name):
    path = archive_of(tmp_path / "a.zip", [("good", b"1"), ("x" * len(name), b"2")])
    path.write_bytes(path.read_bytes().replace(b"x" * len(name), name.encode()))
    with pytest.raises(UnsafeFileError, match="which leads out of the archive"):
        Archive(path)


def test_two_members_of_one_name_are_unsafe(tmp_path):
    path = archive_of(tmp_path / "a.zip", [("data.pkl", b"1"), ("data.pk!", b"2")])
    path.write_bytes(path.read_bytes().replace(b"data.pk!", b"data.pkl"))
    with pytest.raises(UnsafeFileError, match=r"two members are called 'data\.pkl'"):
        Archive(path)


def test_links_locks_and_rare_methods_are_refused(tmp_path):
    link = zipfile.ZipInfo("a")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UnsafeFileError, match="'a' is a link to elsewhere"):
        Archive(tmp_path / "link.zip")
    path = archive_of(tmp_path / "lock.zip", [("a", b"1")])
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match="'a' is encrypted"):
        Archive(path)
    path = archive_of(tmp_path / "rare.zip", [("a", b"1")], compression=zipfile.ZIP_BZIP2)
    with pytest.raises(UnsupportedError, match="'a' is packed by method 12"):
        Archive(path)


def test_a_bomb_is_not_unpacked(tmp_path):
    path = archive_of(tmp_path / "a.zip", [("a", bytes(20_000_000))], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(TooLargeError, match="unpacks to 20,000,000 bytes, the limit is 16,777,216"):
        Archive(path)
    with pytest.raises(TooLargeError, match="the limit is 1,000;"):
        Archive(path, max_bytes=1000)


def test_a_member_that_holds_more_than_it_says_is_damaged(tmp_path):
    path = archive_of(tmp_path / "a.zip", [("a", bytes(5000))], compression=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 7)
    struct.pack_into("<I", data, 22, 7)
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="'a' is damaged"):
        Archive(path).read("a", 100)


def test_members_that_share_bytes_are_unsafe(tmp_path):
    path = archive_of(tmp_path / "a.zip", [("a", b"1" * 50), ("b", b"2" * 60)])
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02", data.find(b"PK\x01\x02") + 1)
    struct.pack_into("<I", data, at + 42, 0)
    path.write_bytes(data)
    with pytest.raises(UnsafeFileError, match="lie in the same bytes"):
        Archive(path)


def test_what_lies_wrong_is_damaged(tmp_path):
    path = archive_of(tmp_path / "a.zip", [("a", b"1" * 50), ("b", b"2" * 60)])
    whole, at = path.read_bytes(), path.read_bytes().find(b"PK\x01\x02")
    for where, what, words in [
        (at + 42, 9, "'a' is not where it should be"),
        (at + 20, 51, "has two sizes"),
        (26, 60_000, "lie in the same bytes|reaches into the directory"),
    ]:
        data = bytearray(whole)
        struct.pack_into("<H", data, where, what)
        path.write_bytes(data)
        with pytest.raises(FileError, match=words):
            Archive(path)
    path.write_bytes(whole.replace(b"1" * 50, b"1" * 49 + b"3"))
    with pytest.raises(DamagedFileError, match=r"'a' is damaged .*CRC"):
        Archive(path).read("a", 100)


def test_no_archive_at_all_is_told_so(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"no zip archive")
    with pytest.raises(DamagedFileError, match="0 bytes"):
        Archive(tmp_path / "empty")
    with pytest.raises(DamagedFileError, match="a damaged zip archive"):
        Archive(tmp_path / "text")
    with pytest.raises(FileFormatError, match="No such file"):
        Archive(tmp_path / "nothing")


def test_too_many_members_are_counted_before_they_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(zipped, "MAX_MEMBERS", 4)
    path = archive_of(tmp_path / "a.zip", [(f"m{i}", b"") for i in range(5)])
    with pytest.raises(TooLargeError, match="more than 4 members"):
        Archive(path)


def test_300_mutations_end_in_bytes_or_in_words(tmp_path):
    rng, path = random.Random(0), tmp_path / "a.zip"
    whole = archive_of(
        path, [("a", b"1" * 40), ("b/c", b"2" * 90)], compression=zipfile.ZIP_DEFLATED
    ).read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randint(1, 3 * len(data))])
        try:
            with Archive(path) as archive:
                for name in archive.names:
                    archive.read(name, 1000)
        except FileError as error:
            assert str(error).startswith(str(path))
