"""The kernels for a GPU as far as they can be proven without one.

Convolution by shifted products is plain array code, so it runs on every device. The text of the kernels is
compiled here as C++, its threads taken one after the other, and then all that CuPy would launch runs on
NumPy's memory; and where CuPy's wheels are installed NVRTC compiles it for real cards too. What is left for
a card is whether it launches, and how fast.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest

from minidnn import kernels
from minidnn.arrays import to_device, to_host
from minidnn.errors import DeviceError, ShapeError
from minidnn.gradcheck import audit
from minidnn.kernels import choice
from minidnn.kernels.cuda import blas, pointwise, pool, shifted, source
from minidnn.kernels.im2col import conv as plain_conv
from minidnn.kernels.im2col import conv_backward as plain_conv_backward
from minidnn.kernels.im2col import conv_backward_w as plain_conv_backward_w
from minidnn.kernels.product import product
from minidnn.window import Window
from tests.fakecard import COMPILER, by_cpp, put_in
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


def numbers(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def signature(function):
    """But for `factors`, which only a card can round."""
    found = inspect.signature(function).parameters.items()
    return [(name, p.kind, p.default) for name, p in found if name != "factors"]


@pytest.mark.parametrize("module", TWINS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_names_and_signatures_are_those_for_numpy(module):
    twins = [importlib.import_module(name) for name in TWINS[module].split()]
    kinds = {shifted.shifts, shifted.placed, shifted.cropped, shifted.fits, pointwise.positive}
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
    assert np.allclose(to_host(shifted.conv(x_, w_, b_, window, 1, None, None)[0]), y)
    found = to_host(shifted.conv(x_, w_, None, window, 1, None, kernels.ReluPool())[0])
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
    assert np.array_equal(kernels.conv(x, w, None, window, groups=groups, how=how)[0], y)


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
        product(to_device(np.zeros((2, 3)), "fake"), np.zeros((3, 4)), np.zeros((2, 4)))


# The text of the kernels, as C++ for one thread.


if COMPILER:  # without a compiler these are not collected, rather than skipped

    @pytest.fixture
    def as_cpp(monkeypatch):
        """Kernels run on NumPy's arrays."""
        monkeypatch.setattr(source, "compiled", by_cpp)
        monkeypatch.setattr(shifted, "ready", lambda *arrays: True)

    @pytest.fixture
    def card(monkeypatch):
        """The fake device calls itself a GPU, and has kernels and cuBLAS; what ran is written down."""
        with put_in(monkeypatch) as there:
            yield there

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("window", POOLS, ids=str)
    def test_pooling_is_that_of_the_twin_bit_for_bit(window, dtype, as_cpp):
        x = numbers(2, 15, 22, 3, dtype=dtype) - 5  # all below zero: the padding must not win
        x[0, 3, 4, 1], x[1, 0, 0, 0] = np.nan, -np.inf
        x[1, 5:8, 5:8] = 2.5  # the first of equals wins
        y, switches = kernels.max_pool(x, window)
        found, found_switches = pool.max_pool(x, window)
        assert np.array_equal(found, y, equal_nan=True)
        assert np.array_equal(found_switches[y == y], switches[y == y]), "nobody won where a NaN was"
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
        bits = pointwise.positive(y, None)
        assert np.array_equal(bits, np.packbits(y > 0))
        assert np.array_equal(pointwise.relu_backward(x, bits, None), x * (y > 0))
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
        monkeypatch.setattr(choice, "FEW", 1)
        net = every_layer()
        image = photo(net)
        in_float32 = net.astype("float32").to("cuda")
        assert "shifted" in in_float32.kernels().values(), "auto takes it on a card"
        in_float32.forwardto(in_float32.init_res(), "prob", to_device(image.astype("float32"), "cuda"))
        assert {compute for _, compute in card.products} == {68}, "nobody asked for less than float32"
        there = net.to("cuda").with_kernels("shifted")  # in float64 auto would go the plain way

        def run(net, image):
            res = net.init_res()
            y = net.forwardto(res, net.names[-1], image, mode="train", rng=np.random.default_rng(0))
            net.backwardfrom(res, {net.names[-1]: y}, params=True)
            return [to_host(a) for a in (y, res["data"].dzdx, *net.gradients(res).values())]

        for found, wanted in zip(run(there, to_device(image, "cuda")), run(net, image), strict=True):
            assert np.allclose(found, wanted)
        assert {text.name for text in TEXTS} == set(card.launched)

    def test_a_convolution_and_its_relu_are_one_pass_over_the_output(card):
        window = Window.of(3, pad=1)
        shapes = (1, 6, 7, 9), (3, 3, 9, 5), (5,)
        x, w, b = (numbers(*shape, seed=seed, dtype="float32") for seed, shape in enumerate(shapes))
        there = [to_device(a, "cuda") for a in (x, w, b)]
        y, _ = kernels.conv(*there, window, kernels.ReluPool(), how=kernels.Kernel("shifted"))
        assert np.allclose(to_host(y), np.maximum(plain_conv(x, w, b, window), 0), atol=1e-4)
        assert card.launched == ["place", "crop", "positive"] and len(card.products) == 8, (
            "the first is CuPy's"
        )

    @pytest.mark.parametrize(("name", "compute"), [("tf32", 77), ("bfloat16", 75), ("float16", 74)])
    def test_factors_are_rounded_where_a_kernel_asks_for_it_and_there_both_ways(name, compute, card):
        window, how = Window.of((3, 2), pad=1), kernels.Kernel(name)
        x, w = numbers(1, 6, 7, 9, dtype="float32"), numbers(3, 2, 9, 5, seed=1, dtype="float32")
        x_, w_ = to_device(x, "cuda"), to_device(w, "cuda")
        y, _ = kernels.conv(x_, w_, None, window, how=how)
        kernels.conv_backward(y, w_, window, x_shape=x.shape, how=how)
        kernels.conv_backward_w(y, x_, window, how=how)
        assert [found for _, found in card.products] == [compute] * 18

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("turned", ["neither", "left", "right", "both", "in pieces", "one column"])
    def test_cublas_is_asked_for_the_product_of_what_lies_there(turned, dtype, card):
        a, b = numbers(5, 3, dtype=dtype), numbers(3, 4, seed=1, dtype=dtype)
        a_, b_ = to_device(a, "cuda"), to_device(b, "cuda")
        if turned in ("left", "both"):
            a_ = to_device(np.ascontiguousarray(a.T), "cuda").T
        if turned in ("right", "both"):
            b_ = to_device(np.ascontiguousarray(b.T), "cuda").T
        if turned == "in pieces":
            a_ = to_device(np.repeat(a, 2, axis=1), "cuda")[:, ::2]
        if turned == "one column":
            b, b_ = b[:, :1], b_[:, :1]
        out = to_device(np.ones((5, b.shape[1]), dtype), "cuda")
        assert product(a_, b_, out, add=True) is out
        assert np.allclose(to_host(out), a @ b + 1, atol=1e-5)
        assert np.allclose(to_host(product(a_, b_, out, factors="tf32")), a @ b, atol=1e-5)
        assert len(card.products) == 2

    def test_plain_products_are_cupys(card):
        """So the plain convolution, which others are checked against, owes nothing to our way to cuBLAS."""
        x, w = (to_device(numbers(*shape, dtype="float32"), "cuda") for shape in ((1, 6, 7, 9), (3, 3, 9, 5)))
        window, how = Window.of(3, pad=1), kernels.Kernel("im2col")
        y, _ = kernels.conv(x, w, None, window, how=how)
        kernels.conv_backward(y, w, window, x_shape=x.shape, how=how)
        kernels.conv_backward_w(y, x, window, how=how)
        assert not card.products

    @pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 4), (5, 0, 4), (5, 3, 0)])
    def test_products_of_nothing_do_not_ask_cublas(m, k, n, card):
        a, b = (to_device(numbers(*shape, dtype="float32"), "cuda") for shape in ((m, k), (k, n)))
        out = to_device(np.ones((m, n), "float32"), "cuda")
        assert np.array_equal(to_host(product(a, b, out, add=True)), np.ones((m, n)))
        assert np.array_equal(to_host(product(a, b, out, factors="tf32")), np.zeros((m, n)))
        assert not card.products

    def test_products_that_do_not_fit_are_refused_before_cublas_is_asked(card):
        a, b = (to_device(numbers(*shape, dtype="float32"), "cuda") for shape in ((5, 3), (3, 4)))
        for left, right, out in ((b, b, None), (a, b, a), (a, b, to_device(numbers(5, 4), "cuda"))):
            with pytest.raises(ShapeError, match="no product of"):
                product(left, right, out, factors="tf32")
        assert not card.products

    def of_cublas():
        return (to_device(numbers(*shape, dtype="float32"), "cuda") for shape in ((5, 3), (3, 4)))

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            ("cublasCreate_v2", "cuBLAS does not start; minidnn doctor"),
            ("cublasSetStream_v2", "cuBLAS takes neither stream nor memory"),
            ("cublasSetWorkspace_v2", "cuBLAS takes neither stream nor memory"),
            ("cublasGemmEx", "cuBLAS does not multiply 5x3 by 3x4: its status is 13"),
        ],
    )
    def test_what_cublas_refuses_is_said(call, words, card, monkeypatch):
        monkeypatch.setattr(card.blas, call, lambda *_: 13)
        with pytest.raises(DeviceError, match=words):
            product(*of_cublas(), factors="tf32")

    def test_cublas_that_is_not_found_is_said(card, monkeypatch):
        def missing(path):
            raise OSError("libcublas.so: cannot open shared object file")

        monkeypatch.setattr(blas, "CDLL", missing)
        with pytest.raises(DeviceError, match=r"cuBLAS is not found.*minidnn doctor"):
            product(*of_cublas(), factors="tf32")


