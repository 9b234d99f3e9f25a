"""Keras's files as Keras writes them (1, 2 and 3), from a list of layers; made without Keras."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

# The arrays of each class, in Keras's order, by its own names for them.
NAMES = {
    "Conv2D": ["kernel", "bias"],
    "Conv2DTranspose": ["kernel", "bias"],
    "Dense": ["kernel", "bias"],
    "DepthwiseConv2D": ["depthwise_kernel", "bias"],
    "SeparableConv2D": ["depthwise_kernel", "pointwise_kernel", "bias"],
    "BatchNormalization": ["gamma", "beta", "moving_mean", "moving_variance"],
    "PReLU": ["alpha"],
}
KEPT = ("moving_mean", "moving_variance")


class Said(NamedTuple):
    """A layer: its class, its name, what it reads, its arrays and its config."""

    kind: str
    name: str
    reads: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]
    config: dict[str, Any]

    @property
    def named(self) -> dict[str, np.ndarray]:
        names = NAMES.get(self.kind, [])
        if self.kind == "BatchNormalization":
            drop = [
                n for word, n in (("scale", "gamma"), ("center", "beta")) if self.config.get(word) is False
            ]
            names = [name for name in names if name not in drop]
        return dict(zip(names, self.arrays, strict=False))


def said(kind: str, name: str, *reads: str, arrays: tuple = (), **config: Any) -> Said:
    return Said(kind, name, reads, tuple(np.asarray(a, "float32") for a in arrays), {"name": name, **config})


def image(*shape: int | None, name: str = "pic") -> Said:
    return said("InputLayer", name, batch_shape=[None, *shape])


def graph(layers: list[Said], outputs: list[str], *, version: int = 3) -> dict[str, Any]:
    """The JSON of a functional model, in the words of that version of Keras."""
    inputs = [[one.name, 0, 0] for one in layers if one.kind == "InputLayer"]
    ends = [[name, 0, 0] for name in outputs]
    if version == 3 and len(inputs) == len(ends) == 1:
        inputs, ends = inputs[0], ends[0]
    described = [_layer(one, version) for one in layers]
    config = {"name": "net", "layers": described, "input_layers": inputs, "output_layers": ends}
    return {"class_name": "Functional" if version == 3 else "Model", "config": config}


def chain(layers: list[Said], *, version: int = 3) -> dict[str, Any]:
    """The JSON of a Sequential model; until Keras 2.2 its config was a bare list."""
    described = [_layer(one, version) for one in layers]
    for one in described:
        one.pop("inbound_nodes", None)
    config = {"name": "chain", "layers": described} if version > 1 else described
    return {"class_name": "Sequential", "config": config}


def _layer(one: Said, version: int) -> dict[str, Any]:
    if version == 3:
        tensors = [
            {"class_name": "__keras_tensor__", "config": {"shape": [], "keras_history": [name, 0, 0]}}
            for name in one.reads
        ]
        calls: list = [{"args": tensors if len(tensors) == 1 else [tensors], "kwargs": {}}] if tensors else []
        about = {"module": "keras.layers", "registered_name": None, "name": one.name}
        return {"class_name": one.kind, "config": one.config, "inbound_nodes": calls, **about}
    calls = [[[name, 0, 0, {}] for name in one.reads]] if one.reads else []
    config = {"batch_input_shape" if k == "batch_shape" else k: v for k, v in one.config.items()}
    return {"class_name": one.kind, "name": one.name, "config": config, "inbound_nodes": calls}


def write_legacy(
    path: Path,
    layers: list[Said],
    config: dict[str, Any] | str | None = None,
    *,
    backend: str = "tensorflow",
    version: str = "2.4.0",
    chunk: int = 0,
) -> Path:
    """Weights alone, or with `config` a whole model; `chunk` names in each piece of a long list of names."""
    with h5py.File(path, "w") as file:
        root = file if config is None else file.create_group("model_weights")
        if config is not None:
            file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
        for held in {file, root}:
            if version:
                held.attrs["backend"], held.attrs["keras_version"] = backend.encode(), version.encode()
        _names(root, "layer_names", [one.name for one in layers], chunk)
        for one in layers:
            group = root.create_group(one.name)
            # An underscore and a number behind the name: that is what TensorFlow made of it.
            paths = {f"{one.name}_7/{name}:0": array for name, array in one.named.items()}
            _names(group, "weight_names", list(paths), chunk)
            for name, array in paths.items():
                group[name] = array
    return path


def _names(group: Any, name: str, texts: list[str], chunk: int) -> None:
    encoded = np.array([text.encode() for text in texts], dtype="S") if texts else np.array([], "S1")
    if not chunk or len(texts) <= chunk:
        group.attrs[name] = encoded
        return
    for number, at in enumerate(range(0, len(texts), chunk)):
        group.attrs[f"{name}{number}"] = encoded[at : at + chunk]


def keras3_bytes(layers: list[Said], *, container: str = "layers", inner: tuple[str, ...] = ()) -> bytes:
    """A .weights.h5: groups named after classes, numbered, in no order; arrays by number."""
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        file.create_group("vars").attrs["name"] = "net"
        twins: Counter[str] = Counter()
        for one in layers:
            snake = snake_case(one.kind)
            name = f"{snake}_{twins[snake]}" if twins[snake] else snake
            twins[snake] += 1
            above = "".join(f"{container}/{part}/" for part in inner)
            group = file.create_group(f"{above}{container}/{name}/vars")
            group.attrs["name"] = one.name
            for number, array in enumerate(one.arrays):
                group[str(number)] = array
        file["optimizer/vars/0"] = np.int64(3)
    return held.getvalue()


def write_keras(path: Path, layers: list[Said], config: dict[str, Any] | str) -> Path:
    """A .keras archive."""
    return write_archive(path, config, keras3_bytes(layers))


def write_archive(path: Path, config: dict[str, Any] | str, weights: bytes, **how: Any) -> Path:
    with zipfile.ZipFile(path, "w", **how) as file:
        file.writestr("metadata.json", '{"keras_version": "3.15.1", "date_saved": "2026-11-21@12:13:54"}')
        file.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        file.writestr("model.weights.h5", weights)
    return path


def snake_case(kind: str) -> str:
    words = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)
    return re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()
