"""Linear heads on features: a support vector machine, or a softmax. Both are convex: one answer, no luck.

A picture's features are brought to a length of about 1, however many they are, so one list of penalties
serves all layers. Rows are (N, D), labels (N,).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from minidnn.errors import DivergedError, ShapeError, UsageError, did_you_mean
from minidnn.losses import cross_entropy
from minidnn.train.lbfgs import minimised

NORMALISE = ("standard", "l2")
PENALTIES = (0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)  # from the simplest head to the wildest
HELD = 0.25  # the share of the pictures by which the penalty is chosen
STEPS, TOLERANCE = 1000, 1e-7  # at most; and a gain so small, as a share of the loss, ends it
WORSE = 2  # penalties in a row that do worse than the best so far, and smaller ones are not tried
AT_ONCE = 4096  # columns that are multiplied at once in double precision


@dataclass(frozen=True, eq=False)
class Head:
    """scores = normalised(x) w + b; the largest is the answer."""

    kind: str
    normalise: str
    w: np.ndarray = field(repr=False)  # (D, K)
    b: np.ndarray = field(repr=False)  # (K,)
    mean: np.ndarray = field(repr=False)  # (D,)
    scale: np.ndarray = field(repr=False)  # (D,): what standard features are multiplied by
    penalty: float

    def scores(self, x: np.ndarray) -> np.ndarray:
        """(N, K)."""
        if x.ndim != 2 or x.shape[1] != len(self.w):
            raise ShapeError(f"the head reads rows of {len(self.w):,} features, found {x.shape}; give (N, D)")
        return _normalised(x, self.normalise, self.mean, self.scale) @ self.w + self.b

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(N,): the number of the class with the largest score."""
        return self.scores(x).argmax(axis=1)


class Judged(NamedTuple):
    """How often a head is right, and what it takes for what: confusion[is, said] counts pictures."""

    accuracy: float
    confusion: np.ndarray

    @property
    def by_class(self) -> np.ndarray:
        """The share of each class that is recognised; NaN where there is none of it."""
        with np.errstate(invalid="ignore"):
            return self.confusion.diagonal() / self.confusion.sum(axis=1)


class Choice(NamedTuple):
    """A head with the penalty that did best on pictures held back; `tried` tells how each did there."""

    head: Head
    tried: Mapping[float, float]

    @property
    def validation(self) -> float:
        return self.tried[self.head.penalty]


def fit_head(
    x: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    kind: str = "svm",
    normalise: str = "standard",
    penalty: float = 1e-3,
) -> Head:
    """The head for which  mean loss + penalty * sum of w²  is least (biases are free), found by L-BFGS.

        svm       loss = sum over classes q of max(0, 1 - c_q s_q)²,  c = 1 for the right class, else -1
        softmax   loss = log(sum over q of exp(s_q)) - s_label

    So the machine asks one question for each class, this or another (one against the rest).
    """
    _check(x, labels, classes, kind, normalise)
    return _Fit(x, labels, len(classes), kind, normalise).head(penalty)


