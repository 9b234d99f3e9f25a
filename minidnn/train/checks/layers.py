"""The shape of the net: its last activation, first weights, depth and units, and which of them died."""

from __future__ import annotations

from math import e, log2, prod

import numpy as np

from minidnn.layers import Add, Concat, Conv, ConvTranspose, Dropout, ReLU, Sigmoid, Softmax, Tanh
from minidnn.layers.conv import Bank
from minidnn.net import Net
from minidnn.train.checks.patient import DOUBTFUL, UNSEEN, WELL, WRONG, Finding, Notes, Patient, seen_by
from minidnn.train.checks.running import heart
from minidnn.train.data import Part
from minidnn.train.judging import scores_of

REACH = {Sigmoid: e, Softmax: e, Tanh: e * e}  # exp of how far apart two of their outputs can be
DEEP = 10  # layers with weights from which on depth itself can be what is wrong


def last_activation(patient: Patient) -> Finding:
    """One score for each class, free to take any value, and one softmax behind them."""
    notes, net = Notes("last activation"), patient.net
    h, w, k = patient.answers
    if k != patient.classes:
        words = f"{k} answers for {patient.classes} classes"
        notes.add(WRONG, words, f"give the last layer {patient.classes} outputs, one for each class")
    if (h, w) != (1, 1):
        words = f"a map of {h}x{w} answers for each picture"
        notes.add(WRONG, words, "end in a GlobalAvgPool or an FC layer")
    scores = scores_of(net)
    layer = net.node(scores).layer
    if type(layer) in REACH:
        most = REACH[type(layer)] / (REACH[type(layer)] + patient.classes - 1)
        words = f"the scores come out of a {type(layer).__name__} ({scores!r}), and the loss has a softmax: "
        words += f"no probability can pass {most:.0%}, and the loss cannot fall below {-np.log(most):.2f}"
        notes.add(WRONG, words, f"leave {scores!r} out: scores are free to be any number")
    elif isinstance(layer, ReLU):
        share = float((patient.now.scores <= 0).mean())
        words = f"the scores come out of a ReLU ({scores!r}): {share:.0%} of them are 0 and learn nothing"
        notes.add(WRONG, words, f"leave {scores!r} out: scores are free to be negative")
    elif isinstance(layer, Dropout):
        words = f"scores are dropped at random ({scores!r})"
        notes.add(DOUBTFUL, words, "put the dropout before the last FC")
    for node in net.nodes[:-1]:
        if isinstance(node.layer, Softmax) and node.name != scores:
            words = f"a softmax within the net ({node.name!r})"
            notes.add(DOUBTFUL, words, "a softmax belongs at the end, and only there")
    _probabilities(patient, notes)
    if patient.way.loss == "multiclass_hinge":
        words = "loss multiclass_hinge looks at the right class alone: all scores above 1 please it"
        notes.add(DOUBTFUL, words, "cross_entropy or structured_hinge compares the classes")
    return notes.finding(answers=[h, w, k], classes=patient.classes)


def first_weights(patient: Patient) -> Finding:
    """Different from each other, and as loud behind every layer as before it."""
    notes = Notes("first weights")
    net = patient.first or patient.net
    banks = banks_of(net)
    at_random = "draw them at random (first_weights = he)"
    for name, bank in banks.items():
        zero, same = not bank.w.any(), alike(bank)
        if zero and name != list(banks)[-1]:
            notes.add(WRONG, f"all weights of {name!r} are 0", f"its units would stay alike: {at_random}")
        elif same and not zero:
            words = f"{same} of the {bank.out_channels} filters of {name!r} equal another one"
            verdict = DOUBTFUL if patient.trained and patient.first is None else WRONG
            notes.add(verdict, words, f"equal filters learn the same: {at_random}")
    if patient.first is None and patient.trained:
        notes.add(UNSEEN, "it has been trained, and what it began with is not known")
        return notes.finding()
    spreads = {name: float(patient.then.res[name].x.std()) for name, bank in banks.items() if bank.w.any()}
    if not spreads:
        notes.add(WELL, "no layer with weights but the last, which may begin at 0")
        return notes.finding()
    quiet, loud = min(spreads, key=spreads.__getitem__), max(spreads, key=spreads.__getitem__)
    words = f"outputs spread from {spreads[quiet]:.2g} ({quiet}) to {spreads[loud]:.2g} ({loud})"
    ratio = spreads[loud] / max(spreads[quiet], 1e-30)
    advice = "layers should be about equally loud: He's weights (first_weights = he) before ReLUs, Xavier's "
    advice += "before sigmoids and tanhs; or batch norms"
    if not ratio < 1e3:
        notes.add(WRONG, words, advice)
    elif ratio > 50:
        notes.add(DOUBTFUL, words, advice)
    else:
        notes.add(WELL, words)
    return notes.finding(spreads=spreads)


