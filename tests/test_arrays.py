"""Where arrays live, how they move, and a net on a device that is not there."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from minidnn import arrays
from minidnn.arrays import device_of, synchronize, to_device, to_host, xp_of
from minidnn.errors import DeviceError, UsageError
from minidnn.rules import deconvnet, guided
from tests.fakedevice import FakeArray, xp
from tests.nets import every_layer, photo

HAS_CUPY = subprocess.run([sys.executable, "-c", "import cupy"], capture_output=True).returncode == 0


def test_the_array_says_who_computes_with_it():
    assert xp_of(np.zeros(3)) is np
    assert xp_of(np.float64(1)) is np
    assert xp_of(FakeArray(np.zeros(3))) is xp
    assert xp_of(np.zeros(3), None) is np


def test_host_and_device_do_not_mix():
    with pytest.raises(DeviceError, match=r"host array \(2,\) meets device array \(3,\): move one of them"):
        xp_of(np.zeros(2), FakeArray(np.zeros(3)))


def test_what_is_no_array_says_so():
    with pytest.raises(UsageError, match="wanted an array, found float"):
        xp_of(1.0)


def test_arrays_move_there_and_back(device):
    x = np.arange(6.0).reshape(2, 3)
    there = to_device(x, device)
    assert device_of(there) == device
    assert to_device(there, device) is there
    synchronize(there)
    assert np.array_equal(to_host(there), x)


def test_an_unknown_device():
    with pytest.raises(DeviceError, match="no device 'tpu'; there are cpu, cuda"):
        to_device(np.zeros(3), "tpu")


def test_cuda_without_cupy_says_which_pip_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"CuPy is not installed: pip install 'minidnn\[cuda13\]'"):
        to_device(np.zeros(3), "cuda")


def test_cuda_without_a_card_says_so(monkeypatch):
    class NoCard:
        class cuda:
            @staticmethod
            def is_available():
                return False

    monkeypatch.setitem(sys.modules, "cupy", NoCard)
    with pytest.raises(DeviceError, match="finds no usable GPU; minidnn doctor"):
        arrays.backend("cuda")


@pytest.mark.parametrize("mode", ["test", "train"])
def test_a_net_with_every_layer_runs_the_same_on_every_device(device, mode):
    net = every_layer()
    image = photo(net)
    ends = ["prob", "gap"]

    def run(net, image):
        res = net.init_res(sync=True)
        outs = net.forwardto(res, ends, image, mode=mode, rng=np.random.default_rng(4))
        dzdx = net.backwardfrom(res, dict(outs), params=True)
        return [to_host(array) for array in (*outs.values(), dzdx, *net.gradients(res).values())]

    here, there = run(net, image), run(net.to(device), to_device(image, device))
    assert all(np.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("rules", [guided, deconvnet])
def test_rules_run_on_every_device(device, rules):
    net = every_layer()
    there, image = net.to(device), to_device(photo(net), device)
    res, host = there.init_res(), net.init_res()
    dzdx = there.backwardfrom(res, {"gap": there.forwardto(res, "gap", image)}, rules=rules())
    wanted = net.backwardfrom(host, {"gap": net.forwardto(host, "gap", photo(net))}, rules=rules())
    assert np.allclose(to_host(dzdx), wanted, rtol=1e-10, atol=1e-12)


def test_a_run_moves_in_the_middle_of_a_pass(device):
    net, image = every_layer(), photo(every_layer())
    there = net.to(device)
    whole = net.init_res()
    outs = net.forwardto(whole, ["prob", "gap"], image)
    wanted = net.backwardfrom(whole, outs)
    half = net.init_res()
    net.forwardto(half, "add", image)
    moved = half.to(device)
    outs = there.forwardto(moved, ["prob", "gap"])
    cut = there.backwardfrom(moved, outs, to="add")
    back = moved.to("cpu")
    assert back["pool1"].aux.dtype == np.uint8
    assert np.allclose(net.backwardfrom(back, {"add": to_host(cut)}), wanted, rtol=1e-10, atol=1e-12)
    assert half["prob"].x is None, "the run that was moved from stays as it was"


def test_a_run_that_nobody_looks_at_moves_between_the_two_ways(device):
    """What a convolution did on the way is remembered as bits and switches; they go along, there and back."""
    net, image = every_layer().astype("float32"), photo(every_layer()).astype("float32")
    there, res = net.to(device), net.init_res()
    y = net.forwardto(res, "gap", image, keep="needed")
    wanted, seed = net.backwardfrom(res, {"gap": y}), to_device(y, device)
    found = there.backwardfrom(res.to(device), {"gap": seed})
    assert cosine(to_host(found), wanted) > 0.999999
    res = there.init_res()
    y = there.forwardto(res, "gap", to_device(image, device), keep="needed")
    assert cosine(net.backwardfrom(res.to("cpu"), {"gap": to_host(y)}), wanted) > 0.999999


def cosine(a, b):
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_the_fake_device_is_as_strict_as_a_real_one():
    there = FakeArray(np.ones(3))
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(there)
    with pytest.raises(TypeError, match="a host array among device arrays"):
        there + np.ones(3)
    with pytest.raises(TypeError, match="a host array among device arrays"):
        np.ones(3) * there
    with pytest.raises(AttributeError, match="CuPy has no 'busday_count'"):
        _ = xp.busday_count
