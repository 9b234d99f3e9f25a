"""What makes a picture natural: penalties against their numeric gradients, filters against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn.arrays import to_device, to_host
from minidnn.dream import Anchor, Bilateral, Blur, PNorm, TotalVariation, decay
from minidnn.dream.priors import blurred
from minidnn.errors import DeviceError, ShapeError, UsageError
from minidnn.gradcheck import check_elements
from tests.fakedevice import fake
from tests.samples import distinct

SHAPE = (2, 5, 7, 3)


def pixels(seed=0, shape=SHAPE):
    """A picture without ties, none of its pixels near the middle grey."""
    return 127.5 + 110 * distinct(np.random.default_rng(seed), shape)


PENALTIES = {
    "tv": TotalVariation(0.3, exponent=1.0),
    "tv, 1.5": TotalVariation(0.3, exponent=1.5, rounding=0.1),
    "tv, squared": TotalVariation(0.3),
    "tv, cubed": TotalVariation(0.3, exponent=3.0),
    "p 1": PNorm(0.7, p=1.0),
    "p 6": PNorm(0.7),
    "p 2.5, dark": PNorm(0.7, p=2.5, centre=-3.0),
    "decay": decay(0.7),
    "anchor": Anchor(0.7, pixels(seed=1)),
    "anchor for all": Anchor(0.7, pixels(seed=1)[:1]),
}
FILTERS = {
    "blur": Blur(1.3),
    "blur, matlab": Blur(0.8, "matlab"),
    "blur, matlab, coloured": Blur(0.8, "matlab", (120.0, 117.0, 104.0)),
    "bilateral": Bilateral(1.2, 40.0),
}
penalised = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
filtered = pytest.mark.parametrize("smooth", FILTERS.values(), ids=FILTERS)


# Penalties


@penalised
def test_the_gradient_is_that_of_the_value(penalty):
    x = pixels()
    found = check_elements(lambda x: penalty(x)[0], x, penalty(x)[1], eps=1e-4)
    assert found.error < 1e-6, str(found)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 6, 2), (1, 4, 1, 3)])
def test_total_variation_of_a_picture_one_pixel_wide(shape):
    x, penalty = pixels(shape=shape), TotalVariation(0.3, exponent=1.5)
    value, grad = penalty(x)
    assert check_elements(lambda x: penalty(x)[0], x, grad, eps=1e-4).error < 1e-6 or not (
        value or grad.any()
    )


@penalised
def test_a_small_step_down_makes_it_smaller(penalty):
    x = pixels()
    value, grad = penalty(x)
    assert 0 <= penalty(x - 1e-3 * grad / np.abs(grad).max())[0] < value


@penalised
def test_the_dtype_stays_and_nothing_is_changed(penalty):
    for dtype in ("float32", "float64"):
        x = pixels().astype(dtype)
        x.flags.writeable = False
        if isinstance(penalty, Anchor):
            penalty = Anchor(penalty.weight, penalty.start.astype(dtype))
        value, grad = penalty(x)
        assert type(value) is float and grad.dtype == dtype and grad.shape == x.shape


@penalised
def test_every_device_is_as_strict(penalty, device):
    x = pixels()
    there = penalty
    if isinstance(penalty, Anchor):
        there = Anchor(penalty.weight, to_device(penalty.start, device))
    value, grad = there(to_device(x, device))
    assert value == pytest.approx(penalty(x)[0])
    np.testing.assert_allclose(to_host(grad), penalty(x)[1], rtol=1e-12, atol=1e-15)


@penalised
def test_the_value_of_a_batch_is_the_sum_over_its_pictures(penalty):
    x = pixels()
    starts = (
        [Anchor(penalty.weight, one[None]) for one in penalty.start] if isinstance(penalty, Anchor) else []
    )
    parts = [(starts[i % len(starts)] if starts else penalty)(x[i : i + 1])[0] for i in range(2)]
    assert penalty(x)[0] == pytest.approx(sum(parts))


def test_total_variation_worked_by_hand():
    x = np.zeros((1, 2, 3, 1))
    x[0, :, 2] = 4  # one step of 4 in each of two rows
    assert TotalVariation(0.5)(x)[0] == pytest.approx(0.5 * 2 * 16)
    assert TotalVariation(0.5, exponent=1, rounding=9)(x)[0] == pytest.approx(0.5 * 2 * (5 - 3))


def test_a_flat_picture_has_no_variation():
    value, grad = TotalVariation(1.0, exponent=1)(np.full((1, 3, 4, 3), 77.0))
    assert value == 0 and not grad.any()


def test_the_p_norm_worked_by_hand():
    x = np.array([0.0, 127.5, 255.0 + 127.5]).reshape(1, 1, 3, 1)
    value, grad = PNorm(10.0, p=3)(x)
    assert value == pytest.approx(10 * (1 + 0 + 8))
    np.testing.assert_allclose(grad.ravel(), [-10 * 3 / 127.5, 0, 10 * 3 * 4 / 127.5])


def test_decay_is_the_p_norm_with_p_2_and_pulls_to_grey():
    assert decay(0.4, centre=100.0) == PNorm(0.4, p=2.0, centre=100.0)
    x = pixels()
    np.testing.assert_allclose(decay(0.4)(x)[1], 2 * 0.4 * (x - 127.5) / 127.5**2)


def test_an_anchor_pulls_to_where_the_dream_began():
    start = pixels(seed=1)
    value, grad = Anchor(2.0, start)(start + 127.5)
    assert value == pytest.approx(2.0 * start.size)
    assert Anchor(2.0, start)(start)[0] == 0
    np.testing.assert_allclose(grad, np.full(SHAPE, 4 / 127.5))


# Filters


def plainly_blurred(x, sigma, centre):
    """Beyond the border is the mirror (centre None), or that number: one pixel after the other."""
    reach = int(4 * sigma + 0.5)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    bell = np.outer(bell, bell) / bell.sum() ** 2
    out, (n, h, w, c) = np.zeros(x.shape), x.shape
    mirrored = lambda i, size: (i if i % (2 * size) < size else -1 - i) % size  # noqa: E731
    for image, i, j, k in np.ndindex(n, h, w, c):
        for di in range(-reach, reach + 1):
            for dj in range(-reach, reach + 1):
                y, z = i + di, j + dj
                if centre is not None and not (0 <= y < h and 0 <= z < w):
                    old = centre
                else:
                    old = x[image, mirrored(y, h), mirrored(z, w), k]
                out[image, i, j, k] += bell[di + reach, dj + reach] * old
    return out


@pytest.mark.parametrize("sigma", [0.6, 1.4])
@pytest.mark.parametrize("border, centre", [("mirror", None), ("matlab", 90.0)])
def test_a_blur_is_that_of_plain_loops(sigma, border, centre):
    x = pixels(shape=(1, 4, 6, 2))
    ours = Blur(sigma, border, 90.0)(x)
    np.testing.assert_allclose(ours, plainly_blurred(x, sigma, centre), rtol=1e-10)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 9, 1), (1, 12, 1, 2)])
@pytest.mark.parametrize("sigma", [0.4, 1.7, 6.0])
@pytest.mark.parametrize("border", ["mirror", "matlab"])
def test_a_blur_by_matrices_is_the_same_blur(shape, sigma, border, device):
    x = pixels(shape=shape)
    there = blurred(to_device(x, device), sigma, border=border, centre=100.0)
    np.testing.assert_allclose(
        to_host(there), blurred(x, sigma, border=border, centre=100.0), rtol=1e-10, atol=1e-9
    )


def test_matlabs_blur_fades_the_rim_to_the_centre_and_the_mirror_does_not():
    flat = np.full((1, 15, 21, 3), 200.0)
    fading, keeping = Blur(1.0, "matlab", centre=100.0), Blur(1.0)
    for _ in range(3):
        np.testing.assert_allclose(keeping(flat), 200)
    once, twice = fading(flat), fading(fading(flat))
    assert 100 < twice[0, 0, 0, 0] < once[0, 0, 0, 0] < 160
    np.testing.assert_allclose(twice[0, 7, 10], 200, rtol=1e-3)


def test_the_rim_fades_to_a_colour():
    flat = np.full((1, 9, 7, 3), 200.0)
    faded = Blur(2.0, "matlab", (200.0, 100.0, 0.0))(flat)[0, 0, 0]
    assert faded[0] == pytest.approx(200) and faded[0] > faded[1] > faded[2]


def test_a_bilateral_filter_is_that_of_plain_loops():
    x, sigma, reach = pixels(shape=(2, 4, 5, 3)), 1.2, 2
    out = np.empty(x.shape)
    for n, i, j in np.ndindex(2, 4, 5):
        total, weights = np.zeros(3), 0.0
        for di, dj in np.ndindex(2 * reach + 1, 2 * reach + 1):
            y, z = np.clip(i + di - reach, 0, 3), np.clip(j + dj - reach, 0, 4)
            far = (di - reach) ** 2 + (dj - reach) ** 2
            unlike = ((x[n, i, j] - x[n, y, z]) ** 2).sum()
            weight = np.exp(-far / (2 * sigma**2) - unlike / (2 * 60.0**2))
            total, weights = total + weight * x[n, y, z], weights + weight
        out[n, i, j] = total / weights
    np.testing.assert_allclose(Bilateral(sigma, 60.0)(x), out, rtol=1e-10)


def test_a_bilateral_filter_keeps_edges_and_smooths_what_is_between():
    x = np.full((1, 8, 12, 3), 60.0)
    x[:, :, 6:] = 190.0
    noisy = x + np.random.default_rng(3).normal(0, 4, x.shape)
    smoothed = Bilateral()(noisy)
    assert np.abs(smoothed - x).std() < 0.5 * np.abs(noisy - x).std()
    assert np.abs(smoothed - x).max() < 12  # the edge of 130 stands


@filtered
def test_a_filter_keeps_shape_and_dtype_and_changes_nothing_else(smooth):
    for dtype in ("float32", "float64"):
        x = pixels().astype(dtype)
        x.flags.writeable = False
        assert smooth(x).dtype == dtype and smooth(x).shape == x.shape
        assert smooth(x).std() < x.std()


@filtered
def test_every_device_filters_alike(smooth, device):
    x = pixels()
    np.testing.assert_allclose(to_host(smooth(to_device(x, device))), smooth(x), rtol=1e-10)


# Errors


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: TotalVariation(1.0, exponent=0.5), "TotalVariation with exponent 0.5; give 1 or more"),
        (
            lambda: TotalVariation(1.0, rounding=0.0),
            "TotalVariation with rounding 0.0; give a number above 0",
        ),
        (lambda: PNorm(1.0, p=0.9), "PNorm with p 0.9; give 1 or more"),
        (lambda: Blur(0.0), "Blur with sigma 0.0; give a width above 0, in pixels"),
        (lambda: Blur(float("nan")), "Blur with sigma nan"),
        (lambda: Blur(1.0, "wrap"), "Blur with border 'wrap'; 'mirror' or 'matlab'"),
        (lambda: Bilateral(-1.0), "Bilateral with sigma -1.0; give a width above 0"),
        (lambda: Bilateral(1.0, 0.0), "Bilateral with range 0.0; give a difference of colours above 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


@pytest.mark.parametrize("shape", [(2, 4, 7, 3), (3, 5, 7, 3)])
def test_an_anchor_of_another_size_is_refused(shape):
    with pytest.raises(ShapeError, match=r"Anchor at a picture \(\d, \d, 7, 3\), this one is \(2, 5, 7, 3\)"):
        Anchor(1.0, np.zeros(shape))(pixels())


def test_an_anchor_elsewhere_is_refused():
    with pytest.raises(DeviceError, match=r"device array .* meets host array"):
        Anchor(1.0, pixels())(fake.put(pixels()))


@pytest.mark.parametrize(
    "settings",
    [*(p for name, p in PENALTIES.items() if "anchor" not in name), *FILTERS.values()],
    ids=lambda settings: type(settings).__name__,
)
def test_settings_can_be_compared_and_put_into_sets(settings):
    assert settings in {settings} and settings == settings
