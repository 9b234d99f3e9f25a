"""The experiments of the first course on dreaming: each draws a sheet of pictures, and says what it shows.

The layers of the course are 3, 15 and 27 of VGG-16 (conv1_2, conv3_3, conv5_2, all before their ReLU). For
other nets the ReLUs behind an early and a middle convolution and their favourite layer stand in for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from minidnn.arrays import Array, to_host
from minidnn.errors import ShapeError, UsageError
from minidnn.layers import FC, Conv, Softmax
from minidnn.net import Net
from minidnn.recipes.deepdream import DeepDream, layers_of, rectified
from minidnn.recipes.goals import scores_of
from minidnn.recipes.job import Job, Opened, net_called
from minidnn.recipes.sheets import sheet
from minidnn.summary import summarise
from minidnn.tables import text

COURSE = ("conv1_2", "conv3_3", "conv5_2")  # layers 3, 15 and 27

# One octave, no shaping, the picture rolled a little: the dream of the handout, with nothing beautified.
PLAIN = DeepDream(octaves=1, steps=30, jitter=16, colours=0.0, smooth=())


@dataclass
class Result:
    """What came of an experiment."""

    pictures: list[tuple[str, Array]] = field(default_factory=list)
    lines: dict[str, list[float]] = field(default_factory=dict)  # |y| of the layer over the steps, by name
    words: list[str] = field(default_factory=list)

    @property
    def sheet(self) -> Array:
        return sheet(self.pictures, columns=min(5, len(self.pictures)))


class Progress(NamedTuple):
    """What is being dreamed just now, for a bar."""

    what: str
    done: int
    total: int


Experiment = Callable[[Job, Result], Iterator[Progress]]


def layers(job: Job, result: Result) -> Iterator[Progress]:
    """Early layers want edges, late ones whole things: the same picture, three layers (question 2.4)."""
    opened = replace(job, settings=PLAIN).opened()
    for layer in dict.fromkeys(three_layers(opened.net)):
        number = opened.net.number_of(layer)
        yield from _dream(job, replace(PLAIN, layers=(layer,)), f"{layer} (layer {number})", result)
    result.words.append("Small filters near the image ask for edges and dots, late layers for things.")
    result.words.append(converged(result.lines))


def steps(job: Job, result: Result) -> Iterator[Progress]:
    """The same dream with smaller and larger steps (question 2.4)."""
    for rate in (0.25, 1.0, 4.0, 16.0):
        yield from _dream(job, replace(PLAIN, layers=_late(job), rate=rate), f"step {rate:g}", result)
    result.words.append(
        "Small steps climb slowly; too large ones jump over what they wanted and leave grain."
    )


def sizes(job: Job, result: Result) -> Iterator[Progress]:
    """Other sizes than trained on: convolutions do not mind, full connections do (question 2.5)."""
    opened = job.opened()
    whole = opened.picture.shape[1:3]
    result.pictures = [("start", to_host(opened.picture))]
    for share in (0.5, 1, 2):
        size = (round(whole[0] * share), round(whole[1] * share))
        there = replace(job, size=size)
        yield from _dream(there, replace(PLAIN, layers=_late(job)), f"{size[1]}x{size[0]}", result)
    h, w = (opened.net.input_shape or whole)[:2]
    connected = [node.name for node in opened.net.nodes if isinstance(node.layer, FC)]
    if connected:
        try:
            opened.net.shapes((1, 2 * h, 2 * w, 3), upto=[connected[0]])
        except ShapeError as error:
            result.words.append(f"{connected[0]} at twice the size: {error}")
        sliding = opened.net.as_convolutional().shapes((1, 2 * h, 2 * w, 3), upto=[connected[-1]])
        result.words.append(f"slid over the map, {connected[-1]} gives {sliding[connected[-1]][1:]} instead")
    else:
        result.words.append(
            f"This net, trained on {w}x{h}, has no fully connected layer: all of it runs at any size."
            if opened.net.input_shape
            else "This net has no fully connected layer: all of it runs at any size."
        )


def windows(job: Job, result: Result) -> Iterator[Progress]:
    """Windows of changing size at random, in turn, and octaves instead (question 2.6)."""
    base = replace(PLAIN, layers=_late(job), steps=60)
    yield from _dream(job, base, "whole picture", result)
    yield from _dream(job, replace(base, window="random"), "windows at random", result)
    yield from _dream(job, replace(base, window="in-turn"), "windows in turn", result)
    yield from _dream(job, replace(base, steps=15, octaves=4), "octaves", result)
    result.words.append("A window is shown to the net enlarged, so what it dreams there comes out smaller.")


def noise(job: Job, result: Result) -> Iterator[Progress]:
    """Nothing but noise to begin with (question 2.7)."""
    there = replace(job, start="noise")
    for layer in dict.fromkeys(three_layers(job.opened().net)):
        settings = replace(DeepDream(layers=(layer,)), seed=job.settings.seed)
        yield from _dream(there, settings, f"{layer} from noise", result)


def sums(job: Job, result: Result) -> Iterator[Progress]:
    """Two layers by themselves, and both at once: gradients injected at two depths (experiment 2a)."""
    _, middle, late = three_layers(job.opened().net)
    for objective, name in [
        (f"norm({middle})", middle),
        (f"norm({late})", late),
        (f"norm({middle}) + {balance(job, middle, late):.3g}*norm({late})", f"{middle} + {late}"),
    ]:
        yield from _dream(job, replace(PLAIN, layers=(late,), objective=objective), name, result)


def guide(job: Job, result: Result) -> Iterator[Progress]:
    """A second picture says what to dream of (experiment 2c): the dot product, and Google's best match."""
    if job.guide is None:
        raise UsageError("the experiment 'guide' wants a second picture: --guide PHOTO")
    opened = job.opened()
    result.pictures = [("start", to_host(opened.picture)), ("guide", to_host(opened.guide))]
    layer = three_layers(opened.net)[1]  # late layers dream their own dreams, whatever the guide
    for kind, name in [("norm", "without it"), ("guide", "dot product"), ("match", "best match")]:
        yield from _dream(job, DeepDream(layers=(layer,), objective=kind), f"{layer}, {name}", result)


