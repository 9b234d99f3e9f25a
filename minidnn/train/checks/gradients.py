"""The way back: do gradients reach every layer, in a size to learn by, and are they true?"""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, sqrt

import numpy as np

from minidnn.gradcheck import Check, check_elements
from minidnn.train.checks.patient import DOUBTFUL, WELL, WRONG, Finding, Notes, Patient, seen_by
from minidnn.train.data import Part
from minidnn.train.judging import LOSSES, first_non_finite, scores_of

FOR_NUMBERS = 2e7  # weights up to which a copy in float64 is no burden
ARRAYS, ENTRIES = 5, 2  # of which gradients are compared with differences


def gradients(patient: Patient) -> Finding:
    """Finite, in every layer, of a like size beside the weights; a few of them compared with differences."""
    notes, look = Notes("gradients"), patient.now
    if not isfinite(look.loss or 0.0) or not all(np.isfinite(g).all() for g in look.grads.values()):
        where = first_non_finite(patient.net, look.res[patient.net.input].x)
        words = f"loss {look.loss:.3g}, and numbers that are not finite"
        words += f", first in layer {where!r}" if where else ", on the way back"
        notes.add(WRONG, words, "go back to a checkpoint before, with a smaller rate; or draw new weights")
        return notes.finding()
    shares, steps = relative(patient)
    silent = [name for name, grad in look.grads.items() if grad.ndim > 1 and not grad.any()]
    if silent and (look.loss or 0.0) > 1e-6:
        words = f"no gradient at all reaches {', '.join(silent[:4])}{' …' if len(silent) > 4 else ''}"
        notes.add(WRONG, words, "something behind is closed: dead ReLUs, or weights that are 0")
    _sizes(patient, notes, {name: share for name, share in shares.items() if share > 0}, steps)
    if (look.loss or 0.0) < 1e-6:
        notes.add(WELL, f"the loss is {look.loss:.1g}: nothing is left to learn from these pictures")
    check = numeric(patient)
    if check is not None:
        name, found = check
        words = f"by differences {found.numeric:.4g} where the gradient says {found.analytic:.4g} ({name})"
        if found.error > 1e-2:
            notes.add(
                WRONG, words, f"the backward of {name.rpartition('/')[0]!r} or of a layer behind is wrong"
            )
        else:
            notes.add(WELL, f"right to {max(found.error, 1e-12):.0e}, as differences of the loss say")
    return notes.finding(relative=shares, steps=steps)


def relative(patient: Patient) -> tuple[dict[str, float], dict[str, float]]:
    """{"conv1/w": |gradient| / |w|}, and the same for the first step of the optimiser."""
    params = patient.net.params
    optimiser = replace(patient.way.optimiser, rate=first_rate(patient))
    shares, steps = {}, {}
    for name, grad in patient.now.grads.items():
        size = length(params[name])
        if grad.ndim > 1 and size > 0:
            shares[name] = length(grad) / size
            steps[name] = length(optimiser.step(grad)[0]) / size
    return shares, steps


def numeric(patient: Patient) -> tuple[str, Check] | None:
    """The worst of some entries against central differences, in float64; and of which weights it is.

    A ReLU's corner between two points can pass for an error; of two distances the better one counts.
    """
    net = patient.net
    if sum(array.size for array in net.params.values()) > FOR_NUMBERS:
        return None
    if any(node.layer.gradient_factor != 1 for node in net.nodes):  # they tell another tale on purpose
        return None
    net, scores, loss = net.astype("float64"), scores_of(net), LOSSES[patient.way.loss]
    part = Part(patient.sample, np.arange(min(4, len(patient.sample))), "a few")
    x, labels = seen_by(net, part.batch(np.arange(len(part)))).astype(np.float64), part.labels
    res = net.init_res()
    _, seed = loss(net.forwardto(res, scores, x), labels)
    net.backwardfrom(res, {scores: seed}, params=True)
    grads = net.gradients(res)
    names = [name for name, grad in grads.items() if grad.any()]
    found = []
    chosen = np.unique(np.linspace(0, len(names) - 1, ARRAYS).astype(int)) if names else ()
    for name in (names[i] for i in chosen):

        def value(w: np.ndarray, name: str = name) -> float:
            other = net.replacing({name: w})
            return loss(other.forwardto(other.init_res(), scores, x, keep=()), labels)[0]

        w = np.array(net.params[name])
        checks = (
            check_elements(value, w, grads[name], rng=patient.rng(13), count=ENTRIES, eps=eps)
            for eps in (1e-5, 1e-7)
        )
        found.append((name, min(checks, key=lambda check: check.error)))
    return max(found, key=lambda one: one[1].error, default=None)


def first_rate(patient: Patient) -> float:
    """That of the first step; of a net that was trained, the highest, as if it went on."""
    way = patient.way
    return way.optimiser.rate * (1.0 if patient.trained else way.schedule.factor(0.0, max(way.epochs, 1)))


def length(x: np.ndarray) -> float:
    return sqrt(float((x.astype(np.float64) ** 2).sum()))


def _sizes(patient: Patient, notes: Notes, shares: dict[str, float], steps: dict[str, float]) -> None:
    if not shares:
        return
    least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    fastest = max(steps, key=steps.__getitem__)
    ratio = shares[most] / shares[least]
    words = f"|gradient| / |weights| from {shares[least]:.1g} ({least}) to {shares[most]:.1g} ({most})"
    advice = "He's weights, batch norms or skips keep gradients alike; see depth and first weights"
    if ratio > 1e6:
        notes.add(WRONG, f"{words}: they vanish or explode on the way", advice)
    elif ratio > 1e4:
        notes.add(DOUBTFUL, words, advice)
    else:
        notes.add(WELL, words)
    step = f"a step at rate {first_rate(patient):g} moves {fastest} by "
    step += f"{100 * steps[fastest]:.2g} % of its length"
    if steps[fastest] > 1:
        notes.add(WRONG, step, "a step that large forgets what was learned: a smaller rate, or clip=1")
    elif steps[fastest] > 0.2:
        notes.add(DOUBTFUL, step, "about 0.1 % is usual: a smaller rate, or clip=1")
    else:
        notes.add(WELL, step)
