"""How pictures become what a converted net wants to see: what is known, why, and where it has to ask.

In this order: what the user says, what the file says, filters that were published and are known by their
first numbers, and what all published files of one format and one net have in common. The last is said only
of nets with the published number of answers: one that was trained further may have seen anything.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidnn import weights
from minidnn.errors import (
    DamagedFileError,
    FileFormatError,
    MinidnnError,
    ShapeError,
    UsageError,
    did_you_mean,
)
from minidnn.images import PRESETS, Preprocess
from minidnn.layers import FC, Conv
from minidnn.net import Net
from minidnn.weights.typed import built
from weights_tools.foreign import Foreign

WORDS = {
    "caffe": "BGR minus 104, 117, 123: Caffe's AlexNet, GoogLeNet, SqueezeNet",
    "vgg": "BGR minus 103.939, 116.779, 123.68: VGG of Caffe and Keras, ResNet of Keras",
    "vgg-rgb": "the same in RGB: VGG of MatConvNet",
    "torchvision": "RGB / 255, minus mean, over deviation: all of torchvision",
    "tf": "RGB / 127.5 - 1: Keras' Inception and MobileNet",
    "unit": "pixels / 255: digits, denoisers",
    "none": "pixels 0..255 as they are",
}
VGGS = {"vgg11", "vgg13", "vgg16", "vgg19"}
SQUEEZENETS = {"squeezenet1.0", "squeezenet1.1"}
CAFFES = {"alexnet", "caffenet", "googlenet", "nin"} | SQUEEZENETS
PUBLISHED_ANSWERS = 1000  # ImageNet's classes

# (the format begins with, the nets) → the convention that all such files follow
FORMATS = [
    ("Caffe", VGGS, "vgg"),
    ("Caffe", CAFFES, "caffe"),
    ("Keras", VGGS | {"resnet50"}, "vgg"),
    ("Keras", SQUEEZENETS, "caffe"),
    ("PyTorch", {"vgg16", "resnet18", "resnet50"} | SQUEEZENETS, "torchvision"),  # VGG-19 goes about in both
]
MAX_TEXT = 1 << 20  # bytes of a file of settings


class Published(NamedTuple):
    """Filters known by sight: the first biases, and the first filter's first tap, a number a channel."""

    bias: tuple[float, ...]
    tap: tuple[float, ...]
    whose: str
    preset: str
    reversed_preset: str | None = None  # of the same filters with their channels the other way round


PUBLISHED = [
    Published((0.73429835, 0.09340367, 0.06775674), (0.42947057,), "VGG-16 of its authors", "vgg", "vgg-rgb"),
    Published(
        (-0.01437416, 0.16094312, -0.01655726), (0.25723463,), "SqueezeNet 1.1 of its authors", "caffe"
    ),
    Published(
        (0.7685886, 0.04954012, -0.01590956), (0.12091065,), "SqueezeNet 1.1 of torchvision", "torchvision"
    ),
]


class Choice(NamedTuple):
    """A preprocessing, why it is this one, and the size of the pictures of its convention."""

    preprocess: Preprocess
    why: str
    usual_size: tuple[int, int] | None = None


def chosen(
    foreign: Foreign, net: Net, arch: str | None, said: str | None, *, has_mean_picture: bool = False
) -> Choice:
    """What the net wants to see, or an error that asks. A mean picture is put in later."""
    if said is not None:
        found = read_said(said)
        return Choice(sized(found, net), f"--preprocessing {said}", found.size)
    if foreign.preprocess is not None:
        return _as_the_file_says(foreign.preprocess, foreign.format)
    if seen := by_sight(net):
        return _preset(seen[0], net, f"its first filters are those of {seen[1]}")
    for start, nets, preset in FORMATS:
        if foreign.format.startswith(start) and arch in nets and answers_of(net) == PUBLISHED_ANSWERS:
            return _preset(preset, net, f"so all published {arch} files of {start} want it")
    if has_mean_picture and foreign.format.startswith("Caffe"):
        return _beside_a_mean_picture(net, arch, foreign.hints.get("scale", 1.0))
    raise UsageError(_asking(foreign.format, channels_of(net)))


