"""The kernels for a GPU as far as they can be proven without one.

Convolution by shifted products is plain array code, so it runs on every device. The text of the kernels is
compiled here as C++, its threads taken one after the other, and then all that CuPy would launch runs on
NumPy's memory; and where CuPy's wheels are installed NVRTC compiles it for real cards too. What is left for
a card is whether it launches, and how fast.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import pytest

from minidnn import kernels
from minidnn.arrays import BACKENDS, to_device, to_host
from minidnn.errors import DeviceError
from minidnn.gradcheck import audit
from minidnn.kernels import choice
from minidnn.kernels.cuda import pointwise, pool, shifted, source
from minidnn.kernels.im2col import conv as plain_conv
from minidnn.kernels.im2col import conv_backward as plain_conv_backward
from minidnn.kernels.im2col import conv_backward_w as plain_conv_backward_w
from minidnn.window import Window
from tests import fakedevice
from tests.nets import every_layer, forked, photo

ROOM = [pointwise, pool, shifted]
TEXTS = [thing for module in ROOM for thing in vars(module).values() if isinstance(thing, source.Kernel)]
TWINS = {  # of each file, where the functions of the same names are
    shifted: "minidnn.kernels.cpu.chunked",
    pool: "minidnn.kernels.pool",
    pointwise: "minidnn.kernels.cpu.pointwise minidnn.kernels.cpu.channels",
}
WINDOWS = [
    Window.of(3, pad=1),
    Window.of((3, 2), pad=(1, 0, 2, 1)),
    Window.of((2, 5), dilation=(3, 1)),
    Window.of(1),
    Window.of(1, pad=(1, 2, 0, 3)),
    Window.of((4, 3), pad=(5, 6, 7, 1), dilation=(2, 3)),
]
POOLS = [
    Window.of(2, stride=2),
    Window.of((3, 2), stride=2, pad=(1, 0, 1, 1), ceil=True),
    Window.of((2, 3), stride=(3, 4)),
    Window.of(3, stride=1, pad=1, dilation=2),
    Window.of((17, 16), pad=(8, 8, 7, 8)),  # more taps than a byte counts
]
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
ON_ONE_THREAD = """
#define __global__
struct Count { int x; };
static const Count blockIdx = {0}, threadIdx = {0}, blockDim = {1}, gridDim = {1};
"""


def numbers(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def signature(function):
    return [(name, p.kind, p.default) for name, p in inspect.signature(function).parameters.items()]


@pytest.mark.parametrize("module", TWINS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_names_and_signatures_are_those_for_numpy(module):
    twins = [importlib.import_module(name) for name in TWINS[module].split()]
    kinds = {shifted.shifts, shifted.add_product, shifted.placed, shifted.cropped, shifted.fits}
    own = {
        name: f
        for name, f in vars(module).items()
        if inspect.isfunction(f) and f.__module__ == module.__name__ and name[0] != "_" and f not in kinds
    }
    assert own
    for name, function in own.items():
        twin = next(getattr(t, name) for t in twins if hasattr(t, name))
        assert signature(function) == signature(twin), name


@pytest.mark.parametrize("kernel", TEXTS, ids=lambda kernel: kernel.name)
def test_every_kernel_names_its_twin(kernel):
    module, _, name = kernel.twin.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_shifted_products_are_the_convolution_and_its_gradients(window, device):
    x, w, b = numbers(2, 15, 13, 4), numbers(*window.kernel, 4, 5, seed=1), numbers(5, seed=2)
    y = plain_conv(x, w, b, window)
    dzdy = numbers(*y.shape, seed=3)
    x_, w_, b_, dzdy_ = (to_device(a, device) for a in (x, w, b, dzdy))
    assert np.allclose(to_host(shifted.conv(x_, w_, b_, window, 1, None)), y)
    found = to_host(shifted.conv(x_, w_, None, window, 1, None, relu=True))
    assert np.allclose(found, np.maximum(y - b, 0))
    found = to_host(shifted.conv_backward(dzdy_, w_, window, x.shape, 1, None))
    assert np.allclose(found, plain_conv_backward(dzdy, w, window, x_shape=x.shape))
    found = to_host(shifted.conv_backward_w(dzdy_, x_, window, 1, None))
    assert np.allclose(found, plain_conv_backward_w(dzdy, x, window))
    assert np.array_equal(to_host(x_), x) and np.array_equal(to_host(dzdy_), dzdy)


@pytest.mark.parametrize(("stride", "groups"), [(2, 1), (1, 2)], ids=["strides", "groups"])
def test_strides_and_groups_go_by_columns(stride, groups):
    window, how = Window.of(3, stride=stride, pad=1), kernels.Kernel("shifted")
    x, w = numbers(2, 7, 6, 4), numbers(3, 3, 4 // groups, 6, seed=1)
    assert how.algorithm(x.shape, w, window, groups) == "im2col"
    y = plain_conv(x, w, None, window, groups=groups)
    assert np.array_equal(kernels.conv(x, w, None, window, groups=groups, how=how), y)


def test_a_net_by_shifted_products_says_the_same_on_every_device(device):
    net, image = forked(), photo(forked())
    fast = net.to(device).with_kernels("shifted")
    assert set(fast.kernels().values()) == {"shifted"}

    def run(net, image):
        res = net.init_res()
        y = net.forwardto(res, "out", image)
        net.backwardfrom(res, {"out": y}, params=True)
        return [to_host(a) for a in (y, res["data"].dzdx, *net.gradients(res).values())]

    pairs = zip(run(fast, to_device(image, device)), run(net, image), strict=True)
    assert all(np.allclose(found, wanted) for found, wanted in pairs)


def test_a_net_by_shifted_products_passes_its_audit():
    net = every_layer().with_kernels("shifted")
    assert {"shifted", "im2col"} == set(net.kernels().values())
    assert audit(net, photo(net)).ok


def test_host_and_device_do_not_meet_in_a_product():
    with pytest.raises(DeviceError, match="host array"):
        shifted.add_product(
            np.zeros((2, 3)), np.zeros((2, 4)), to_device(np.zeros((4, 3)), "fake"), anew=True
        )


# The text of the kernels, as C++ for one thread.


@lru_cache(maxsize=64)
def by_cpp(text: str, name: str):
    """What `source.compiled` hands out, but for the host."""
    with TemporaryDirectory() as folder:
        code, library = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        code.write_text(ON_ONE_THREAD + text)
        done = subprocess.run(
            [
                COMPILER,
                "-O1",
                "-Wall",
                "-Werror",
                "-Wno-unused-function",
                "-shared",
                "-fPIC",
                "-o",
                library,
                code,
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        function = getattr(ctypes.CDLL(str(library)), name)

    def launch(grid, block, args):
        arrays = [getattr(arg, "host", arg) for arg in args]
        assert all(a.flags.c_contiguous for a in arrays if isinstance(a, np.ndarray))
        function(
            *(
                ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_longlong(a)
                for a in arrays
            )
        )

    return launch


if COMPILER:  # without a compiler these are not collected, rather than skipped

    @pytest.fixture
    def as_cpp(monkeypatch):
        """Kernels run on NumPy's arrays."""
        monkeypatch.setattr(source, "compiled", by_cpp)
        monkeypatch.setattr(shifted, "ready", lambda *arrays: True)

    @pytest.fixture
    def card(monkeypatch):
        """The fake device calls itself a GPU, with kernels and BLAS as one has; what ran is written down."""

        def gemm(transa, transb, a, b, out, alpha=1.0, beta=0.0):
            assert (transa, transb, out.flags.c_contiguous) == ("N", "N", True)
            out.host[...] = a.host @ b.host + (out.host if beta else 0)
            products.append(out.shape)

        products = []
        blas = ModuleType("cupy.cublas")
        blas.gemm = gemm
        cupy = ModuleType("cupy")
        cupy.cublas = blas
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "cupy.cublas", blas)
        monkeypatch.setattr(fakedevice.FakeLibrary, "__device__", "cuda")
        monkeypatch.setitem(BACKENDS, "cuda", lambda: fakedevice.BACKEND)
        launched = []

        def compiled(text, name):
            launched.append(name)
            return by_cpp(text, name)

        monkeypatch.setattr(source, "compiled", compiled)
        return launched, products

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("window", POOLS, ids=str)
    def test_pooling_is_that_of_the_twin_bit_for_bit(window, dtype, as_cpp):
        x = numbers(2, 15, 22, 3, dtype=dtype) - 5  # all below zero: the padding must not win
        x[0, 3, 4, 1], x[1, 0, 0, 0] = np.nan, -np.inf
        x[1, 5:8, 5:8] = 2.5  # the first of equals wins
        y, switches = kernels.max_pool(x, window)
        found, found_switches = pool.max_pool(x, window)
        assert np.array_equal(found, y, equal_nan=True) and np.array_equal(found_switches, switches)
        assert found_switches.dtype == switches.dtype
        dzdy = numbers(*y.shape, seed=1, dtype=dtype)
        wanted = kernels.unpool(dzdy, switches, x.shape, window)
        assert np.array_equal(pool.unpool(dzdy, switches, x.shape, window), wanted)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_pointwise_kernels_say_what_their_twins_say(dtype, as_cpp):
        x, y = (numbers(2, 5, 7, 3, seed=seed, dtype=dtype) for seed in (0, 1))
        a, b, c = (numbers(3, seed=seed, dtype=dtype) for seed in (2, 3, 4))
        near = {"rtol": 1e-5 if dtype == "float32" else 1e-13}
        y[0, 2] = 0  # where the gradient is taken as 0
        assert np.array_equal(pointwise.relu_backward(x, y, None), x * (y > 0))
        assert np.allclose(pointwise.scaled(x, a, b, None), x * a + b, **near)
        assert np.allclose(pointwise.blended(x, a, y, b, c, None), x * a + y * b + c, **near)

    @pytest.mark.parametrize("short", [source.SHORT, 1], ids=["int", "long"])
    def test_places_and_crops_are_those_of_the_twin(short, as_cpp, monkeypatch):
        monkeypatch.setattr(source, "SHORT", short)
        window, x, b = Window.of(3, pad=(2, 0, 1, 3)), numbers(2, 5, 6, 4), numbers(4, seed=1)
        wanted = np.pad(x, ((0, 0), (2, 0), (1, 3), (0, 0)))
        ground = shifted.placed(x, window.padded_size(5, 6), (2, 1), None)
        assert np.array_equal(ground, wanted)
        assert np.array_equal(shifted.cropped(ground, (5, 6), (2, 1), None, False, None), x)
        assert np.array_equal(shifted.cropped(ground, (5, 6), (2, 1), b, True, None), np.maximum(x + b, 0))
        assert np.array_equal(shifted.cropped(x.copy(), (5, 6), (0, 0), b, True, None), np.maximum(x + b, 0))

    def test_an_array_of_nothing_is_not_launched(as_cpp):
        assert shifted.placed(numbers(0, 5, 6, 4), (7, 8), (1, 1), None).shape == (0, 7, 8, 4)

    def test_the_engine_finds_them_for_arrays_on_a_card(card, monkeypatch):
        launched, products = card
        monkeypatch.setattr(choice, "FEW", 1)
        net = every_layer()
        image = photo(net)
        assert "shifted" in net.astype("float32").to("cuda").kernels().values(), "auto takes it on a card"
        there = net.to("cuda").with_kernels("shifted")  # in float64 auto would go the plain way

        def run(net, image):
            res = net.init_res()
            y = net.forwardto(res, net.names[-1], image, mode="train", rng=np.random.default_rng(0))
            net.backwardfrom(res, {net.names[-1]: y}, params=True)
            return [to_host(a) for a in (y, res["data"].dzdx, *net.gradients(res).values())]

        for found, wanted in zip(run(there, to_device(image, "cuda")), run(net, image), strict=True):
            assert np.allclose(found, wanted)
        assert {text.name for text in TEXTS} == set(launched)
        assert products

    def test_a_convolution_and_its_relu_are_one_pass_over_the_output(card):
        launched, products = card
        window, x, w, b = (
            Window.of(3, pad=1),
            numbers(1, 6, 7, 9),
            numbers(3, 3, 9, 5, seed=1),
            numbers(5, seed=2),
        )
        there = [to_device(a, "cuda") for a in (x, w, b)]
        y = kernels.conv(*there, window, relu=True, how=kernels.Kernel("shifted"))
        assert np.allclose(to_host(y), np.maximum(plain_conv(x, w, b, window), 0))
        assert launched == ["place", "crop"] and len(products) == 9


try:
    from cupy.cuda import nvrtc

    nvrtc.getVersion()  # loads it, or says that it is not there
except Exception:
    nvrtc = None

if nvrtc:

    @pytest.mark.parametrize("kernel", TEXTS, ids=lambda kernel: kernel.name)
    @pytest.mark.parametrize("t", ["float32", "float64"])
    def test_nvrtc_compiles_it_for_cards_from_turing_to_hopper(kernel, t):
        for card in ("75", "80", "90"):
            for at, s in (("int32", "uint8"), ("int64", "int32")):
                program = nvrtc.createProgram(kernel.source(t, at, s), "kernel.cu", [], [])
                try:
                    nvrtc.compileProgram(program, [f"--gpu-architecture=sm_{card}", "-std=c++17"])
                except nvrtc.NVRTCError:
                    pytest.fail(nvrtc.getProgramLog(program))
                assert nvrtc.getCUBIN(program)
