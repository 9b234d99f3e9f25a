"""Sums and products by channel: in pieces and on all cores they are those of plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import LRN, kernels
from minidnn.kernels.cpu import channels
from minidnn.kernels.cpu.threads import CREW
from minidnn.kernels.memory import Arena

SHAPES = {
    "several pieces, the last one short": (3, 13, 7, 5),
    "one pixel": (1, 1, 1, 4),
    "one channel": (2, 9, 8, 1),
    "more channels than a piece has room for": (2, 1, 3, 70),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(channels, "PIECE", 64)


def drawn(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@shapes
def test_moments_and_sums_are_numpys(shape):
    x, dzdy = 3 + drawn(shape), drawn(shape, 1)
    mean, var = kernels.moments(x)
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(var, x.var(axis=(0, 1, 2)), rtol=1e-12, atol=1e-15)
    total, along = kernels.sums(dzdy, x, mean)
    np.testing.assert_allclose(total, dzdy.sum(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(along, (dzdy * (x - mean)).sum(axis=(0, 1, 2)), rtol=1e-10, atol=1e-14)


@shapes
def test_products_with_a_number_for_each_channel_are_numpys(shape):
    x, y, (a, b, c) = drawn(shape), drawn(shape, 1), drawn((3, shape[3]), 2)
    mem = Arena()
    np.testing.assert_allclose(kernels.scaled(x, a, c, mem), x * a + c, rtol=1e-14)
    np.testing.assert_allclose(kernels.blended(x, a, y, b, c, mem), x * a + y * b + c, rtol=1e-13)


@shapes
def test_a_norm_across_channels_in_pieces_is_that_of_the_whole(shape):
    """Each piece has whole pixels, also where an array is a view of another one."""
    layer, x, dzdy = LRN(3, kappa=1.5, alpha=0.3), drawn(shape), drawn(shape, 1)
    y, energy = layer.forward(x, mem=Arena())
    dzdx = layer.backward(dzdy, x=x, aux=energy, mem=Arena())
    wide = np.stack([x, dzdy], axis=-1)
    view, seed = wide[..., 0], wide[..., 1]
    whole, same = layer.forward(view)
    np.testing.assert_array_equal(energy, same)
    np.testing.assert_array_equal(y, whole)
    np.testing.assert_array_equal(dzdx, layer.backward(seed, x=view, aux=same))
    np.testing.assert_array_equal(dzdx, layer._divided_back(dzdy, x, energy))


def test_a_variance_far_from_0_is_exact():
    x = (1000 + 0.01 * drawn((4, 30, 20, 3))).astype("float32")
    _, var = kernels.moments(x)
    assert var.dtype == np.float32
    np.testing.assert_allclose(var, x.astype("float64").var(axis=(0, 1, 2)), rtol=1e-3)


def test_what_does_not_lie_in_one_piece_goes_the_plain_way():
    x = drawn((2, 6, 5, 8))[..., ::2]
    a, c = drawn((2, 4), 1)
    np.testing.assert_allclose(kernels.scaled(x, a, c), x * a + c)
    np.testing.assert_allclose(kernels.moments(x)[0], x.mean(axis=(0, 1, 2)))


def test_the_bits_do_not_depend_on_the_threads():
    x, dzdy = drawn((3, 13, 7, 5)).astype("float32"), drawn((3, 13, 7, 5), 1).astype("float32")
    found, before = [], CREW.size
    try:
        for size in (1, 3):
            CREW.resize(size)
            mean, var = kernels.moments(x)
            found.append(np.concatenate([mean, var, *kernels.sums(dzdy, x, mean)]))
    finally:
        CREW.resize(before)
    assert np.array_equal(*found)