def _beside_a_mean_picture(net: Net, arch: str | None, scale: float) -> Choice:
    """Its mean is known; the order of its channels too, for grey nets and those of ImageNet."""
    if channels_of(net) == 1:
        return Choice(sized(Preprocess("GRAY", scale=scale), net), "grey, for the net reads one channel")
    if arch in CAFFES | VGGS:
        return Choice(
            sized(Preprocess("BGR", scale=scale), net), f"BGR, as Caffe's tools write pictures for {arch}"
        )
    what = (
        "--mean says what is subtracted, not in which order the channels are (those of CIFAR are red, green, "
    )
    advice = 'say --preprocessing none for RGB, or a FILE with order = "BGR", beside it'
    raise UsageError(f"{what}blue, those of OpenCV's pictures blue, green, red); {advice}")


def _preset(name: str, net: Net, why: str) -> Choice:
    return Choice(sized(PRESETS[name], net), f"{name}: {why}", PRESETS[name].size)


def _as_the_file_says(preprocess: Preprocess, format: str) -> Choice:
    """What of it the file does not say is told.

    Caffe's files name no order of channels, and its nets learned from the middles of pictures of 256 pixels.
    """
    if format == "minidnn file":
        return Choice(preprocess, "as it stood in the file of ours")
    if format == "raw float32":
        return Choice(preprocess, "as TensorFlow trained this net; the files do not say it")
    if format.startswith("Lasagne"):
        return Choice(preprocess, "found out from the numbers of this published file, which does not say it")
    why = f"the {format} file says so"
    if not format.startswith("Caffe"):
        return Choice(preprocess, why)
    unsaid = ["the order of its channels"] if preprocess.channels > 1 else []
    if preprocess.resize is None and preprocess.size and 197 <= min(preprocess.size) <= 256:
        preprocess = replace(preprocess, resize=256)
        unsaid.append("the short side of 256")
    return Choice(preprocess, f"{why}, but for {' and '.join(unsaid)}: Caffe's habit" if unsaid else why)


def by_sight(net: Net) -> tuple[str, str] | None:
    """The convention of published filters, and whose they are."""
    first = next((node.layer for node in net.nodes if isinstance(node.layer, Conv)), None)
    return None if first is None or first.b is None else known_filters(first.w, first.b)


def known_filters(w: np.ndarray, b: np.ndarray) -> tuple[str, str] | None:
    """The same of the first filters (kh, kw, C, K) and their biases."""
    if w.shape[2] != 3 or 0 in w.shape:
        return None
    tap = w[0, 0, :, 0]
    for known in PUBLISHED:
        bias = b[: len(known.bias)]
        if bias.shape != (len(known.bias),) or not np.allclose(bias, known.bias, rtol=2e-3):
            continue
        if np.allclose(tap[: len(known.tap)], known.tap, rtol=2e-3):
            return known.preset, known.whose
        if known.reversed_preset and np.allclose(tap[::-1][: len(known.tap)], known.tap, rtol=2e-3):
            return known.reversed_preset, f"{known.whose}, in RGB"
    return None


def _asking(format: str, channels: int | None) -> str:
    """What there is to choose from, for images of so many channels."""
    fitting = [name for name, preset in PRESETS.items() if channels != 1 or np.size(preset.mean) == 1]
    lines = [f"  --preprocessing {name:<12} {WORDS[name]}" for name in fitting]
    lines.append(
        "  --preprocessing FILE         .toml or .json (order, scale, mean, std, size, resize), or a .h5"
    )
    reason = "does not say what its net wants to see, and a wrong guess would show only in bad answers"
    return "\n".join([f"this {format} file {reason}; say what it was trained on:", *lines])


