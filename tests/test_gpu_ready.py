"""What stands ready for a GPU: its tests and races in one line each, the lesson, and the same bits twice."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from benchmarks import __main__ as front
from benchmarks import card, gpu, race
from minidnn import arrays, zoo
from minidnn.arrays import BACKENDS, to_device, to_host
from minidnn.dream import dream, squared_norm
from minidnn.dream.loop import Way
from minidnn.dream.transforms import Jitter
from minidnn.errors import DeviceError
from minidnn.losses import cross_entropy
from minidnn.optim import Momentum
from minidnn.zoo.tiny import tiny
from tests import cupynames, fakedevice, onacard
from tests.nets import every_layer, photo
from tests.test_docs import ROOT
from tests.test_docs import run as run_page

WORDS = "CuPy is installed, but finds no usable GPU; minidnn doctor says what is missing"


@pytest.fixture
def no_card(monkeypatch):
    def none():
        raise DeviceError(WORDS)

    monkeypatch.setitem(BACKENDS, "cuda", none)


# Without a card


def test_the_tests_for_a_card_say_that_there_is_none(no_card, capsys, monkeypatch):
    monkeypatch.setattr(pytest, "main", lambda *_, **__: pytest.fail("they ran"))
    assert onacard.main([]) == DeviceError.exit_code
    assert capsys.readouterr().err == f"make test-gpu: {WORDS}\n"


@pytest.mark.parametrize("name", ["gpu", "dream", "layers", "train"])
def test_a_race_on_a_card_says_that_there_is_none(name, no_card, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks", name, "--device", "cuda"])
    assert front.main() == DeviceError.exit_code
    assert capsys.readouterr().err == f"benchmarks: {WORDS}\n"


@pytest.mark.parametrize(
    ("name", "works"),
    [("dream", ["dream", "memory"]), ("layers", ["layers"]), ("train", ["training"]), ("gpu", [*gpu.WORKS])],
)
def test_a_race_on_a_card_is_that_part_of_the_race_there(name, works, monkeypatch):
    seen = []
    monkeypatch.setattr(gpu, "run", seen.append)
    monkeypatch.setitem(front.RACES, "gpu", SimpleNamespace(add_arguments=gpu.add_arguments, run=seen.append))
    monkeypatch.setattr(sys, "argv", ["benchmarks", name, "--device", "cuda", "--rounds", "4"])
    assert front.main() == 0
    (asked,) = seen
    assert [*asked.works] == works and (asked.device, asked.rounds) == ("cuda", 4)
    assert asked.sizes == [224, 1024] or name == "dream"


def test_what_came_of_the_tests_is_kept_with_the_card(tmp_path, monkeypatch, capsys):
    def ran(argv, plugins):
        for when, outcome, where in (
            ("setup", "passed", "a[cuda]"),
            ("call", "passed", "a[cuda]"),
            ("call", "failed", "b[net-cuda]"),
            ("setup", "skipped", "c[cpu]"),
        ):
            report = SimpleNamespace(when=when, outcome=outcome, nodeid=where, failed=outcome == "failed")
            plugins[0].pytest_runtest_logreport(report)
        return 1

    monkeypatch.setitem(BACKENDS, "cuda", lambda: fakedevice.BACKEND)
    monkeypatch.setattr(pytest, "main", ran)
    monkeypatch.setattr(race, "RESULTS", tmp_path)
    monkeypatch.setattr(onacard, "facts", lambda device: {"name": "a card"})
    assert onacard.main([]) == 1
    (path,) = tmp_path.glob("*-test-gpu.json")
    found = json.loads(path.read_text())["results"]
    assert found["card"] == {"name": "a card"} and found["exit"] == 1 and found["failed"] == ["b[net-cuda]"]
    assert found["tests"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert found["of these on the card"] == {"passed": 1, "failed": 1, "skipped": 0}
    assert path.name in capsys.readouterr().out


def test_the_facts_of_a_card_are_kept(monkeypatch):
    about = {
        "name": b"NVIDIA H100",
        "totalGlobalMem": 85e9,
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 132,
    }
    runtime = SimpleNamespace(
        getDeviceProperties=lambda number: about,
        driverGetVersion=lambda: 12080,
        runtimeGetVersion=lambda: 12090,
    )
    device = SimpleNamespace(get_cublas_handle=lambda: 3)
    cupy, libs = ModuleType("cupy"), ModuleType("cupy_backends.cuda.libs")
    cupy.cuda = SimpleNamespace(runtime=runtime, Device=lambda: SimpleNamespace(id=0), device=device)
    libs.cublas = SimpleNamespace(getVersion=lambda handle: 120902)
    for name in ("cupy_backends", "cupy_backends.cuda"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", libs)
    monkeypatch.setattr(card, "cupy_wheels", list)
    found = card.facts("cuda")
    assert found["name"] == "NVIDIA H100" and found["compute capability"] == "9.0" and found["CUDA"] == 12090
    assert card.facts("cpu") == {"name": "the CPU, as a rehearsal"}


# The lesson, on a device that is as strict as a card


def test_the_lesson_of_two_devices_runs_on_two_devices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arrays, "chosen_device", lambda name: ("fake", "there is one"))
    fakedevice.TRAFFIC.clear()
    run_page((ROOT / "docs" / "gpu.md").read_text(encoding="utf-8"), "gpu.md")
    assert {"to device", "to host"} == {way for way, _ in fakedevice.TRAFFIC}


# The same bits, and the same numbers in float32


def test_a_dream_has_the_same_bits_twice(device):
    net = zoo.get("gabor").to(device)
    picture = to_device(np.random.default_rng(0).random((1, 48, 57, 3), "float32") * 255, device)

    def dreamt():
        rng = np.random.default_rng(1)
        steps = dream(net, picture, squared_norm("relu2"), Way(transforms=(Jitter(5),)), rng=rng)
        return [to_host(next(steps).picture) for _ in range(3)]

    assert all(np.array_equal(a, b) for a, b in zip(dreamt(), dreamt(), strict=True))


def test_training_has_the_same_bits_twice(device):
    x = np.random.default_rng(0).standard_normal((6, 32, 32, 3)).astype("float32")
    labels = np.random.default_rng(1).integers(0, 10, 6)

    def trained():
        net, rule, memory = tiny(np.random.default_rng(2), batch_norms=True).to(device), Momentum(0.01), {}
        there, goals, res = to_device(x, device), to_device(labels, device), net.init_res()
        for _ in range(2):
            scores = net.forwardto(res, "scores", there, mode="train", keep="needed")
            net.backwardfrom(res, {"scores": cross_entropy(scores, goals)[1]}, params=True, to=None)
            with net.updating() as w:
                for name, dzdw in net.gradients(res).items():
                    step, memory[name] = rule.step(dzdw, memory.get(name))
                    w[name] += step
        return {name: to_host(array) for name, array in net.params.items()}

    first, second = trained(), trained()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kernels", ["auto", "shifted", "tf32", "bfloat16", "float16"])
def test_in_float32_a_device_says_what_the_host_says_within_rounding(kernels, device):
    """Of a card these are the kernels that it takes for work; in float64 it takes the plain ones."""
    net = every_layer()
    there = net.astype("float32").with_kernels(kernels).to(device)
    image, ends = photo(net), ["prob", "gap"]

    def run(net, image):
        res = net.init_res()
        outs = net.forwardto(res, ends, image)
        return [to_host(array) for array in (*outs.values(), net.backwardfrom(res, dict(outs)))]

    rounding = {"tf32": 2e-3, "float16": 2e-3, "bfloat16": 2e-2}.get(kernels, 1e-5)
    for found, wanted in zip(
        run(there, to_device(image.astype("float32"), device)), run(net, image), strict=True
    ):
        apart = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert apart < 10 * rounding, f"{apart:.1e} apart"


# CuPy's names and arguments


def test_a_call_that_cupy_does_not_take_fails_on_the_fake_device():
    x, xp = to_device(np.ones((2, 3)), "fake"), fakedevice.xp
    with pytest.raises(TypeError, match="CuPy's add knows no where"):
        xp.add(x, x, where=x > 0)
    with pytest.raises(TypeError, match="CuPy's sum knows no initial, where"):
        x.sum(axis=0, where=x > 0, initial=0)
    with pytest.raises(TypeError, match=r"CuPy's argsort takes 3 arguments, not 4"):
        xp.argsort(x, 0, None, None)
    with pytest.raises(AttributeError, match=r"CuPy has no '\.resize'"):
        x.resize(3, 2)
    assert x.reshape(3, 2, order="C").shape == (3, 2) and xp.pad(x, 1, constant_values=0).shape == (4, 5)


try:
    import cupy as real_cupy
except ImportError:
    real_cupy = None

if real_cupy:

    def test_the_names_are_those_of_the_cupy_that_is_installed():
        """An older or newer CuPy may have others; what we call must be there."""
        kept = set(cupynames.PATH.read_text().splitlines())
        assert not kept - set(cupynames.lines(real_cupy)), "python -m tests.cupynames writes them anew"