def depth(patient: Patient) -> Finding:
    """What is left of the difference between pictures at the end, and of the gradient at the beginning."""
    notes, look = Notes("depth"), patient.then
    banks = [name for name in banks_of(look.net) if look.res[name].dzdx is not None]
    layers = longest_path(look.net)
    if not banks:
        notes.add(UNSEEN, f"{layers} layers with weights; no gradient came back to look at")
        return notes.finding()
    joins = sum(isinstance(node.layer, Add | Concat) for node in look.net.nodes)
    skips = f"{joins} skips or joins" if joins else "no skips"
    pulls = {name: rms(look.res[name].dzdx) for name in banks}
    tells = {name: told_apart(look.res[name].x) for name in banks}
    first, last = banks[0], banks[-1]
    back = pulls[first] / max(pulls[last], 1e-30)
    ahead = tells[last] / max(tells[first], 1e-30)
    words = f"{layers} layers with weights, {skips}; {back:.1g} of the gradient is left at {first!r}, "
    words += f"{ahead:.1g} of the difference between pictures at {last!r}"
    advice = "fewer layers, skips (Add) around every two or three, batch norms, or ReLUs instead of sigmoids"
    with np.errstate(all="ignore"):
        least = min(back, 1 / max(back, 1e-30), ahead)
    if layers >= DEEP and not least > 1e-5:
        notes.add(WRONG, words, advice)
    elif layers >= DEEP and least < 1e-3:
        notes.add(DOUBTFUL, words, advice)
    else:
        notes.add(WELL, words)
    return notes.finding(layers=layers, gradients=pulls, differences=tells)


def hidden_units(patient: Patient) -> Finding:
    """Whether there are enough: the narrowest layer, what it can learn by heart, and what is never used."""
    notes, look = Notes("hidden units"), patient.now
    count = sum(array.size for array in patient.net.params.values())
    shapes = look.net.shapes((1, *patient.data.train.shape))
    units = {name: prod(shapes[name][1:]) for name in list(banks_of(look.net))[:-1]}
    words = f"{count:,} weights for {len(patient.data.train):,} pictures"
    if units:
        narrow = min(units, key=units.__getitem__)
        words += f"; the narrowest hidden layer, {narrow!r}, has {units[narrow]:,} units"
        if units[narrow] < max(2, log2(patient.classes)):
            more = f"{words}, too few to tell {patient.classes} classes apart"
            notes.add(WRONG, more, f"give {narrow!r} more units: {4 * patient.classes} to begin with")
        elif units[narrow] < patient.classes / 2:
            advice = f"more units in {narrow!r} would let it tell classes apart more easily"
            notes.add(DOUBTFUL, words, advice)
        last = look.res[list(units)[-1]].x.mean(axis=(1, 2))
        needed, unused = directions(last)
        words += f"; of the {last.shape[1]} of its last hidden layer {unused} never change, "
        words += f"and {needed} mixture{'s hold' if needed > 1 else ' holds'} 90 % of all variation"
    if not notes.evidence and patient.can_learn and not heart(patient).learned:
        words += f"; and {heart(patient).pictures} pictures were not learned by heart"
        notes.add(DOUBTFUL, words, "if nothing else is wrong, give it more units or layers")
    elif not notes.evidence:
        notes.add(WELL, words)
    return notes.finding(units=units, weights=count)


def dead_relus(patient: Patient) -> Finding:
    """The share of units of each ReLU that are 0 wherever one looks: no gradient will ever wake them."""
    notes = Notes("dead ReLUs")
    relus = [node.name for node in patient.net.nodes if type(node.layer) is ReLU]
    if not relus:
        notes.add(WELL, "there are no ReLUs")
        return notes.finding()
    seen, count = awake(patient, relus)
    shares = {name: float(1 - alive.mean()) for name, alive in seen.items()}
    bad = {name: share for name, share in shares.items() if share > 0.4}
    told = [f"{name} {share:.0%}" for name, share in (bad or shares).items()]
    rest = f" and {len(told) - 4} more layers" if len(told) > 4 else ""
    words = f"units that are 0 for all of {count} pictures: {', '.join(told[:4])}{rest}"
    advice = "a smaller rate, or biases and weights drawn anew; a LeakyReLU cannot die"
    worst = max(shares.values())
    notes.add(WRONG if worst > 0.7 else DOUBTFUL if bad else WELL, words, advice if bad else "")
    return notes.finding(shares=shares, pictures=count)


