"""What goes in and what comes out: are the pictures normalised and as the net expects, do the labels fit?"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from math import isfinite, log

import numpy as np

from minidnn.errors import MinidnnError, UsageError
from minidnn.images import Preprocess
from minidnn.train.checks.patient import DOUBTFUL, UNSEEN, WELL, WRONG, Finding, Notes, Patient, beats
from minidnn.train.data import DataSet, Part, preprocess_for
from minidnn.train.judging import evaluate

SMALL = 16  # pixels a side of the pictures that the labels are guessed from
PER_CLASS = 10  # pictures of each class that it takes to guess


def normalised(patient: Patient) -> Finding:
    """Mean about 0 and deviation about 1 for every channel of what the net sees."""
    notes = Notes("data normalised")
    try:
        x = patient.preprocess.to_net(patient.pictures)
    except MinidnnError as error:
        notes.add(WRONG, str(error), "give the net a preprocess for these pictures")
        return notes.finding()
    flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
    means, stds = flat.mean(axis=0), flat.std(axis=0)
    words = f"mean {listed(means)}, deviation {listed(stds)} (0 and 1 are best)"
    far, wide = float(abs(means).max()), (float(stds.min()), float(stds.max()))
    advice = "take the mean of the training pictures away and divide by their deviation, for each channel: "
    advice += "normalise = true in the recipe does, or Preprocess(mean=..., std=...) by hand"
    if not np.isfinite(flat).all():
        notes.add(WRONG, f"values that are not finite; {words}", "look for a division by zero")
    elif wide[0] == 0:
        notes.add(WRONG, f"a channel that is the same everywhere; {words}", "look at the pictures")
    elif far > 3 * max(1, wide[1]) or far > 5 or wide[1] > 10 or wide[0] < 0.05:
        # a net that was trained so has made the best of it
        notes.add(DOUBTFUL if patient.trained else WRONG, words, advice)
    elif far > 1 or wide[1] > 3 or wide[0] < 0.25:
        notes.add(DOUBTFUL, words, advice)
    else:
        notes.add(WELL, words)
    if patient.lacks_preprocess:
        notes.add(DOUBTFUL, "the net says nothing of preprocessing: it sees pixels 0 to 255", advice)
    return notes.finding(means=means.tolist(), deviations=stds.tolist())


def results(patient: Patient) -> Finding:
    """Is the first loss that of guessing, does it beat the most frequent class, do the labels belong here?"""
    notes = Notes("results")
    _first_loss(patient, notes)
    name, chance = patient.most_frequent
    if patient.trained:
        errors = patient.errors
        words = f"error {errors.held:.1%} on {errors.pictures[1]:,} pictures it has not learned from; "
        words += f"always saying {name!r} would have {chance:.1%}"
        if errors.held < chance and beats(errors.held, chance, errors.pictures[1]):
            notes.add(WELL, words)
        elif beats(errors.train, chance, errors.pictures[0]):
            known = f"{words}, and it knows those it learned from (error {errors.train:.1%})"
            notes.add(WRONG, known, "look at twenty pictures beside their labels: it learned by heart")
        else:
            notes.add(WRONG, words, "it has learned nothing that holds: see what else is wrong here")
    if not patient.trained or notes.finding().verdict == WRONG:
        _labels_fit(patient, notes, chance)
    return notes.finding()


def preprocessing(patient: Patient) -> Finding:
    """Do shape, channels and numbers fit the net, and would it see better in another way?"""
    notes = Notes("preprocessing")
    (h, w, c), preprocess = patient.data.train.shape, patient.preprocess
    if patient.obstacle:
        advice = "bring the pictures to the net's size and channels (size, grey), or choose another net"
        notes.add(WRONG, f"pictures of {h}x{w}x{c} do not get through the net: {patient.obstacle}", advice)
        return notes.finding()
    if patient.pictures.max() <= 1:
        words = f"pixels from {patient.pictures.min():g} to {patient.pictures.max():g}; 0 to 255 is expected"
        notes.add(WRONG, words, "multiply the pictures by 255 where you save them")
    if preprocess.size not in (None, (h, w)):
        size = "x".join(map(str, preprocess.size))
        words = f"the net was made for pictures of {size}, these are {h}x{w}"
        notes.add(DOUBTFUL, words, f"give the pictures that size: size = {size!r} in the recipe")
    _parts_alike(patient, notes)
    if patient.trained and patient.can_learn:
        _other_ways(patient, notes)
    if not notes.evidence or all(verdict == WELL for verdict, _ in notes.evidence):
        notes.add(WELL, f"pictures of {h}x{w}x{c} go in as {preprocess.order}")
    return notes.finding()


def _first_loss(patient: Patient, notes: Notes) -> None:
    if patient.first is None and patient.trained:
        notes.add(UNSEEN, "the first loss: the first weights of this net are not known")
        return
    if patient.then.loss is None or patient.way.loss != "cross_entropy":
        return
    loss, guess = patient.then.loss, log(patient.classes)
    words = f"first loss {loss:.2f}; guessing among {patient.classes} classes costs log({patient.classes}) "
    words += f"= {guess:.2f}"
    if not isfinite(loss) or loss > 10 * guess:
        advice = (
            "the net is sure, and wrong, before it has learned: normalise the data, or draw smaller first "
        )
        notes.add(WRONG, words, f"{advice}weights for the last layer")
    elif loss > 4 * guess:
        notes.add(DOUBTFUL, words, "a last layer with smaller first weights begins nearer to guessing")
    elif loss < 0.5 * guess:
        notes.add(WRONG, words, "it knows too much before it has learned: does a picture hold its label?")
    else:
        notes.add(WELL, words)


def _labels_fit(patient: Patient, notes: Notes, chance: float) -> None:
    """Two simple rules learn the labels from small pictures; where both only guess, something is amiss."""
    most = 600 if patient.quick else 2000
    part = patient.drawn(patient.data.train, most, 8)
    if len(part) < max(100, PER_CLASS * patient.classes):
        notes.add(UNSEEN, f"whether labels can be guessed: {len(part)} pictures are too few to say")
        return
    error, count = guessed(small(part), part.labels, patient.classes)
    words = f"a simple rule (ridge regression, or the five nearest pictures) errs in {error:.1%} of {count}"
    words += f" pictures, always the same answer in {chance:.1%}"
    if beats(error, chance, count):
        notes.add(WELL, words)
    else:
        advice = "no sign that these labels belong to these pictures: look at twenty of them side by side "
        notes.add(WRONG, words, f"{advice}(were they shuffled apart? a hard task can look so too)")


def guessed(features: np.ndarray, labels: np.ndarray, classes: int) -> tuple[float, int]:
    """The lower error of two rules that learn from three quarters, on the last quarter; and how many that is.

    Ridge regression to one number for each class, and the vote of the five nearest.
    """
    cut = 3 * len(labels) // 4
    mean, std = features[:cut].mean(axis=0), features[:cut].std(axis=0) + 1e-6
    x = np.concatenate([(features - mean) / std, np.ones((len(features), 1))], axis=1)
    one_hot = np.eye(classes)[labels]
    learned, asked = x[:cut], x[cut:]
    gram = learned.T @ learned + 0.1 * cut * np.eye(x.shape[1])
    by_ridge = (asked @ np.linalg.solve(gram, learned.T @ one_hot[:cut])).argmax(axis=1)
    distances = (learned**2).sum(axis=1) - 2 * asked @ learned.T
    nearest = np.argsort(distances, axis=1)[:, :5]
    by_vote = one_hot[:cut][nearest].sum(axis=1).argmax(axis=1)
    wrong = min(float((found != labels[cut:]).mean()) for found in (by_ridge, by_vote))
    return wrong, len(labels) - cut


def small(part: DataSet) -> np.ndarray:
    """The pictures by the means of their blocks, (N, numbers): enough to guess from."""
    images = part.batch(np.arange(len(part)))
    n, h, w, c = images.shape
    bh, bw = max(1, h // SMALL), max(1, w // SMALL)
    cut = images[:, : h // bh * bh, : w // bw * bw].astype(np.float32)
    return cut.reshape(n, h // bh, bh, w // bw, bw, c).mean(axis=(2, 4)).reshape(n, -1).astype(np.float64)


def _parts_alike(patient: Patient, notes: Notes) -> None:
    """That what it is judged by looks like what it learns from."""
    other = patient.drawn(patient.held, len(patient.pictures), 9)
    pictures = other.batch(np.arange(len(other)))
    mine, theirs = float(patient.pictures.mean()), float(pictures.mean())
    words = f"pictures to learn from have mean {mine:.1f}, the others {theirs:.1f}"
    if abs(mine - theirs) > 0.5 * float(patient.pictures.std()):
        notes.add(WRONG, words, "prepare both in the same way")
    else:
        notes.add(WELL, words)


def _other_ways(patient: Patient, notes: Notes) -> None:
    """A trained net that sees better in another way was trained in that way."""
    part = patient.drawn(patient.held, 300 if patient.quick else 1000, 10)
    with np.errstate(all="ignore"):
        own = evaluate(patient.net, part)["top1"]
        tried = {}
        for words, preprocess in other_ways(patient):
            net = patient.net.with_nodes(patient.net.nodes, preprocess=preprocess)
            tried[words] = evaluate(net, part)["top1"]
        negatives = Negatives(part.whole, part.which, part.name)
        tried["negatives"] = evaluate(patient.net, negatives)["top1"]
    best = min(tried, key=lambda words: tried[words])
    if beats(tried[best], own, len(part)):
        found = f"error {own:.1%} as it is, {tried[best]:.1%} with {best}"
        notes.add(WRONG, found, f"the net was trained with {best}: prepare the pictures so")
    else:
        notes.add(WELL, f"error {own:.1%}, and no lower with {len(tried)} other ways to prepare the pictures")


@dataclass(frozen=True, eq=False)
class Negatives(Part):
    """The same pictures, white for black."""

    def batch(self, which: np.ndarray) -> np.ndarray:
        return 255 - super().batch(which)


def other_ways(patient: Patient) -> list[tuple[str, Preprocess]]:
    """Usual mistakes undone, each by a preprocess: exchanged colours, another scale, another mean."""
    own, ways = patient.preprocess, list[tuple[str, Preprocess]]()
    with suppress(UsageError):  # a channel without any contrast has no deviation to divide by
        ways.append(("the mean and deviation of these pictures", preprocess_for(patient.sample, own)))
    ways.append(("pixels scaled to 0..1", Preprocess(own.order, scale=1 / 255)))
    if own.channels == 3:
        order = "BGR" if own.order == "RGB" else "RGB"
        ways.append((f"channels in the order {order}", replace(own, order=order)))
        mean, std = np.atleast_1d(own.mean), np.atleast_1d(own.std)
        exchanged = replace(own, mean=mean[..., ::-1], std=tuple(std[::-1]))
        ways.append(("red and blue exchanged in mean and deviation", exchanged))
    return ways


def listed(numbers: np.ndarray) -> str:
    """Each in a few digits, and no -0.00."""
    return ", ".join(f"{n:.2f}" if abs(n) < 10 else f"{n:.1f}" for n in np.round(numbers, 2) + 0.0)
