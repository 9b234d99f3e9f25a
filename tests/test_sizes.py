"""The size calculator, and ZFNet's figure 3 with it."""

from __future__ import annotations

import pytest

from minidnn.errors import ShapeError, UsageError
from minidnn.sizes import Step, sizes, table

ZFNET = "conv7/2p1 pool3/2p1 conv5/2 pool3/2p1 conv3p1 conv3p1 conv3p1 pool3/2"


def steps(text):
    return [Step.parse(word) for word in text.split()]


def test_figure_3_of_zfnet():
    assert [size.after for size in sizes(224, steps(ZFNET))] == [110, 55, 26, 13, 13, 13, 13, 6]


def test_pools_that_round_up_give_the_same_without_padding():
    up = ZFNET.replace("pool3/2p1", "pool3/2^")
    assert [size.after for size in sizes(224, steps(up))] == [110, 55, 26, 13, 13, 13, 13, 6]


def test_both_roundings_stand_side_by_side():
    size = sizes(110, steps("pool3/2"))[0]
    assert (size.floor, size.ceil, size.after) == (54, 55, 54)


def test_the_table_tells_what_was_chosen_from_what_follows():
    lines = table(sizes(224, steps(ZFNET))).splitlines()
    assert "chosen" in lines[0] and "follows: (n + 2p - f) / s + 1" in lines[0]
    assert lines[2].split("|") == ["conv   224 ", " 7  2  1 ", "   110   111  110"]
    assert lines[-1].startswith("where floor and ceil differ")


def test_a_word_that_is_no_layer():
    with pytest.raises(UsageError, match=r"'conv' is no layer; write e.g. conv7/2p1"):
        Step.parse("conv")


def test_a_window_that_no_longer_fits_says_where():
    with pytest.raises(ShapeError, match="does not fit") as caught:
        sizes(8, steps("pool2/2 pool2/2 conv5"))
    assert "at conv5, the size being 2" in caught.value.__notes__
