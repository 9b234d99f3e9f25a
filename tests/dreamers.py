"""A tiny net that knows four classes, for those who dream in tests; and a quick dream with the gabor net."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minidnn import images, weights
from minidnn.images import Preprocess
from minidnn.layers import FC, Conv, GlobalAvgPool, MaxPool, ReLU, Softmax
from minidnn.net import Net
from minidnn.recipes.deepdream import DeepDream
from minidnn.recipes.job import Job
from minidnn.window import Window

CLASSES = ("crane, wading bird", "crane, lifting machine", "bee eater (bird)+", "matchstick")
SIZE = (28, 34)  # small enough to be quick, large enough for three octaves


def classy(seed: int = 5) -> Net:
    """Convolutions, and what it takes pictures of 33x29 pixels for."""
    rng = np.random.default_rng(seed)
    layers = {
        "conv1": Conv.random(rng, (5, 3), 3, 7),
        "relu1": ReLU(),
        "pool1": MaxPool(Window.of(3, stride=2)),
        "conv2": Conv.random(rng, (3, 4), 7, 5),
        "mean": GlobalAvgPool(),
        "fc": FC.random(rng, (1, 1, 5), 4),
        "prob": Softmax(),
    }
    preprocess = Preprocess(mean=(120.0, 110.0, 100.0))
    return Net.chain(layers, input_shape=(33, 29, 3), preprocess=preprocess, classes=CLASSES)


def saved(folder: Path, seed: int = 5) -> str:
    """A file of it."""
    path = folder / f"classy{seed}.h5"
    weights.save(path, classy(seed))
    return str(path)


def photo(folder: Path, name: str = "photo.png", size: tuple[int, int] = SIZE, seed: int = 0) -> str:
    """A file of a landscape."""
    images.save(folder / name, images.clouds_over_hills(*size, seed=seed))
    return str(folder / name)


def quick(**settings: object) -> Job:
    """A dream of three octaves of two steps, at a layer that is quick."""
    return Job(size=SIZE, settings=DeepDream(**{"steps": 2, "octaves": 3, "layers": ("relu1",)} | settings))  # type: ignore[arg-type]
