"""The command line: every command, and every way to get it wrong, in the words a user reads."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minidnn import __version__, weights, zoo
from minidnn.cli import doctor
from minidnn.cli.main import main
from minidnn.errors import UsageError


def said(capsys, *argv, code=0):
    assert main(argv) == code
    out, err = capsys.readouterr()
    return err if code else out


def test_layers_prints_the_table(capsys):
    out = said(capsys, "layers", "vgg16")
    assert len([line for line in out.splitlines() if "|" in line]) == 39
    assert "138,357,544" in out


def test_layers_in_other_forms_and_sizes(capsys):
    out = said(capsys, "layers", "gabor", "--size", "30x40", "--batch", "2", "--format", "json")
    assert json.loads(out)["rows"][0]["data_size"] == [30, 40]
    assert json.loads(out)["rows"][0]["data_num"] == 2
    assert said(capsys, "layers", "lenet", "--format", "csv").startswith("number,name,type")


def test_layers_writes_a_file(capsys, tmp_path):
    path = tmp_path / "lenet.csv"
    assert "8 layers" in said(capsys, "layers", "lenet", "--format", "csv", "--output", str(path))
    assert [row["name"] for row in csv.DictReader(path.read_text().splitlines())][-2:] == ["fc4", "prob"]
    nowhere = str(tmp_path / "nowhere" / "lenet.csv")
    assert "cannot write" in said(capsys, "layers", "lenet", "--output", nowhere, code=6)


def test_layers_of_a_net_in_a_python_file(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from minidnn import Net, ReLU\nnet = Net.chain({'relu': ReLU()}, input_shape=(4, 5, 3))\n"
    )
    assert "relu" in said(capsys, "layers", str(path))
    path.write_text("x = 1\n")
    assert "makes no `net`" in said(capsys, "layers", str(path), code=3)
    path.write_text("1 / 0\n")
    assert "fails: ZeroDivisionError: division by zero; --debug" in said(capsys, "layers", str(path), code=3)
    path.write_text("from minidnn import Net\nnet = Net([])\n")
    assert "a net without layers" in said(capsys, "layers", str(path), code=2)


def test_layers_of_a_net_in_a_weight_file(capsys, tmp_path):
    path = tmp_path / "mine.h5"
    weights.save(path, zoo.get("gabor"))
    assert "29,196" in said(capsys, "layers", str(path), "--size", "30x40")
    path.write_bytes(b"")
    assert "0 bytes; fetch it again" in said(capsys, "layers", str(path), code=3)
    path = path.rename(tmp_path / "mine.caffemodel")
    assert "run: minidnn weights convert" in said(capsys, "layers", str(path), code=3)


def test_layers_of_what_is_not_there(capsys):
    assert "no net and no file 'vgg17'; there are gabor" in said(capsys, "layers", "vgg17", code=2)
    assert "--size 3x: give it as 480x640" in said(capsys, "layers", "vgg16", "--size", "3x", code=2)
    assert "--batch 0: give at least 1" in said(capsys, "layers", "vgg16", "--batch", "0", code=2)


def test_an_error_brings_its_notes_and_no_traceback(capsys):
    err = said(capsys, "layers", "vgg16", "--size", "100x120", code=3)
    assert "trained on maps of (7, 7, 512)" in err
    assert "in layer 'fc6', reading 'pool5'" in err
    assert "Traceback" not in err


def test_debug_shows_where_an_error_came_from():
    for argv in (["layers", "vgg17", "--debug"], ["--debug", "layers", "vgg17"]):
        with pytest.raises(UsageError, match="no net"):
            main(argv)


def test_sizes_reproduces_figure_3_of_zfnet(capsys):
    out = said(
        capsys,
        "sizes",
        "224",
        *["conv7/2p1", "pool3/2p1", "conv5/2", "pool3/2p1", "conv3p1", "conv3p1", "conv3p1", "pool3/2"],
    )
    assert [line.split()[-1] for line in out.splitlines()[2:10]] == [
        "110",
        "55",
        "26",
        "13",
        "13",
        "13",
        "13",
        "6",
    ]


def test_sizes_wants_an_image(capsys):
    assert "an image of 0 pixels; give at least 1" in said(capsys, "sizes", "0", "conv3p2", code=2)


def test_ctrl_c_elsewhere_ends_in_130(capsys, monkeypatch):
    def stops(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", stops)
    assert "stopped" in said(capsys, "doctor", code=130)


def test_doctor_reports_and_tries_out(capsys):
    out = said(capsys, "doctor")
    for word in ["Python", "numpy", "BLAS", "threads", "CuPy", "all well: NumPy on the CPU works"]:
        assert word in out


def test_doctor_tries_every_backend(device):
    assert doctor.works(device) == "works"


def test_doctor_gives_the_pip_line():
    assert doctor.advice(12, []) == "not installed: pip install 'minidnn[cuda12]'"
    assert doctor.advice(13, []) == "not installed: pip install 'minidnn[cuda13]'"
    assert doctor.advice(14, []) == "not installed: pip install 'minidnn[cuda13]'"
    assert "without a GPU there is no need" in doctor.advice(None, [])
    both = doctor.advice(13, ["cupy-cuda12x", "cupy-cuda13x"])
    assert "in each other's way: pip uninstall -y cupy-cuda12x cupy-cuda13x && pip install 'mini" in both
    assert both.endswith("'minidnn[cuda13]'")
    assert "a driver for CUDA 12 or later, this one serves 11" in doctor.advice(11, [])
    newer = doctor.advice(12, ["cupy-cuda13x"])
    assert "too new for a driver that serves CUDA 12: pip uninstall -y cupy-cuda13x && pip" in newer
    assert newer.endswith("'minidnn[cuda12]'")
    assert doctor.advice(13, ["numpy"]).startswith("numpy ")


def test_doctor_reads_what_nvidia_smi_says():
    said = "| NVIDIA-SMI 580.65.06     Driver Version: 580.65.06      CUDA Version: 13.0     |"
    assert doctor.read_driver(said) == ("580.65.06", 13)
    assert doctor.read_driver("NVIDIA-SMI has failed because it couldn't communicate with the driver") is None


def test_doctor_does_not_wait_for_an_nvidia_smi_that_hangs(monkeypatch):
    def hangs(*args, timeout, **settings):
        raise subprocess.TimeoutExpired(args, timeout)

    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor.subprocess, "run", hangs)
    assert doctor.driver_there() is None


def test_doctor_says_what_a_broken_backend_says(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "CuPy is not installed" in doctor.works("cuda")


def test_the_command_is_there_by_both_names():
    for command in ([Path(sys.executable).with_name("minidnn")], [sys.executable, "-m", "minidnn"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True)
        assert done.stdout.strip() == f"minidnn {__version__}"


def test_a_reader_that_has_had_enough_is_no_error():
    command = f"{sys.executable} -m minidnn layers vgg16 --format json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("{") and done.stderr == ""


def test_a_reader_that_is_gone_before_a_short_answer_is_no_error_either():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "minidnn", "sizes", "224", "conv7/2p1"]
    env = os.environ | {"PYTHONUNBUFFERED": ""}  # so that the answer leaves in one piece, at the end
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=env)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_told_in_words():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "minidnn", "layers", "lenet"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (6, "minidnn: cannot write: No space left on device\n")


def test_what_argparse_finds_wrong_ends_in_2(capsys):
    for argv in (["drem"], ["layers"], []):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
