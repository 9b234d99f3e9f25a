"""Each way back is the adjoint of its way there: <A x, r> = <x, Aᵀ r>, over every geometry.

The numbers are small whole ones, so that both sides are exact and compare with ==.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from minidnn import kernels
from minidnn.kernels.memory import Arena
from minidnn.kernels.pool import divisors
from minidnn.window import Window
from tests import reference
from tests.samples import distinct, geometry

unhurried = settings(deadline=None, max_examples=100)


def pairs(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def windows_on_images(draw, *, seeing: bool = False) -> tuple[Window, tuple[int, int, int, int]]:
    """A window of any geometry, and the shape (n, h, w, c) of images that it fits on.

    `seeing`: every window has a pixel of the image under it.
    """
    kernel, dilation = draw(pairs(1, 3)), draw(pairs(1, 3))
    eh, ew = Window(kernel, dilation=dilation).extent
    most = (eh - 1, eh - 1, ew - 1, ew - 1) if seeing else (3, 3, 3, 3)
    top, bottom, left, right = pad = draw(st.tuples(*(st.integers(0, limit) for limit in most)))
    window = Window.of(kernel, stride=draw(pairs(1, 4)), pad=pad, dilation=dilation, ceil=draw(st.booleans()))
    least = dilation if seeing else (1, 1)
    h = max(least[0], eh - top - bottom) + draw(st.integers(0, 5))
    w = max(least[1], ew - left - right) + draw(st.integers(0, 5))
    return window, (draw(st.integers(1, 3)), h, w, draw(st.integers(1, 3)))


seeds = st.integers(0, 2**32 - 1)


def whole(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Arrays of whole numbers from -9 to 9, in float64."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-9, 10, shape).astype("float64") for shape in shapes]


def dot(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float((a * b).sum())


# Windows as rows


@given(windows_on_images(), seeds)
@unhurried
def test_col2im_is_the_adjoint_of_im2col(case, seed):
    window, shape = case
    n, h, w, c = shape
    x, r = whole(seed, shape, (n, *window.out_size(h, w), window.taps, c))
    assert dot(kernels.im2col(x, window), r) == dot(x, kernels.col2im(r, shape, window))


@given(windows_on_images(), seeds)
@unhurried
def test_im2col_lays_out_the_pixel_under_each_tap_and_the_fill_where_there_is_none(case, seed):
    window, shape = case
    (x,) = whole(seed, shape)
    expected = np.full((shape[0], *window.out_size(*shape[1:3]), window.taps, shape[3]), 77.0)
    for i, j, top, left in reference.places(shape, window):
        for a, b, row, col in reference.pixels(shape, window, top, left):
            expected[:, i, j, a * window.kernel[1] + b] = x[:, row, col]
    assert_array_equal(kernels.im2col(x, window, fill=77.0), expected)


@given(windows_on_images())
@unhurried
def test_col2im_of_ones_counts_the_windows_that_see_each_pixel(case):
    window, shape = case
    n, h, w, c = shape
    expected = np.zeros(shape)
    for _, _, top, left in reference.places(shape, window):
        for _, _, row, col in reference.pixels(shape, window, top, left):
            expected[:, row, col] += 1
    ones = np.ones((n, *window.out_size(h, w), window.taps, c))
    assert_array_equal(kernels.col2im(ones, shape, window), expected)


@given(windows_on_images(), seeds)
@unhurried
def test_a_padded_image_has_the_padded_size_and_the_image_at_its_first_pads(case, seed):
    window, shape = case
    n, h, w, c = shape
    (x,) = whole(seed, shape)
    ground = kernels.padded(x, window, fill=0.5)
    assert ground.shape == (n, *window.padded_size(h, w), c)
    top, _, left, _ = window.pad
    assert_array_equal(ground[:, top : top + h, left : left + w], x)
    assert (ground == 0.5).sum() == ground.size - x.size


# Convolution


@given(windows_on_images(), st.integers(1, 3), st.integers(1, 3), seeds)
@unhurried
def test_both_gradients_of_a_convolution_are_its_adjoints(case, groups, k, seed):
    window, (n, h, w, c) = case
    shape = (n, h, w, groups * c)
    x, bank, r = whole(seed, shape, (*window.kernel, c, groups * k), (n, *window.out_size(h, w), groups * k))
    along_output = dot(kernels.conv(x, bank, None, window, groups=groups)[0], r)
    dzdx = kernels.conv_backward(r, bank, window, x_shape=shape, groups=groups)
    dzdw = kernels.conv_backward_w(r, x, window, groups=groups)
    assert dot(x, dzdx) == along_output
    assert dot(bank, dzdw) == along_output


class Dirty(Arena):
    """A memory that lends out arrays full of what was never meant to be read."""

    def empty(self, shape, like, dtype=None):
        lent = super().empty(shape, like, dtype)
        lent.fill(np.nan)
        return lent


def each_pass(seed: int, **memory) -> list[np.ndarray]:
    """A convolution in two groups, forward and both ways back, of three images."""
    window, h, w = geometry(np.random.default_rng(seed))
    x, bank, r = whole(seed, (3, h, w, 4), (*window.kernel, 2, 6), (3, *window.out_size(h, w), 6))
    return [
        kernels.conv(x, bank, None, window, groups=2, **memory)[0],
        kernels.conv_backward(r, bank, window, x_shape=x.shape, groups=2, **memory),
        kernels.conv_backward_w(r, x, window, groups=2, **memory),
    ]


@pytest.mark.parametrize("seed", range(10))
def test_scratch_that_was_used_before_changes_no_number(seed):
    for ours, expected in zip(each_pass(seed, mem=Dirty()), each_pass(seed), strict=True):
        assert_array_equal(ours, expected)


@pytest.mark.parametrize("seed", range(10))
def test_a_batch_too_large_for_one_matrix_is_worked_off_image_by_image(seed, monkeypatch):
    at_once = each_pass(seed)
    monkeypatch.setattr(import_module("minidnn.kernels.im2col"), "ROWS_AT_ONCE", 1)
    for ours, expected in zip(each_pass(seed), at_once, strict=True):
        assert_array_equal(ours, expected)


# Pooling


@given(windows_on_images(), seeds)
@unhurried
def test_pool_by_switch_is_the_adjoint_of_unpool(case, seed):
    window, shape = case
    x, z = whole(seed, shape, shape)
    _, switches = kernels.max_pool(x, window)
    (r,) = whole(seed + 1, switches.shape)
    back = kernels.unpool(r, switches, shape, window)
    assert dot(back, z) == dot(r, kernels.pool_by_switch(z, switches, window))


@given(windows_on_images(), seeds)
@unhurried
def test_the_pixels_that_the_switches_of_max_pool_name_are_its_output(case, seed):
    window, shape = case
    (x,) = whole(seed, shape)
    y, switches = kernels.max_pool(x, window)
    sees_a_pixel = np.isfinite(y)
    assert_array_equal(kernels.pool_by_switch(x, switches, window)[sees_a_pixel], y[sees_a_pixel])


@given(windows_on_images(), seeds)
@unhurried
def test_max_pool_is_the_largest_of_each_row_of_im2col(case, seed):
    window, shape = case
    (x,) = whole(seed, shape)
    y, switches = kernels.max_pool(x, window)
    rows = kernels.im2col(x, window, fill=-np.inf)
    assert_array_equal(y, rows.max(axis=3))
    assert_array_equal(switches, rows.argmax(axis=3))


@pytest.mark.parametrize("of", [(3, 2, 1), (3, 1, 1), (3, 3, 0), (2, 2, 0), ((5, 3), (1, 2), 2)])
def test_pools_a_few_rows_at_a_time_are_those_of_the_whole(of, monkeypatch):
    """Both ways; where windows overlap, blocks side by side add to the same pixels."""
    kernel, stride, pad = of
    window, shape = Window.of(kernel, stride=stride, pad=pad, ceil=True), (2, 17, 14, 3)
    (x,) = whole(0, shape)
    y, switches = kernels.max_pool(x, window)
    (dzdy,) = whole(1, y.shape)
    dzdx = kernels.unpool(dzdy, switches, shape, window)
    monkeypatch.setattr(import_module("minidnn.kernels.pool"), "IN_CACHE", 1)
    for _ in range(5):
        found, same = kernels.max_pool(x, window)
        assert_array_equal(found, y)
        assert_array_equal(same, switches)
        assert_array_equal(kernels.unpool(dzdy, switches, shape, window), dzdx)


@pytest.mark.parametrize(("kernel", "taps"), [((16, 16), 256), ((16, 17), 272)])
def test_switches_can_name_the_last_tap_of_a_window_however_large(kernel, taps):
    x = distinct(np.random.default_rng(0), (1, *kernel, 1))
    x[0, -1, -1, 0] = 5.0
    _, switches = kernels.max_pool(x, Window.of(kernel))
    assert int(switches[0, 0, 0, 0]) == taps - 1


@pytest.mark.parametrize("divisor", ["real", "padded", "all"])
@given(case=windows_on_images(seeing=True), seed=seeds)
@unhurried
def test_avg_pool_backward_is_the_adjoint_of_avg_pool(divisor, case, seed):
    window, shape = case
    n, h, w, c = shape
    x, r = whole(seed, shape, (n, *window.out_size(h, w), c))
    there, back = kernels.avg_pool(x, window, divisor), kernels.avg_pool_backward(r, shape, window, divisor)
    assert_allclose(dot(there, r), dot(x, back), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("divisor", ["real", "padded", "all"])
@given(case=windows_on_images())
@unhurried
def test_divisors_are_the_taps_that_count(divisor, case):
    window, shape = case
    counted = divisors(*shape[1:3], window, divisor)
    for i, j, top, left in reference.places(shape, window):
        assert counted[i, j, 0] == reference.divisor(shape, window, top, left, divisor)


# Neighbours

maps = st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 7))


@given(maps, pairs(0, 8), seeds)
@unhurried
def test_channel_sum_is_the_adjoint_of_itself_with_before_and_after_exchanged(shape, reach, seed):
    x, r = whole(seed, shape, shape)
    before, after = reach
    there, back = kernels.channel_sum(x, before, after), kernels.channel_sum(r, after, before)
    assert dot(there, r) == dot(x, back)


@given(maps, pairs(0, 8), seeds)
@unhurried
def test_channel_sum_adds_the_channels_within_reach_that_exist(shape, reach, seed):
    (x,) = whole(seed, shape)
    before, after = reach
    total = kernels.channel_sum(x, before, after)
    for k in range(shape[3]):
        assert_array_equal(total[..., k], x[..., max(0, k - before) : k + after + 1].sum(axis=3))


@given(maps, st.integers(0, 6), seeds)
@unhurried
def test_square_sum_is_its_own_adjoint(shape, reach, seed):
    x, r = whole(seed, shape, shape)
    assert dot(kernels.square_sum(x, reach), r) == dot(x, kernels.square_sum(r, reach))


@given(maps, st.integers(0, 6), seeds)
@unhurried
def test_square_sum_adds_the_pixels_within_reach_that_exist(shape, reach, seed):
    (x,) = whole(seed, shape)
    total = kernels.square_sum(x, reach)
    for i, j in np.ndindex(shape[1:3]):
        rows, columns = slice(max(0, i - reach), i + reach + 1), slice(max(0, j - reach), j + reach + 1)
        assert_array_equal(total[:, i, j], x[:, rows, columns].sum(axis=(1, 2)))