def choose_head(
    x: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    kind: str = "svm",
    normalise: str = "standard",
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> Choice:
    """A head whose penalty was chosen by a quarter of the pictures held back, then learned from all of them.

    The quarter is drawn by the seed, of each class its share. Where several penalties do equally well it is
    the largest: the simplest head. It begins with that, and ends when two in a row did worse than one before.
    """
    _check(x, labels, classes, kind, normalise)
    if not penalties:
        raise UsageError("no penalties to choose from; give some, as (0.1, 0.01)")
    learned, held = held_back(labels, HELD, seed)
    trial = _Fit(x[learned], labels[learned], len(classes), kind, normalise)
    tried: dict[float, float] = {}
    for penalty in sorted(penalties, reverse=True):
        tried[penalty] = float((trial.head(penalty).predict(x[held]) == labels[held]).mean())
        if len(tried) > WORSE and max(list(tried.values())[-WORSE:]) < max(tried.values()):
            break
    best = max(tried, key=lambda penalty: (tried[penalty], penalty))
    return Choice(_Fit(x, labels, len(classes), kind, normalise).head(best), tried)


def judged(head: Head, x: np.ndarray, labels: np.ndarray) -> Judged:
    """How the head does on these."""
    if not len(labels):
        raise UsageError("no pictures to judge the head by; give some")
    confusion = np.zeros((len(head.b), len(head.b)), int)
    np.add.at(confusion, (labels, head.predict(x)), 1)
    return Judged(confusion.trace() / confusion.sum(), confusion)


def held_back(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the pictures to learn from, and of those held back: of each class its share, never all."""
    rng, held = np.random.default_rng([seed, 0x4EAD]), []
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        held.append(own[: min(len(own) - 1, max(1, round(share * len(own))))])
    aside = np.sort(np.concatenate(held))
    if not len(aside):
        raise UsageError("one picture of each class: none can be held back; add some, or use fit_head")
    return np.setdiff1d(np.arange(len(labels)), aside), aside


class _Fit:
    """Heads of one kind for one set of rows, for any penalty; each starts from the one before.

    All is done along the axes in which the rows vary apart, X = Z Vᵀ with the columns of Z at right angles
    and s long. There the curvature is about s²/n + penalty, and steps are measured by its root. With more
    features than pictures Z is made from X Xᵀ: the best w is a sum of the pictures' rows (the penalty wants
    nothing across them), so 86,000 features cost no more than 600.
    """

    def __init__(self, x: np.ndarray, labels: np.ndarray, count: int, kind: str, normalise: str) -> None:
        self.kind, self.normalise, self.labels = kind, normalise, labels
        self.mean, self.scale = _moments(x)
        self.x = _normalised(x, normalise, self.mean, self.scale)
        self.wide = self.x.shape[1] > len(self.x)
        squares, axes = np.linalg.eigh(_products(self.x if self.wide else self.x.T))
        there = squares > 1e-10 * max(squares[-1], 1e-300)
        lengths, axes = np.sqrt(squares[there]), axes[:, there]
        self.z = axes * lengths if self.wide else self.x.astype(float) @ axes
        self.axes = axes / lengths if self.wide else axes  # V = Xᵀ axes, or V = axes
        self.curvature = squares[there, None] / len(self.x)
        self.found = np.zeros((self.z.shape[1] + 1, count))  # the biases are its last row

    def head(self, penalty: float) -> Head:
        if not 0 < penalty < float("inf"):
            raise UsageError(f"penalty={penalty}: give a number above 0")
        shape, loss = self.found.shape, _squared_hinge if self.kind == "svm" else _softmax
        stride = np.vstack([1 / np.sqrt(self.curvature + penalty), [[1.0]]])

        def total(steps: np.ndarray) -> tuple[float, np.ndarray]:
            w, b = np.split(steps.reshape(shape) * stride, [-1])
            value, dzds = loss(self.z @ w + b, self.labels)
            dzdw = self.z.T @ dzds + 2 * penalty * w
            gradient = np.concatenate([dzdw, dzds.sum(axis=0)[None]]) * stride
            return value + penalty * float((w * w).sum()), gradient.ravel()

        found = minimised(total, (self.found / stride).ravel(), steps=STEPS, tolerance=TOLERANCE)
        if not np.isfinite(found.value):
            raise DivergedError(f"penalty={penalty}: the loss is {found.value}; look at the features")
        self.found = found.x.reshape(shape) * stride
        w = self.axes @ self.found[:-1]
        w = self.x.T @ w.astype(self.x.dtype) if self.wide else w
        b = self.found[-1]
        return Head(self.kind, self.normalise, w.astype(np.float32), b, self.mean, self.scale, penalty)


def _squared_hinge(scores: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    signs = np.where(np.arange(scores.shape[1]) == labels[:, None], 1.0, -1.0)
    lack = np.maximum(0, 1 - signs * scores)
    return float((lack * lack).sum()) / len(labels), -2 * signs * lack / len(labels)


def _softmax(scores: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    value, dzds = cross_entropy(scores[:, None, None], labels)
    return value, dzds[:, 0, 0]


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each feature, and what brings it to deviation 1 / √D; features that never vary count 0."""
    mean, std = x.mean(axis=0, dtype=float), x.std(axis=0, dtype=float)
    varies = std > 1e-7 * np.abs(mean).max(initial=0)
    scale = np.divide(1, std, out=np.zeros_like(std), where=varies) / np.sqrt(max(1, varies.sum()))
    return mean.astype(np.float32), scale.astype(np.float32)


def _normalised(x: np.ndarray, how: str, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    if how == "standard":
        return (x - mean) * scale
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(lengths > 0, lengths, 1)


def _products(x: np.ndarray) -> np.ndarray:
    """X Xᵀ in double precision, without a second X of that size."""
    total = np.zeros((len(x), len(x)))
    for at in range(0, x.shape[1], AT_ONCE):
        some = x[:, at : at + AT_ONCE].astype(float)
        total += some @ some.T
    return total


def _check(x: np.ndarray, labels: np.ndarray, classes: Sequence[str], kind: str, normalise: str) -> None:
    for name, word, words in (("kind", kind, ("svm", "softmax")), ("normalise", normalise, NORMALISE)):
        if word not in words:
            raise UsageError(f"{name} {word!r}: there are {', '.join(words)}{did_you_mean(word, words)}")
    if x.ndim != 2 or labels.shape != (len(x),) or x.size == 0:
        raise ShapeError(f"features {x.shape} and labels {labels.shape}; give (N, D) and (N,)")
    if bad := int((~np.isfinite(x)).sum()):
        raise DivergedError(f"{bad:,} of {x.size:,} features are not finite; look at the net that made them")
    counts = np.bincount(labels, minlength=len(classes))
    if (counts > 0).sum() < 2:
        raise UsageError(f"all pictures are of one class, {classes[labels[0]]!r}; there is nothing to learn")
    if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise UsageError(f"no pictures of {', '.join(map(repr, empty[:5]))} to learn from; add some")
