"""The accidents of a dream: that each way back is the exact adjoint of the way there, whatever was drawn."""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from minidnn.arrays import to_device, to_host
from minidnn.dream import Flip, Jitter, Turn, Window
from minidnn.dream.transforms import Chain, Linear, Mirror, Roll, Sample, Transform, drawn_together
from minidnn.errors import UsageError
from tests.samples import distinct

KINDS = {
    "jitter": Jitter(3),
    "flip": Flip(),
    "turn": Turn(40.0),
    "zoom": Turn(10.0, (0.6, 1.7)),
    "window": Window((0.3, 0.9)),
    "windows in turn": Window((0.35, 1.0), in_turn=True),
}
each = pytest.mark.parametrize("transform", KINDS.values(), ids=KINDS)
sides = st.integers(1, 9)
shapes = st.tuples(st.integers(1, 2), sides, sides, st.integers(1, 3))


def difference_of_sides(there, x, g):
    """<there(x), g> against <x, there.adjoint(g)>, by the size of what is added up."""
    ahead, back = (there(x) * g).sum(), (x * there.adjoint(g)).sum()
    return abs(ahead - back) / max(np.abs(x).sum() * np.abs(g).max(), 1e-30)


@each
@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6), step=st.integers(0, 99))
def test_the_way_back_is_the_adjoint(transform, shape, seed, step):
    rng = np.random.default_rng(seed)
    there = transform.draw(rng, shape, step)
    x, g = rng.standard_normal(shape), rng.standard_normal(shape)
    assert there(x).shape == there.adjoint(g).shape == shape
    assert difference_of_sides(there, x, g) < 1e-14


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 10**6), order=st.permutations(list(KINDS)))
def test_all_of_them_in_any_row_go_back_in_reverse(shape, seed, order):
    rng = np.random.default_rng(seed)
    there = drawn_together([KINDS[name] for name in order], rng, shape, seed % 7)
    x, g = rng.standard_normal(shape), rng.standard_normal(shape)
    assert difference_of_sides(there, x, g) < 1e-13


@each
def test_the_map_is_linear_and_changes_nothing_that_it_is_given(transform):
    rng = np.random.default_rng(0)
    there = transform.draw(rng, (2, 5, 7, 3), 1)
    x, y = rng.standard_normal((2, 2, 5, 7, 3))
    x.flags.writeable = y.flags.writeable = False
    np.testing.assert_allclose(there(2 * x + y), 2 * there(x) + there(y), atol=1e-12)
    np.testing.assert_allclose(there.adjoint(2 * x + y), 2 * there.adjoint(x) + there.adjoint(y), atol=1e-12)


@each
def test_the_dtype_stays_both_ways(transform):
    there = transform.draw(np.random.default_rng(1), (1, 4, 6, 3))
    for dtype in ("float32", "float64"):
        x = np.ones((1, 4, 6, 3), dtype)
        assert there(x).dtype == there.adjoint(x).dtype == dtype


@each
def test_every_device_goes_the_same_ways(transform, device):
    x = distinct(np.random.default_rng(2), (2, 5, 8, 3)).astype("float32")
    there = transform.draw(np.random.default_rng(3), x.shape, 2)
    for way in (there, there.adjoint):
        np.testing.assert_allclose(to_host(way(to_device(x, device))), way(x), rtol=1e-5, atol=1e-6)


@each
def test_the_same_generator_draws_the_same_map(transform):
    x = distinct(np.random.default_rng(4), (1, 6, 9, 3))
    one, other = (transform.draw(np.random.default_rng(5), x.shape, 4)(x) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_no_transforms_are_the_identity():
    x = np.ones((1, 2, 3, 3))
    nothing = drawn_together((), np.random.default_rng(0), x.shape)
    assert nothing == Chain(()) and nothing(x) is x and nothing.adjoint(x) is x


# Jitter and Flip


def test_jitter_rolls_round_the_edge():
    x = distinct(np.random.default_rng(6), (1, 3, 5, 2))
    np.testing.assert_array_equal(Roll(1, -2)(x), np.roll(x, (1, -2), axis=(1, 2)))
    np.testing.assert_array_equal(Roll(1, -2).adjoint(Roll(1, -2)(x)), x)


def test_jitter_goes_as_far_as_it_may_and_no_farther():
    rng = np.random.default_rng(7)
    drawn = [Jitter(2).draw(rng, (1, 9, 11, 3)) for _ in range(200)]
    assert {roll.dy for roll in drawn} == {roll.dx for roll in drawn} == {-2, -1, 0, 1, 2}


def test_jitter_never_rolls_by_more_than_the_picture_is_long():
    rng = np.random.default_rng(8)
    drawn = [Jitter(32).draw(rng, (1, 2, 9, 3)) for _ in range(100)]
    assert max(abs(roll.dy) for roll in drawn) <= 2 and max(abs(roll.dx) for roll in drawn) <= 2


def test_flip_mirrors_every_other_time():
    rng = np.random.default_rng(9)
    mirrors = sum(isinstance(Flip().draw(rng, (1, 2, 3, 3)), Mirror) for _ in range(400))
    assert 160 < mirrors < 240
    x = distinct(rng, (1, 2, 5, 3))
    np.testing.assert_array_equal(Mirror()(x)[:, :, 0], x[:, :, 4])
    np.testing.assert_array_equal(Linear()(x), x)


# Turn


@pytest.mark.parametrize("seed", range(4))
def test_a_turn_is_that_of_scipy(seed):
    x = distinct(np.random.default_rng(10), (1, 7, 9, 2))
    turned = Turn(30.0, (0.7, 1.6)).draw(np.random.default_rng(seed), x.shape)(x)
    rng = np.random.default_rng(seed)
    angle, factor = radians(rng.uniform(-30, 30)), rng.uniform(0.7, 1.6)
    matrix = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]]) / factor
    middle = np.array([3.0, 4.0])
    for k in range(2):
        wanted = ndimage.affine_transform(
            x[0, :, :, k], matrix, middle - matrix @ middle, order=1, mode="nearest"
        )
        np.testing.assert_allclose(turned[0, :, :, k], wanted, atol=1e-12)


