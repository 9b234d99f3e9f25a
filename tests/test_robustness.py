"""The demo of augmentation: what it makes worse is worse by the seed, and its pictures can be drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from examples import robustness
from minidnn.train.data import Pictures, Splits, split
from minidnn.train.recipe import Recipe
from tests.test_train_cli import digits  # noqa: F401


@pytest.fixture
def data(digits) -> Splits:  # noqa: F811
    return robustness.share(Recipe(data=str(digits)).splits(), 60, 20)


@pytest.mark.parametrize("change", robustness.TESTED.values(), ids=robustness.TESTED)
def test_each_change_is_the_same_whenever_it_is_asked_for(data, change):
    changed = robustness.Changed(data.test, np.arange(20), "changed", change)
    once, again = changed.batch(np.arange(3, 9)), changed.batch(np.arange(3, 9))
    assert np.array_equal(once, again) and once.shape == (6, 28, 28, 1)
    assert once.min() >= 0 and once.max() <= 255
    plain = data.test.batch(np.arange(3, 9))
    assert np.array_equal(once, plain) == (change is robustness.TESTED["as it is"])


def test_a_fainter_picture_keeps_its_mean():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 1), np.uint8)
    found = robustness.faint(images, np.random.default_rng(0))
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), images.mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.std(axis=(1, 2, 3)), images.std(axis=(1, 2, 3)) / 4, rtol=1e-4)


def test_a_quarter_turn_changes_what_an_upright_net_knows():
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 1), np.uint8)
    found = robustness.turned_by(90)(images, np.random.default_rng(0))
    np.testing.assert_allclose(found[0], np.rot90(images[0], -1), atol=1e-3)


def test_a_small_study_learns_and_can_be_drawn(data, capsys):
    recipe = replace(robustness.RECIPE, epochs=3, batch=12)
    rows, lines = robustness.study(data, recipe, ("as they are", "shift", "rotate"))
    assert rows["as they are"]["as it is"] > 0.5 and set(rows["shift"]) == set(robustness.TESTED)
    assert list(lines) == ["as they are", "rotate"] and len(lines["rotate"]) == len(robustness.ANGLES)
    assert lines["rotate"][len(robustness.ANGLES) // 2] == rows["rotate"]["as it is"], "0 degrees"
    table = robustness.table(rows).splitlines()
    assert (
        table[0].startswith("| trained on | as it is | noise") and len(table) == 5 and "**" in "".join(table)
    )
    pytest.importorskip("matplotlib")
    for picture in (robustness.table_picture(rows), robustness.angle_picture(lines)):
        assert b"<svg" in picture


@pytest.mark.parametrize("channels", [1, 3])
def test_what_each_net_sees_can_be_drawn(channels):
    pytest.importorskip("matplotlib")
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 9, channels), np.uint8)
    whole = split({"all": Pictures(images, np.arange(12) % 2, ("a", "b"), "noise")}, seed=0)
    found = robustness.samples_picture(whole.train, 3)
    assert b"<svg" in found


def test_all_trained_nets_are_described_in_words_that_are_known():
    for words in robustness.TRAINED.values():
        assert replace(robustness.RECIPE, augment=words).way()
    assert set(robustness.TURNED) <= set(robustness.TRAINED)