# The text of the kernels, by the compiler of the cards themselves; it needs none.


def nvrtc_there() -> ctypes.CDLL | None:
    """Out of the wheel nvidia-cuda-nvrtc-cu12, which comes with CuPy's and also alone."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*[0-9]")):
            return ctypes.CDLL(str(path))
    return None


nvrtc = nvrtc_there()

if nvrtc:

    @pytest.mark.parametrize("kernel", TEXTS, ids=lambda kernel: kernel.name)
    @pytest.mark.parametrize("t", ["float32", "float64"])
    def test_nvrtc_compiles_it_for_cards_from_turing_to_hopper(kernel, t):
        for card in ("75", "80", "90"):
            for at, s in (("int32", "uint8"), ("int64", "int32")):
                program, size = ctypes.c_void_p(), ctypes.c_size_t()
                text, options = kernel.source(t, at, s).encode(), [f"-arch=sm_{card}".encode(), b"-std=c++17"]
                none = [None, None]
                assert not nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"kernel.cu", 0, *none)
                if nvrtc.nvrtcCompileProgram(program, 2, (ctypes.c_char_p * 2)(*options)):
                    log = ctypes.create_string_buffer(10_000)
                    nvrtc.nvrtcGetProgramLog(program, log)
                    pytest.fail(log.value.decode())
                assert not nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) and size.value > 0
                nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
