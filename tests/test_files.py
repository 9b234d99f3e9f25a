"""A file appears whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import pytest

from minidnn.errors import OutputError
from minidnn.files import STALE, replacing


def test_a_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o600)
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old", "until all is written"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600, "who may not read the old one may not read the new one"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_old_file_stays_if_anything_goes_wrong(tmp_path, stop):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(stop), replacing(path) as partial:
        partial.write_text("half of the n")
        raise stop
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EDQUOT, "free some of your space"),
        (errno.EFBIG, "allow larger files"),
        (errno.EIO, "choose another place to write to"),
    ],
)
def test_what_the_system_refuses_is_said_with_advice(tmp_path, code, advice):
    with pytest.raises(OutputError, match=advice), replacing(tmp_path / "a.txt"):
        raise OSError(code, os.strerror(code))
    assert not os.listdir(tmp_path)


def test_a_place_that_is_none_is_said(tmp_path):
    for path, words in [
        (tmp_path / "nowhere" / "a.txt", "make the folder first"),
        (tmp_path, "add a name"),
        (tmp_path / ("long" * 80), "choose a shorter name"),
    ]:
        with pytest.raises(OutputError, match=words), replacing(path) as partial:
            partial.write_text("new")


def test_a_limit_on_file_sizes_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = """
import resource, sys
from minidnn.files import replacing
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with replacing(sys.argv[1]) as partial:
    partial.write_bytes(bytes(2000))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "File too large; allow larger files (ulimit -f)" in done.stderr
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_what_dead_writers_left_is_swept_away_a_day_later(tmp_path):
    old, young = tmp_path / f".{'0a' * 8}.part", tmp_path / f".{'1b' * 8}.part"
    mine, named = tmp_path / ".mine.part", tmp_path / f"{'0a' * 8}.part"
    for path in (old, young, mine, named):
        path.write_text("left")
        if path is not young:
            os.utime(path, (time.time() - STALE - 60,) * 2)
    folder, link = tmp_path / f".{'2c' * 8}.part", tmp_path / f".{'3d' * 8}.part"
    (folder / "within").mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    for path in (folder, link):
        os.utime(path, (time.time() - STALE - 60,) * 2, follow_symlinks=False)
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert sorted(os.listdir(tmp_path)) == sorted([young.name, mine.name, named.name, "a.txt", "elsewhere"])
