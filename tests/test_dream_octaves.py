"""Octaves: which sizes, how the details of one come into the next, and taking up again in any of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidnn.arrays import device_of, to_device, to_host
from minidnn.dream import (
    CPPN,
    Anchor,
    Blur,
    Canvas,
    Fourier,
    Jitter,
    TotalVariation,
    Way,
    Window,
    dream_in_octaves,
    octave_sizes,
    score,
    squared_norm,
)
from minidnn.dream.octaves import fitting_sizes, sized
from minidnn.errors import ShapeError, UsageError
from minidnn.images import Preprocess, resize
from minidnn.optim import SGD, Adam, MeanAbs
from minidnn.zoo.lenet import lenet
from tests.nets import forked


def small_cppn(size):
    return CPPN(size, seed=3, width=6, depth=2)


CANVASES = {"pixels": (Canvas, 2.0), "fourier": (Fourier, 0.02), "cppn": (small_cppn, 0.01)}
each = pytest.mark.parametrize("canvas, rate", CANVASES.values(), ids=CANVASES)
CAT = squared_norm("cat")
PLAIN = {"transforms": (), "shaping": ()}


def seeing():
    net = forked().astype("float32")
    return net.with_nodes(net.nodes, preprocess=Preprocess(scale=1 / 64, mean=(2.0,)))


def photo(n=1):
    return np.random.default_rng(1).uniform(50, 200, (n, 14, 19, 3)).astype("float32")


def dreamed(way, *, picture=None, net=None, objective=CAT, steps=3, octaves=3, seed=0, **how):
    picture, rng = photo() if picture is None else picture, np.random.default_rng(seed)
    net = net or seeing()
    return list(dream_in_octaves(net, picture, objective, way, steps=steps, octaves=octaves, rng=rng, **how))


def pictures(frames):
    return [frame.picture.tobytes() for frame in frames]


# Pictures that a way holds


def test_an_anchor_holds_the_picture_in_every_octave():
    way = Way(MeanAbs(2.0), **PLAIN)
    held = Way(MeanAbs(2.0), penalties=(Anchor(1e3, photo()),), **PLAIN)
    for free, there in zip(dreamed(way), dreamed(held), strict=True):
        start = sized(photo(), free.picture.shape[1:3])
        if free.number > 1:  # at first there is nothing to be drawn back to
            assert np.abs(there.picture - start).mean() < np.abs(free.picture - start).mean()


def test_an_anchor_of_another_size_and_on_a_device(device):
    anchor = Anchor(0.5, resize(photo(), (23, 31)))
    assert anchor.at_size((23, 31)) is anchor
    there = Anchor(0.5, to_device(anchor.start, device))
    way = Way(penalties=(there,), **PLAIN)
    frames = dreamed(way, net=seeing().to(device), picture=to_device(photo(), device))
    assert [frame.penalty > 0 for frame in frames] == 9 * [True]


# Sizes


@given(
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    octaves=st.integers(1, 30),
    factor=st.floats(1.01, 9),
)
def test_sizes_grow_to_that_of_the_picture_and_keep_its_shape(size, octaves, factor):
    sizes = octave_sizes(size, octaves, factor)
    assert len(sizes) == octaves and sizes[-1] == size and min(min(one) for one in sizes) >= 1
    for (h, w), (taller, wider) in pairwise(sizes):
        assert h <= taller and w <= wider
    for k, (h, w) in enumerate(reversed(sizes)):
        assert abs(h - max(1, size[0] / factor**k)) <= 0.5 and abs(w - max(1, size[1] / factor**k)) <= 0.5


def test_sizes_worked_by_hand():
    assert octave_sizes((140, 196), 3) == [(71, 100), (100, 140), (140, 196)]
    assert octave_sizes((8, 6), 4, 2.0) == [(1, 1), (2, 2), (4, 3), (8, 6)]


@pytest.mark.parametrize("octaves, factor", [(0, 1.4), (3, 1.0), (3, 0.5), (3, float("nan"))])
def test_octaves_that_do_not_shrink(octaves, factor):
    with pytest.raises(
        UsageError, match=f"{octaves} octaves of factor {factor}; give at least 1, and a factor"
    ):
        octave_sizes((8, 6), octaves, factor)


def test_octaves_too_small_for_the_net_are_left_out():
    net = seeing()
    assert fitting_sizes(net, CAT, photo(), 9, 1.4)[0] == (2, 3)  # of two rows pool1 makes one
    frames = dreamed(Way(), octaves=9, steps=1)
    assert [frame.picture.shape[1:3] for frame in frames] == [
        size for size in octave_sizes((14, 19), 9) if min(size) > 1
    ]
    assert [frame.octave for frame in frames] == list(range(len(frames)))


def test_a_net_for_one_size_dreams_in_one_octave():
    net = lenet(np.random.default_rng(2))
    picture = np.random.default_rng(3).uniform(0, 255, (1, 28, 28, 1)).astype("float32")
    for preprocess in (None, Preprocess("GRAY", 1 / 255)):
        fitting = net.with_nodes(net.nodes, preprocess=preprocess)
        frames = dreamed(Way(), net=fitting, picture=picture, objective=score("fc4", 3), steps=2)
        assert [frame.picture.shape for frame in frames] == 2 * [(1, 28, 28, 1)]


def test_a_picture_that_is_too_small_itself_is_refused():
    with pytest.raises(ShapeError):
        dreamed(Way(), picture=photo()[:, :1])


# The dream


def test_each_octave_has_its_steps_and_begins_to_count_anew():
    frames = dreamed(Way(), steps=2)
    assert [(frame.octave, frame.number) for frame in frames] == [
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]
    assert [f.picture.shape[1:3] for f in frames] == [s for s in octave_sizes((14, 19), 3) for _ in range(2)]


def test_one_octave_is_the_dream_itself():
    one = dreamed(Way(), octaves=1)
    assert one[0].picture.shape == photo().shape and len(one) == 3


def test_an_octave_begins_with_the_picture_and_the_details_of_the_one_before():
    frames = dreamed(Way(MeanAbs(3.0), **PLAIN), steps=2)
    small, large = octave_sizes((14, 19), 3)[:2]
    detail = resize(frames[1].picture - resize(photo(), small), large)
    wanted = (resize(photo(), large) + detail).clip(0, 255)
    np.testing.assert_allclose(frames[2].state.start, wanted, atol=1e-4)
    assert np.abs(detail).mean() > 1


def test_what_a_half_mask_let_through_is_not_halved_again():
    frames = dreamed(Way(MeanAbs(3.0), mask=np.full((1, 14, 19, 1), 0.5), **PLAIN), steps=2)
    small, large = octave_sizes((14, 19), 3)[:2]
    detail = resize(frames[1].picture - resize(photo(), small), large)
    np.testing.assert_allclose(frames[2].state.start, resize(photo(), large) + detail, atol=1e-4)


def test_an_octave_begins_within_the_range_of_pixels():
    harsh = 255 * (np.random.default_rng(4).random((1, 14, 19, 3)) < 0.5).astype("float32")
    for frame in dreamed(Way(), picture=harsh):
        assert frame.state.start.min() >= 0 and frame.state.start.max() <= 255


def test_nothing_dreamed_is_the_picture_at_its_full_sharpness():
    last = dreamed(Way(SGD(1e-12), **PLAIN))[-1]
    np.testing.assert_allclose(last.picture, photo(), atol=1e-4)


def test_a_net_that_paints_goes_on_with_its_weights():
    """It cannot be told to paint what it painted smaller, and need not: its weights know no size."""
    frames = dreamed(Way(MeanAbs(0.01), canvas=small_cppn, **PLAIN), steps=2)
    for before, after in [(1, 2), (3, 4)]:
        start = small_cppn(frames[after].picture.shape[1:3]).paint(frames[before].state.numbers)
        moved = np.linalg.norm(frames[after].picture - start)
        assert frames[after].step_norm == pytest.approx(moved, rel=1e-4)


@each
def test_the_same_seed_dreams_the_same_bytes(canvas, rate):
    way = Way(MeanAbs(rate), canvas=canvas)
    assert pictures(dreamed(way, seed=4)) == pictures(dreamed(way, seed=4))
    assert pictures(dreamed(way, seed=4)) != pictures(dreamed(way, seed=5))


def test_whole_numbers_are_dreamed_in_floats():
    whole = photo().astype("uint8")
    way = Way(penalties=(TotalVariation(1e-3),))
    assert pictures(dreamed(way, picture=whole)) == pictures(dreamed(way, picture=whole.astype("float32")))


def test_the_first_octave_is_begun_only_when_a_frame_is_asked_for():
    frames = dream_in_octaves(seeing(), photo(), CAT, Way(), steps=0, rng=np.random.default_rng(0))
    with pytest.raises(UsageError, match="0 steps in each octave; give at least 1"):
        next(frames)


# Taking up again


@each
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_a_dream_is_taken_up_again_after_any_step_of_any_octave(canvas, rate, masked):
    mask = None
    if masked:
        mask = np.zeros((1, 14, 19, 1))
        mask[:, 3:9, 5:14] = 0.5
    way = Way(Adam(rate), canvas=canvas, transforms=(Window((0.6, 0.9)), Jitter(3)), mask=mask)
    if canvas is Canvas:
        way = Way(way.step, transforms=way.transforms, filters=(Blur(0.5),), filter_every=2, mask=mask)
    whole = dreamed(way, steps=2)
    for stopped, frame in enumerate(whole, start=1):
        assert pictures(dreamed(way, steps=2, resume=frame, seed=99)) == pictures(whole[stopped:]), stopped


def test_a_dream_resumed_at_its_end_has_no_more_frames():
    last = dreamed(Way())[-1]
    assert dreamed(Way(), resume=last) == []


def test_with_fewer_steps_it_goes_on_to_the_next_octave():
    stopped = dreamed(Way(), steps=3)[2]
    rest = dreamed(Way(), steps=2, resume=stopped)
    assert [(frame.octave, frame.number) for frame in rest] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_a_dream_of_other_octaves_cannot_be_resumed():
    frames = dreamed(Way(), steps=1)
    for frame, octaves in [(frames[-1], 2), (frames[0], 4)]:
        with pytest.raises(
            UsageError, match=r"octave \d of that dream is not one of \[.*resume it as it was begun"
        ):
            dreamed(Way(), steps=1, octaves=octaves, resume=frame)


# Masks and devices


@each
@pytest.mark.parametrize("seed", range(3))
def test_what_is_masked_is_the_picture_at_the_end(canvas, rate, seed):
    mask = (np.random.default_rng(seed).random((1, 14, 19, 1)) < 0.4).astype("float64")
    way = Way(MeanAbs(2 * rate), canvas=canvas, mask=mask)
    frames = dreamed(way, steps=2, octaves=4)
    for frame in frames[-2:]:
        still = np.broadcast_to(mask == 0, frame.picture.shape)
        assert (frame.picture[still] == photo()[still]).all()
        assert np.abs(frame.picture - photo())[~still].mean() > 1


def test_a_mask_of_truths_will_do():
    mask = np.random.default_rng(0).random((1, 14, 19, 1)) < 0.4
    one, other = (dreamed(Way(mask=m)) for m in (mask, mask.astype("float64")))
    assert pictures(one) == pictures(other)


def test_a_mask_of_another_size_is_refused_and_not_stretched():
    with pytest.raises(ShapeError, match=r"the mask is \(1, 7, 19, 1\), the picture \(1, 14, 19, 3\)"):
        dreamed(Way(mask=np.ones((1, 7, 19, 1))))


@each
def test_every_device_dreams_the_same_octaves(canvas, rate, device):
    mask = np.zeros((1, 14, 19, 1))
    mask[:, 3:9] = 1
    net = seeing().astype("float64")
    way, picture = Way(Adam(rate), canvas=canvas, mask=mask), photo().astype("float64")
    here = dreamed(way, net=net, picture=picture, steps=2)
    there = dreamed(way, net=net.to(device), picture=to_device(picture, device), steps=2)
    for one, other in zip(here, there, strict=True):
        assert device_of(other.picture) == device
        np.testing.assert_allclose(to_host(other.picture), one.picture, rtol=1e-6)
