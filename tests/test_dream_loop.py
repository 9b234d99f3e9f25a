"""The dream itself: what a frame tells, that it can be taken up again, and when it must stop."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from minidnn.arrays import device_of, to_device, to_host
from minidnn.dream import (
    CPPN,
    Bilateral,
    Blur,
    Canvas,
    Flip,
    Fourier,
    Jitter,
    NaturalColours,
    Smooth,
    TotalVariation,
    Turn,
    Way,
    Window,
    channel,
    decay,
    diversity,
    dream,
    on_layer,
    squared_norm,
)
from minidnn.dream.transforms import Linear, Roll, Transform
from minidnn.errors import DeviceError, DivergedError, ShapeError, UnknownLayerError, UsageError
from minidnn.images import Preprocess
from minidnn.optim import (
    LBFGS,
    SGD,
    AdaGrad,
    Adam,
    MeanAbs,
    Momentum,
    Nesterov,
    Optimiser,
    RMSProp,
    SlideMomentum,
    UnitNorm,
)
from tests.nets import forked


def small_cppn(size):
    return CPPN(size, seed=3, width=6, depth=2)


# A canvas, and a rate at which its numbers move pixels by a few each step
CANVASES = {"pixels": (Canvas, 2.0), "fourier": (Fourier, 0.02), "cppn": (small_cppn, 0.01)}
each = pytest.mark.parametrize("canvas, rate", CANVASES.values(), ids=CANVASES)
OPTIMISERS = [SGD, MeanAbs, UnitNorm, Momentum, Nesterov, SlideMomentum, AdaGrad, RMSProp, Adam, LBFGS]
PLAIN = {"transforms": (), "shaping": ()}
ACCIDENTS = (Window((0.6, 0.9)), Jitter(3), Turn(5.0, (0.9, 1.1)), Flip())
CAT = squared_norm("cat")


def seeing(dtype="float64"):
    """The small net, trained on pixels around 128."""
    net = forked().astype(dtype)
    return net.with_nodes(net.nodes, preprocess=Preprocess(scale=1 / 64, mean=(2.0,)))


def photo(n=1, *, seed=1, dtype="float64"):
    return np.random.default_rng(seed).uniform(50, 200, (n, 8, 10, 3)).astype(dtype)


def dreamed(way, count=3, *, net=None, picture=None, objective=CAT, seed=0, **how):
    """The first frames of a dream."""
    net, picture = net or seeing(), photo() if picture is None else picture
    return list(islice(dream(net, picture, objective, way, rng=np.random.default_rng(seed), **how), count))


def halves(h=8, w=10, n=1):
    """A mask: the left half stays, the right half may move."""
    mask = np.zeros((n, h, w, 1))
    mask[:, :, w // 2 :] = 1
    return mask


# What a frame tells


def test_a_frame_tells_of_the_picture_before_its_step():
    net, picture = seeing(), photo()
    penalty = TotalVariation(1e-3)
    frames = dreamed(Way(SGD(0.5), penalties=(penalty,), **PLAIN), net=net, picture=picture)
    before = picture
    for number, frame in enumerate(frames, start=1):
        y = net.forwardto(net.init_res(), "cat", net.preprocess.to_net(before))
        assert frame.value == pytest.approx((y * y).sum())
        assert frame.layer_norms == {"cat": pytest.approx(np.sqrt((y * y).sum()))}
        assert frame.penalty == pytest.approx(penalty(before)[0])
        assert frame.penalty_norm == pytest.approx(np.linalg.norm(penalty(before)[1]))
        assert frame.step_norm == pytest.approx(np.linalg.norm(frame.picture - before))
        assert frame.number == frame.state.number == number and frame.octave == 0 and frame.seconds > 0
        before = frame.picture


def test_a_plain_step_is_the_rate_times_the_gradient():
    picture = photo()
    frame = dreamed(Way(SGD(1e-3), **PLAIN), picture=picture)[0]
    assert frame.step_norm == pytest.approx(1e-3 * frame.gradient_norm)
    assert frame.penalty == frame.penalty_norm == 0


def test_a_mean_step_moves_the_pixels_by_its_rate():
    picture = photo()
    frame = dreamed(Way(MeanAbs(1.5), **PLAIN), picture=picture)[0]
    assert np.abs(frame.picture - picture).mean() == pytest.approx(1.5)


def test_the_gradient_is_told_as_the_net_gave_it_and_the_step_is_as_shaped():
    plain = dreamed(Way(SGD(1e-3), **PLAIN))[0]
    shaped = dreamed(Way(SGD(1e-3), transforms=(), shaping=(NaturalColours(1.0),)))[0]
    assert shaped.gradient_norm == plain.gradient_norm and shaped.step_norm < plain.step_norm


def test_a_penalty_is_climbed_down():
    alone = dreamed(Way(SGD(0.5), penalties=(decay(1e4),), **PLAIN), objective=1e-6 * CAT, count=2)
    assert alone[1].penalty < alone[0].penalty


def test_the_default_way_makes_the_layer_louder():
    frames = dreamed(Way(), count=25, picture=photo(dtype="float32"), net=seeing("float32"))
    assert np.mean([f.value for f in frames[-5:]]) > 2 * np.mean([f.value for f in frames[:5]])
    assert frames[-1].picture.min() >= 0 and frames[-1].picture.max() <= 255


@each
def test_every_canvas_makes_the_layer_louder(canvas, rate):
    frames = dreamed(Way(MeanAbs(rate), canvas=canvas, **PLAIN), count=15)
    assert frames[-1].value > 1.2 * frames[0].value


@each
def test_the_dtype_of_the_picture_stays(canvas, rate):
    for dtype in ("float32", "float64"):
        picture, net = photo(dtype=dtype), seeing(dtype)
        assert dreamed(Way(MeanAbs(rate), canvas=canvas), picture=picture, net=net)[-1].picture.dtype == dtype


def test_a_picture_of_whole_numbers_is_dreamed_in_floats():
    whole = photo().astype("uint8")
    way = Way(penalties=(TotalVariation(1e-3),), mask=0.5 * np.ones((1, 8, 10, 1)))
    one, other = (
        dreamed(way, picture=picture, net=seeing("float32"))[-1].picture
        for picture in (whole, whole.astype("float32"))
    )
    assert one.dtype == "float32" and one.tobytes() == other.tobytes()


def test_a_picture_in_colour_dreams_through_a_net_that_sees_grey():
    net = forked().astype("float64")
    grey = net.with_nodes(
        [node._replace(layer=replace(node.layer, w=node.layer.w[:, :, :1])) if node.name == "conv1" else node
         for node in net.nodes],
        input_shape=(8, 10, 1), preprocess=Preprocess("GRAY", 1 / 64, (2.0,)),
    )  # fmt: skip
    frames = dreamed(Way(SGD(0.2), **PLAIN), net=grey, count=5)
    assert frames[-1].picture.shape == (1, 8, 10, 3) and frames[-1].value > frames[0].value


def test_a_net_without_preprocess_takes_the_pixels_as_they_are():
    net = forked()
    frame = dreamed(Way(SGD(1e-9), **PLAIN), net=net)[0]
    y = net.forwardto(net.init_res(), "cat", photo())
    assert frame.value == pytest.approx((y * y).sum())


class Always(Transform):
    """The same map whatever is drawn, and a note of what it was asked for."""

    def __init__(self, there):
        self.there, self.asked = there, []

    def draw(self, rng, shape, step=0):
        self.asked.append((shape, step))
        return self.there


def test_the_gradient_comes_back_through_the_accidents():
    """To dream of a picture that the net sees rolled is to dream of the rolled picture, and roll it back."""
    roll = Roll(3, -2)
    seen_rolled = dreamed(Way(SGD(0.2), transforms=(Always(roll),), shaping=()))[-1].picture
    rolled = dreamed(Way(SGD(0.2), **PLAIN), picture=roll(photo()))[-1].picture
    np.testing.assert_allclose(seen_rolled, roll.adjoint(rolled), rtol=1e-10)


def test_accidents_are_drawn_for_every_step_and_counted_from_0():
    spy = Always(Linear())
    state = dreamed(Way(transforms=(spy,)), 3)[-1].state
    dreamed(Way(transforms=(spy,)), 1, state=state)
    assert spy.asked == [((1, 8, 10, 3), step) for step in range(4)]


# The same again


@each
def test_the_same_seed_dreams_the_same_bytes(canvas, rate):
    way = Way(MeanAbs(rate), canvas=canvas, transforms=ACCIDENTS)
    one, other = dreamed(way, seed=5), dreamed(way, seed=5)
    assert [f.picture.tobytes() for f in one] == [f.picture.tobytes() for f in other]
    assert dreamed(way, seed=6)[-1].picture.tobytes() != one[-1].picture.tobytes()


def test_every_optimiser_is_resumed_below():
    assert {*OPTIMISERS} == below(Optimiser) - {Optimiser}


def below(kind):
    return {kind}.union(*(below(child) for child in kind.__subclasses__()))


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda kind: kind.__name__)
@each
def test_a_dream_taken_up_again_goes_on_as_if_it_had_never_stopped(optimiser, canvas, rate):
    if optimiser in (SGD, Momentum, Nesterov, SlideMomentum):
        rate /= 3 * mean_gradient(canvas)
    if optimiser is LBFGS:  # which refuses accidents, and takes leaps
        way = Way(LBFGS(rate / 50), canvas=canvas, **PLAIN)
    else:
        way = Way(optimiser(rate), canvas=canvas, transforms=ACCIDENTS)
    whole = dreamed(way, 6)
    for stopped in (1, 4):
        rest = dreamed(way, 6 - stopped, seed=99, state=whole[stopped - 1].state)
        for there, here in zip(whole[stopped:], rest, strict=True):
            assert there.picture.tobytes() == here.picture.tobytes()
            assert (there.number, there.value, there.step_norm) == (here.number, here.value, here.step_norm)


def mean_gradient(canvas):
    """Of the numbers of that canvas at the first picture: what a step of rate 1 would change them by."""
    return np.abs(dreamed(Way(Momentum(1e-12), canvas=canvas), 1)[0].state.memory["velocity"]).mean()


@pytest.mark.parametrize("stopped", range(1, 7))
def test_with_a_mask_and_filters_too_at_any_step(stopped):
    way = Way(
        Adam(1.5),
        transforms=(Window(in_turn=True), Jitter(2)),
        filters=(Blur(0.6),),
        filter_every=3,
        mask=0.3 * halves(),
    )
    whole = dreamed(way, 7)
    rest = dreamed(way, 7 - stopped, state=whole[stopped - 1].state)
    assert [f.picture.tobytes() for f in whole[stopped:]] == [f.picture.tobytes() for f in rest]


def test_a_state_can_be_gone_on_from_twice():
    way = Way(Adam(1.5), transforms=ACCIDENTS)
    state = dreamed(way, 2)[-1].state
    first, again = dreamed(way, 3, state=state), dreamed(way, 3, state=state)
    assert [f.picture.tobytes() for f in first] == [f.picture.tobytes() for f in again]


def test_the_picture_that_was_given_is_not_changed():
    picture = photo()
    before = picture.copy()
    picture.flags.writeable = False
    dreamed(Way(filters=(Blur(),)), picture=picture)
    np.testing.assert_array_equal(picture, before)


def test_a_run_can_be_lent_to_look_into():
    net = seeing()
    res = net.init_res()
    frame = dreamed(Way(SGD(1e-9), **PLAIN), 1, net=net, res=res)[0]
    assert np.linalg.norm(res["cat"].x) == pytest.approx(frame.layer_norms["cat"])


# Masks


@each
def test_what_is_masked_never_moves_and_the_rest_does(canvas, rate):
    picture = photo()
    way = Way(MeanAbs(rate), canvas=canvas, transforms=ACCIDENTS, mask=halves())
    for frame in dreamed(way, 5, picture=picture):
        assert (frame.picture[:, :, :5] == picture[:, :, :5]).all()
        assert np.abs(frame.picture - picture)[:, :, 5:].mean() > 0.5


def test_neither_filters_nor_penalties_move_what_is_masked():
    picture = photo()
    way = Way(filters=(Blur(2.0), Bilateral()), penalties=(decay(1e3),), mask=halves())
    frame = dreamed(way, 4, picture=picture)[-1]
    assert (frame.picture[:, :, :5] == picture[:, :, :5]).all()


def test_a_half_mask_moves_half_as_far():
    picture = photo()
    way = Way(SGD(1e-3), mask=0.5 * np.ones((1, 8, 10, 1)), **PLAIN)
    half, full = (dreamed(way, 1, picture=picture)[0] for way in (way, replace(way, mask=None)))
    np.testing.assert_allclose(half.picture - picture, 0.25 * (full.picture - picture), atol=1e-12)
    assert half.gradient_norm == full.gradient_norm


def test_a_mask_holds_to_the_first_picture_also_when_gone_on_from_the_last():
    way = Way(mask=0.3 * halves())
    whole = dreamed(way, 4)
    rest = dreamed(way, 2, picture=whole[1].picture, state=whole[1].state)
    assert [f.picture.tobytes() for f in whole[2:]] == [f.picture.tobytes() for f in rest]


def test_two_ways_can_be_told_apart():
    way = Way(mask=halves())
    assert way in {way} and way != replace(way) and "Jitter" in repr(way)


def test_each_picture_of_a_batch_may_have_its_own_mask():
    picture, mask = photo(2), np.concatenate([halves(), 1 - halves()])
    moved = dreamed(Way(mask=mask), picture=picture)[-1].picture != picture
    assert not moved[0, :, :5].any() and not moved[1, :, 5:].any()
    assert moved[0, :, 5:].any() and moved[1, :, :5].any()


@pytest.mark.parametrize("shape", [(8, 10), (1, 8, 10, 3), (1, 10, 8, 1), (2, 8, 10, 1), (1, 8, 10)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(
        ShapeError, match=r"the mask is \(.*the picture \(1, 8, 10, 3\); give it as \(1, H, W, 1"
    ):
        dreamed(Way(mask=np.ones(shape)))


@pytest.mark.parametrize("low, high", [(-0.1, 1.0), (0.0, 255.0), (0.0, float("nan"))])
def test_a_mask_out_of_range_is_refused(low, high):
    mask = np.full((1, 8, 10, 1), low)
    mask[0, 0, 0] = high
    with pytest.raises(UsageError, match=r"the mask goes from .* to .*; give numbers from 0 to 1"):
        dreamed(Way(mask=mask))


# Filters


def test_filters_come_after_every_so_many_steps():
    picture = photo()
    filtered = Way(SGD(1e-9), filters=(Blur(1.0),), filter_every=3, **PLAIN)
    pictures = [frame.picture for frame in dreamed(filtered, 6, picture=picture)]
    np.testing.assert_allclose(pictures[1], picture, atol=1e-4)
    np.testing.assert_allclose(pictures[2], Blur(1.0)(picture), atol=1e-4)
    np.testing.assert_allclose(pictures[4], pictures[2], atol=1e-4)
    np.testing.assert_allclose(pictures[5], Blur(1.0)(Blur(1.0)(picture)), atol=1e-4)


def test_filters_come_one_after_the_other():
    picture, fade = photo(), Blur(0.6, "matlab", 0.0)

    def darker(x):
        return np.maximum(x - 20, 0)

    frame = dreamed(Way(SGD(1e-9), filters=(fade, darker), **PLAIN), 1, picture=picture)[0]
    np.testing.assert_allclose(frame.picture, darker(fade(picture)), atol=1e-4)


def test_matlabs_blur_fades_the_rim_of_a_dream_and_the_mirror_does_not():
    flat = 200 + photo() / 1000
    faded, kept = (
        dreamed(Way(SGD(1e-9), filters=(blur,), **PLAIN), 4, picture=flat)[-1].picture
        for blur in (Blur(0.7, "matlab", 100.0), Blur(0.7))
    )
    rim = np.r_[0, -1]
    assert faded[0, rim].mean() < 170 and faded[0, 3:5, 4:6].mean() > 190
    np.testing.assert_allclose(kept, 200.1, atol=0.2)


def test_waves_are_filtered_as_pictures():
    way = Way(SGD(1e-9), canvas=Fourier, filters=(Blur(1.0),), **PLAIN)
    np.testing.assert_allclose(dreamed(way, 1)[0].picture, Blur(1.0)(photo()), rtol=1e-5)


def test_a_net_that_paints_cannot_be_filtered():
    with pytest.raises(UsageError, match="CPPN cannot go on from a filtered picture; give no filters"):
        dreamed(Way(canvas=CPPN, filters=(Blur(),)))


@pytest.mark.parametrize("every", [0, -2])
def test_filters_every_no_steps(every):
    with pytest.raises(UsageError, match=f"filters every {every} steps; give 1 or more"):
        Way(filter_every=every)


# Batches


def test_the_pictures_of_a_batch_that_shall_differ_drift_apart():
    both = np.repeat(photo(), 2, axis=0)
    both[1] += np.random.default_rng(7).standard_normal(both[1].shape)
    way = Way(MeanAbs(1.0), **PLAIN)
    alone = dreamed(way, 8, picture=both)[-1].picture
    apart = dreamed(way, 8, picture=both, objective=diversity("cat"))[-1].picture
    assert np.abs(apart[0] - apart[1]).mean() > 3 * np.abs(alone[0] - alone[1]).mean()


def test_a_batch_dreams_as_its_pictures_do_alone():
    both = photo(2)
    together = dreamed(Way(SGD(0.05), **PLAIN), picture=both)[-1].picture
    for i in range(2):
        alone = dreamed(Way(SGD(0.05), **PLAIN), picture=both[i : i + 1])[-1].picture
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-10)


def test_a_net_that_paints_paints_one():
    with pytest.raises(ShapeError, match=r"CPPN paints one picture in colour, found \(2, 8, 10, 3\)"):
        dreamed(Way(canvas=CPPN), picture=photo(2))


# Every device


@pytest.mark.parametrize("mask", [None, halves()], ids=["whole", "masked"])
@each
def test_every_device_dreams_the_same_dream(canvas, rate, mask, device):
    how = {"canvas": canvas, "transforms": ACCIDENTS, "penalties": (TotalVariation(1e-4), decay(1e-3))}
    filters = () if canvas is small_cppn else (Blur(0.5), Bilateral(0.8))
    way = Way(Adam(rate), filters=filters, filter_every=2, mask=mask, **how)
    objective = CAT + 0.5 * channel("relu1", 2)
    here = dreamed(way, objective=objective)
    there = dreamed(way, net=seeing().to(device), picture=to_device(photo(), device), objective=objective)
    for one, other in zip(here, there, strict=True):
        assert device_of(other.picture) == device
        np.testing.assert_allclose(to_host(other.picture), one.picture, rtol=1e-7)
        assert other.value == pytest.approx(one.value)


@pytest.mark.parametrize(
    "optimiser", [MeanAbs(2.0), LBFGS(0.2)], ids=lambda optimiser: type(optimiser).__name__
)
def test_a_dream_on_a_device_is_taken_up_there(optimiser, device):
    net, picture, way = seeing().to(device), to_device(photo(), device), Way(optimiser, **PLAIN)
    whole = dreamed(way, 5, net=net, picture=picture)
    rest = dreamed(way, 2, net=net, picture=picture, state=whole[2].state)
    np.testing.assert_allclose(to_host(whole[-1].picture), to_host(rest[-1].picture), rtol=1e-7)


# Newton's way


@each
def test_by_curvature_the_layer_grows_with_every_step(canvas, rate):
    values = [frame.value for frame in dreamed(Way(LBFGS(rate / 50), canvas=canvas, **PLAIN), 8)]
    assert values == sorted(values) and values[-1] > values[0]


@pytest.mark.parametrize(
    "accident", [{"transforms": (Jitter(3),)}, {"filters": (Blur(),)}, {"shaping": (Smooth(),)}]
)
def test_by_curvature_it_goes_without_accidents(accident):
    with pytest.raises(UsageError, match=r"takes accidents for it: give transforms=\(\), shaping=\(\)"):
        Way(LBFGS(0.3), **{**PLAIN, **accident})


# When it must stop


@each
def test_a_leap_is_no_step_and_the_last_picture_is_good(canvas, rate):
    way = Way(MeanAbs(rate), canvas=canvas, **PLAIN)
    good = dreamed(way, 2)
    for leaping in (SGD(1e10), MeanAbs(1e10), Adam(1e10)):
        frames = dream(
            seeing(),
            photo(),
            CAT,
            replace(way, step=leaping),
            rng=np.random.default_rng(0),
            state=memoryless(good),
        )
        with pytest.raises(
            DivergedError, match=r"step 3 moved the pixels by \d+ of 255 on average.*smaller steps"
        ):
            next(frames)
    assert np.isfinite(good[-1].picture).all()


def memoryless(frames):
    return replace(frames[-1].state, memory=None)


def test_a_leap_within_a_small_mask_is_seen_too():
    mask = np.zeros((1, 8, 10, 1))
    mask[0, 4:6, 4:6] = 1
    with pytest.raises(DivergedError, match="step 1 moved the pixels by"):
        dreamed(Way(MeanAbs(1e10), mask=mask))


def test_every_frame_until_it_diverges_is_good():
    frames, rate = dreamed(Way(MeanAbs(1.0), **PLAIN), 1), 1.0
    with pytest.raises(DivergedError, match="go on from it with smaller steps"):
        while rate < 1e6:
            rate *= 3
            frames += dreamed(Way(MeanAbs(rate), **PLAIN), 1, state=frames[-1].state)
    assert len(frames) > 2 and all(np.isfinite(frame.picture).all() for frame in frames)
    assert dreamed(Way(MeanAbs(1.0), **PLAIN), 1, state=frames[-1].state)[0].number == len(frames) + 1


def test_a_picture_that_says_nothing_to_the_layer():
    quiet = on_layer("relu1", "quiet", lambda y: (0.0, np.zeros_like(y)))
    with pytest.raises(
        DivergedError,
        match=r"quiet\(relu1\) has no gradient on this picture: nothing there speaks to 'relu1'; ",
    ):
        dreamed(Way(), objective=quiet)


def test_later_a_silent_step_is_a_step_that_moves_nothing():
    """A window that happens to show nothing is no reason to stop."""
    calls = []

    def fading(y):
        calls.append(1)
        return 1.0, (len(calls) != 2) * np.ones_like(y)

    frames = dreamed(Way(SGD(0.1), **PLAIN), objective=on_layer("relu1", "fading", fading))
    assert [frame.step_norm > 0 for frame in frames] == [True, False, True]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_objective_that_is_no_number_any_more(value):
    broken = on_layer("relu1", "broken", lambda y: (value, np.ones_like(y)))
    with pytest.raises(
        DivergedError, match=rf"step 1: broken\(relu1\) is {value:g} and its gradient .*was good"
    ):
        dreamed(Way(), objective=broken)


def test_a_seed_that_is_no_number_any_more():
    broken = on_layer("relu1", "broken", lambda y: (1.0, np.full_like(y, np.nan)))
    with pytest.raises(
        DivergedError, match="the seed for 'relu1' has numbers that are complex, NaN or infinite"
    ):
        dreamed(Way(), objective=broken)


def test_a_picture_with_holes():
    picture = photo()
    picture[0, 2, 3, 1] = np.nan
    with pytest.raises(DivergedError, match=r"the image has 1 of 240 numbers that are NaN or infinite"):
        dreamed(Way(SGD(1.0), **PLAIN), picture=picture)


def test_a_picture_too_small_for_the_net():
    with pytest.raises(ShapeError) as caught:
        dreamed(Way(), picture=photo()[:, :1, :1])
    assert any("smallest square image" in note for note in caught.value.__notes__)


def test_a_picture_that_is_no_batch():
    with pytest.raises(ShapeError, match=r"RGB wants images \(N, H, W, 3\)"):
        dreamed(Way(**PLAIN), picture=photo()[0])


def test_a_layer_that_is_not_there():
    with pytest.raises(UnknownLayerError, match="no layer 'relu2'; did you mean 'relu1'"):
        dreamed(Way(), objective=squared_norm("relu2"))


def test_a_net_on_the_device_and_a_picture_on_the_host():
    with pytest.raises(DeviceError, match="meets"):
        dreamed(Way(), net=seeing().to("fake"))
