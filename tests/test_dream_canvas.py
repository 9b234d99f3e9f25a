"""What a dream changes: pixels, waves, or the weights of a small net that paints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidnn.arrays import device_of, to_device, to_host
from minidnn.dream import CPPN, Canvas, Fourier
from minidnn.errors import ShapeError, UsageError
from minidnn.gradcheck import check_direction, check_elements
from tests.samples import distinct

SIZES = [(4, 6), (5, 7), (4, 7), (5, 6), (1, 8), (9, 1), (1, 1), (2, 2)]


def small_cppn(size):
    return CPPN(size, seed=3, width=6, depth=2)


CANVASES = {"pixels": Canvas, "fourier": Fourier, "cppn": small_cppn}
each = pytest.mark.parametrize("canvas", CANVASES.values(), ids=CANVASES)


def picture(shape=(1, 4, 7, 3), seed=0):
    return 127.5 + 100 * distinct(np.random.default_rng(seed), shape)


def pull(canvas, numbers, seed=1):
    """A gradient by the pixels, the value that it is the gradient of, and what comes back to the numbers."""
    g = np.random.default_rng(seed).standard_normal(canvas.paint(numbers).shape)
    return lambda numbers: float((canvas.paint(numbers) * g).sum()), canvas.adjoint(numbers, g)


@each
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_gradient_by_the_numbers_is_that_of_the_picture(canvas, size):
    canvas = canvas(size)
    numbers = canvas.begin(picture((1, *size, 3)))
    value, grad = pull(canvas, numbers)
    assert grad.shape == numbers.shape
    found = check_direction(value, numbers, grad, rng=np.random.default_rng(2))
    assert found.error < 1e-7, str(found)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)], ids=["even", "odd"])
def test_every_wave_has_its_gradient(size):
    """Also those numbers of a spectrum that make no picture: their gradient is 0."""
    canvas, rng = Fourier(size), np.random.default_rng(3)
    numbers = rng.standard_normal((2, 1, size[0], size[1] // 2 + 1, 3))
    value, grad = pull(canvas, numbers)
    found = check_elements(value, numbers, grad)
    assert found.error < 1e-7, str(found)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 2), h=st.integers(1, 9), w=st.integers(1, 9), seed=st.integers(0, 9999))
def test_waves_paint_any_picture_within_their_reach(n, h, w, seed):
    before = np.random.default_rng(seed).uniform(6, 249, (n, h, w, 3))
    canvas = Fourier((h, w))
    np.testing.assert_allclose(canvas.paint(canvas.begin(before)), before, rtol=1e-9)


def test_waves_come_as_near_to_black_and_white_as_they_can():
    canvas = Fourier((2, 3))
    extremes = np.array([0.0, 255.0] * 9).reshape(1, 2, 3, 3)
    np.testing.assert_allclose(canvas.paint(canvas.begin(extremes)), extremes.clip(5.1, 249.9))


def test_waves_of_any_strength_make_pixels():
    canvas = Fourier((4, 6))
    numbers = 1e12 * np.random.default_rng(4).standard_normal((2, 1, 4, 4, 3)).astype("float32")
    painted = canvas.paint(numbers)
    assert painted.min() == 0 and painted.max() == 255


def test_plain_pixels_settle_within_their_range_and_are_otherwise_themselves():
    canvas, x = Canvas((1, 3)), np.array([-3.0, 80.0, 300.0]).reshape(1, 1, 3, 1)
    assert canvas.begin(x) is canvas.paint(x) is x and canvas.adjoint(x, x) is x
    assert canvas.settle(x).ravel().tolist() == [0, 80, 255]


@pytest.mark.parametrize("canvas", [Fourier, small_cppn])
def test_waves_and_nets_have_no_numbers_that_are_out_of_range(canvas):
    canvas = canvas((4, 7))
    numbers = 1e3 * canvas.begin(picture())
    assert canvas.settle(numbers) is numbers
    assert canvas.paint(numbers).min() >= 0 and canvas.paint(numbers).max() <= 255


@each
def test_the_dtype_stays_both_ways(canvas):
    canvas = canvas((4, 7))
    for dtype in ("float32", "float64"):
        numbers = canvas.begin(picture().astype(dtype))
        painted = canvas.paint(numbers)
        assert numbers.dtype == painted.dtype == canvas.adjoint(numbers, painted).dtype == dtype


@each
def test_the_same_numbers_paint_the_same_bytes(canvas):
    one, other = canvas((4, 7)), canvas((4, 7))
    assert one.paint(one.begin(picture())).tobytes() == other.paint(other.begin(picture())).tobytes()


@each
def test_every_device_paints_alike(canvas, device):
    canvas = canvas((4, 7))
    numbers, there = canvas.begin(picture()), canvas.begin(to_device(picture(), device))
    assert device_of(there) == device
    g = np.random.default_rng(5).standard_normal((1, 4, 7, 3))
    for host, found in [
        (numbers, there),
        (canvas.paint(numbers), canvas.paint(there)),
        (canvas.adjoint(numbers, g), canvas.adjoint(there, to_device(g, device))),
        (canvas.settle(numbers), canvas.settle(there)),
    ]:
        np.testing.assert_allclose(to_host(found), host, rtol=1e-9, atol=1e-9)


# The net that paints


def test_the_same_dream_can_be_painted_in_another_size():
    small, large = small_cppn((5, 7)), small_cppn((9, 13))  # every other pixel lies at the same place
    numbers = small.begin(picture((1, 5, 7, 3)))
    np.testing.assert_allclose(large.paint(numbers)[:, ::2, ::2], small.paint(numbers), rtol=1e-9)


def test_another_seed_paints_another_picture():
    one, other = CPPN((4, 7), seed=1), CPPN((4, 7), seed=2)
    assert np.abs(one.paint(one.begin(picture())) - other.paint(other.begin(picture()))).mean() > 5


def test_the_first_picture_of_a_net_is_its_own():
    canvas = small_cppn((4, 7))
    np.testing.assert_array_equal(canvas.begin(picture()), canvas.begin(picture(seed=9)))
    assert not canvas.begins_anywhere and Fourier.begins_anywhere and Canvas.begins_anywhere


def test_a_net_has_as_many_numbers_as_weights():
    canvas = CPPN((4, 7), width=8, depth=3)
    assert canvas.begin(picture()).shape == (3 * (8 * 8 + 8) + 8 * 3 + 3,)


def test_more_detail_is_faster_waves():
    calm, busy = (CPPN((40, 50), detail=detail) for detail in (1.0, 20.0))
    steps = [np.abs(np.diff(c.paint(c.begin(picture())), axis=2)).mean() for c in (calm, busy)]
    assert steps[1] > 2 * steps[0]


# Errors


@pytest.mark.parametrize("width", [0, 7, -2])
def test_a_net_of_an_odd_width(width):
    with pytest.raises(UsageError, match=f"CPPN of width {width}; give an even number"):
        CPPN((4, 7), width=width)


@pytest.mark.parametrize("shape", [(2, 4, 7, 3), (1, 4, 7, 1)])
def test_a_net_paints_one_picture_in_colour(shape):
    with pytest.raises(
        ShapeError, match=r"CPPN paints one picture in colour, found \(.*; give \(1, H, W, 3\)"
    ):
        small_cppn((4, 7)).begin(np.ones(shape))


def test_waves_are_coloured():
    with pytest.raises(
        ShapeError, match=r"Fourier paints red, green and blue, found \(1, 4, 7, 1\); take plain"
    ):
        Fourier((4, 7)).begin(np.ones((1, 4, 7, 1)))
