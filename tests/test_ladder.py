"""The convolution ladder: every rung gives the same numbers, and the page shows the rungs as they run."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from examples import ladder
from minidnn.kernels import conv
from minidnn.window import Window
from tests.samples import distinct

PAGE = Path(__file__).parents[1] / "docs" / "convolution.md"
rungs = pytest.mark.parametrize("rung", ladder.RUNGS.values(), ids=ladder.RUNGS.keys())


@rungs
@pytest.mark.parametrize("shape", [(7, 5, 3), (1, 1, 2), (1, 9, 4), (13, 2, 1)])
def test_every_rung_is_the_plain_convolution(rung, shape):
    rng = np.random.default_rng(0)
    x, w = distinct(rng, shape), rng.standard_normal((3, 3, shape[2], 6))
    wanted = conv(x[None], w, None, Window.of(3, pad=1))[0][0]
    assert rung(x, w).shape == ladder.of_minidnn("chunked")(x, w).shape == wanted.shape
    assert np.abs(rung(x, w) - wanted).max() <= 1e-12 * np.abs(wanted).max()


@rungs
def test_the_gradient_of_every_rung_is_its_gradient(rung):
    assert ladder.check(rung) < 1e-8


def test_that_check_can_fail():
    assert ladder.check(lambda x, w: 1.01 * ladder.im2col(x, w) ** 2) > 1e-3


@rungs
def test_float32_stays_float32(rung):
    x, w = np.ones((3, 4, 2), "float32"), np.ones((3, 3, 2, 5), "float32")
    assert rung(x, w).dtype == np.float32


@pytest.mark.parametrize("name", ["chunked", "winograd2", "winograd4"])
def test_a_measure_has_time_memory_and_error(name):
    ms, megabytes, error = ladder.measure(ladder.of_minidnn(name), 10, 16, 18, tries=1)
    assert ms > 0 and megabytes > 10 * 10 * 18 * 4 / 1e6 and 0 < error < 5e-5


def test_the_page_shows_the_rungs_as_they_run():
    page = PAGE.read_text(encoding="utf-8")
    shown = ("bordered", "loops", "windows", "im2col", "chunked", "shifted", "winograd", "backward", "check")
    assert [name for name in shown if inspect.getsource(getattr(ladder, name)).rstrip() not in page] == []
