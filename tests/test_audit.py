"""The audit finds every gradient right, and every mutant wrong: a checker that cannot fail is no checker."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import kernels
from minidnn import layers as L
from minidnn.errors import MinidnnError, UsageError
from minidnn.gradcheck import audit, check_direction, check_elements
from minidnn.net import Net
from minidnn.window import Window
from tests.nets import every_layer, forked, photo
from tests.samples import distinct


@pytest.mark.parametrize("mode", ["test", "train"])
def test_a_net_with_every_layer_passes(mode):
    net = every_layer()
    found = audit(net, photo(net), mode=mode)
    assert found.ok, str(found)
    assert found.worst.check.error < 1e-6
    assert {type(node.layer).__name__ for node in net.nodes} == set(L.__all__) - {"Layer"}


def test_what_is_exempt_is_declared_and_counted():
    net = every_layer()
    rows = audit(net, photo(net)).exempt
    assert [row.layer for row in rows] == ["reversal"]
    assert "declares -0.5 times the gradient" in rows[0].exempt


def test_the_table_names_every_layer_parameter_and_verdict():
    net = forked()
    table = str(audit(net, photo(net)))
    for word in ["conv1", "whole net", "a/w", "error", "verdict", "ok"]:
        assert word in table
    assert "twin/w" not in table, "a shared weight is one argument of the net"


def test_a_corner_is_left_out_and_said_to_be():
    net = Net.chain({"relu": L.ReLU(), "pool": L.MaxPool(Window.of((1, 2), stride=(1, 2)))})
    image = distinct(np.random.default_rng(0), (1, 2, 4, 3))
    image[0, 0, 0, 0] = 0.0
    image[0, 1, 2:, 1] = 5.0
    found = audit(net, image, count=24)
    relu, pool = found.rows[0], found.rows[1]
    assert found.ok
    assert any("[0, 0, 0, 0]: the layer is at a corner" in reason for reason in relu.left_out)
    assert any("[0, 1, 2, 1]: the layer is at a tie of its window" in reason for reason in pool.left_out)
    assert "left out [0, 0, 0, 0]" in str(found)


def test_nothing_left_to_check_is_not_called_right():
    net = Net.chain({"relu": L.ReLU()})
    found = audit(net, np.zeros((1, 2, 3, 1)))
    assert found.rows[0].verdict == found.worst.verdict == "unchecked"
    assert not found.ok


def test_an_audit_of_nothing_is_refused():
    with pytest.raises(UsageError, match="at least 1"):
        audit(forked(), photo(forked()), count=0)


def test_check_elements_names_the_worst_entry_and_both_numbers():
    x = np.arange(6.0).reshape(2, 3)
    grad = 2 * x
    grad[1, 0] = 7.0
    found = check_elements(lambda x: float((x * x).sum()), x, grad)
    assert found.where == (1, 0)
    assert str(found).endswith("worst at [1, 0]: analytic 7, numeric 6")


def test_check_direction_is_cheap_and_notices_one_wrong_entry():
    calls = []

    def f(x):
        calls.append(1)
        return float((x**3).sum())

    x, rng = distinct(np.random.default_rng(0), (3, 4)), np.random.default_rng(1)
    grad = 3 * x**2
    assert check_direction(f, x, grad, rng=rng).error < 1e-8
    assert len(calls) == 2
    grad[1, 2] *= 1.01
    assert check_direction(f, x, grad, rng=rng).error > 1e-6


def test_a_check_of_what_cannot_be_compared_is_refused():
    x = np.ones(3)
    for bad, grad, words in [(x.astype(int), x, "too coarse"), (x, np.ones(5), "they have one shape")]:
        with pytest.raises(MinidnnError, match=words):
            check_elements(lambda x: float(x.sum()), bad, grad)
        with pytest.raises(MinidnnError, match=words):
            check_direction(lambda x: float(x.sum()), bad, grad, rng=np.random.default_rng(0))
    with pytest.raises(UsageError, match="of 0 entries"):
        check_elements(lambda x: float(x.sum()), x, x, count=0)


def test_a_gradient_that_is_not_a_number_is_not_right():
    x = np.ones((2, 2))
    assert check_elements(lambda x: float(x.sum()), x, np.full((2, 2), np.nan)).error == float("inf")


class InPlace(L.ReLU):
    """Writes over the gradient that it is given."""

    def backward(self, dzdy, *, y, **_):
        dzdy *= y > 0
        dzdy[..., 0] = 0
        return dzdy


class WrongSwitch(L.MaxPool):
    """Sends the gradient to the tap beside the one that won."""

    def backward(self, dzdy, *, aux, x_shape, **_):
        return kernels.unpool(dzdy, (aux + 1) % self.window.taps, x_shape, self.window)


class HiddenState(L.Tanh):
    """Remembers the first image it saw."""

    seen: list = []  # noqa: RUF012

    def forward(self, x, **_):
        y = np.tanh(x)
        self.seen.append(y)
        return y, None

    def backward(self, dzdy, **_):
        return dzdy * (1 - self.seen[0] ** 2)


class OffByOne(L.LRN):
    """Forgets that the window of an even number leans the other way going back."""

    def _sum_over_whose_i_am(self, x):
        return self._sum_over_mine(x)


class Careless(L.LRN):
    """Hands the gradient through as it comes, as more than one engine does."""

    def backward(self, dzdy, **_):
        return dzdy


class NoPadBack(L.AvgPool):
    """Divides by all taps going back, whatever forward divided by."""

    def backward(self, dzdy, *, x_shape, **_):
        return kernels.avg_pool_backward(dzdy, x_shape, self.window, "all")


class MomentsHeldFixed(L.BatchNorm):
    """Goes back in training as if the moments did not depend on the batch."""

    def backward(self, dzdy, *, aux, **_):
        return self.gamma * dzdy / self._normal_of(aux)[1]


class HalfBias(L.Conv):
    """Sums the gradient of the bias over the first image only."""

    def backward_params(self, dzdy, *, x, **_):
        return super().backward_params(dzdy, x=x) | {"b": dzdy[0].sum(axis=(0, 1))}


POOL = Window.of(3, stride=2, pad=1)
MUTANTS = {
    "in-place gradient": InPlace(),
    "wrong switches": WrongSwitch(POOL),
    "hidden state": HiddenState(),
    "off-by-one window": OffByOne(4, 1.0, 0.5, 0.75),
    "gradient handed through": Careless(3, 1.0, 0.5, 0.75),
    "another divisor": NoPadBack(POOL, "real"),
    "batch moments held fixed": MomentsHeldFixed(np.ones(4), np.zeros(4), np.zeros(4), np.ones(4)),
    "half a bias": HalfBias(np.random.default_rng(0).standard_normal((3, 3, 4, 2)), np.zeros(2), POOL),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_the_audit_catches_the_mutant(mutant):
    rng = np.random.default_rng(0)
    net = Net.chain({"conv": L.Conv.random(rng, 3, 3, 4, pad=1), "mutant": mutant, "end": L.Sigmoid()})
    if isinstance(mutant, HiddenState):
        mutant.seen[:] = [np.zeros((2, 7, 8, 4))]
    found = audit(net, rng.standard_normal((2, 7, 8, 3)), mode="train")
    assert not found.ok
    assert any(row.verdict == "WRONG" and row.layer == "mutant" for row in found.rows), str(found)
    assert "WRONG" in str(found)


def test_a_mutant_in_the_engine_is_caught_by_the_whole_net():
    class DropsAFork(Net):
        """Where gradients meet, keeps the last and forgets to add."""

        def _backward(self, res, step, rules, wanted, params, accumulate):
            for name in step[0].inputs:
                res[name].dzdx = None
            super()._backward(res, step, rules, wanted, params, accumulate)

    net = forked()
    found = audit(DropsAFork(net.nodes, input_shape=net.input_shape), photo(net))
    assert {row.verdict for row in found.rows if row.layer == "whole net"} >= {"WRONG"}