def peek(job: Job, result: Result) -> Iterator[Progress]:
    """The printed architecture, and what the last layers are for (question 2.3)."""
    net = net_called(job.net)
    yield Progress("the table", 0, 1)
    h, w, c = net.input_shape or (224, 224, 3)
    result.words.append(text(summarise(net, (h, w))))
    shapes = net.shapes((1, h, w, c))
    flat = [name for name in net.names[1:] if shapes[name][1:3] == (1, 1)]
    if flat:
        result.words.append(
            f"The last {len(flat)} layers, {flat[0]} to {flat[-1]}, differ: their maps are one pixel. No "
            "place is left, each of their numbers is about the whole picture."
        )
    last = net.nodes[-1]
    if isinstance(last.layer, Softmax):
        result.words.append(
            f"The last layer, {last.name}, is a softmax: of what {scores_of(net, after_softmax=False)} says "
            "of each class it makes probabilities, which add up to 1."
        )


EXPERIMENTS: dict[str, Experiment] = {
    "layers": layers,
    "steps": steps,
    "sizes": sizes,
    "windows": windows,
    "noise": noise,
    "sums": sums,
    "guide": guide,
    "peek": peek,
}


def side_by_side(jobs: Sequence[tuple[str, Job]], result: Result) -> Iterator[Progress]:
    """The same picture dreamed by several nets, each at the layer that was asked for (experiment 3)."""
    for name, job in jobs:
        yield from _dream(job, job.settings, name, result)


def three_layers(net: Net) -> tuple[str, str, str]:
    """The layers of the course; or an early and a middle one, and the favourite, after their ReLUs."""
    if all(name in net.names for name in COURSE):
        return COURSE
    found = [node.name for node in net.nodes if isinstance(node.layer, Conv)]
    if len(found) < 2:
        raise UsageError(f"a net of {len(found)} convolutions has no early and late ones; take a deeper one")
    n = len(found)  # the very first of a deep net is like no other
    early, middle = found[1 if n > 4 else 0], found[n // 2 if n > 2 else 0]
    return rectified(net, early), rectified(net, middle), layers_of(net, DeepDream())[0]


def balance(job: Job, one: str, other: str) -> float:
    """The factor that makes the second layer's gradient as loud as the first's at the start."""
    norms = []
    for layer in (one, other):
        opened = replace(job, settings=replace(PLAIN, layers=(layer,))).opened()
        norms.append(next(opened.frames()).gradient_norm)
    return norms[0] / norms[1]


def converged(lines: dict[str, list[float]]) -> str:
    """Whether the norms still grow at the end."""
    told = []
    for name, values in lines.items():
        late = values[-1] / values[-max(2, len(values) // 4)] - 1
        told.append(f"{name} {late:+.0%}")
    return f"In the last quarter of the steps the norm changed by: {', '.join(told)}."


def _late(job: Job) -> tuple[str, ...]:
    return (three_layers(job.opened().net)[2],)


def _dream(job: Job, settings: DeepDream, name: str, result: Result) -> Iterator[Progress]:
    """One dream for the sheet, with the norm of its layer step by step."""
    opened: Opened = replace(job, settings=replace(settings, seed=job.settings.seed)).opened()
    if not result.pictures:
        result.pictures.append(("start", to_host(opened.picture)))
    norms, picture = [], opened.picture
    for frame in opened.frames():
        picture = frame.picture
        norms.append(sum(frame.layer_norms.values()))
        yield Progress(name, len(norms), opened.total)
    result.pictures.append((name, to_host(picture)))
    result.lines[name] = norms
