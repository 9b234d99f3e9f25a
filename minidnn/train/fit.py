"""The loop: shuffle, look at a batch, step downhill, and after every epoch see how well it goes.

A generator of records. Whoever takes them draws the bar, writes the checkpoint, stops. All that is random
follows from (seed, epoch, batch), so there is no generator whose state could be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, sqrt
from time import perf_counter
from typing import Any

import numpy as np

from minidnn.arrays import Array, device_of, to_device, to_host
from minidnn.errors import DivergedError, UsageError
from minidnn.kernels.cpu.threads import CREW
from minidnn.layers import BatchNorm
from minidnn.net import Net
from minidnn.optim import Nesterov, Optimiser
from minidnn.train.augment import Augmentation, applied
from minidnn.train.data import Splits, check, check_answers
from minidnn.train.judging import LOSSES, evaluate, first_non_finite, preprocess_of, scores_of
from minidnn.train.learning import learning
from minidnn.train.schedules import Schedule


@dataclass(frozen=True)
class Way:
    """How to train: everything but the net and the data.

    What falls is loss + weight_penalty * sum of w², over filters and not over biases. `clip` is the greatest
    length of the whole gradient, 0 for any. After `patience` epochs without a new low of the validation loss
    the run ends early; 0: never. A batch norm's stored moments move by `norm_share` towards each batch's.
    `learn` names the layers whose weights move, by name or pattern; none: all. Those before the first of them
    answer as in a test.
    """

    epochs: int = 10
    batch: int = 128
    optimiser: Optimiser = field(default_factory=lambda: Nesterov(0.05))
    schedule: Schedule = field(default_factory=Schedule)
    augment: tuple[Augmentation, ...] = ()
    loss: str = "cross_entropy"
    weight_penalty: float = 0.0
    clip: float = 0.0
    patience: int = 0
    norm_share: float = 0.1
    learn: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch", 1), ("patience", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)}; give {least} or more")
        for name in ("weight_penalty", "clip"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name}={getattr(self, name)}; give 0 or more")
        if not 0 < self.norm_share <= 1:
            raise UsageError(f"norm_share={self.norm_share}; give a share above 0, at most 1")
        if self.loss not in LOSSES:
            raise UsageError(f"no loss {self.loss!r} to train with; there are {', '.join(LOSSES)}")


@dataclass(eq=False)
class State:
    """Where a run is, beside the weights in the net: enough to go on as if it had never stopped."""

    epoch: int = 0  # epochs that are done
    batch: int = 0  # batches of the next one that are done
    loss: float = 0.0  # of these batches: the sum over pictures
    wrong: int = 0  # and how many of these were taken for something else
    seconds: float = 0.0  # of all training so far
    memory: dict[str, Any] = field(default_factory=dict)  # of the optimiser, by weight
    history: list[dict[str, Any]] = field(default_factory=list)  # of every epoch

    @property
    def lows(self) -> list[float]:
        """The losses that schedule and early stop look at."""
        return [row.get("validation_loss", row["loss"]) for row in self.history]


@dataclass(frozen=True, eq=False)
class Record:
    """One step of a run; that which ends an epoch also has its row of the history.

    `state` and the net are those of the run itself: look, or save them, before the next record is taken.
    """

    epoch: int  # from 1
    batch: int  # from 1
    batches: int
    loss: float
    penalty: float
    gradient_norm: float
    rate: float
    images_per_second: float
    eta: float  # seconds until the last epoch is done, if all go as fast as those so far
    state: State = field(repr=False)
    row: dict[str, Any] | None = None
    ended: str = ""  # why this is the last one


def fit(net: Net, data: Splits, way: Way, *, state: State | None = None) -> Iterator[Record]:
    """Train this net, in place; or go on from the state of a record, with the net of that moment.

    What does not fit together is said at once, and not when the first record is taken.
    """
    check(data)
    if way.batch > len(data.train):
        found = f"batches of {way.batch}, and {len(data.train):,} pictures to learn from"
        raise UsageError(f"{found}; make them smaller")
    return _Run(net, data, way, State() if state is None else state).records()


class _Run:
    def __init__(self, net: Net, data: Splits, way: Way, state: State) -> None:
        self.net, self.data, self.way, self.state = net, data, way, state
        self.res, self.preprocess = net.init_res(), preprocess_of(net)
        self.scores, self.loss = scores_of(net), LOSSES[way.loss]
        self.learning = learning(net, way.learn, self.scores) if way.learn else None
        answers = net.shapes((1, *data.train.shape), upto=[self.scores])[self.scores][3]
        check_answers(answers, data.train)
        self.labels = data.train.labels
        self.batches = -(-len(data.train) // way.batch)
        self.began, self.steps, self.images = perf_counter(), 0, 0  # since this process took the run up

    def records(self) -> Iterator[Record]:
        """All batches that are still to come."""
        state, way, count = self.state, self.way, len(self.data.train)
        while not self.ended():
            order = np.random.default_rng([way.seed, state.epoch, 0]).permutation(count)
            for batch in range(state.batch, self.batches):
                # In the order of the set: what lies on a disk is read forwards.
                which = np.sort(order[batch * way.batch :][: way.batch])
                # What is not finite we look for ourselves; and BLAS's own threads, when they have had a small
                # product, wait for the next by running in circles, which took a third of a training step.
                with np.errstate(over="ignore", invalid="ignore"), CREW.alone():
                    record = self.step(which)
                yield record

    def step(self, which: np.ndarray) -> Record:
        """One batch, and with the last of an epoch what comes at its end."""
        began, state, way = perf_counter(), self.state, self.way
        rng = np.random.default_rng([way.seed, state.epoch, 1 + state.batch])
        done = state.epoch + state.batch / self.batches
        rate = way.optimiser.rate * way.schedule.factor(done, way.epochs, state.lows)
        images = applied(way.augment, self.data.train.batch(which), rng)
        loss, wrong, grads = self.gradients(images, self.labels[which], rng)
        norm, penalty = self.update(grads, rate)
        state.batch, self.steps, self.images = state.batch + 1, self.steps + 1, self.images + len(which)
        state.loss, state.wrong = state.loss + loss * len(which), state.wrong + wrong
        seconds = perf_counter() - began
        state.seconds += seconds
        position = state.epoch + 1, state.batch
        row = self.end_epoch(rate) if state.batch == self.batches else None
        to_come, ended = (way.epochs - state.epoch) * self.batches - state.batch, self.ended()
        return Record(
            *position,
            batches=self.batches,
            loss=loss,
            penalty=penalty,
            gradient_norm=norm,
            rate=rate,
            images_per_second=len(which) / seconds,
            eta=0.0 if ended else to_come * (perf_counter() - self.began) / self.steps,
            state=state,
            row=row,
            ended=ended,
        )

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[float, int, dict[str, Array]]:
        """The mean loss of a batch, how many of it the net gets wrong, and dz/dw."""
        x = self.on_device(self.preprocess.to_net(images))
        walls = None if self.learning is None else self.learning.walls
        if walls is not None:  # what stays as it is need not know that this is training
            self.net.forwardto(self.res, walls, x, keep=walls)
        image = x if walls is None else None
        scores = self.net.forwardto(self.res, self.scores, image, mode="train", rng=rng, keep="needed")
        value, seed = self.loss(scores, to_device(labels, device_of(scores)))
        if not isfinite(value):
            raise self.diverged(f"the loss is {value}", x)
        self.net.backwardfrom(self.res, {self.scores: seed}, params=True, to=walls)
        wrong = int((to_host(scores).reshape(len(labels), -1).argmax(axis=1) != labels).sum())
        grads = self.net.gradients(self.res)
        moving = grads if self.learning is None else self.learning.arrays
        return value, wrong, {name: grad for name, grad in grads.items() if name in moving}

    def update(self, grads: Mapping[str, Array], rate: float) -> tuple[float, float]:
        """Step downhill, and hand back the gradient's length and the penalty."""
        way, state, params = self.way, self.state, self.net.params
        filters = [name for name in grads if way.weight_penalty and params[name].ndim > 1]
        penalty = way.weight_penalty * length(params[name] for name in filters) ** 2
        total = dict(grads) | {name: grads[name] + way.weight_penalty * 2 * params[name] for name in filters}
        norm = length(total.values())
        if not isfinite(norm):
            raise self.diverged(f"the gradient's length is {norm}", self.res[self.net.input].x)
        shrink = way.clip / norm if 0 < way.clip < norm else 1.0
        optimiser = replace(way.optimiser, rate=rate)
        with self.net.updating() as weights:
            for name, grad in total.items():
                step, state.memory[name] = optimiser.step(
                    grad if shrink == 1 else grad * shrink, state.memory.get(name)
                )
                weights[name] += step.astype(weights[name].dtype, copy=False)
            for node in self.net.nodes:
                moments = self.res[node.name].aux
                if isinstance(node.layer, BatchNorm) and moments is not None:
                    for name in ("mean", "var"):
                        stored = weights.get(f"{node.name}/{name}")
                        if stored is not None:  # else another node holds it, and it moves there
                            stored += way.norm_share * (getattr(moments, name) - stored)
        return norm, penalty

    def end_epoch(self, rate: float) -> dict[str, Any]:
        """Look at the validation set, note it all, and see whether to go on."""
        state, way, count = self.state, self.way, len(self.data.train)
        row: dict[str, Any] = {"epoch": state.epoch + 1, "rate": rate}
        row |= {"loss": state.loss / count, "error": state.wrong / count}
        began = perf_counter()
        if len(self.data.validation):
            found = evaluate(self.net, self.data.validation, loss=way.loss, res=self.res)
            row |= {f"validation_{name}": value for name, value in found.items()}
            if not isfinite(found["loss"]):
                x = self.preprocess.to_net(self.data.validation.batch(np.arange(1)))
                raise self.diverged(f"the validation loss is {found['loss']}", self.on_device(x))
        state.seconds += perf_counter() - began
        row |= {"seconds": state.seconds, "images_per_second": self.images / (perf_counter() - self.began)}
        state.history.append(row)
        state.epoch, state.batch, state.loss, state.wrong = state.epoch + 1, 0, 0.0, 0
        return row

    def ended(self) -> str:
        """Why there is no next batch, or nothing."""
        lows, way = self.state.lows, self.way
        if self.state.epoch >= way.epochs:
            return "all epochs are done"
        waited = len(lows) - 1 - int(np.argmin(lows)) if lows and not self.state.batch else 0
        return f"no new low of the loss for {way.patience} epochs" if 0 < way.patience <= waited else ""

    def on_device(self, x: np.ndarray) -> Array:
        return to_device(x, self.net.device)

    def diverged(self, what: str, x: Array) -> DivergedError:
        """The words for a run that cannot go on: where it broke, and what to try."""
        state = self.state
        where = first_non_finite(self.net, x)
        batch = f"batch {state.batch + 1}" if state.batch < self.batches else "after its last batch"
        place = f"epoch {state.epoch + 1}, {batch}"
        rate = self.way.optimiser.rate
        found = f"; the first layer that is not finite is {where!r}" if where else ""
        advice = f"try rate={rate / 10:g} (now {rate:g}), a warm_up, or clip=1"
        return DivergedError(f"{place}: {what}{found}; the last checkpoint is from before; {advice}")


def length(arrays: Iterable[Array]) -> float:
    """The root of the sum of all squares: summed where they are, and one number is fetched."""
    return sqrt(float(sum((array * array).sum() for array in arrays)))
