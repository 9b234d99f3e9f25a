"""Optimisers against numbers worked by hand, and against torch's."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from minidnn.arrays import to_device, to_host
from minidnn.errors import DeviceError, ShapeError, UsageError
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
from tests.fakedevice import fake

ALL = [
    SGD(0.1),
    MeanAbs(0.1),
    UnitNorm(0.1),
    SlideMomentum(0.1, alpha=0.7),
    Momentum(0.1, alpha=0.7),
    Nesterov(0.1, alpha=0.7),
    AdaGrad(0.1),
    RMSProp(0.1, decay=0.8),
    Adam(0.1, beta1=0.8, beta2=0.95),
    LBFGS(0.1, pairs=3),
]
REMEMBERING = [optimiser for optimiser in ALL if not isinstance(optimiser, SGD | MeanAbs | UnitNorm)]
each = pytest.mark.parametrize("optimiser", ALL, ids=lambda optimiser: type(optimiser).__name__)


def steps_for(optimiser, grads):
    state, steps = None, []
    for grad in grads:
        step, state = optimiser.step(grad, state)
        steps.append(step)
    return steps


def worked(optimiser, numbers):
    return [float(step[0]) for step in steps_for(optimiser, [np.array([g]) for g in numbers])]


def test_every_optimiser_of_the_module_is_tested_here():
    def below(kind):
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    assert {type(optimiser) for optimiser in ALL} == below(Optimiser) - {Optimiser}


def test_sgd_worked_by_hand():
    assert worked(SGD(0.5), [2, -4]) == [-1, 2]


def test_the_momentum_of_the_slides_mixes_in_one_gradient_of_the_past_and_no_more():
    # -½ (g(t) + ½ g(t-1)) for g = 8, 4, 0, 0: after two quiet steps nothing is left of the first gradients.
    assert worked(SlideMomentum(0.5, alpha=0.5), [8, 4, 0, 0]) == [-4, -4, -1, 0]


def test_the_momentum_of_everyone_else_remembers_them_all():
    # velocities 8, 8, 4, 2
    assert worked(Momentum(0.5, alpha=0.5), [8, 4, 0, 0]) == [-4, -4, -2, -1]


def test_both_momentums_agree_for_two_steps_only():
    grads = [8, 4, 2]
    slide, classic = worked(SlideMomentum(1, alpha=0.5), grads), worked(Momentum(1, alpha=0.5), grads)
    assert slide[:2] == classic[:2] and slide[2] != classic[2]


def test_nesterov_worked_by_hand():
    # velocities 8, 8: steps -½ (8 + ½·8), -½ (4 + ½·8)
    assert worked(Nesterov(0.5, alpha=0.5), [8, 4]) == [-6, -4]


def test_adagrad_worked_by_hand():
    assert worked(AdaGrad(1.0, epsilon=1e-300), [3, 4]) == pytest.approx([-1, -4 / 5])


def test_rmsprop_worked_by_hand():
    # squares ¾·0 + ¼·16 = 4, then ¾·4 + ¼·4 = 4
    assert worked(RMSProp(1.0, decay=0.75, epsilon=1e-300), [4, 2]) == pytest.approx([-2, -1])


def test_the_first_step_of_adam_is_the_rate_itself_whatever_the_gradient():
    assert worked(Adam(0.25), [1e-3]) == pytest.approx([-0.25], rel=1e-4)
    assert worked(Adam(0.25), [-1e6]) == pytest.approx([0.25])


def test_under_a_steady_gradient_adam_goes_on_at_that_rate():
    assert worked(Adam(0.25), [3, 3, 3, 3]) == pytest.approx([-0.25] * 4)


def test_epsilon_is_added_to_the_root_not_under_it():
    assert worked(AdaGrad(1.0, epsilon=1.0), [3]) == pytest.approx([-3 / (3 + 1)])
    assert worked(RMSProp(1.0, decay=0.75, epsilon=1.0), [4]) == pytest.approx([-4 / (2 + 1)])
    assert worked(Adam(1.0, epsilon=1.0), [3]) == pytest.approx([-3 / (3 + 1)])


def test_a_mean_step_is_the_rate_on_average_over_what_has_a_gradient():
    # |-6| + |2| + |4| = 12 over three coordinates: a mean of 4
    step = MeanAbs(2.0).step(np.array([-6.0, 0.0, 2.0, 4.0]))[0]
    np.testing.assert_allclose(step, [3, 0, -1, -2])


def test_a_unit_step_is_as_long_as_the_rate():
    np.testing.assert_allclose(UnitNorm(2.0).step(np.array([3.0, -4.0]))[0], [-1.2, 1.6])


@pytest.mark.parametrize("optimiser", [MeanAbs(0.5), UnitNorm(0.5)], ids=["MeanAbs", "UnitNorm"])
def test_these_steps_do_not_care_how_loud_the_gradient_is(optimiser):
    grad = np.random.default_rng(5).standard_normal(7)
    for loudness in (1e-12, 1e12):
        np.testing.assert_allclose(optimiser.step(loudness * grad)[0], optimiser.step(grad)[0])


def descended(optimiser, stretch, theta, count):
    """Where the minimum of ½ Σ stretch θ² is looked for."""
    state = None
    for _ in range(count):
        step, state = optimiser.step(stretch * theta, state)
        theta = theta + step
    return theta


def test_lbfgs_finds_the_bottom_of_a_long_valley_where_plain_steps_crawl():
    stretch, start = np.geomspace(1, 1e3, 12), np.linspace(1, 2, 12)
    newton = descended(LBFGS(1.0), stretch, start, 100)
    plain = descended(SGD(1.9 / 1e3), stretch, start, 100)  # as fast as it can without flying out
    heights = [float((stretch * theta * theta).sum()) for theta in (newton, plain)]
    assert heights[0] < 1e-8 < 1 < heights[1], heights


def test_lbfgs_is_bfgs_while_it_remembers_everything():
    """Nocedal & Wright 2006, (6.17): H ← (I - s yᵀ/sᵀy) H (I - y sᵀ/sᵀy) + s sᵀ/sᵀy, begun at sᵀy/yᵀy I."""
    rng = np.random.default_rng(6)
    a = rng.standard_normal((5, 5))
    hessian, theta, pairs, state = a @ a.T + np.eye(5), rng.standard_normal(5), [], None
    for _ in range(6):
        grad = hessian @ theta
        step, state = LBFGS(0.3, pairs=9).step(grad, state)
        if pairs:
            s, y = pairs[-1]
            inverse = np.eye(5) * (s @ y) / (y @ y)
            for s, y in pairs:
                turn = np.eye(5) - np.outer(s, y) / (s @ y)
                inverse = turn @ inverse @ turn.T + np.outer(s, s) / (s @ y)
            np.testing.assert_allclose(step, -0.3 * inverse @ grad, rtol=1e-8)
        pairs.append((step, hessian @ (theta + step) - grad))
        theta = theta + step


def test_the_first_step_of_lbfgs_is_the_rate_on_average():
    assert worked(LBFGS(0.5), [-1e6]) == [0.5]


def test_lbfgs_remembers_so_many_pairs_and_no_more():
    state, rng = None, np.random.default_rng(7)
    stretch, theta = rng.uniform(1, 9, 20), rng.standard_normal(20)
    for number in range(12):
        step, state = LBFGS(0.1, pairs=4).step(stretch * theta, state)
        theta = theta + step
        assert len(state["past"]) == min(number, 4)


def test_lbfgs_takes_no_notice_of_a_slope_that_bends_the_other_way():
    _, state = LBFGS(0.5).step(np.array([1.0, 2.0]))
    step, state = LBFGS(0.5).step(np.array([3.0, 5.0]), state)  # steeper, the farther down
    assert state["past"] == []
    np.testing.assert_allclose(step, -0.5 * np.array([3, 5]) / 4)


@each
def test_steps_lead_downhill(optimiser):
    stretch = np.array([1.0, 9.0])
    theta, state = np.array([3.0, -2.0]), None
    for _ in range(200):
        step, state = optimiser.step(stretch * theta, state)
        theta = theta + step
    assert 0.5 * (stretch * theta * theta).sum() < 0.05 * 22.5


@each
def test_the_negated_gradient_climbs_just_as_well(optimiser):
    grads = np.random.default_rng(1).standard_normal((5, 3))
    np.testing.assert_array_equal(steps_for(optimiser, -grads), -np.array(steps_for(optimiser, grads)))


@each
def test_neither_gradient_nor_state_is_changed(optimiser):
    grads = np.random.default_rng(2).standard_normal((3, 4))
    grads.flags.writeable = False
    state = None
    for grad in grads:
        for array in arrays_in(state):
            array.flags.writeable = False
        again = optimiser.step(grad, state)[0]
        step, state = optimiser.step(grad, state)
        np.testing.assert_array_equal(step, again)


def arrays_in(state):
    """All that a state holds on to."""
    if isinstance(state, np.ndarray):
        yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from arrays_in(part)


@each
def test_the_state_shares_memory_with_neither_the_gradient_nor_the_step(optimiser):
    grads = np.random.default_rng(3).standard_normal((4, 5))
    buffer, state, steps = np.empty(5), None, []
    for grad in grads:
        buffer[:] = grad  # as an engine does that uses its arrays again
        step, state = optimiser.step(buffer, state)
        steps.append(step.copy())
        step[:] = 0  # as one does who takes half of it, in place
    np.testing.assert_array_equal(steps, steps_for(optimiser, grads))


@each
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_stays(optimiser, dtype):
    step, state = optimiser.step(np.ones(3, dtype))
    step, state = optimiser.step(np.ones(3, dtype), state)
    assert step.dtype == dtype
    step, state = optimiser.step(np.arange(3).astype(dtype), state)
    assert step.dtype == dtype and all(array.dtype == dtype for array in arrays_in(state))


@each
def test_every_device_makes_the_same_steps(optimiser, device):
    grads = np.random.default_rng(4).standard_normal((4, 2, 3)).astype("float32")
    steps = steps_for(optimiser, [to_device(grad, device) for grad in grads])
    np.testing.assert_allclose([to_host(step) for step in steps], steps_for(optimiser, grads), rtol=1e-5)


@each
def test_a_gradient_of_zeros_moves_nothing(optimiser):
    assert not np.any(steps_for(optimiser, np.zeros((3, 2))))


@pytest.mark.parametrize("optimiser", REMEMBERING, ids=lambda optimiser: type(optimiser).__name__)
def test_a_state_of_another_shape_or_device_is_refused(optimiser):
    state = optimiser.step(np.ones(3))[1]
    with pytest.raises(ShapeError, match=r"state of \(3,\), gradient of \(2,\); start again"):
        optimiser.step(np.ones(2), state)
    with pytest.raises(DeviceError, match="meets host array"):
        optimiser.step(fake.put(np.ones(3)), state)


@each
def test_settings_out_of_range_are_refused(optimiser):
    for field in fields(optimiser):
        if field.name == "pairs":
            continue
        for wrong in [-0.1, float("nan"), float("inf")] + [1.0] * (field.name not in ("rate", "epsilon")):
            with pytest.raises(UsageError, match=f"{type(optimiser).__name__} got {field.name}={wrong}"):
                replace(optimiser, **{field.name: wrong})


@pytest.mark.parametrize("pairs", [0, -3, 2.5, float("nan"), float("inf")])
def test_a_count_of_pairs_that_is_none(pairs):
    with pytest.raises(UsageError, match=f"LBFGS got pairs={pairs}; wanted a whole number above 0"):
        LBFGS(pairs=pairs)


def test_a_negative_rate_is_told_how_to_climb():
    with pytest.raises(UsageError, match=r"SGD got rate=-1; wanted above 0.*to climb, give -grad"):
        SGD(-1)


def test_another_rate_goes_on_with_the_same_state():
    state = Momentum(0.1).step(np.ones(2))[1]
    slow = replace(Momentum(0.1), rate=0.01).step(np.ones(2), state)[0]
    np.testing.assert_allclose(slow, 0.1 * Momentum(0.1).step(np.ones(2), state)[0])


def test_an_optimiser_without_a_step_says_so():
    with pytest.raises(TypeError, match="Optimiser has no step"):
        Optimiser(0.1).step(np.ones(2))


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "ours, name, settings",
    [
        (SGD(0.07), "SGD", {}),
        (Momentum(0.07, alpha=0.6), "SGD", {"momentum": 0.6}),
        (Nesterov(0.07, alpha=0.6), "SGD", {"momentum": 0.6, "nesterov": True}),
        (AdaGrad(0.07), "Adagrad", {}),
        (RMSProp(0.07, decay=0.85), "RMSprop", {"alpha": 0.85}),
        (Adam(0.07, beta1=0.8, beta2=0.97), "Adam", {"betas": (0.8, 0.97)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Optimiser) else None,
)
def test_torch_walks_the_same_way(ours, name, settings, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    grads = rng.standard_normal((12, 3, 4)) * 10.0 ** rng.integers(-3, 3, (12, 1, 1))
    start = rng.standard_normal((3, 4))
    theirs = torch.tensor(start, requires_grad=True)
    optimiser = getattr(torch.optim, name)([theirs], lr=ours.rate, **settings)
    mine, state = start, None
    for grad in grads:
        theirs.grad = torch.tensor(grad)
        optimiser.step()
        step, state = ours.step(grad, state)
        mine = mine + step
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)