def _probabilities(patient: Patient, notes: Notes) -> None:
    """What comes out of the last layer, added up for each picture."""
    last = patient.now.net.nodes[-1]
    y = patient.now.res[last.name].x
    sums = y.sum(axis=3)
    if not np.isfinite(y).all():
        notes.add(WRONG, f"{last.name!r} gives numbers that are not finite", "see gradients")
    elif isinstance(last.layer, Softmax):
        notes.add(WELL, f"{y.shape[3]} scores, one softmax; probabilities sum to {sums.mean():.4f}")
    elif y.min() >= 0 and y.max() <= 1 and abs(sums - 1).max() > 1e-3:
        words = f"answers from 0 to 1 that sum to {sums.min():.2f} to {sums.max():.2f}: no probabilities"
        notes.add(WRONG, words, "end in scores, or in a Softmax behind them")
    else:
        notes.add(WELL, f"{y.shape[3]} scores; the loss has the softmax")


def banks_of(net: Net) -> dict[str, Bank]:
    """The layers with filters, in order."""
    return {node.name: node.layer for node in net.nodes if isinstance(node.layer, Bank)}


def alike(layer: Bank) -> int:
    """How many filters equal another one: by their product with one random vector, which tells them apart."""
    if isinstance(layer, ConvTranspose) or layer.out_channels < 2:
        return 0
    if isinstance(layer, Conv) and layer.groups > 1:  # these look at different channels
        return 0
    flat = layer.w.reshape(-1, layer.out_channels).astype(np.float64)
    marks = flat.T @ np.random.default_rng(0).standard_normal(len(flat))
    return len(marks) - len(np.unique(np.round(marks / max(abs(marks).max(), 1e-300), 9)))


def longest_path(net: Net) -> int:
    """Layers with filters on the longest way through."""
    steps = {net.input: 0}
    for node in net.nodes:
        steps[node.name] = max(steps[name] for name in node.inputs) + isinstance(node.layer, Bank)
    return steps[net.names[-1]]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x.astype(np.float64) ** 2)))


def told_apart(x: np.ndarray) -> float:
    """How far a unit's answers to different pictures lie apart, beside how large they are."""
    x = x.astype(np.float64)
    return float(np.sqrt(x.var(axis=0).mean())) / max(rms(x), 1e-30)


def directions(answers: np.ndarray) -> tuple[int, int]:
    """How many directions hold 90 % of the variance of answers (N, K), and how many units have none."""
    centred = answers.astype(np.float64) - answers.mean(axis=0)
    if not np.isfinite(centred).all():
        return 0, answers.shape[1]
    squares = np.linalg.svd(centred, compute_uv=False) ** 2
    if not squares.sum() > 0:
        return 0, answers.shape[1]
    share = np.cumsum(squares) / squares.sum()
    spread = centred.std(axis=0)
    return int(np.searchsorted(share, 0.9)) + 1, int((spread <= 1e-6 * max(spread.max(), 1e-30)).sum())


def awake(patient: Patient, relus: list[str]) -> tuple[dict[str, np.ndarray], int]:
    """Which channels of these ReLUs are above 0 for any of the pictures, and how many pictures that were."""
    mode = "test" if patient.trained else "train"
    part = patient.drawn(patient.data.train, min(8 * patient.at_once, 300 if patient.quick else 1000), 11)
    res, found = patient.net.init_res(), dict[str, np.ndarray]()
    for at in range(0, len(part), patient.at_once):
        which = np.arange(at, min(at + patient.at_once, len(part)))
        x = seen_by(patient.net, Part(part, which, "some").batch(np.arange(len(which))))
        with np.errstate(all="ignore"):
            maps = patient.net.forwardto(res, relus, x, mode=mode, rng=patient.rng(12), keep=relus)
        for name, y in maps.items():
            found[name] = found.get(name, False) | (y > 0).any(axis=(0, 1, 2))
    return found, len(part)
