"""How it is trained: penalties, batch, rate, and whether it can learn one batch by heart."""

from __future__ import annotations

from minidnn import losses
from minidnn.layers import BatchNorm, Dropout
from minidnn.train.checks.patient import DOUBTFUL, UNSEEN, WELL, WRONG, Finding, Notes, Patient
from minidnn.train.checks.trials import (
    ByHeart,
    RateTest,
    by_heart,
    losses_of,
    noise_scale,
    rate_test,
    smoothed,
)

TRIED = 40  # steps at the rate that was chosen


def regularisation(patient: Patient) -> Finding:
    """The gap between what it learned from and what it did not, beside what holds it back."""
    notes = Notes("regularisation")
    held_by = restraints(patient)
    if not patient.trained:
        notes.add(UNSEEN, f"{held_by}; whether that is right shows once it has been trained")
        return notes.finding()
    errors = patient.errors
    gap = errors.held - errors.train
    words = f"error {errors.train:.1%} on pictures it learned from, {errors.held:.1%} on others; {held_by}"
    more = "hold it back: augment first, then weight_penalty (try 5e-4), dropout, or stop earlier (patience)"
    share = penalty_share(patient)
    if gap > 0.2:
        notes.add(WRONG, words, more)
    elif gap > 0.05 or (gap > 0.02 and errors.held > 3 * errors.train):
        notes.add(DOUBTFUL, words, more)
    elif errors.train > 0.2 and share > 0.5:
        heavy = f"{words}; the penalty is {share:.0%} of all that is made small"
        notes.add(DOUBTFUL, heavy, "a smaller weight_penalty lets it learn more")
    else:
        notes.add(WELL, words)
    _rises(patient, notes)
    return notes.finding(gap=gap, penalty_share=share)


