"""The valley: what each optimiser makes of it, and that it can be drawn."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn.optim import SGD
from minidnn.train.curves import curves, figure_of, in_powers
from minidnn.train.paths import OPTIMISERS, START, path, paths, valley


def test_the_gradient_of_the_valley_is_its_gradient():
    at, nudge = np.array([0.3, -0.7]), 1e-6
    for i in range(2):
        step = nudge * np.eye(2)[i]
        slope = (valley(at + step)[0] - valley(at - step)[0]) / (2 * nudge)
        assert valley(at)[1][i] == pytest.approx(slope)


def test_adagrad_sees_a_round_valley_and_is_there_before_sgd():
    after = {name: valley(path(optimiser, 60)[-1])[0] for name, optimiser in OPTIMISERS.items()}
    assert after["AdaGrad"] < 0.01 * after["SGD"] and after["Momentum"] < after["SGD"]
    along, across = np.abs(path(OPTIMISERS["AdaGrad"], 1)[1] - START)
    assert along == pytest.approx(across), "its first step is as long in both directions"


def test_sgd_at_a_rate_too_large_for_the_steep_side_flies_out():
    assert valley(path(SGD(0.021), 60)[-1])[0] > valley(np.array(START))[0]


def test_plots_are_pictures():
    pytest.importorskip("matplotlib")
    rows = [{"epoch": n, "loss": 1 / n, "error": 0.5 / n, "rate": 0.1, "validation_loss": 2 / n,
             "validation_top1": 0.6 / n} for n in (1, 2, 3)]  # fmt: skip
    for picture in (paths(steps=5), curves(rows), curves([rows[0] | {"error": 0.0}])):
        assert b"<svg" in picture


def test_errors_are_drawn_in_powers_with_plain_numbers_and_plainly_where_one_is_0():
    pytest.importorskip("matplotlib")
    for heights, scale in (([50.0, 5.0], "log"), ([2.0, 0.0], "linear"), ([], "linear")):
        _, (axes,) = figure_of(1)
        axes.plot(range(len(heights)), heights)
        in_powers(axes)
        assert axes.get_yscale() == scale
    _, (axes,) = figure_of(1)
    axes.plot([1, 2], [50.0, 5.0])
    in_powers(axes)
    assert axes.yaxis.get_minor_formatter()(20, 0) == "20"
