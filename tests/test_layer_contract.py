"""Ten promises that every layer keeps. One line in CASES enrols a layer; what it is exempt from stands in
that line.

No two sizes in a case are equal, windows are padded, strided and not square, and no pixel is near 0 or equal
to another: a mistake has nowhere to hide.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import minidnn.layers as L
from minidnn.arrays import to_device, to_host
from minidnn.gradcheck import check_direction
from minidnn.kernels.memory import Arena
from minidnn.layers.base import reads
from minidnn.window import Window
from tests.samples import distinct

PADS = (2, 1, 0, 3)
CEIL = Window.of((3, 4), stride=(2, 3), pad=(1, 0, 2, 1), ceil=True)
FLOOR = Window.of((4, 3), stride=(2, 1), pad=(1, 2, 0, 1))
ENLARGE = Window.of((4, 3), stride=(3, 2), pad=(1, 2, 0, 1))
DILATED = Window.of((2, 3), stride=(1, 2), pad=(1, 0, 2, 3), dilation=(2, 1))


class Case(NamedTuple):
    layer: L.Layer
    shape: tuple[int, ...] = (2, 7, 6, 5)
    others: tuple[tuple[int, ...], ...] = ()  # of further inputs
    mode: str = "test"
    exempt: str = ""  # from a promise, by its number: why


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def batch_norm():
    return L.BatchNorm(drawn(5, seed=1), drawn(5, seed=2), drawn(5, seed=3), drawn(5, seed=4) ** 2 + 0.5)


MASK = (drawn(1, 7, 6, 5) > 0) * 2.0

CASES = {
    "Conv": Case(L.Conv(drawn(3, 2, 5, 4), drawn(4), Window.of((3, 2), stride=(2, 1), pad=PADS))),
    "Conv dilated": Case(L.Conv(drawn(2, 3, 5, 4), None, DILATED)),
    "Conv in groups": Case(L.Conv(drawn(2, 3, 3, 4), drawn(4), DILATED, groups=2), (3, 7, 5, 6)),
    "ConvTranspose": Case(L.ConvTranspose(drawn(4, 3, 6, 5), drawn(6), ENLARGE, extra=(2, 1)), (2, 3, 4, 5)),
    "ConvTranspose in groups": Case(L.ConvTranspose(drawn(2, 3, 3, 4), None, DILATED, 2), (3, 5, 6, 4)),
    "FC": Case(L.FC(drawn(7, 6, 5, 4), drawn(4))),
    "FC on a vector": Case(L.FC(drawn(1, 1, 5, 4), None), (3, 1, 1, 5)),
    "ReLU": Case(L.ReLU()),
    "LeakyReLU": Case(L.LeakyReLU(0.2)),
    "PReLU": Case(L.PReLU(drawn(5))),
    "PReLU with one slope": Case(L.PReLU(drawn(1))),
    "Sigmoid": Case(L.Sigmoid()),
    "Tanh": Case(L.Tanh()),
    "Softmax": Case(L.Softmax()),
    "GradientReversal": Case(L.GradientReversal(0.7), exempt="2: hands back -0.7 times the gradient"),
    "MaxPool": Case(L.MaxPool(FLOOR)),
    "MaxPool ceil": Case(L.MaxPool(CEIL)),
    "MaxUnpool": Case(L.MaxUnpool(FLOOR), (2, *FLOOR.out_size(7, 6), 5), ((2, 7, 6, 5),)),
    "AvgPool real": Case(L.AvgPool(CEIL, "real")),
    "AvgPool padded": Case(L.AvgPool(CEIL, "padded")),
    "AvgPool all": Case(L.AvgPool(FLOOR, "all")),
    "GlobalAvgPool": Case(L.GlobalAvgPool()),
    "Upsample nearest": Case(L.Upsample(3, "nearest")),
    "Upsample bilinear": Case(L.Upsample(3, "bilinear")),
    "LRN": Case(L.LRN(3, 1.5, 0.3, 0.75)),
    "LRN over an even number": Case(L.LRN(4, 1.5, 0.3, 0.75)),
    "LRNWithin": Case(L.LRNWithin(3, 1.5, 0.3, 0.75)),
    "BatchNorm": Case(batch_norm()),
    "BatchNorm in training": Case(batch_norm(), mode="train", exempt="7: it mixes its batch"),
    "Dropout": Case(L.Dropout(0.4)),
    "Dropout in training": Case(L.Dropout(0.5, frozen=MASK), mode="train"),
    "Concat": Case(L.Concat(), others=((2, 7, 6, 3), (2, 7, 6, 4))),
    "Add": Case(L.Add(), others=((2, 7, 6, 5), (2, 7, 6, 5))),
    "PadChannels": Case(L.PadChannels(2, 1)),
    "Flatten": Case(L.Flatten()),
}  # fmt: skip

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


class Run:
    """One layer, its inputs, and a gradient to send back."""

    def __init__(self, case: Case, seed: int = 0, dtype: str = "float64", device: str = "cpu"):
        rng = np.random.default_rng(seed)
        self.case = case
        self.xs = [
            to_device(distinct(rng, shape).astype(dtype), device) for shape in (case.shape, *case.others)
        ]
        arrays = {
            n: to_device(a.astype(dtype), device) for n, a in (case.layer.params | case.layer.buffers).items()
        }
        self.layer = case.layer.replacing(**arrays)
        self.mem = Arena()
        self.y, self.aux = self.forward()
        self.dzdy = to_device(rng.standard_normal(self.y.shape).astype(dtype), device)

    def forward(self, layer=None, xs=None):
        return (layer or self.layer).forward(*(xs or self.xs), mem=self.mem, mode=self.case.mode)

    def state(self, method):
        """Only what the signature asks for, as the engine does."""
        one = len(self.xs) == 1
        whole = {"x": self.xs[0] if one else tuple(self.xs), "y": self.y, "aux": self.aux}
        shapes = self.xs[0].shape if one else tuple(x.shape for x in self.xs)
        asked = {name: whole[name] for name in reads(method)}
        return {"x_shape": shapes, "mem": self.mem, "mode": self.case.mode, **asked}

    def backward(self):
        dzdx = self.layer.backward(self.dzdy, **self.state(self.layer.backward))
        return dzdx if isinstance(dzdx, tuple) else (dzdx,)

    def backward_params(self):
        return self.layer.backward_params(self.dzdy, **self.state(self.layer.backward_params))

    def results(self):
        return [to_host(array) for array in (self.y, *self.backward(), *self.backward_params().values())]


def exempt_from(case: Case, promise: int) -> bool:
    return case.exempt.startswith(f"{promise}:")


@every_case
def test_1_out_shape_tells_the_truth(case):
    run = Run(case)
    assert run.layer.out_shape(*(x.shape for x in run.xs)) == run.y.shape


@every_case
def test_2_the_input_gradient_is_right(case):
    run, rng = Run(case), np.random.default_rng(1)
    factor = run.layer.gradient_factor
    assert (factor != 1) == exempt_from(case, 2)
    for i, dzdx in enumerate(run.backward()):

        def z(x, i=i):
            y, _ = run.forward(xs=[*run.xs[:i], x, *run.xs[i + 1 :]])
            return factor * float((y * run.dzdy).sum())

        assert dzdx.shape == run.xs[i].shape
        found = check_direction(z, run.xs[i], dzdx, rng=rng)
        assert found.error < 1e-7, found


@every_case
def test_3_the_parameter_gradients_are_right(case):
    run, rng = Run(case), np.random.default_rng(2)
    found = run.backward_params()
    assert found.keys() == run.layer.params.keys()
    for name, dzdw in found.items():

        def z(w, name=name):
            return float((run.forward(run.layer.replacing(**{name: w}))[0] * run.dzdy).sum())

        assert dzdw.shape == run.layer.params[name].shape
        check = check_direction(z, run.layer.params[name], dzdw, rng=rng)
        assert check.error < 1e-7, (name, check)


@every_case
def test_4_what_it_is_given_stays_as_it_was(case):
    run = Run(case)
    held = [*run.xs, run.y, run.dzdy, *flat(run.aux), *run.layer.params.values(), *run.layer.buffers.values()]
    before = [array.copy() for array in held]
    run.forward(), run.backward(), run.backward_params()
    assert all(np.array_equal(a, b) for a, b in zip(held, before, strict=True))


@every_case
def test_5_going_back_twice_gives_the_same(case):
    run = Run(case)
    assert same(
        [*run.backward(), *run.backward_params().values()], [*run.backward(), *run.backward_params().values()]
    )


@every_case
def test_6_another_image_in_between_changes_nothing(case):
    run, other = Run(case), Run(case, seed=9)
    before = run.results()
    run.forward(xs=other.xs)
    assert same(run.results(), before)


@every_case
def test_7_a_batch_is_a_stack_of_single_images(case):
    run = Run(case)
    singles = [run.forward(xs=[x[i : i + 1] for x in run.xs])[0] for i in range(len(run.xs[0]))]
    assert np.allclose(np.concatenate(singles), run.y, rtol=1e-12, atol=1e-12) != exempt_from(case, 7)


@every_case
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_8_the_dtype_that_goes_in_comes_out(case, dtype):
    assert {array.dtype for array in Run(case, dtype=dtype).results()} == {np.dtype(dtype)}


@every_case
def test_9_views_and_read_only_arrays_are_fine(case):
    run = Run(case)
    before = run.results()
    for array in [*run.xs, run.y, run.dzdy]:
        array.flags.writeable = False
    run.xs = [as_view(x) for x in run.xs]
    run.dzdy = as_view(run.dzdy)
    assert not run.xs[0].flags.c_contiguous
    run.y, run.aux = run.forward()
    assert all(np.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(run.results(), before, strict=True))


@every_case
def test_10_every_device_says_the_same(case, device):
    host, there = Run(case).results(), Run(case, device=device).results()
    assert all(np.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(there, host, strict=True))


def test_every_layer_is_enrolled():
    assert {type(case.layer).__name__ for case in CASES.values()} == set(L.__all__) - {"Layer"}


def test_exemptions_are_few_and_counted():
    assert [name for name, case in CASES.items() if case.exempt] == [
        "GradientReversal",
        "BatchNorm in training",
    ]


def flat(aux):
    return [] if aux is None else list(aux) if isinstance(aux, tuple) else [aux]


def same(found, wanted):
    return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def as_view(array):
    """The same numbers, every other one of a larger read-only array."""
    wide = np.full((*array.shape[:-1], array.shape[-1] * 2), np.nan)
    wide[..., ::2] = array
    wide.flags.writeable = False
    return wide[..., ::2]
