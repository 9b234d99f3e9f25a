"""The wall: whatever happens to the process behind it, this one gets a sentence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from minidnn import errors
from minidnn.errors import (
    ConverterCrashed,
    DamagedFileError,
    FileFormatError,
    MismatchError,
    OutputError,
    TooLargeError,
    UnsafeFileError,
)
from minidnn.layers import ReLU
from minidnn.net import Net
from minidnn.weights import save
from tests.longworker import ROOT
from weights_tools import isolation
from weights_tools.isolation import buried, limits_for, revived, run_job

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such limits")


@pytest.fixture
def job(tmp_path):
    """Looking at a tiny file of ours."""
    path = tmp_path / "tiny.h5"
    save(path, Net.chain({"relu": ReLU()}))
    return {"do": "inspect", "what": "tiny.h5", "inputs": [str(path)]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def limits(tmp_path, job):
    return limits_for([tmp_path / "tiny.h5"])


@pytest.fixture
def at_its_start(tmp_path, monkeypatch):
    """Code that the other process runs first: the parent's sys.path is handed on to it."""

    def put(code):
        (tmp_path / "early").mkdir()
        (tmp_path / "early" / "sitecustomize.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path / "early"))

    return put


def test_a_job_comes_back_with_its_result(job, folder, limits):
    assert "weights of minidnn (HDF5)" in run_job(job, folder, limits)["text"]


def test_an_error_comes_back_as_what_it_is_with_its_words(job, folder, limits, tmp_path):
    (tmp_path / "tiny.h5").write_bytes(b"nothing that we know")
    with pytest.raises(FileFormatError, match=r"tiny.h5: no weight file that we know"):
        run_job(job, folder, limits)


@posix
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_is_told_by_the_name_of_its_signal(job, folder, limits, at_its_start, name):
    at_its_start(f"import os, signal\nos.kill(os.getpid(), signal.{name})\n")
    with pytest.raises(
        ConverterCrashed, match=rf"tiny.h5: the reader process died \({name}.*damaged or hostile"
    ):
        run_job(job, folder, limits)


def test_an_end_without_an_answer_brings_its_last_words(job, folder, limits, at_its_start):
    at_its_start(
        "import sys\nprint('out of ideas', file=sys.stderr)\nsys.stderr.flush()\nimport os\nos._exit(7)\n"
    )
    with pytest.raises(ConverterCrashed, match=r"ended with exit code 7 \(its last words: out of ideas\)"):
        run_job(job, folder, limits)


def test_who_takes_too_long_is_stopped(job, folder, limits, at_its_start):
    at_its_start("import time\ntime.sleep(60)\n")
    with pytest.raises(ConverterCrashed, match=r"not done after 0.5 s, so stopped; a damaged file\?"):
        run_job(job, folder, limits | {"seconds": 0.5})


@posix
def test_memory_time_and_files_have_a_limit(job, folder, limits, tmp_path):
    with pytest.raises((ConverterCrashed, TooLargeError)):
        run_job(job, folder, limits | {"memory": 30 << 20})
    (folder / "answer.json").unlink(missing_ok=True)
    out = {"do": "convert", "output": str(folder / "net.h5"), "options": {"preprocessing": "none"}}
    with pytest.raises(OutputError, match="File too large"):
        run_job(job | out, folder, limits | {"file_size": 1000})


@posix
def test_a_loop_without_end_dies_of_its_time(job, folder, limits, at_its_start):
    at_its_start(
        "import builtins, sys\n"
        "class Loop:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'weights_tools.jobs':\n"
        "            while True: pass\n"
        "sys.meta_path.insert(0, Loop())\n"
    )
    with pytest.raises(ConverterCrashed, match=r"died \(SIG(XCPU|KILL), out of time\)"):
        run_job(job, folder, limits | {"cpu_seconds": 1})


def test_no_secret_of_the_environment_is_handed_on_and_its_home_is_private(
    job, folder, limits, at_its_start, monkeypatch
):
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    at_its_start("import os\nopen('seen.txt', 'w').write(os.getcwd() + repr(dict(os.environ)))\n")
    run_job(job, folder, limits)
    seen = (folder / "seen.txt").read_text()
    assert seen.startswith(str(folder.resolve()))
    assert "MY_TOKEN" not in seen and "hunter2" not in seen


def test_limits_grow_with_the_files(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    small, large = limits_for([]), limits_for([path, path])
    assert large["memory"] - small["memory"] == 2 * (200 << 20)
    assert large["cpu_seconds"] - small["cpu_seconds"] == 400


@pytest.mark.parametrize(
    "error, kind, words",
    [
        (MemoryError(), TooLargeError, "a.mat: needs more memory than a file of this size should"),
        (RecursionError(), DamagedFileError, "a.mat: nested deeper than any net"),
        (KeyError("x"), ConverterCrashed, r"a.mat: the reader failed \(KeyError: 'x'\)"),
        (UnsafeFileError("a.mat: unsafe"), UnsafeFileError, "^a.mat: unsafe$"),
    ],
)
def test_errors_go_through_the_wall_as_words(error, kind, words):
    with pytest.raises(kind, match=words):
        raise revived(buried(error, "a.mat"))


def test_notes_go_with_their_error_and_unknown_classes_are_crashes():
    error = MismatchError("no")
    error.add_note("in layer 'conv1'")
    assert revived(buried(error, "a")).__notes__ == ["in layer 'conv1'"]
    assert type(revived({"error": "Popen", "words": "x"})) is ConverterCrashed
    assert all(getattr(errors, name) is kind for name, kind in isolation.ERRORS.items())


def test_letters_that_a_terminal_obeys_are_written_out():
    hostile = "a.mat: no layer '\x1b]0;mine\x07'\nnor '\u202e'; ü is fine"
    told = str(revived({"error": "MismatchError", "words": hostile, "notes": ["\x1b[2J"]}))
    assert told == "a.mat: no layer '\\x1b]0;mine\\x07'\nnor '\\u202e'; ü is fine"


def test_of_an_endless_sentence_both_ends_are_told():
    told = str(revived({"error": "DamagedFileError", "words": "a.mat: " + "x" * 90_000 + "; fetch it again"}))
    assert told.startswith("a.mat: xxx") and told.endswith("x; fetch it again") and len(told) < 4100


def test_an_error_that_names_no_file_gets_its_name():
    assert buried(MismatchError("two nets"), "a.mat")["words"] == "a.mat: two nets"
    assert buried(MismatchError("/x/a.mat: two"), "a.mat")["words"] == "/x/a.mat: two"
    assert buried(MismatchError("b.prototxt: no"), "a.bin, b.prototxt")["words"] == "b.prototxt: no"


@pytest.mark.parametrize(
    "answer",
    ["[" * 50_000, "{}", '{"result": 7}', '{"error": 7, "words": [], "notes": 1}', '["result"]', "\xff"],
)
def test_no_answer_is_believed_that_makes_no_sense(job, folder, limits, at_its_start, answer):
    at_its_start(f"import os\nopen('answer.json', 'w').write({answer!r})\nos._exit(0)\n")
    with pytest.raises(ConverterCrashed, match="ended with exit code 0"):
        run_job(job, folder, limits)


def test_no_room_for_the_job_itself_is_told(job, tmp_path, limits):
    with pytest.raises(OutputError, match=r"nowhere: No such file or directory; free some space"):
        run_job(job, tmp_path / "nowhere", limits)


def test_it_writes_nothing_beside_its_folder_and_ends_with_its_parent(job, folder, limits, at_its_start):
    at_its_start("import os\nopen('seen.txt', 'w').write(repr(dict(os.environ)))\n")
    run_job(job, folder, limits)
    seen = (folder / "seen.txt").read_text()
    assert "'PYTHONDONTWRITEBYTECODE': '1'" in seen and f"'HOME': '{folder}'" in seen
    (folder / "job.json").write_text(json.dumps(job | {"limits": limits}))
    command = [sys.executable, "-B", "-m", "weights_tools._worker", str(folder / "job.json")]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, cwd=ROOT)
    assert ended.returncode == 1, "nobody is at the other end of its input"


def test_how_a_process_ends_in_words():
    assert isolation._end(-signal.SIGTERM) == "died (SIGTERM)"
    assert isolation._end(0xC0000005) == "died (access violation)"
    assert isolation._end(-250) == "died (signal 250)"
