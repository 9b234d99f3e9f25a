"""Augmentation: each does what it says, to each picture its own, all pictures at once and by the seed."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn.errors import UsageError
from minidnn.train import augment
from minidnn.train.augment import (
    AUGMENTATIONS,
    Colour,
    Crop,
    Cutout,
    Flip,
    Noise,
    Occlude,
    Rotate,
    Scale,
    Shift,
    applied,
    from_words,
)


def pictures(n=40, h=9, w=12, c=3, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (n, h, w, c), np.uint8)


def rng(seed=1):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
@pytest.mark.parametrize("c", [1, 3])
def test_each_is_drawn_by_the_seed_and_leaves_shape_range_and_its_input(kind, c):
    images = pictures(c=c)
    before = images.copy()
    images.flags.writeable = False
    once, again, other = kind()(images, rng()), kind()(images, rng()), kind()(images, rng(2))
    assert np.array_equal(once, again) and not np.array_equal(once, other)
    assert once.shape == images.shape and once.dtype in (np.uint8, np.float32)
    assert once.min() >= 0 and once.max() <= 255 and np.array_equal(images, before)


def test_flip_turns_about_half():
    images = pictures()
    found = Flip()(images, rng())
    turned = [np.array_equal(a, b[:, ::-1]) for a, b in zip(found, images, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(found, images, strict=True)]
    assert 10 < sum(turned) < 30 and sum(turned) + sum(kept) == 40
    assert np.array_equal(Flip(1)(images, rng()), images[:, :, ::-1])


@pytest.mark.parametrize(("kind", "fill"), [(Crop, "constant"), (Shift, "edge")])
def test_crop_and_shift_are_windows_on_a_padded_picture(kind, fill):
    images = pictures(n=60)
    ground = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=fill)
    found = kind(2)(images, rng())
    places = set()
    for picture, wide in zip(found, ground, strict=True):
        at = [
            (y, x) for y in range(5) for x in range(5) if np.array_equal(picture, wide[y : y + 9, x : x + 12])
        ]
        assert len(at) == 1
        places.update(at)
    assert len(places) > 15, "each picture has a place of its own"


def test_a_rotation_by_0_and_a_scale_by_1_change_nothing():
    images = pictures()
    for kind in (Rotate, Scale):
        np.testing.assert_allclose(kind(0)(images, rng()), images, atol=1e-3)


def test_a_rotation_by_a_quarter_turn_is_numpys():
    image = pictures(n=1, h=8, w=8)
    found = augment.rotated(image, np.array([90.0]))
    np.testing.assert_allclose(found[0], np.rot90(image[0], -1), atol=1e-3)


def test_a_scale_by_2_shows_the_middle():
    image = np.zeros((1, 9, 9, 1), np.uint8)
    image[0, 3:6, 3:6] = 200
    found = augment._sampled(image, np.eye(2)[None] / 2)
    assert (found > 99).sum() >= 25 > 9 and found[0, 4, 4] == 200


def test_pictures_of_a_row_or_a_pixel_can_be_turned():
    for shape in ((2, 1, 6, 3), (2, 5, 1, 3), (2, 1, 1, 1)):
        assert np.isfinite(Rotate(30)(np.full(shape, 7, np.uint8), rng())).all()


def test_noise_has_its_deviation():
    grey = np.full((30, 20, 25, 3), 128, np.uint8)
    assert Noise(10)(grey, rng()).std() == pytest.approx(10, rel=0.02)


def test_colour_changes_brightness_of_each_picture_by_itself():
    grey = np.full((50, 4, 6, 3), 128, np.uint8)
    levels = Colour(0.2)(grey, rng()).mean(axis=(1, 2, 3))
    assert levels.std() > 10 and abs(levels - 128).max() <= 0.2 * 255 + 1


def test_cutout_and_occlusion_cover_what_they_say():
    images = np.full((200, 16, 20, 3), 7, np.uint8)
    squares = (Cutout(6)(images, rng()) == 128).all(axis=3).sum(axis=(1, 2))
    assert squares.max() == 36 and squares.min() >= 9, "at a corner a quarter of it is left"
    covered = (Occlude(0.25, 0.5)(images, rng()) != 7).any(axis=3).mean(axis=(1, 2))
    assert 0.35 < (covered > 0).mean() < 0.65 and covered.max() < 0.3


def test_words_become_augmentations():
    found = from_words(("flip", "crop 3", "occlude 0.2 0.9"))
    assert found == (Flip(), Crop(3), Occlude(0.2, 0.9))
    assert applied(found, pictures(), rng()).shape == (40, 9, 12, 3)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("flop", "no augmentation 'flop'; there are flip, .*; did you mean 'flip'"),
        ("crop many", r"augmentation 'crop many': crop takes pad \(4\)"),
        ("crop 1 2", r"crop takes pad"),
        ("flip 2", "Flip got chance=2.0; give a number from 0 to 1"),
        ("noise -1", "Noise got deviation=-1.0"),
    ],
)
def test_words_that_are_none(word, message):
    with pytest.raises(UsageError, match=message):
        from_words((word,))
