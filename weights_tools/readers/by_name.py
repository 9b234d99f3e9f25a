"""Bare arrays by name, as most formats keep them: what they are is told by the end of their names.

"features.0.weight"  PyTorch   (K, C, kh, kw), (out, in)      "conv1/w"       minidnn, our own axes
"bn1.running_mean"                                            "conv1/kernel"  Keras, the same axes
"conv1_1/W"          Chainer's axes are those of PyTorch,     "conv1_1_W"     of TensorFlow's users are ours:
                     the biases tell which they are
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from minidnn.errors import MismatchError, UnsupportedError
from weights_tools.foreign import Arrays, Foreign
from weights_tools.room import give_way

TORCH = {"weight": "w", "bias": "b", "running_mean": "mean", "running_var": "var"}
OURS = {name: name for name in ("w", "b", "gamma", "beta", "mean", "var", "slope")}
KERAS = {
    "kernel": "w",
    "bias": "b",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "mean",
    "moving_variance": "var",
    "alpha": "slope",
}
PLAIN = {"W": "w", "b": "b"}  # in whose axes, the name does not say
UNDERSCORED = re.compile(r"(.+)_(W|b|weight|bias)")
COUNTERS = ("num_batches_tracked",)  # kept beside the weights, and no part of them
SHOWN = 6


def foreign_of(arrays: Mapping[str, np.ndarray], kind: str, what: str) -> Foreign:
    """The arrays, sorted into layers; all that are not understood are told at once."""
    if not arrays:
        raise MismatchError(f"{what}: no arrays in it; nothing to convert")
    foreign = Foreign(kind)
    groups = _grouped(arrays, foreign)
    endings = {ending for group in groups.values() for ending in group}
    if endings & {"weight", "running_mean"}:
        layers, foreign.flatten, names = _torch, "chw", TORCH
    elif "kernel" in endings:
        layers, names = _as_it_is, KERAS
    elif "W" in endings:
        names = PLAIN
        is_torchs = _has_outputs_first(groups, what)
        layers, foreign.flatten = (_torch, "chw") if is_torchs else (_as_it_is, "hwc")
    elif endings & set(OURS):
        layers, names = _as_it_is, OURS
    else:
        advice = "call them 'conv1/w' and 'conv1/b', or as torch does"
        raise MismatchError(f"{what}: no names that we know ({_some(arrays)}); {advice}")
    complaints = []
    for layer, group in groups.items():
        try:
            foreign.layers[layer] = layers(_known(group, names))
        except UnsupportedError as error:
            complaints.append(f"{layer!r} {error}")
    if complaints:
        more = f"; and {len(complaints) - SHOWN} more" if len(complaints) > SHOWN else ""
        raise UnsupportedError(f"{what}: {'; '.join(complaints[:SHOWN])}{more}; save the net without these")
    return foreign


def floats(array: np.ndarray) -> np.ndarray:
    """As float32; float32 itself is not copied. What is too large for it becomes infinite, to be found."""
    if array.dtype.kind != "f":
        raise UnsupportedError(f"holds {array.dtype}, not floats (quantised?)")
    give_way(array)
    with np.errstate(over="ignore"):
        return np.require(array.astype(np.float32, copy=False), requirements="A")


def _grouped(arrays: Mapping[str, np.ndarray], foreign: Foreign) -> dict[str, dict[str, np.ndarray]]:
    """{layer: {ending: array}} in the file's order."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    dropped = 0
    for name, array in arrays.items():
        at = max(name.rfind("."), name.rfind("/"))
        layer, ending = name[: max(at, 0)], name[at + 1 :].removesuffix(":0")
        if at < 0 and (parts := UNDERSCORED.fullmatch(ending)):
            layer, ending = parts[1], parts[2]
        if ending in COUNTERS:
            dropped += 1
        else:
            groups.setdefault(layer, {})[ending] = array
    if dropped:
        foreign.steps.append(f"dropped {dropped} counters of batches seen ({', '.join(COUNTERS)})")
    return groups


def _has_outputs_first(groups: Mapping[str, Mapping[str, np.ndarray]], what: str) -> bool:
    """Whether filters lie (K, C, kh, kw), as torch's, or (kh, kw, C, K): there are as many biases as K."""
    found = {
        first == len(group["b"])
        for group in groups.values()
        if {"W", "b"} <= group.keys() and group["W"].ndim > 1 and group["b"].ndim == 1
        if (first := group["W"].shape[0]) != (last := group["W"].shape[-1])
        and len(group["b"]) in (first, last)
    }
    if len(found) != 1:
        advice = "call them 'conv1/w' with our axes (kh, kw, in, out), or as torch does"
        raise MismatchError(f"{what}: its shapes do not tell which axis of a W is its outputs; {advice}")
    return found.pop()


def _known(group: Mapping[str, np.ndarray], names: Mapping[str, str]) -> Arrays:
    if strange := [ending for ending in group if ending not in names]:
        raise UnsupportedError(f"has {_some(strange)}, of which we know nothing")
    return {names[ending]: floats(array) for ending, array in group.items()}


def _as_it_is(own: Arrays) -> Arrays:
    """Our own axes."""
    roles = set(own)
    if roles <= {"w", "b"} and "w" in own and own["w"].ndim in (2, 4):
        return own
    if roles == {"slope"}:
        return {"slope": own["slope"].reshape(-1)}
    if roles <= {"gamma", "beta", "mean", "var"} and {"mean", "var"} <= roles:
        return _norm(own.get("gamma"), own.get("beta"), own["mean"], own["var"])
    raise UnsupportedError(f"holds {_shapes(own)}: no filters, norm or slope that we know")


def _torch(own: Arrays) -> Arrays:
    """The axes of torch turned into ours."""
    w = own.get("w")
    if {"mean", "var"} <= set(own):
        return _norm(w, own.get("b"), own["mean"], own["var"])
    if w is not None and w.ndim == 4:
        return own | {"w": w.transpose(2, 3, 1, 0)}
    if w is not None and w.ndim == 2:
        return own | {"w": w.T}
    if w is not None and w.ndim == 1 and set(own) == {"w"}:
        return {"slope": w}
    if w is not None and w.ndim == 1:
        raise UnsupportedError("is a norm without running statistics")
    raise UnsupportedError(f"holds {_shapes(own)}: no filters, norm or slope that we know")


def _norm(gamma: np.ndarray | None, beta: np.ndarray | None, mean: np.ndarray, var: np.ndarray) -> Arrays:
    """A batch norm; one without scale and shift has those that change nothing."""
    arrays = {
        "gamma": np.ones_like(mean) if gamma is None else gamma,
        "beta": np.zeros_like(mean) if beta is None else beta,
        "mean": mean,
        "var": var,
    }
    if mean.ndim != 1 or len({array.shape for array in arrays.values()}) != 1:
        raise UnsupportedError(f"holds {_shapes(arrays)}: no batch norm")
    return arrays


def _shapes(arrays: Arrays) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in arrays.items())


def _some(names: Mapping[str, object] | list[str]) -> str:
    shown = ", ".join(repr(name[:60]) for name in list(names)[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown
