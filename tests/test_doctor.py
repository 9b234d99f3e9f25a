"""The doctor: what nvidia-smi and pip say, and the one line to type."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from minidnn import arrays
from minidnn.arrays import Backend, chosen_device, no_room, to_host
from minidnn.cli import doctor
from minidnn.cli.main import main
from minidnn.errors import DeviceError, TooLargeError
from minidnn.layers import ReLU
from tests import fakedevice
from tests.nets import forked, photo

DATA_CENTRE = """\
Tue Mar  4 09:12:44 2025
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.144.03             Driver Version: 550.144.03     CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
|   0  NVIDIA H100 80GB HBM3          On  |   00000000:19:00.0 Off |                    0 |
"""
WSL = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.82.10              Driver Version: 581.29         CUDA Version: 13.0     |
"""
NEWER_WORDS = """\
| NVIDIA-SMI 595.10                 KMD Version: 595.10       CUDA UMD Version: 13.2      |
"""
OLD = "| NVIDIA-SMI 470.256.02   Driver Version: 470.256.02   CUDA Version: 11.4     |\n"
NO_CONTACT = """\
NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA
driver is installed and running.
"""
NO_CUDA = "| NVIDIA-SMI 550.54.14    Driver Version: 550.54.14    CUDA Version: N/A      |\n"


@pytest.mark.parametrize(
    ("said", "driver", "line"),
    [
        (DATA_CENTRE, ("550.144.03", 12), "pip install 'minidnn[cuda12]'"),
        (WSL, ("581.29", 13), "pip install 'minidnn[cuda13]'"),
        (NEWER_WORDS, ("of unknown version", 13), "pip install 'minidnn[cuda13]'"),
        (OLD, ("470.256.02", 11), "update the driver"),
        (NO_CONTACT, None, "without a GPU there is no need for it"),
        (NO_CUDA, None, "without a GPU there is no need for it"),
    ],
    ids=["data centre", "WSL", "newer words", "old", "no contact", "no CUDA"],
)
def test_the_pip_line_is_that_for_the_driver(said, driver, line, monkeypatch):
    done = subprocess.CompletedProcess(["nvidia-smi"], 0, stdout=said)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(doctor, "cupy_wheels", list)
    assert doctor.driver_there() == driver
    assert dict(doctor.report())["CuPy"].endswith(line)


CARDS = "NVIDIA H100 80GB HBM3, 9.0, 81559\nTesla V100-SXM2-16GB, 7.0, 16384\n"


def test_cards_are_told_and_the_oldest_counts(monkeypatch):
    assert doctor.read_cards(CARDS) == [
        ("NVIDIA H100 80GB HBM3", 9.0, 81559),
        ("Tesla V100-SXM2-16GB", 7.0, 16384),
    ]
    assert doctor.read_cards('Field "compute_cap" is not a valid field to query.\n') == []

    def answer(command, **_):
        return subprocess.CompletedProcess(command, 0, stdout=CARDS if len(command) > 1 else WSL)

    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(doctor.subprocess, "run", answer)
    monkeypatch.setattr(doctor, "cupy_wheels", list)
    lines = list(doctor.report())
    assert ("GPU", "NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0") in lines
    assert ("GPU", "Tesla V100-SXM2-16GB, 16 GiB, compute capability 7.0, too old for CUDA 13") in lines
    assert dict(lines)["CuPy"] == "not installed: pip install 'minidnn[cuda12]'", (
        "though the driver serves 13"
    )


def test_nvidia_smi_that_hangs_is_no_driver(monkeypatch):
    def hangs(*args, timeout, **_):
        raise subprocess.TimeoutExpired(args, timeout)

    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(doctor.subprocess, "run", hangs)
    assert doctor.driver_there() is None


def test_several_wheels_are_explained():
    found = doctor.advice(12, ["cupy", "cupy-cuda12x", "cupy-cuda13x"])
    assert "cupy and cupy-cuda12x and cupy-cuda13x, all imported as cupy, are in each other's way" in found
    wanted = "pip uninstall -y cupy cupy-cuda12x cupy-cuda13x && pip install 'minidnn[cuda12]'"
    assert found.endswith(wanted)


class Installed:
    def __init__(self, name):
        self.metadata = {"Name": name}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["numpy", "cupy-cuda12x", None], ["cupy-cuda12x"]),
        (["CuPy", "cupy-cuda13x", "cupyx-tools"], ["cupy", "cupy-cuda13x"]),
        (["cupy-rocm-5-0"], ["cupy-rocm-5-0"]),
        (["cupy-cuda12x", "cupy-cuda12x"], ["cupy-cuda12x"]),  # found twice on the path
        (["minidnn"], []),
    ],
    ids=["one", "two", "of another maker", "twice", "none"],
)
def test_the_wheels_are_those_that_pip_knows(names, found, monkeypatch):
    monkeypatch.setattr(doctor, "distributions", lambda: map(Installed, names))
    assert doctor.cupy_wheels() == found


@pytest.mark.parametrize(
    ("wheel", "version", "words"),
    [
        ("cupy-cuda12x", "14.2.0", "cupy-cuda12x 14.2.0"),
        ("cupy", "14.0.1", "cupy 14.0.1"),
        ("cupy-cuda12x", "13.6.0", "cupy-cuda12x 13.6.0 is too old, 14 or later is wanted: pip uninstall -y"),
        ("cupy-cuda13x", "14.2.0", "cupy-cuda13x is too new for a driver that serves CUDA 12: pip uninstall"),
        (
            "cupy-rocm-5-0",
            "12.0",
            "cupy-rocm-5-0 is not for NVIDIA's cards: pip uninstall -y cupy-rocm-5-0 &&",
        ),
    ],
)
def test_a_wheel_that_does_not_fit_is_explained(wheel, version, words, monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: version)
    assert doctor.advice(12, [wheel]).startswith(words)


def test_why_cupy_finds_no_gpu(monkeypatch):
    def no_usable():
        raise DeviceError("CuPy is installed, but finds no usable GPU; minidnn doctor says what is missing")

    def counts():
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=counts)))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(arrays.BACKENDS, "cuda", no_usable)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(doctor, "driver_there", lambda: None)
    assert doctor.works("cuda").endswith(
        "; no NVIDIA driver answers: install it until nvidia-smi does; docker run wants --gpus all"
    )
    monkeypatch.setattr(doctor, "driver_there", lambda: doctor.Driver("550.144.03", 12))
    assert doctor.works("cuda").endswith(
        "but not to CuPy: cudaErrorNoDevice: no CUDA-capable device is detected"
    )
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 1)
    assert doctor.works("cuda").endswith("the driver answers, and CuPy counts 1: start anew")
    for hidden in ("", "-1", "none"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert doctor.works("cuda").endswith(f"; CUDA_VISIBLE_DEVICES={hidden} hides them all: unset it")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert "start anew" in doctor.works("cuda")


def test_a_cupy_without_cudas_libraries_is_told_how_to_get_them(monkeypatch):
    def broken():
        raise RuntimeError("CuPy failed to load libnvrtc.so.12: cannot open shared object file")

    monkeypatch.setitem(arrays.BACKENDS, "cuda", broken)
    monkeypatch.setattr(doctor, "driver_there", lambda: doctor.Driver("550.144.03", 12))
    monkeypatch.setattr(doctor, "cards_there", list)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    wanted = "file; pip install 'minidnn[cuda12]' brings CUDA's libraries along"
    assert doctor.works("cuda").endswith(wanted)
    monkeypatch.setenv("CUDA_PATH", "/opt/cuda-11")
    assert doctor.works("cuda").endswith("; or CUDA_PATH leads to another version: unset it")


def test_another_failure_is_told_as_it_is(monkeypatch):
    def broken():
        raise RuntimeError("the fan has stopped")

    monkeypatch.setitem(arrays.BACKENDS, "cuda", broken)
    assert doctor.works("cuda") == "fails: RuntimeError: the fan has stopped"


def test_auto_takes_a_gpu_that_works(monkeypatch):
    monkeypatch.setitem(arrays.BACKENDS, "cuda", lambda: fakedevice.BACKEND)
    assert chosen_device("auto") == ("cuda", "there is a GPU")
    assert chosen_device("cpu") == ("cpu", "as asked")


def no_card():
    raise DeviceError("CuPy is not installed: pip install it")


def no_kernel():
    raise RuntimeError("nvrtc: error")


def test_auto_never_fails_and_says_why_not(monkeypatch):
    monkeypatch.setitem(arrays.BACKENDS, "cuda", no_card)
    assert chosen_device("auto") == ("cpu", "no GPU can be used: CuPy is not installed: pip install it")
    broken = Backend(lambda x: no_kernel(), to_host, lambda: None)
    monkeypatch.setitem(arrays.BACKENDS, "cuda", lambda: broken)
    found = ("cpu", "there is a GPU, but it does not compute: RuntimeError: nvrtc: error")
    assert chosen_device("auto") == found
    wrong = Backend(lambda x: 2 * x, to_host, lambda: None)
    monkeypatch.setitem(arrays.BACKENDS, "cuda", lambda: wrong)
    assert chosen_device("auto") == ("cpu", "there is a GPU, but it computes wrongly")


def test_cuda_by_name_fails_loudly(monkeypatch):
    monkeypatch.setitem(arrays.BACKENDS, "cuda", no_card)
    with pytest.raises(DeviceError, match="CuPy is not installed"):
        chosen_device("cuda")
    with pytest.raises(DeviceError, match="no device 'gpu'; there are cpu, cuda"):
        chosen_device("gpu")


def test_the_doctor_says_what_auto_takes(capsys):
    assert main(["doctor"]) == 0
    assert "--device auto takes " in capsys.readouterr().out


class OutOfMemoryError(MemoryError):
    """As CuPy calls it."""


def test_a_gpu_without_room_is_answered_by_a_sentence(monkeypatch, capsys):
    def full(self, x, **_):
        raise OutOfMemoryError("Out of memory allocating 8,589,934,592 bytes (allocated so far: 0 bytes).")

    monkeypatch.setattr(ReLU, "forward", full)
    net = forked()
    with pytest.raises(
        DeviceError, match=r"the GPU has no room left \(Out of memory allocating 8,5"
    ) as found:
        net.forwardto(net.init_res(), "out", photo(net))
    assert "take a smaller size, or let --max-memory cut the work into tiles" in str(found.value)
    assert found.value.__notes__ == ["in layer 'relu1', reading 'conv1'"]

    monkeypatch.setattr(doctor, "run", lambda args: full(None, None))
    assert main(["doctor"]) == 5
    assert capsys.readouterr().err.startswith("minidnn: the GPU has no room left (Out of memory")


def test_a_host_without_room_too():
    assert isinstance(no_room(MemoryError()), TooLargeError)
    assert str(no_room(MemoryError())).startswith("there is no room left (out of memory); take a smaller")
    assert "Unable to allocate 9 GiB" in str(no_room(MemoryError("Unable to allocate 9 GiB")))
