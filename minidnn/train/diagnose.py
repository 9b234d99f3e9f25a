"""The doctor for networks: thirteen checks of a net, its data and its training; and bias or variance.

Eleven are a course's list for "my network isn't working"; dead ReLUs and one batch by heart are two more.
What is given is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from minidnn.errors import MinidnnError
from minidnn.train.checks import gradients, layers, pictures, running
from minidnn.train.checks.patient import UNSEEN, Finding, Patient

PICTURES, LEARNING = "pictures that get through the net", "one answer for each class"


class Check(NamedTuple):
    """One question; `wants` is what must be in order before it can be asked."""

    name: str
    look: Callable[[Patient], Finding]
    wants: str = ""


CHECKS = (
    Check("data normalised", pictures.normalised),
    Check("results", pictures.results, LEARNING),
    Check("preprocessing", pictures.preprocessing),
    Check("regularisation", running.regularisation, LEARNING),
    Check("batch size", running.batch, PICTURES),
    Check("learning rate", running.rate, LEARNING),
    Check("last activation", layers.last_activation, PICTURES),
    Check("gradients", gradients.gradients, LEARNING),
    Check("first weights", layers.first_weights, PICTURES),
    Check("depth", layers.depth, LEARNING),
    Check("hidden units", layers.hidden_units, PICTURES),
    Check("dead ReLUs", layers.dead_relus, PICTURES),
    Check("one batch by heart", running.one_batch, LEARNING),
)


def diagnose(patient: Patient) -> Iterator[Finding]:
    """One finding for each check, in their order, as they are made."""
    for check in CHECKS:
        missing = lacking(patient, check.wants)
        if missing:
            yield Finding(check.name, ((UNSEEN, f"wants {check.wants}: {missing}"),))
            continue
        try:
            yield check.look(patient)
        except MinidnnError as error:
            yield Finding(check.name, ((UNSEEN, f"could not be done: {error}"),))


def lacking(patient: Patient, wants: str) -> str:
    """What stands in the way of a check, or nothing."""
    if wants and patient.obstacle:
        return patient.obstacle
    if wants == LEARNING and not patient.can_learn:
        h, w, k = patient.answers
        place = f" in each of {h}x{w} places" if (h, w) != (1, 1) else ""
        return f"there are {k}{place}, and {patient.classes} classes"
    return ""


class Readout(NamedTuple):
    """Where the error comes from (Ng 2018, Machine Learning Yearning, chapters 20 to 25).

    avoidable bias = train error - human error          variance = test error - train error
    """

    human: float
    train: float
    test: float

    @property
    def bias(self) -> float:
        return self.train - self.human

    @property
    def variance(self) -> float:
        return self.test - self.train

    @property
    def larger(self) -> str:
        """Which of the two to work on; neither, where it errs no more than people or both are small.

        Small is: within a tenth of the test error.
        """
        if self.test <= self.human or max(self.bias, self.variance) <= 0.1 * self.test:
            return "neither"
        return "bias" if self.bias >= self.variance else "variance"

    @property
    def advice(self) -> str:
        return {
            "bias": "it cannot do what it was shown: a larger net, more epochs, a better rate, less penalty",
            "variance": "it does only what it was shown: more pictures, augmentation, penalty, dropout",
            "neither": "it is about as good as it can be on these pictures",
        }[self.larger]

    def __str__(self) -> str:
        return (
            f"human error {self.human:.1%}, train {self.train:.1%}, test {self.test:.1%}: avoidable bias "
            f"{100 * self.bias:.1f} points, variance {100 * self.variance:.1f} points"
        )


def readout(patient: Patient, human: float) -> Readout | None:
    """That of a net that was trained: the test error of its run, or one measured on pictures set aside."""
    if not patient.trained or lacking(patient, LEARNING):
        return None
    test = patient.errors.held if patient.test_error is None else patient.test_error
    return Readout(human, patient.errors.train, test)
