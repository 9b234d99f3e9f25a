"""The patient: a net, its data, how it is trained; and what is measured once for several checks.

Nothing here changes what it was given: whatever trains, trains a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod, sqrt
from typing import Any, NamedTuple

import numpy as np

from minidnn.errors import MinidnnError
from minidnn.images import Preprocess
from minidnn.layers.base import lacks_weights
from minidnn.net import Net
from minidnn.res import Res
from minidnn.train.data import DataSet, Part, Splits
from minidnn.train.fit import Way
from minidnn.train.init import initialised
from minidnn.train.judging import LOSSES, evaluate, scores_of

WELL, UNSEEN, DOUBTFUL, WRONG = "well", "not looked at", "doubtful", "wrong"  # from best to worst
SEVERITY = (WELL, UNSEEN, DOUBTFUL, WRONG)
BYTES_AT_ONCE = 1 << 29  # of maps and their gradients, in a pass that keeps them all


@dataclass(frozen=True)
class Finding:
    """What one check saw: `evidence` is (verdict, words), `numbers` is for plots and other programs."""

    check: str
    evidence: tuple[tuple[str, str], ...]
    advice: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The worst that was seen."""
        return max((verdict for verdict, _ in self.evidence), key=SEVERITY.index)

    @property
    def words(self) -> str:
        """All that led to the verdict."""
        return "; ".join(words for verdict, words in self.evidence if verdict == self.verdict)


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing was found to be wrong; doubts are no illness."""
    return all(finding.verdict != WRONG for finding in findings)


class Notes:
    """What a check sees, noted one after the other."""

    def __init__(self, check: str) -> None:
        self.check = check
        self.evidence: list[tuple[str, str]] = []
        self.advice: list[str] = []

    def add(self, verdict: str, words: str, advice: str = "") -> None:
        self.evidence.append((verdict, words))
        if advice:
            self.advice.append(advice)

    def finding(self, **numbers: Any) -> Finding:
        return Finding(self.check, tuple(self.evidence), tuple(self.advice), numbers)


class Look(NamedTuple):
    """One batch through a net and back: what every layer said, and what it was told."""

    net: Net
    res: Res
    scores: np.ndarray
    loss: float | None  # None: the net has not one answer for each class
    grads: dict[str, np.ndarray]


class Errors(NamedTuple):
    """The shares of pictures that a net takes for something else."""

    train: float
    held: float  # of pictures that it has not learned from
    train_loss: float
    held_loss: float
    pictures: tuple[int, int]


@dataclass(eq=False)
class Patient:
    """A net as it is; `first` as it was before all training, where that is known.

    `history` has a row for every epoch of its run, as the trainer keeps it. `way_is_known` says whether rate
    and batch were chosen by somebody, or are only our defaults.
    """

    net: Net
    data: Splits
    way: Way = field(default_factory=Way)
    first: Net | None = None
    trained: bool = False
    way_is_known: bool = True
    history: tuple[Mapping[str, Any], ...] = ()
    test_error: float | None = None  # on the whole test set, where the run has come to that
    quick: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.tried: dict[str, Any] = {}  # what trainings of copies have found
        self.lacks_preprocess = not isinstance(self.net.preprocess, Preprocess)
        self.net = seeing(self.net, self.data.train)
        self.first = seeing(self.first, self.data.train) if self.first else None

    def rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 0xD0C, purpose])

    def drawn(self, data: DataSet, most: int, purpose: int) -> Part:
        """Some pictures of a set, or all if there are no more."""
        which = self.rng(purpose).permutation(len(data))[:most]
        return Part(data, np.sort(which), f"some of {data.name}")

    @property
    def classes(self) -> int:
        return len(self.data.train.classes)

    @property
    def held(self) -> DataSet:
        """Pictures that it has not learned from; the test set only where there are no others."""
        return self.data.validation if len(self.data.validation) else self.data.test

    @property
    def preprocess(self) -> Preprocess:
        assert isinstance(self.net.preprocess, Preprocess)  # __post_init__ has seen to it
        return self.net.preprocess

    @property
    def start(self) -> Net:
        """Where training begins: the first net, or new weights in the same layers."""
        if self.first is not None:
            return self.first
        return self._redrawn if self.trained else self.net

    @cached_property
    def _redrawn(self) -> Net:
        return initialised(self.net, "he", self.rng(1))

    @cached_property
    def at_once(self) -> int:
        """Pictures in a pass that keeps all maps and gradients."""
        shapes = self.net.shapes((1, *self.data.train.shape)).values()
        per_picture = 3 * self.net.dtype.itemsize * sum(map(prod, shapes))
        return int(np.clip(BYTES_AT_ONCE // per_picture, 4, 64 if self.quick else 256))

    @cached_property
    def sample(self) -> Part:
        return self.drawn(self.data.train, self.at_once, 2)

    @cached_property
    def pictures(self) -> np.ndarray:
        """Some hundred pictures to learn from, 0..255."""
        some = self.drawn(self.data.train, 200 if self.quick else 1000, 3)
        return some.batch(np.arange(len(some)))

    @cached_property
    def obstacle(self) -> str:
        """Why no picture gets through the net; nothing if it does."""
        missing = [node.name for node in self.net.nodes if lacks_weights(node.layer)]
        if missing:
            return f"{missing[0]!r} has no weights yet"
        try:
            self.preprocess.to_net(self.data.train.batch(np.arange(1)))
            self.net.shapes((1, *self.data.train.shape))
        except MinidnnError as error:
            return " ".join([str(error), *getattr(error, "__notes__", ())])
        return ""

    @cached_property
    def answers(self) -> tuple[int, ...]:
        """(h, w, k) of what the loss looks at."""
        return self.net.shapes((1, *self.data.train.shape))[scores_of(self.net)][1:]

    @property
    def can_learn(self) -> bool:
        """Whether there is one answer for each class."""
        return self.answers == (1, 1, self.classes)

    @cached_property
    def now(self) -> Look:
        """The net as it is; one that was trained, as it will be used."""
        return self.look(self.net, self.sample, "test" if self.trained else "train")

    @cached_property
    def then(self) -> Look:
        """The net at its start, as training sees it."""
        return self.look(self.start, self.sample, "train") if self.start is not self.net else self.now

    def look(self, net: Net, part: DataSet, mode: str) -> Look:
        """One pass of these pictures, with everything kept."""
        res, last, scores = net.init_res(), net.names[-1], scores_of(net)
        x = seen_by(net, part.batch(np.arange(len(part))))
        with np.errstate(all="ignore"):
            net.forwardto(res, last, x, mode=mode, rng=self.rng(4))
            if not self.can_learn:
                return Look(net, res, res[scores].x, None, {})
            loss, seed = LOSSES[self.way.loss](res[scores].x, part.labels)
            if not np.isfinite(seed).all():
                return Look(net, res, res[scores].x, loss, {})
            net.backwardfrom(res, {scores: seed}, params=True)
        return Look(net, res, res[scores].x, loss, net.gradients(res))

    @cached_property
    def errors(self) -> Errors:
        """How often it is wrong, about pictures to learn from and others."""
        most = 300 if self.quick else 2000
        parts = [self.drawn(part, most, 5) for part in (self.data.train, self.held)]
        with np.errstate(all="ignore"):
            train, held = (evaluate(self.net, part, loss=self.way.loss) for part in parts)
        count = len(parts[0]), len(parts[1])
        return Errors(train["top1"], held["top1"], train["loss"], held["loss"], count)

    @cached_property
    def most_frequent(self) -> tuple[str, float]:
        """The class of most pictures, and the error of always answering it."""
        counts = np.bincount(self.data.train.labels, minlength=self.classes)
        return self.data.train.classes[counts.argmax()], 1 - counts.max() / counts.sum()


def seeing(net: Net, data: DataSet) -> Net:
    """A net that is the doctor's own; where it says nothing of preprocessing it gets pixels as they are."""
    preprocess = net.preprocess
    if not isinstance(preprocess, Preprocess):
        preprocess = Preprocess("RGB" if data.shape[2] == 3 else "GRAY")
    return net.with_nodes(net.nodes, preprocess=preprocess)


def seen_by(net: Net, pixels: np.ndarray) -> np.ndarray:
    assert isinstance(net.preprocess, Preprocess)
    return net.preprocess.to_net(pixels)


def beats(error: float, other: float, count: int) -> bool:
    """Whether an error over so many pictures is below another by more than three times what chance does."""
    return other - error > 3 * sqrt(max(other * (1 - other), 1 / count) / count)


def knows_something(net: Net, data: Splits) -> bool:
    """Whether it is right far more often than by always giving the same answer."""
    patient = Patient(net, data, trained=True, quick=True)
    if patient.obstacle or not patient.can_learn:
        return False
    error, (_, chance) = patient.errors.held, patient.most_frequent
    return error < 0.8 * chance and beats(error, chance, patient.errors.pictures[1])