def test_no_turn_leaves_the_picture_alone():
    x = distinct(np.random.default_rng(11), (2, 4, 7, 3))
    np.testing.assert_allclose(Turn(0.0).draw(np.random.default_rng(0), x.shape)(x), x, atol=1e-14)


def test_a_zoom_by_two_shows_the_middle_twice_as_large():
    x = np.zeros((1, 5, 7, 1))
    x[0, 2, 3] = 1
    seen = Turn(0.0, (2.0, 2.0)).draw(np.random.default_rng(0), x.shape)(x)[0, :, :, 0]
    np.testing.assert_allclose(seen[2, 1:6], [0, 0.5, 1, 0.5, 0])
    np.testing.assert_allclose(seen[:, 3], [0, 0.5, 1, 0.5, 0])


# Sample and Window


@settings(max_examples=40, deadline=None)
@given(h=sides, w=sides, seed=st.integers(0, 10**6))
def test_reading_between_pixels_is_that_of_scipy(h, w, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, h, w, 2))
    y_at, x_at = rng.uniform(-2, h + 1, (3, 4)), rng.uniform(-2, w + 1, (3, 4))
    ours = Sample(y_at, x_at, (h, w))(x)
    for k in range(2):
        wanted = ndimage.map_coordinates(x[0, :, :, k], [y_at, x_at], order=1, mode="nearest")
        np.testing.assert_allclose(ours[0, :, :, k], wanted, atol=1e-12)


def test_a_window_shows_its_part_as_large_as_the_whole():
    x = np.zeros((1, 4, 8, 1))
    x[0, :2, :4] = 1  # the first of the windows of half the size
    seen = Window((0.5, 0.5), in_turn=True).draw(np.random.default_rng(0), x.shape, step=0)(x)
    assert (seen[0, :3, :7] == 1).all() and (seen[0, 3] < 1).all()


def test_the_pixels_of_a_window_are_cut_in_two_about_their_middles():
    x = np.arange(8.0).reshape(1, 1, 8, 1) * np.ones((1, 4, 1, 1))
    window = Window((0.5, 0.5), in_turn=True)
    for step, left in [(0, 0), (1, 4)]:
        seen = window.draw(np.random.default_rng(0), x.shape, step)(x)
        wanted = left + np.arange(-0.25, 3.75, 0.5)
        np.testing.assert_allclose(seen[0, 1, :, 0], wanted.clip(0, 7))


def test_a_window_leaves_the_rest_of_the_picture_alone():
    g = np.ones((1, 8, 12, 1))
    back = Window((0.5, 0.5), in_turn=True).draw(np.random.default_rng(0), g.shape, step=0).adjoint(g)
    assert (back[0, :4, :6] > 0).all()
    assert not back[0, 5:].any() and not back[0, :, 7:].any()


def test_a_window_of_the_whole_picture_is_the_picture():
    x = distinct(np.random.default_rng(12), (1, 5, 8, 3))
    np.testing.assert_allclose(Window((1.0, 1.0)).draw(np.random.default_rng(0), x.shape)(x), x)


@settings(max_examples=25, deadline=None)
@given(low=st.floats(0.15, 1.0), spread=st.floats(0, 1), h=st.integers(1, 13), w=st.integers(1, 13))
def test_windows_in_turn_have_seen_all_of_the_picture_before_they_grow(low, spread, h, w):
    high = low + spread * (1 - low)
    window = Window((low, min(1.0, high)), in_turn=True)
    places, rng = list(window._places()), np.random.default_rng(0)
    smallest = [step for step, (share, _, _) in enumerate(places) if share == places[0][0]]
    seen = sum(window.draw(rng, (1, h, w, 1), step).adjoint(np.ones((1, h, w, 1))) for step in smallest)
    assert (seen > 0).all()
    assert [share for share, _, _ in places] == sorted(share for share, _, _ in places)


def test_windows_in_turn_begin_again_after_the_last():
    window, rng = Window((0.4, 0.9), in_turn=True), np.random.default_rng(0)
    count = len(list(window._places()))
    x = distinct(rng, (1, 6, 10, 1))
    np.testing.assert_array_equal(window.draw(rng, x.shape, 1)(x), window.draw(rng, x.shape, count + 1)(x))


# Errors


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Jitter(-1), "Jitter by -1 pixels; give 0 or more"),
        (lambda: Turn(-2.0), "Turn by -2.0 degrees"),
        (lambda: Turn(2.0, (0.0, 1.0)), "0 < low <= high"),
        (lambda: Turn(2.0, (1.2, 1.1)), "0 < low <= high"),
        (lambda: Window((0.0, 0.5)), r"Window of \(0.0, 0.5\) of the picture; 0 < low <= high <= 1"),
        (lambda: Window((0.6, 0.5)), "Window of"),
        (lambda: Window((0.5, 1.1)), "Window of"),
        (lambda: Turn(float("nan")), "Turn by nan degrees"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_a_transform_without_a_draw_says_so():
    with pytest.raises(TypeError, match="Transform has no draw"):
        Transform().draw(np.random.default_rng(0), (1, 2, 3, 3))
