"""Nets by name, each a table like its paper's.

`get("lenet")` draws random weights, `get("vgg16", weights="vgg16.h5")` takes those of a file, and
`get("vgg16", seed=None)` has none: it is for looking at, and takes no memory. `trained("tiny")` comes with
what it has learned.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import numpy as np

from minidnn.errors import UsageError, did_you_mean
from minidnn.net import Net
from minidnn.zoo.about import ABOUT, About
from minidnn.zoo.alexnet import alexnet, caffenet, zfnet
from minidnn.zoo.chatfield import vgg_f, vgg_m, vgg_s
from minidnn.zoo.cifar import cifar_quick
from minidnn.zoo.folding import folded
from minidnn.zoo.gabor import gabor
from minidnn.zoo.googlenet import googlenet
from minidnn.zoo.inception import inception_v3_stem
from minidnn.zoo.lenet import lenet, lenet5
from minidnn.zoo.loading import with_weights
from minidnn.zoo.nin import nin
from minidnn.zoo.resnet import resnet18, resnet20, resnet50
from minidnn.zoo.sketchanet import sketchanet
from minidnn.zoo.squeezenet import squeezenet_1_0, squeezenet_1_1
from minidnn.zoo.tiny import tiny
from minidnn.zoo.trained import TRAINED, file_of, trained
from minidnn.zoo.vgg import vgg11, vgg13, vgg16, vgg19

__all__ = ["ABOUT", "NETS", "TRAINED", "About", "file_of", "folded", "get", "options_of", "trained"]

NETS: dict[str, Callable[..., Net]] = {
    "gabor": gabor,
    "lenet": lenet,
    "lenet5": lenet5,
    "cifar-quick": cifar_quick,
    "tiny": tiny,
    "alexnet": alexnet,
    "caffenet": caffenet,
    "zfnet": zfnet,
    "nin": nin,
    "vgg-f": vgg_f,
    "vgg-m": vgg_m,
    "vgg-s": vgg_s,
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "squeezenet1.0": squeezenet_1_0,
    "squeezenet1.1": squeezenet_1_1,
    "googlenet": googlenet,
    "inception-v3-stem": inception_v3_stem,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet50": resnet50,
    "sketchanet": sketchanet,
}


def get(name: str, weights: str | os.PathLike | None = None, seed: int | None = 0, **options: Any) -> Net:
    """The net of that name, with random weights drawn from the seed, or with those of a file.

    With a file it is the net in the file, once its arrays are seen to have this net's names and shapes.
    Options are those of its builder: get("vgg16", dropout=True), get("sketchanet", channels=6); with a file
    too the layers are then those of the builder.
    """
    if name not in NETS:
        raise UsageError(f"no net {name!r}; there are {', '.join(NETS)}{did_you_mean(name, NETS)}")
    known = options_of(name)
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known) or 'none'}{did_you_mean(option, known)}"
            raise UsageError(f"{name} has no option {option!r}; {has}")
    if weights is not None:
        wanted = NETS[name](None, **options)
        return with_weights(wanted, name, weights, own_layers=bool(options))
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise UsageError(f"a seed is a whole number from 0, or None for no weights; found {seed!r}")
    return NETS[name](None if seed is None else np.random.default_rng(seed), **options)


def options_of(name: str) -> dict[str, Any]:
    """What its builder may be told, each with its default: {"dropout": False}."""
    told = signature(NETS[name]).parameters.values()
    return {option.name: option.default for option in told if option.kind is Parameter.KEYWORD_ONLY}
