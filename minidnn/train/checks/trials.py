"""Short trainings of copies by the trainer itself: which rate is good, can a batch be learned by heart?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import NamedTuple

import numpy as np

from minidnn.errors import DivergedError
from minidnn.layers import Dropout
from minidnn.net import Net
from minidnn.optim import AdaGrad, Adam, RMSProp
from minidnn.train.checks.patient import Patient
from minidnn.train.data import DataSet, Part, Splits
from minidnn.train.fit import Way, fit
from minidnn.train.schedules import Schedule

LEFT = 4.0  # a loss this many times the lowest has left for good
LEARNED = 32  # pictures to learn by heart


@dataclass(frozen=True)
class Growing(Schedule):
    """From the first rate to `times` as much, by the same factor at every step."""

    times: float = 1.0

    def factor(self, done: float, epochs: int, losses: Sequence[float] = ()) -> float:
        return self.times**done


class RateTest(NamedTuple):
    """The loss while the rate grows (Smith 2017, section 3.3), smoothed."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float | None  # where nine tenths of the fall are done; None: it never fell by a twentieth
    limit: float | None  # where it has risen to twice the lowest, or left; None: it never did


class ByHeart(NamedTuple):
    """What became of one batch that was shown again and again."""

    pictures: int
    steps: int
    rate: float
    losses: tuple[float, ...]
    error: float
    learned: bool


def rate_test(patient: Patient) -> RateTest:
    """From a rate where nothing moves to one where all is lost, over one or two epochs of few batches."""
    quiet = isinstance(patient.way.optimiser, Adam | AdaGrad | RMSProp)
    low, high = (1e-6, 1.0) if quiet else (1e-5, 10.0)
    steps = 40 if patient.quick else 100
    raw = losses_of(patient, patient.start, low, steps=steps, times=high / low)
    rates = tuple(low * (high / low) ** (i / steps) for i in range(len(raw)))
    losses = smoothed(raw)
    if not losses:
        return RateTest((), (), None, None)
    best, start = int(np.argmin(losses)), float(np.mean(losses[: max(1, steps // 10)]))
    done = next(
        i for i, loss in enumerate(losses) if loss <= losses[best] + max(0, start - losses[best]) / 10
    )
    gone = (i for i in range(best, len(losses)) if losses[i] > 2 * losses[best] + 0.1 * start)
    limit = next((rates[i] for i in gone), rates[-1] if len(raw) < steps else None)
    fell = losses[best] < 0.95 * start
    return RateTest(rates, losses, float(f"{rates[done]:.1g}") if fell else None, limit)


def losses_of(patient: Patient, net: Net, rate: float, *, steps: int, times: float = 1.0) -> list[float]:
    """The losses of so many steps of a copy; fewer when it leaves, and then the last is finite still."""
    batch = min(patient.way.batch, patient.at_once, len(patient.data.train))
    data = endless(patient, steps * batch)
    optimiser = replace(patient.way.optimiser, rate=rate)
    way = replace(
        patient.way, epochs=1, batch=batch, optimiser=optimiser, schedule=Growing(times=times), augment=()
    )
    found: list[float] = []
    try:
        for record in fit(copied(net), Splits(data, nothing(data), data), way):
            if len(found) > steps // 10 and record.loss > LEFT * max(min(found), found[0] / 10):
                found.append(record.loss)
                break
            found.append(record.loss)
    except DivergedError:
        pass
    return found


def by_heart(patient: Patient) -> ByHeart:
    """Train a copy on one batch alone, without penalty, dropout or augmentation, until it knows it.

    Adam at a middling rate, then at a larger, then at a smaller one: the question is whether it can.
    """
    count = min(LEARNED, patient.at_once, len(patient.data.train))
    part = several_classes(patient, count)
    tries = (by_heart_at(patient, part, rate) for rate in (1e-3, 1e-2, 1e-4))
    found = []
    for one in tries:
        found.append(one)
        if one.learned:
            break
    return min(found, key=lambda one: (one.error, one.losses[-1]))


def by_heart_at(patient: Patient, part: DataSet, rate: float) -> ByHeart:
    steps = 80 if patient.quick else 200
    net = without_dropout(patient.start)
    way = Way(epochs=steps, batch=len(part), optimiser=Adam(rate), loss=patient.way.loss, seed=patient.seed)
    losses, error = list[float](), 1.0
    try:
        for record in fit(net, Splits(part, nothing(part), part), way):
            losses.append(record.loss)
            error = record.row["error"] if record.row else error
            if record.loss < 0.02:
                break
    except DivergedError:
        return ByHeart(len(part), len(losses), rate, (*losses, inf), 1.0, learned=False)
    known = error == 0 and losses[-1] < max(0.1, 0.2 * losses[0])
    return ByHeart(len(part), len(losses), rate, tuple(losses), error, learned=known)


def noise_scale(patient: Patient) -> float | None:
    """The batch at which a step's noise is as large as what it steps by (McCandlish et al. 2018, appendix A).

        trace of the covariance of one picture's gradient / |mean gradient|²

    From the gradients of eight small batches and their mean. None: they cancel, so there is nothing to say.
    """
    parts, chunks = 8, np.array_split(np.arange(len(patient.sample)), 8)
    small = len(chunks[0])
    if small < 2:
        return None
    mean: dict[str, np.ndarray] = {}
    squares = 0.0
    for chunk in chunks:
        look = patient.look(patient.start, Part(patient.sample, chunk, "a few"), "train")
        squares += sum(float((g.astype(np.float64) ** 2).sum()) for g in look.grads.values()) / parts
        for name, grad in look.grads.items():
            mean[name] = mean.get(name, 0) + grad / parts
    large = sum(float((g.astype(np.float64) ** 2).sum()) for g in mean.values())
    signal = (parts * large - squares) / (parts - 1)
    noise = (squares - large) * small * parts / (parts - 1)
    return noise / signal if signal > 0 and isfinite(noise / signal) else None


def copied(net: Net) -> Net:
    """The same weights, to be trained without a trace on the other's."""
    return net.with_nodes(net.nodes)


def without_dropout(net: Net) -> Net:
    return net.with_nodes(
        node._replace(layer=Dropout(0.0)) if isinstance(node.layer, Dropout) else node for node in net.nodes
    )


def endless(patient: Patient, count: int) -> Part:
    """So many pictures to learn from, in new orders again and again."""
    rng, size = patient.rng(6), len(patient.data.train)
    orders = [rng.permutation(size) for _ in range(-(-count // size))]
    return Part(patient.data.train, np.concatenate(orders)[:count], "train, again and again")


def several_classes(patient: Patient, count: int) -> Part:
    """A batch in which every class comes about as often, so far as there are so many."""
    labels, rng = patient.data.train.labels, patient.rng(7)
    order = rng.permutation(len(labels))[:5000]
    seen: dict[int, int] = {}
    turn = np.zeros(len(labels), int)  # how many of its class came before each picture
    for at in order:
        label = int(labels[at])
        turn[at] = seen[label] = seen.get(label, -1) + 1
    chosen = order[np.argsort(turn[order], kind="stable")][:count]
    return Part(patient.data.train, np.sort(chosen), "one batch")


def nothing(data: DataSet) -> Part:
    return Part(data, np.arange(0), "none")


def smoothed(losses: Sequence[float], keep: float = 0.8) -> tuple[float, ...]:
    """A running mean that forgets, corrected for its empty beginning as Adam's are."""
    found, mean = [], 0.0
    for i, loss in enumerate(losses, start=1):
        mean = keep * mean + (1 - keep) * loss
        found.append(mean / (1 - keep**i))
    return tuple(found)
