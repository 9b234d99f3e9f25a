"""Layers against the loops of tests/reference.py and against scipy, where no other framework is needed.

Twenty random configurations each, in float64; pads on four sides, dilation, groups and ceil all at once.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import convolve2d, correlate2d

from minidnn import layers
from minidnn.window import Window
from tests import reference
from tests.samples import batch_and_channels, distinct, geometry, grouped, two


@pytest.fixture(params=range(20))
def rng(request) -> np.random.Generator:
    return np.random.default_rng(request.param)


@pytest.fixture(params=[False, True], ids=["floor", "ceil"])
def pooled(request, rng) -> tuple[Window, np.ndarray]:
    """A window, and an image to pool with it."""
    window, h, w = geometry(rng, pooling=True, ceil=request.param)
    n, c = batch_and_channels(rng)
    return window, distinct(rng, (n, h, w, c))


def close(ours, theirs) -> None:
    assert ours.shape == theirs.shape
    assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


# Convolution


@pytest.fixture
def conv(rng) -> tuple[layers.Conv, np.ndarray]:
    ceil = bool(rng.integers(2))
    window, h, w = geometry(rng, ceil=ceil, pooling=ceil)
    n, groups, c, k = grouped(rng)
    bank = distinct(rng, (*window.kernel, c // groups, k))
    return layers.Conv(bank, distinct(rng, (k,)), window, groups), distinct(rng, (n, h, w, c))


@pytest.fixture
def conv_transpose(rng) -> tuple[layers.ConvTranspose, np.ndarray]:
    n, groups, c, k = grouped(rng)
    while True:
        window, h, w = geometry(rng)
        if h - 4 > sum(window.pad[:2]) and w - 4 > sum(window.pad[2:]):
            break
    extra = tuple(int(rng.integers(0, stride)) for stride in window.stride)
    bank = distinct(rng, (*window.kernel, k // groups, c))
    layer = layers.ConvTranspose(bank, distinct(rng, (k,)), window, groups, extra)
    return layer, distinct(rng, (n, h - 4, w - 4, c))


def test_conv_is_a_loop_over_all_its_products(conv):
    layer, x = conv
    y, _ = layer.forward(x)
    close(y, reference.conv(x, layer.w, layer.b, layer.window, layer.groups))


def test_the_gradients_of_conv_are_loops_over_the_same_products(conv, rng):
    layer, x = conv
    dzdy = distinct(rng, layer.out_shape(x.shape))
    dzdx, dzdw, dzdb = reference.conv_gradients(dzdy, x, layer.w, layer.window, layer.groups)
    close(layer.backward(dzdy, x_shape=x.shape), dzdx)
    close(layer.backward_params(dzdy, x=x)["w"], dzdw)
    close(layer.backward_params(dzdy, x=x)["b"], dzdb)


def test_conv_transpose_is_a_loop_that_stamps(conv_transpose):
    layer, x = conv_transpose
    y, _ = layer.forward(x)
    close(y, reference.conv_transpose(x, layer.w, layer.b, layer.window, layer.groups, layer.extra))


def test_the_gradients_of_conv_transpose_are_loops_over_the_same_stamps(conv_transpose, rng):
    layer, x = conv_transpose
    dzdy = distinct(rng, layer.out_shape(x.shape))
    dzdx, dzdw, dzdb = reference.conv_transpose_gradients(dzdy, x, layer.w, layer.window, layer.groups)
    close(layer.backward(dzdy, x_shape=x.shape), dzdx)
    close(layer.backward_params(dzdy, x=x)["w"], dzdw)
    close(layer.backward_params(dzdy, x=x)["b"], dzdb)


def test_conv_of_one_channel_without_pads_is_scipys_valid_correlation(rng):
    image, w = distinct(rng, two(rng, 6, 10)), distinct(rng, two(rng, 1, 5))
    y, _ = layers.Conv(w[:, :, None, None], None, Window.of(w.shape)).forward(image[None, :, :, None])
    close(y[0, :, :, 0], correlate2d(image, w, mode="valid"))


def test_conv_of_one_channel_padded_to_the_full_is_scipys_full_correlation(rng):
    image, w = distinct(rng, two(rng, 6, 10)), distinct(rng, two(rng, 1, 5))
    kh, kw = w.shape
    window = Window.of(w.shape, pad=(kh - 1, kh - 1, kw - 1, kw - 1))
    y, _ = layers.Conv(w[:, :, None, None], None, window).forward(image[None, :, :, None])
    close(y[0, :, :, 0], correlate2d(image, w, mode="full"))


def test_conv_of_one_channel_with_strides_keeps_some_rows_and_columns_of_scipys(rng):
    image, w, (sy, sx) = distinct(rng, two(rng, 6, 10)), distinct(rng, two(rng, 1, 5)), two(rng, 1, 4)
    layer = layers.Conv(w[:, :, None, None], None, Window.of(w.shape, stride=(sy, sx)))
    y, _ = layer.forward(image[None, :, :, None])
    close(y[0, :, :, 0], correlate2d(image, w, mode="valid")[::sy, ::sx])


def test_conv_transpose_of_one_channel_is_scipys_convolution_of_the_spread_image(rng):
    image, w, (sy, sx) = distinct(rng, two(rng, 3, 7)), distinct(rng, two(rng, 1, 5)), two(rng, 1, 4)
    spread = np.zeros([(size - 1) * stride + 1 for size, stride in zip(image.shape, (sy, sx), strict=True)])
    spread[::sy, ::sx] = image
    layer = layers.ConvTranspose(w[:, :, None, None], None, Window.of(w.shape, stride=(sy, sx)))
    y, _ = layer.forward(image[None, :, :, None])
    close(y[0, :, :, 0], convolve2d(spread, w, mode="full"))


def test_conv_transpose_with_pads_crops_scipys_convolution(rng):
    image, w = distinct(rng, two(rng, 6, 9)), distinct(rng, two(rng, 3, 5))
    layer = layers.ConvTranspose(w[:, :, None, None], None, Window.of(w.shape, pad=(0, 2, 1, 3)))
    y, _ = layer.forward(image[None, :, :, None])
    close(y[0, :, :, 0], convolve2d(image, w, mode="full")[0:-2, 1:-3])


# Pooling


def test_max_pool_is_a_loop_and_its_switches_count_taps_row_by_row(pooled):
    window, x = pooled
    y, switches = layers.MaxPool(window).forward(x)
    expected, expected_switches = reference.max_pool(x, window)
    close(y, expected)
    assert_array_equal(switches, expected_switches)


def test_max_pool_of_an_image_that_is_negative_everywhere_is_the_same_loop(pooled):
    window, x = pooled
    y, _ = layers.MaxPool(window).forward(x - 3)
    close(y, reference.max_pool(x - 3, window)[0])


def test_max_pool_of_whole_numbers_gives_ties_to_the_first_tap_row_by_row(pooled):
    window, x = pooled
    x = np.round(2 * x)
    _, switches = layers.MaxPool(window).forward(x)
    assert_array_equal(switches, reference.max_pool(x, window)[1])


def test_the_gradient_of_max_pool_is_a_loop_along_the_switches(pooled, rng):
    window, x = pooled
    layer = layers.MaxPool(window)
    y, switches = layer.forward(x)
    dzdy = distinct(rng, y.shape)
    dzdx = layer.backward(dzdy, aux=switches, x_shape=x.shape)
    close(dzdx, reference.unpool(dzdy, reference.max_pool(x, window)[1], x.shape, window))


def test_max_unpool_is_a_loop_along_the_switches(pooled, rng):
    window, x = pooled
    switches = reference.max_pool(x, window)[1]
    values = distinct(rng, switches.shape)
    y, _ = layers.MaxUnpool(window).forward(values, x)
    close(y, reference.unpool(values, switches, x.shape, window))


@pytest.mark.parametrize("divisor", ["real", "padded", "all"])
def test_avg_pool_is_a_loop_with_each_divisor(pooled, divisor):
    window, x = pooled
    y, _ = layers.AvgPool(window, divisor).forward(x)
    close(y, reference.avg_pool(x, window, divisor))


@pytest.mark.parametrize("divisor", ["real", "padded", "all"])
def test_the_gradient_of_avg_pool_is_a_loop_with_each_divisor(pooled, divisor, rng):
    window, x = pooled
    layer = layers.AvgPool(window, divisor)
    dzdy = distinct(rng, layer.out_shape(x.shape))
    close(layer.backward(dzdy, x_shape=x.shape), reference.avg_pool_gradient(dzdy, x.shape, window, divisor))


# Normalisation


def energies(rng: np.random.Generator) -> dict[str, float]:
    return {
        "kappa": float(rng.uniform(0.5, 2)),
        "alpha": float(rng.uniform(0.2, 2)),
        "beta": float(rng.uniform(0.3, 1.2)),
    }


@pytest.mark.parametrize("size", range(1, 9))
def test_lrn_is_a_loop_over_channels_for_odd_and_even_sizes(rng, size):
    x, numbers = distinct(rng, (2, 3, 4, int(rng.integers(1, 10)))), energies(rng)
    y, _ = layers.LRN(size, **numbers).forward(x)
    close(y, reference.lrn(x, reference.channels_around, size, **numbers))


@pytest.mark.parametrize("size", range(1, 9))
def test_the_gradient_of_lrn_is_a_loop_over_channels_for_odd_and_even_sizes(rng, size):
    x, numbers = distinct(rng, (2, 3, 4, int(rng.integers(1, 10)))), energies(rng)
    layer, dzdy = layers.LRN(size, **numbers), distinct(rng, x.shape)
    _, aux = layer.forward(x)
    expected = reference.lrn_gradient(dzdy, x, reference.channels_around, size, **numbers)
    close(layer.backward(dzdy, x=x, aux=aux), expected)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_lrn_within_is_a_loop_over_the_square(rng, size):
    x, numbers = distinct(rng, (1, *two(rng, 2, 6), 2)), energies(rng)
    y, _ = layers.LRNWithin(size, **numbers).forward(x)
    close(y, reference.lrn(x, reference.square_around, size, **numbers))


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_the_gradient_of_lrn_within_is_a_loop_over_the_square(rng, size):
    x, numbers = distinct(rng, (1, *two(rng, 2, 6), 2)), energies(rng)
    layer, dzdy = layers.LRNWithin(size, **numbers), distinct(rng, x.shape)
    _, aux = layer.forward(x)
    expected = reference.lrn_gradient(dzdy, x, reference.square_around, size, **numbers)
    close(layer.backward(dzdy, x=x, aux=aux), expected)


@pytest.fixture
def batch_norm(rng) -> tuple[layers.BatchNorm, np.ndarray]:
    x = distinct(rng, (2, *two(rng, 2, 4), 3))
    gamma, beta, mean, var = (distinct(rng, (3,)) for _ in range(4))
    return layers.BatchNorm(gamma, beta, mean, abs(var), eps=1e-2), x


def test_batch_norm_in_training_is_a_loop_over_the_channel(batch_norm):
    layer, x = batch_norm
    y, _ = layer.forward(x, mode="train")
    close(y, reference.batch_norm(x, layer.gamma, layer.beta, layer.eps))


def test_the_gradients_of_batch_norm_in_training_are_loops_over_all_pairs(batch_norm, rng):
    layer, x = batch_norm
    _, aux = layer.forward(x, mode="train")
    dzdy = distinct(rng, x.shape)
    dzdx, dgamma, dbeta = reference.batch_norm_gradients(dzdy, x, layer.gamma, layer.eps)
    close(layer.backward(dzdy, x=x, aux=aux), dzdx)
    close(layer.backward_params(dzdy, x=x, aux=aux)["gamma"], dgamma)
    close(layer.backward_params(dzdy, x=x, aux=aux)["beta"], dbeta)


def test_batch_norm_in_test_mode_takes_each_number_by_itself(batch_norm, rng):
    layer, x = batch_norm
    y, aux = layer.forward(x, mode="test")
    at = tuple(int(rng.integers(size)) for size in x.shape)
    deviation = (layer.var[at[3]] + layer.eps) ** 0.5
    assert y[at] == pytest.approx(
        (x[at] - layer.mean[at[3]]) / deviation * layer.gamma[at[3]] + layer.beta[at[3]]
    )
    only = np.zeros(x.shape)
    only[at] = 1.0
    close(layer.backward(only, x=x, aux=aux), only * layer.gamma[at[3]] / deviation)
