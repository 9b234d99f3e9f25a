"""The fast convolutions: the numbers of the plain one, whatever the size, the threads and the company."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from minidnn import kernels, zoo
from minidnn import layers as L
from minidnn.errors import UnknownLayerError, UsageError
from minidnn.gradcheck import audit, check_direction
from minidnn.kernels import Kernel, ReluPool
from minidnn.kernels.cpu import chunked, tiling, winograd
from minidnn.kernels.cpu.threads import CREW, Crew
from minidnn.kernels.memory import Arena
from minidnn.net import Net
from minidnn.window import Window
from tests.nets import every_layer, forked, photo, wholly_by
from tests.samples import distinct

FAST = ["chunked", *winograd.TRANSFORMS]
SIZES = {
    "odd": ((2, 13, 9, 5), 7, (1, 1, 1, 1)),
    "four pads": ((1, 11, 17, 6), 3, (0, 2, 1, 0)),
    "one pixel": ((1, 1, 1, 4), 5, (1, 1, 1, 1)),
    "one row": ((3, 1, 23, 2), 4, (1, 1, 0, 0)),
    "no pad": ((1, 6, 7, 3), 64, (0, 0, 0, 0)),
    "a batch": ((7, 5, 6, 4), 20, (1, 1, 1, 1)),
    "tall, in blocks": ((1, 61, 10, 8), 96, (1, 0, 2, 1)),
    "many channels, in phases": ((2, 9, 8, 130), 128, (1, 1, 1, 1)),
    "a prime of outputs": ((1, 20, 20, 16), 67, (1, 1, 1, 1)),
}
fast = pytest.mark.parametrize("name", FAST)


@pytest.fixture
def cut_anew(monkeypatch):
    """Convolutions are cut into tiles once; a test that changes how wants it done again."""
    tiling.tiling.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    tiling.tiling.cache_clear()


sizes = pytest.mark.parametrize(("shape", "k", "pad"), SIZES.values(), ids=SIZES.keys())


def layer_for(shape, k, pad, dtype="float64"):
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((3, 3, shape[3], k)) / 3, rng.standard_normal(k)
    return L.Conv(w.astype(dtype), b.astype(dtype), Window.of(3, pad=pad)), distinct(rng, shape).astype(
        dtype
    ) / shape[3]


def near(found, wanted, tolerance):
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    return np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@fast
@sizes
def test_in_float64_it_is_the_plain_convolution_to_the_last_digits(name, shape, k, pad):
    layer, x = layer_for(shape, k, pad)
    how, mem = Kernel(name), Arena()
    y, plain = layer.forward(x, how=how, mem=mem)[0], layer.forward(x)[0]
    assert near(y, plain, 1e-13)
    dzdy = np.random.default_rng(1).standard_normal(y.shape)
    back = layer.backward(dzdy, x_shape=x.shape, how=how, mem=mem)
    assert near(back, layer.backward(dzdy, x_shape=x.shape), 1e-13)
    dzdw = layer.backward_params(dzdy, x=x, how=how, mem=mem)["w"]
    assert near(dzdw, layer.backward_params(dzdy, x=x)["w"], 1e-13)


def test_a_task_of_several_images_takes_them_whole():
    """So what it writes to lies in one piece."""
    for n, size, window in ((9, 5, Window.of(3)), (40, 30, Window.of(1)), (2, 400, Window.of((5, 1)))):
        w = np.empty((*window.kernel, 4, 8), "float32")
        images, rows = chunked.parts(n, (size, size), window, w)
        assert images == 1 or rows == size


def test_a_bare_convolution_has_nothing_behind_it():
    layer, x = layer_for((1, 5, 6, 4), 8, (1, 1, 1, 1))
    y, behind = kernels.conv(x, layer.w, layer.b, layer.window)
    assert behind is None and np.array_equal(y, layer.forward(x)[0])


WINDOWS = {
    "strided": (Window.of((3, 2), stride=(2, 3), pad=(1, 0, 2, 1)), 1),
    "dilated": (Window.of((2, 3), dilation=(3, 2), pad=(2, 1, 0, 3)), 1),
    "rounding up": (Window.of((4, 3), stride=(3, 2), ceil=True), 1),
    "in groups": (Window.of((3, 2), pad=1), 3),
    "in as many groups as taps": (Window.of((1, 3)), 3),
    "of one pixel": (Window.of(1), 1),
    "of one pixel, strided": (Window.of(1, stride=2), 3),
    "wide": (Window.of((7, 11), stride=(2, 1), pad=3), 1),
}


@pytest.mark.parametrize(("window", "groups"), WINDOWS.values(), ids=WINDOWS.keys())
@pytest.mark.parametrize("c", [3, 24])
@pytest.mark.parametrize("windows_at_once", [1, 400])
def test_chunked_is_the_plain_convolution_for_every_window(window, groups, c, windows_at_once, monkeypatch):
    monkeypatch.setattr(chunked, "IN_CACHE", windows_at_once)
    monkeypatch.setattr(chunked, "LEAST_WINDOWS", windows_at_once)
    rng = np.random.default_rng(0)
    layer = L.Conv(
        rng.standard_normal((*window.kernel, c // groups, 6)), rng.standard_normal(6), window, groups
    )
    x, how = distinct(rng, (2, 19, 23, c)), Kernel("chunked")
    y = layer.forward(x, how=how, mem=Arena())[0]
    assert near(y, layer.forward(x)[0], 1e-13)
    dzdy = rng.standard_normal(y.shape)
    back = layer.backward(dzdy, x_shape=x.shape, how=how, mem=Arena())
    assert near(back, layer.backward(dzdy, x_shape=x.shape), 1e-13)
    dzdw = layer.backward_params(dzdy, x=x, how=how, mem=Arena())["w"]
    assert near(dzdw, layer.backward_params(dzdy, x=x)["w"], 1e-13)


@fast
@pytest.mark.parametrize("at_once", [1, 3_000])
def test_filters_get_the_same_gradient_however_many_images_are_taken_together(name, at_once, cut_anew):
    cut_anew.setattr(tiling, "AT_ONCE", at_once)
    layer, x = layer_for((7, 5, 6, 4), 20, (1, 0, 2, 1))
    dzdy = np.random.default_rng(1).standard_normal(layer.out_shape(x.shape))
    found = layer.backward_params(dzdy, x=x, how=Kernel(name), mem=Arena())["w"]
    assert near(found, layer.backward_params(dzdy, x=x)["w"], 1e-13)
    assert near(layer.forward(x, how=Kernel(name))[0], layer.forward(x)[0], 1e-13)


@fast
@pytest.mark.parametrize("in_cache", [1, 9_000, 40_000])
def test_many_small_images_give_the_same_however_many_a_task_takes(name, in_cache, cut_anew):
    cut_anew.setattr(tiling, "IN_CACHE", in_cache)
    cut_anew.setattr(tiling, "ENOUGH", 1)
    layer, x = layer_for((19, 5, 6, 4), 20, (1, 0, 2, 1))
    dzdy = np.random.default_rng(1).standard_normal(layer.out_shape(x.shape))
    how, plain = Kernel(name), layer.forward(x)[0]
    assert near(layer.forward(x, how=how)[0], plain, 1e-13)
    assert near(layer.forward(x, how=how, behind=ReluPool())[0], np.maximum(plain, 0), 1e-13)
    expected = layer.backward(dzdy, x_shape=x.shape)
    assert near(layer.backward(dzdy, x_shape=x.shape, how=how), expected, 1e-13)


def test_every_tile_is_in_one_block():
    for n, size, c, k in [
        (1, (9, 300), 3, 5),
        (130, (8, 7), 128, 130),
        (6, (70, 33), 64, 64),
        (1, (96, 96), 512, 512),
    ]:
        cut = tiling.Tiling(size, c, k, k, Window.of(3, pad=1), winograd.F4)
        for blocks in (cut.blocks(n), cut.parts(n), cut.parts(n, cut.rows)):
            times = np.zeros((n, cut.rows, cut.columns, 1), int)
            shapes = []
            for block in blocks:
                times[block.which] += 1
                shapes.append(block.shape)
            assert (times == 1).all()
            assert max(shapes) == shapes[0], "the first is what the planner prices"


@fast
@sizes
def test_in_float32_it_errs_less_than_5e_5_of_the_largest_value(name, shape, k, pad):
    exact, x = layer_for(shape, k, pad)
    layer = exact.replacing(w=exact.w.astype("float32"), b=exact.b.astype("float32"))
    y = layer.forward(x.astype("float32"), how=Kernel(name))[0]
    assert y.dtype == np.float32
    assert near(y.astype("float64"), exact.forward(x)[0], 5e-5 if name == "winograd4" else 5e-6)


@fast
@sizes
def test_its_gradient_is_the_gradient(name, shape, k, pad):
    layer, x = layer_for(shape, k, pad)
    how, rng = Kernel(name), np.random.default_rng(2)
    dzdy = rng.standard_normal(layer.out_shape(x.shape))
    dzdx = layer.backward(dzdy, x_shape=x.shape, how=how)
    found = check_direction(lambda x: float((layer.forward(x, how=how)[0] * dzdy).sum()), x, dzdx, rng=rng)
    assert found.error < 1e-7, found


@fast
def test_views_and_read_only_arrays_are_fine(name):
    layer, x = layer_for((2, 13, 9, 5), 7, (1, 1, 1, 1))
    wide = np.full((2, 13, 9, 10), np.nan)
    wide[..., ::2] = x
    wide.flags.writeable = False
    how = Kernel(name)
    assert np.array_equal(layer.forward(wide[..., ::2], how=how)[0], layer.forward(x, how=how)[0])


@fast
def test_scratch_full_of_other_images_does_not_show(name):
    layer, x = layer_for((1, 13, 9, 5), 7, (1, 1, 1, 1))
    how, mem = Kernel(name), Arena()
    for size in (50, 2_000, 10_000, 50_000):
        mem.empty((size,), x)[:] = np.nan
    assert np.isfinite(layer.forward(x, how=how, mem=mem)[0]).all()


@fast
@pytest.mark.parametrize("shape", [(1, 61, 10, 8), (2, 9, 8, 30), (7, 5, 6, 4)])
def test_the_bits_do_not_depend_on_the_threads(name, shape):
    layer, x = layer_for(shape, 48, (1, 1, 1, 1), "float32")
    how, found = Kernel(name), []
    before = CREW.size
    try:
        for size in (1, 2, 5):
            CREW.resize(size)
            y = layer.forward(x, how=how)[0]
            found.append(np.append(y, layer.backward_params(y, x=x, how=how)["w"]))
    finally:
        CREW.resize(before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


# The choice


def test_auto_takes_winograd_where_it_pays_and_the_plain_way_elsewhere():
    net = zoo.get("vgg16", seed=None)
    found = net.kernels()
    assert found["conv1_1"] == "chunked", "three channels are too few to sum over"
    assert set(list(found.values())[1:]) == {"winograd4"}
    assert net.kernels((112, 112))["conv5_1"] == "winograd2", "a map of 7x7 is two tiles of 4"
    assert net.kernels((32, 32))["conv5_1"] == "chunked"
    assert set(net.astype("float64").kernels().values()) == {"im2col"}
    assert set(net.with_kernels("im2col").kernels().values()) == {"im2col"}


def test_a_forced_kernel_obeys_where_it_can():
    net = forked().with_kernels({"conv1": "winograd2", "twin": "winograd4"})
    assert net.kernels() == {"conv1": "winograd2", "a": "im2col", "b": "im2col", "twin": "chunked"}
    assert net.astype("float32").kernels()["conv1"] == "winograd2", "the setting is handed on"
    assert net.params["conv1/w"] is net.with_kernels("im2col").params["conv1/w"]


@pytest.mark.parametrize("name", ["winograd2", "winograd4"])
def test_of_one_name_for_all_few_channels_take_another_way(name):
    net = zoo.get("vgg11", seed=None).with_kernels(name)
    assert net.kernels()["conv1_1"] == "chunked" and {*net.kernels().values()} == {"chunked", name}
    assert net.with_kernels({"conv1_1": name}).kernels()["conv1_1"] == name, "one that is named obeys"


def test_an_unknown_kernel_or_layer():
    with pytest.raises(
        UsageError, match="no kernel 'winograd3'; there are auto, im2col, chunked, winograd2, winograd4"
    ):
        forked().with_kernels("winograd3")
    with pytest.raises(
        UnknownLayerError, match="no layer 'conv' to choose a kernel for; did you mean 'conv1'"
    ):
        forked().with_kernels({"conv": "im2col"})
    with pytest.raises(UsageError, match="give the net its input_shape"):
        zoo.get("gabor").kernels()


@fast
@pytest.mark.parametrize("make", [forked, every_layer])
def test_a_net_by_fast_kernels_passes_its_audit(name, make):
    net = wholly_by(name, make())
    assert name in net.kernels().values()
    found = audit(net, photo(net))
    assert found.ok, str(found)


@fast
def test_a_mutant_of_a_fast_kernel_does_not_pass_it(name, monkeypatch):
    module = chunked if name == "chunked" else winograd
    real = module.conv_backward
    monkeypatch.setattr(module, "conv_backward", lambda *args: 1.01 * real(*args))
    net = wholly_by(name, forked())
    assert {row.layer for row in audit(net, photo(net)).rows if row.verdict == "WRONG"} == {"whole net"}


@fast
def test_a_training_step_is_that_of_the_plain_kernels(name):
    steps = []
    for net in (wholly_by(name, forked()), forked()):
        res = net.init_res()
        for _ in range(2):
            y = net.forwardto(res, "out", photo(net), mode="train")
            net.backwardfrom(res, {"out": y}, params=True, to=None)
            with net.updating() as weights:
                for weight, dzdw in net.gradients(res).items():
                    weights[weight] -= 0.01 * dzdw
        steps.append(net.params)
    for weight in steps[0]:
        assert near(steps[0][weight], steps[1][weight], 1e-12), weight


@fast
def test_prepared_filters_are_made_once_and_forgotten_with_the_weights(name):
    net, image = wholly_by(name, forked()), photo(forked())
    res = net.init_res()
    before = net.forwardto(res, "conv1", image)
    taken = net.prepared.nbytes
    assert (taken > 0) == (name != "chunked"), "the plain filters are used as they are"
    net.forwardto(res, "conv1", image)
    assert net.prepared.nbytes == taken
    with net.updating() as weights:
        weights["conv1/w"] *= 2
        weights["conv1/b"] *= 2
    assert net.prepared.nbytes == 0
    assert near(net.forwardto(res, "conv1", image), 2 * before, 1e-12)


# The crew


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_blas_has_one_thread_while_ours_work_and_all_of_them_after():
    before = blas_threads()
    with CREW.alone():
        assert set(blas_threads()) == {1}
        with CREW.alone():
            pass
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


def test_an_error_in_a_task_is_raised_when_no_task_runs_any_more():
    before, done = blas_threads(), []

    def task(i):
        if i == 3:
            raise ZeroDivisionError("in task 3")
        done.append(i)

    crew = Crew(2)
    with pytest.raises(ZeroDivisionError, match="in task 3"), crew.alone():
        crew.run([lambda i=i: task(i) for i in range(1000)])
    assert len(done) < 1000, "tasks not yet begun are dropped"
    assert blas_threads() == before
    crew.run([lambda: done.append("again")])
    assert done[-1] == "again"


def test_ctrl_c_in_the_middle_of_a_task_leaves_no_one_waiting():
    def stop():
        raise KeyboardInterrupt

    before = blas_threads()
    crew = Crew(3)
    with pytest.raises(KeyboardInterrupt), crew.alone():
        crew.run([lambda: None] * 10 + [stop] + [lambda: None] * 10)
    assert blas_threads() == before


def test_two_runs_at_once_do_not_disturb_each_other():
    net = wholly_by("winograd4", forked(3).astype("float32"))
    images = [photo(net, n=4, seed=seed).astype("float32") for seed in range(2)]
    wanted = [net.forwardto(net.init_res(), "out", image) for image in images]
    before, found = blas_threads(), [[], []]

    def work(i):
        res = net.init_res()
        for _ in range(20):
            found[i].append(net.forwardto(res, "out", images[i]).copy())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    for i in range(2):
        assert len(found[i]) == 20 and all(np.array_equal(y, wanted[i]) for y in found[i])
    assert blas_threads() == before


def test_a_chain_of_many_sizes_shares_one_run():
    net = Net.chain({"conv": L.Conv.random(np.random.default_rng(0), 3, 16, 16, pad=1)})
    res = net.init_res()
    for side in (40, 12, 33, 5):
        x = np.random.default_rng(side).standard_normal((1, side, side + 1, 16)).astype("float32")
        y = net.forwardto(res, "conv", x)
        assert near(y, net.with_kernels("im2col").forwardto(net.init_res(), "conv", x), 5e-5)


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(3001, 90, 50), (50, 90, 3001), (1, 600, 700), (2, 3, 4), (0, 600, 700)]
)
@pytest.mark.parametrize("dtypes", ["ff", "dd", "fd"])
def test_a_product_in_shares_is_the_product(rows, inner, columns, dtypes):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((rows, inner)), rng.standard_normal((columns, inner)).T
    a, b = a.astype(dtypes[0]), b.astype(dtypes[1])
    wanted, out = a.astype("d") @ b, np.empty((columns, rows), np.result_type(a, b)).T
    y, tolerance = kernels.product(a, b), 1e-4 if "f" in dtypes else 1e-12
    assert kernels.product(a, b, out) is out and y.dtype == out.dtype
    assert np.allclose(y, wanted, rtol=0, atol=tolerance) and np.allclose(out, wanted, rtol=0, atol=tolerance)