def batch(patient: Patient) -> Finding:
    """The batch beside the set: so many steps an epoch; and how alike its gradients are."""
    notes = Notes("batch size")
    size, count, epochs = patient.way.batch, len(patient.data.train), patient.way.epochs
    steps = -(-count // size)
    words = f"{size} of {count:,} pictures: {steps:,} steps an epoch, {steps * epochs:,} in {epochs} epochs"
    scale = noise_scale(patient) if patient.can_learn else None
    if scale is not None:
        words += f"; above about {max(scale, 1):,.0f}, more pictures hardly make a first step better"
    norms = any(isinstance(node.layer, BatchNorm) for node in patient.net.nodes)
    if size > count:
        notes.add(WRONG, words, f"at most {count:,}; a tenth of that, {max(1, count // 10)}, is a good start")
    elif steps * epochs < 50 or size > count / 4:
        notes.add(DOUBTFUL, words, "smaller batches or more epochs: it learns by steps, not by pictures")
    elif norms and size < 4:
        notes.add(DOUBTFUL, words, "a batch norm wants some pictures to know their mean: take 16 or more")
    else:
        notes.add(WELL, words)
    return notes.finding(batch=size, steps=steps, noise_scale=scale)


def rate(patient: Patient) -> Finding:
    """The rate range test, and some steps at the rate that was chosen."""
    notes, test, chosen = Notes("learning rate"), rate_test(patient), patient.way.optimiser.rate
    name = type(patient.way.optimiser).__name__
    if test.suggested is None:
        tried = f" from {test.rates[0]:g} to {test.rates[-1]:.2g}" if test.rates else ""
        words = f"no rate{tried} makes the loss fall by a twentieth ({name})"
        notes.add(DOUBTFUL, words, "mend first what else is wrong here")
        return notes.finding(**test._asdict(), chosen=chosen)
    told = (
        f"about {test.suggested:g} is good with {name}: as the rate grows, there the loss has fallen by nine "
    )
    told += "tenths of all that it will" + (f", and from {test.limit:.2g} it rises" if test.limit else "")
    if not patient.way_is_known:
        notes.add(WELL, told)
    else:
        _chosen(patient, notes, test, f"{chosen:g} was chosen; {told}")
    return notes.finding(**test._asdict(), chosen=chosen)


def one_batch(patient: Patient) -> Finding:
    """A net that cannot learn a handful of pictures by heart will not learn many."""
    notes, found = Notes("one batch by heart"), heart(patient)
    words = f"{found.pictures} pictures, {found.steps} steps: loss {found.losses[0]:.2f} to "
    words += f"{found.losses[-1]:.2g}, error {found.error:.0%}"
    if found.learned:
        notes.add(WELL, words)
    else:
        advice = "mend the other findings first; then look at labels, loss and last layer, or give more units"
        notes.add(WRONG, words, advice)
    return notes.finding(**found._asdict())


def heart(patient: Patient) -> ByHeart:
    """That trial, done once for all checks that ask."""
    if "by heart" not in patient.tried:
        patient.tried["by heart"] = by_heart(patient)
    found: ByHeart = patient.tried["by heart"]
    return found


def _chosen(patient: Patient, notes: Notes, test: RateTest, words: str) -> None:
    """The rate that was chosen: by what the run did, or what some steps with it do, and by the test.

    With a warm-up the test itself says more, as its rate grows too.
    """
    chosen, good = patient.way.optimiser.rate, test.suggested or 0.0
    told = [float(row["loss"]) for row in patient.history]
    eased, advice = patient.way.schedule.warm_up > 0, f"a smaller rate: {good:g}"
    if patient.trained and len(told) > 1 and told[-1] < 0.5 * told[0]:
        words += f"; in its run the loss went from {told[0]:.2f} to {told[-1]:.2g}"
        notes.add(WELL, words)
        return
    if eased:
        words += f"; it has a warm-up of {patient.way.schedule.warm_up:g} epochs"
        if test.limit is not None and chosen > 3 * test.limit:
            notes.add(WRONG if chosen > 10 * test.limit else DOUBTFUL, words, advice)
            return
    else:
        tried = smoothed(losses_of(patient, patient.start, chosen, steps=TRIED))
        if tried:
            words += f"; {len(tried)} steps at {chosen:g} lead from loss {tried[0]:.2f} to {tried[-1]:.3g}"
        if len(tried) < TRIED or tried[-1] > 1.2 * tried[0]:
            notes.add(WRONG, words, f"{advice}, or a warm_up")
            return
    if chosen < good / 300:
        notes.add(WRONG, words, f"it would take for ever: try {good:g}")
    elif chosen < good / 30:
        notes.add(DOUBTFUL, words, f"it will learn slowly: try {good:g}")
    else:
        notes.add(WELL, words)


def _rises(patient: Patient, notes: Notes) -> None:
    """Whether the validation loss has long turned upwards."""
    lows = [float(row["validation_loss"]) for row in patient.history if "validation_loss" in row]
    if len(lows) < 4:
        return
    best = min(range(len(lows)), key=lows.__getitem__)
    words = f"validation loss lowest, {lows[best]:.3f}, after epoch {best + 1} of {len(lows)}"
    if best + 1 <= 0.7 * len(lows) and lows[-1] > 1.2 * lows[best]:
        words += f", {lows[-1]:.3f} at the end"
        notes.add(
            DOUBTFUL,
            words,
            f"best.h5 is the net of its best epoch; patience={max(2, best // 2)} ends earlier",
        )
    else:
        notes.add(WELL, words)


def restraints(patient: Patient) -> str:
    """What holds the net back from learning by heart, in words."""
    rates = [n.layer.rate for n in patient.start.nodes if isinstance(n.layer, Dropout) and n.layer.rate > 0]
    parts = []
    if patient.way.weight_penalty:
        parts.append(f"weight penalty {patient.way.weight_penalty:g}")
    if rates:
        parts.append(f"dropout {max(rates):g}")
    if patient.way.augment:
        names = (type(one).__name__.lower() for one in patient.way.augment)
        parts.append(f"augmentation by {' and '.join(names)}")
    return ", ".join(parts) or "no weight penalty, dropout or augmentation"


def penalty_share(patient: Patient) -> float:
    """λ Σ w² over it and the loss."""
    weights = [array for array in patient.net.params.values() if array.ndim > 1]
    penalty = patient.way.weight_penalty * sum(losses.squared_norm(array)[0] for array in weights)
    return penalty / max(penalty + patient.errors.train_loss, 1e-30)
