"""The arithmetic of windows, against counting them one by one."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minidnn.errors import ShapeError, UsageError
from minidnn.window import Window
from tests import reference

unhurried = settings(deadline=None, max_examples=100)


def pairs(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


@st.composite
def windows(draw, *, ceil: bool | None = None) -> Window:
    """Any window whose pads are smaller than itself, as pooling wants them."""
    kernel, dilation = draw(pairs(1, 4)), draw(pairs(1, 3))
    eh, ew = Window(kernel, dilation=dilation).extent
    return Window.of(
        kernel,
        stride=draw(pairs(1, 5)),
        dilation=dilation,
        pad=draw(st.tuples(*(st.integers(0, extent - 1) for extent in (eh, eh, ew, ew)))),
        ceil=draw(st.booleans()) if ceil is None else ceil,
    )


sizes = pairs(1, 12)


# Making one


def test_one_number_is_spread_over_both_axes_and_all_four_sides():
    window = Window.of(3, stride=2, pad=1, dilation=4)
    assert window == Window((3, 3), stride=(2, 2), pad=(1, 1, 1, 1), dilation=(4, 4), ceil=False)


def test_pairs_are_y_before_x_and_pads_are_top_bottom_left_right():
    window = Window.of((2, 3), stride=[4, 5], pad=(6, 7, 8, 9), dilation=(10, 11), ceil=True)
    assert window == Window((2, 3), (4, 5), (6, 7, 8, 9), (10, 11), True)


def test_a_window_moves_by_one_pixel_without_pads_unless_told_otherwise():
    assert Window.of(5) == Window((5, 5), (1, 1), (0, 0, 0, 0), (1, 1), False)


def test_windows_with_the_same_numbers_are_equal_and_hash_alike():
    assert len({Window.of(3, pad=1), Window.of((3, 3), pad=[1, 1, 1, 1])}) == 1


def test_a_window_counts_its_taps():
    assert Window.of((3, 4)).taps == 12


def test_the_extent_of_a_window_includes_the_gaps_between_its_taps():
    assert Window.of((3, 4), dilation=(2, 5)).extent == (5, 16)


@pytest.mark.parametrize("name", ["kernel", "stride", "dilation"])
@pytest.mark.parametrize("value", [(1, 2, 3), (2,), "ab", (1.5, 2)])
def test_what_is_not_one_or_two_whole_numbers_is_refused(name, value):
    with pytest.raises(UsageError, match=rf"{name} of a window is .*; give one whole number or 2 \(y, x\)"):
        Window.of(**{"kernel": 3, name: value})


@pytest.mark.parametrize("value", [(1, 2), (1, 2, 3), (0, 0, 0, 0.5)])
def test_pads_that_are_not_one_or_four_whole_numbers_are_refused(value):
    with pytest.raises(UsageError, match=r"pad of a window is .*; give one .*4 \(top, bottom, left, right\)"):
        Window.of(3, pad=value)


@pytest.mark.parametrize("value", [2.5, None])
def test_a_single_value_that_is_no_whole_number_is_refused_in_the_same_words(value):
    with pytest.raises(UsageError, match=r"kernel of a window is .*; give one whole number or 2 \(y, x\)"):
        Window.of(value)


def test_a_negative_pad_is_refused():
    with pytest.raises(ShapeError, match=r"pad of a window is \(0, 0, -1, 0\); .* at least 0"):
        Window.of(3, pad=(0, 0, -1, 0))


@pytest.mark.parametrize("name", ["kernel", "stride", "dilation"])
def test_a_zero_where_a_window_needs_a_size_is_refused(name):
    with pytest.raises(ShapeError, match=rf"{name} of a window is \(2, 0\); .* at least 1"):
        Window.of(**{"kernel": 3, name: (2, 0)})


# How many fit


@given(windows(), sizes)
@unhurried
def test_out_size_is_the_number_of_windows_counted_one_by_one(window, size):
    counted = len(reference.starts(size[0], window, 0)), len(reference.starts(size[1], window, 1))
    assume(min(counted) > 0)
    assert window.out_size(*size) == counted


@given(windows(), sizes)
@unhurried
def test_out_size_is_an_error_where_no_window_can_be_counted(window, size):
    assume(not reference.starts(size[0], window, 0) or not reference.starts(size[1], window, 1))
    with pytest.raises(ShapeError, match="does not fit"):
        window.out_size(*size)


def test_a_window_larger_than_the_padded_image_is_refused_with_all_sizes_named():
    window = Window.of((3, 2), dilation=(4, 1), pad=(1, 0, 2, 3))
    with pytest.raises(
        ShapeError, match=r"9x2 pixels does not fit on an image of 7x6 padded by \(1, 0, 2, 3"
    ):
        window.out_size(7, 6)


def test_a_window_too_large_for_one_axis_alone_is_refused():
    with pytest.raises(ShapeError, match="use a larger image, a smaller window or more padding"):
        Window.of((2, 5)).out_size(9, 4)


def test_a_window_just_as_large_as_the_padded_image_fits_once():
    assert Window.of((5, 7), pad=(1, 0, 2, 1)).out_size(4, 4) == (1, 1)


def test_the_pads_of_each_axis_count_for_that_axis_only():
    assert Window.of(1, pad=(1, 2, 4, 8)).out_size(10, 10) == (13, 22)


@pytest.mark.parametrize(("size", "floor", "ceil"), [(7, 3, 3), (8, 3, 4), (9, 4, 4), (224, 111, 112)])
def test_ceil_adds_the_window_that_floor_leaves_off(size, floor, ceil):
    assert Window.of(3, stride=2).out_size(size, size) == (floor, floor)
    assert Window.of(3, stride=2, ceil=True).out_size(size, size) == (ceil, ceil)


def test_ceil_drops_the_window_that_would_start_beyond_the_image_as_caffe_does():
    # windows start at -1, 1, 3 and 5; the image of 5 pixels ends at 4, and 5 is its last pad
    assert Window.of(2, stride=2, pad=1, ceil=True).out_size(5, 5) == (3, 3)


def test_ceil_keeps_the_window_that_starts_on_the_last_pixel():
    # windows start at -1, 1, 3 and 5; the image of 6 pixels ends at 5
    assert Window.of(2, stride=2, pad=1, ceil=True).out_size(6, 6) == (4, 4)


def test_ceil_starts_no_window_beyond_the_image_however_wide_its_last_pad():
    assert Window.of(1, pad=(0, 5, 0, 7), ceil=True).out_size(3, 4) == (3, 4)


@given(windows(ceil=False), sizes)
@unhurried
def test_ceil_never_has_fewer_windows_than_floor_has_on_the_image(window, size):
    up = Window(window.kernel, window.stride, window.pad, window.dilation, ceil=True)
    for axis in (0, 1):
        on_image = [start for start in reference.starts(size[axis], window, axis) if start < size[axis]]
        assume(on_image)
        assert len(on_image) <= len(reference.starts(size[axis], up, axis)) <= len(on_image) + 1


# What lies under them


@given(windows(ceil=False), sizes)
@unhurried
def test_without_ceil_nothing_overhangs(window, size):
    assume(all(reference.starts(size[axis], window, axis) for axis in (0, 1)))
    assert window.overhang(*size) == (0, 0)


@given(windows(), sizes)
@unhurried
def test_the_overhang_is_what_the_last_window_needs_beyond_the_padded_image(window, size):
    starts = [reference.starts(size[axis], window, axis) for axis in (0, 1)]
    assume(all(starts))
    for axis, over in enumerate(window.overhang(*size)):
        last_tap = starts[axis][-1] + (window.kernel[axis] - 1) * window.dilation[axis]
        edge = size[axis] + window.pad[2 * axis + 1] - 1
        assert over == max(0, last_tap - edge)


def test_the_padded_size_is_the_image_its_pads_and_the_overhang():
    window = Window.of((4, 2), stride=3, pad=(1, 0, 1, 0), ceil=True)
    assert window.out_size(7, 9) == (3, 4)
    assert window.overhang(7, 9) == (2, 1)
    assert window.padded_size(7, 9) == (10, 11)


@given(windows(), sizes)
@unhurried
def test_each_tap_covers_just_the_pixels_that_lie_under_it_in_every_window(window, size):
    starts = [reference.starts(size[axis], window, axis) for axis in (0, 1)]
    assume(all(starts))
    height, width = window.padded_size(*size)
    taps = list(window.each_tap(*window.out_size(*size)))
    assert [tap for tap, _, _ in taps] == list(range(window.taps))
    for tap, ys, xs in taps:
        a, b = divmod(tap, window.kernel[1])
        rows = [start + window.pad[0] + a * window.dilation[0] for start in starts[0]]
        columns = [start + window.pad[2] + b * window.dilation[1] for start in starts[1]]
        assert list(range(height)[ys]) == rows  # a slice beyond the padded image would come out shorter
        assert list(range(width)[xs]) == columns


@given(pairs(1, 4), sizes)
@unhurried
def test_windows_side_by_side_cover_the_padded_image_without_gap_or_overlap(kernel, size):
    window = Window.of(kernel, stride=kernel, pad=(kernel[0] - 1, 0, kernel[1] - 1, 0), ceil=True)
    height, width = window.padded_size(*size)
    seen = [
        (y, x)
        for _, ys, xs in window.each_tap(*window.out_size(*size))
        for y in range(height)[ys]
        for x in range(width)[xs]
    ]
    assert sorted(seen) == [(y, x) for y in range(height) for x in range(width)]