def sized(preprocess: Preprocess, net: Net) -> Preprocess:
    """For the images that this net was made for: a crop of about 7/8 stays one, any other size is exact."""
    channels = channels_of(net)
    same_for_all = np.size(preprocess.mean) == np.size(preprocess.std) == 1
    if channels == 1 and same_for_all:
        preprocess = replace(preprocess, order="GRAY")
    if channels is not None and channels != preprocess.channels:
        what = f"{preprocess.order} has {preprocess.channels} channels, the net reads {channels}"
        raise UsageError(f"{what}; give --preprocessing unit, none, or a FILE with order, scale and mean")
    if net.input_shape is None:
        return preprocess
    size, short = net.input_shape[:2], preprocess.resize
    fits = short is not None and min(size) <= short <= 1.3 * min(size)
    return replace(preprocess, size=size, resize=short if fits else None)


def channels_of(net: Net) -> int | None:
    """Of the images that the net reads."""
    if net.input_shape is not None:
        return net.input_shape[2]
    readers = [n.layer for n in net.nodes if net.input in n.inputs and isinstance(n.layer, Conv)]
    return readers[0].w.shape[2] * readers[0].groups if readers else None


def answers_of(net: Net) -> int | None:
    """How many numbers the last layer gives."""
    if net.input_shape is None:
        banks = [node.layer for node in net.nodes if isinstance(node.layer, Conv | FC)]
        return banks[-1].out_channels if banks else None
    return net.shapes((1, *net.input_shape))[net.names[-1]][3]


def read_said(said: str) -> Preprocess:
    """A preset by name, or what a file of settings or a weight file of ours says."""
    if said in PRESETS:
        return PRESETS[said]
    path = Path(said)
    if not path.is_file():
        near = did_you_mean(said, PRESETS)
        raise UsageError(
            f"--preprocessing {said}: no such file, and no preset; there are {', '.join(PRESETS)}{near}"
        )
    if path.suffix.lower() not in (".toml", ".json"):
        found = weights.load(path).preprocess
        if not isinstance(found, Preprocess):
            raise UsageError(
                f"--preprocessing {said}: that file says nothing of its preprocessing; name another"
            )
        return found
    return from_settings(_parsed(path), said)


def _parsed(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > MAX_TEXT:
        raise FileFormatError(f"{path}: too long for a few settings; name another file")
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: {error}; mend it") from None
    if not isinstance(found, dict):
        raise FileFormatError(f'{path}: no settings in it; write order = "RGB", mean = [1, 2, 3] and so on')
    return found


def from_settings(settings: Mapping[str, Any], where: str) -> Preprocess:
    """order, scale, mean, std, size, resize, interpolation: as `Preprocess` has them; lists become tuples."""
    known = [field.name for field in fields(Preprocess)]
    for name in settings:
        if name not in known:
            raise UsageError(
                f"{where}: no setting {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}"
            )
    ready = {
        name: [value] if name in ("mean", "std") and isinstance(value, int | float) else value
        for name, value in settings.items()
    }
    try:
        return built(Preprocess, ready)
    except MinidnnError as error:
        raise type(error)(f"{where}: {error}") from None
    except ValueError as error:
        raise UsageError(f"{where}: {error}; mend it") from None


def with_mean_picture(preprocess: Preprocess, picture: np.ndarray) -> Preprocess:
    """The mean picture (H, W, C) of Caffe in the place of the mean, its middle cut to the net's size.

    So Caffe does it too: pictures get the size of the mean, then both are cut; it subtracts first and scales
    then, so the mean is in the numbers of the pixels.
    """
    if picture.ndim != 3 or picture.shape[2] != preprocess.channels:
        wanted = f"wanted (h, w, {preprocess.channels})"
        raise ShapeError(f"the mean picture is {picture.shape}, {wanted}; give the --mean of this net")
    h, w = preprocess.size or picture.shape[:2]
    top, left = (picture.shape[0] - h) // 2, (picture.shape[1] - w) // 2
    if top < 0 or left < 0:
        advice = "give a smaller --input-size, or another --mean"
        raise ShapeError(f"the mean picture is {picture.shape[:2]}, the net sees {(h, w)}; {advice}")
    middle = picture[top : top + h, left : left + w] * np.float32(preprocess.scale)
    mean = np.ascontiguousarray(middle, np.float32)
    short = min(picture.shape[:2]) if (top or left) else None
    return replace(preprocess, mean=mean, size=(h, w), resize=short)
