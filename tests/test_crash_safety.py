"""Killed, interrupted, out of room: a conversion leaves the old file or the new one, nothing in between."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minidnn import weights, zoo
from minidnn.files import PARTIAL, STALE, replacing
from tests.longworker import ROOT
from weights_tools.writers import npz

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits as POSIX has them")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """An archive of LeNet-5's arrays; what is made of it takes a few tenths of a second."""
    path = tmp_path_factory.mktemp("foreign") / "lenet.npz"
    npz.write(path, zoo.get("lenet5", seed=1))
    return path


@pytest.fixture
def out(tmp_path):
    """A good file, to be written over."""
    (tmp_path / "nets").mkdir()
    weights.save(tmp_path / "nets" / "net.h5", zoo.get("lenet5", seed=0))
    return tmp_path / "nets" / "net.h5"


def command(foreign: Path, out: Path, *more: str) -> list[str]:
    begin = [sys.executable, "-B", "-m", "weights_tools", "convert", str(foreign), str(out), "--force"]
    said = ["--arch", "lenet5", "--set", "activation=tanh", "--set", "pool=mean"]
    return [*begin, *said, "--preprocessing", "none", *more]


def started(*args: object) -> subprocess.Popen:
    return subprocess.Popen(
        command(*args), cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def digests() -> set[str]:
    return {weights.digest(zoo.get("lenet5", seed=seed)) for seed in (0, 1)}


def check(out: Path) -> str:
    """The file is whole, and one of the two; beside it is no more than its report and what will be swept."""
    found = weights.verify(out)
    assert found.is_sound and found.digest in digests()
    others = set(os.listdir(out.parent)) - {"net.h5", "net.report.txt"}
    assert all(PARTIAL.fullmatch(name) for name in others), others
    return found.digest


@pytest.fixture(scope="module")
def seconds(foreign, tmp_path_factory):
    """How long one conversion takes here and now."""
    began = time.perf_counter()
    subprocess.run(command(foreign, tmp_path_factory.mktemp("timed") / "net.h5"), cwd=ROOT, check=True)
    return time.perf_counter() - began


def moments(seconds: float, count: int) -> list[float]:
    """Spread over the conversion; the last third, where files are written, is hit twice as often."""
    rng = np.random.default_rng()
    return [*rng.uniform(0, seconds, count), *rng.uniform(0.6 * seconds, 1.1 * seconds, count)]


def test_killed_at_any_moment(foreign, out, seconds):
    for moment in moments(seconds, int(os.environ.get("MINIDNN_CRASHES", 4))):
        ran = started(foreign, out)
        with ran:
            time.sleep(moment)
            ran.kill()
        check(out)
    deadline = time.monotonic() + 20
    while left := running(out.parent):
        assert time.monotonic() < deadline, f"outlives its parent: {left}"
        time.sleep(0.05)
    for name in filter(PARTIAL.fullmatch, os.listdir(out.parent)):
        os.utime(out.parent / name, (time.time() - STALE - 60,) * 2)
    with replacing(out.parent / "any.txt") as partial:
        partial.write_text("the next that writes here")
    (out.parent / "any.txt").unlink()
    assert set(os.listdir(out.parent)) <= {"net.h5", "net.report.txt"}, "swept a day later"


def running(folder: Path) -> list[str]:
    """Processes that are at home in a folder there (Linux tells)."""
    homes = []
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        try:
            homes.append(os.readlink(cwd))
        except OSError:
            continue
    return [home for home in homes if home.startswith(str(folder.resolve()) + os.sep)]


def test_interrupted_at_any_moment(foreign, out, seconds):
    for moment in moments(seconds, int(os.environ.get("MINIDNN_CRASHES", 4))):
        ran = started(foreign, out)
        with ran:
            time.sleep(moment)
            os.killpg(ran.pid, signal.SIGINT)  # as a terminal does it: to both processes
            said = ran.stderr.read().decode()
        check(out)
        if ran.returncode == 130:  # else it was not yet ours to answer, or it had done all
            assert said in ("minidnn: stopped\n", ""), said
        else:
            assert ran.returncode in (0, 1, -signal.SIGINT)
            assert "minidnn" not in said or "KeyboardInterrupt" in said


def refused(ran: subprocess.CompletedProcess, words: str) -> None:
    assert ran.returncode == 6, ran.stderr
    assert re.search(rf"^minidnn: .*net\.h5: {words}", ran.stderr) and "Traceback" not in ran.stderr


def test_a_limit_on_file_sizes(foreign, out):
    before = out.read_bytes()
    for kilobytes in (0, 1, 9, 100, 200):
        limited = f'ulimit -f {kilobytes}; exec "$@"'
        ran = subprocess.run(
            ["bash", "-c", limited, "bash", *command(foreign, out)], cwd=ROOT, capture_output=True, text=True
        )
        assert ran.returncode == 6, ran.stderr
        assert "File too large" in ran.stderr and "Traceback" not in ran.stderr
        assert out.read_bytes() == before and os.listdir(out.parent) == ["net.h5"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB, which only root may make."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("no small disk without root: the limit on file sizes stands for it")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(small_disk, foreign, tmp_path):
    half = tmp_path / "half.h5"
    weights.save(half, zoo.get("lenet5", seed=1), dtype="float16")  # what is made of it is twice as large
    out = small_disk / "net.h5"
    weights.save(out, zoo.get("lenet5", seed=0))
    before = out.read_bytes()
    stuffing = small_disk / "stuffing"
    for left in (0, 4096, 8192, half.stat().st_size + 4096, half.stat().st_size + 60_000, out.stat().st_size):
        stuffing.write_bytes(b"")
        with stuffing.open("wb") as file:
            file.write(bytes(shutil.disk_usage(small_disk).free - left))
        ran = subprocess.run(command(half, out), cwd=ROOT, capture_output=True, text=True)
        refused(ran, "No space left on device; free some space|.* bytes are free, about .* are needed")
        assert out.read_bytes() == before
        assert sorted(os.listdir(small_disk)) == ["net.h5", "stuffing"]
    stuffing.unlink()
    assert subprocess.run(command(half, out), cwd=ROOT, capture_output=True).returncode == 0
    assert weights.verify(out).is_sound and out.read_bytes() != before
