"""Lasagne's parameters: bare arrays in a row, as get_all_param_values() gives them, in a pickle or .npz.

    W (K, C, kh, kw) or (in, out), then b; of a batch norm beta, gamma, mean, 1 / sqrt(var + 1e-4)

Its convolutions are true ones: they slide the filters upside down, unless told not to (flip_filters=False:
so are nets that came from Caffe), and the file keeps that to itself. Published filters are known by sight.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidnn.errors import MismatchError, UnsupportedError
from weights_tools.conventions import known_filters
from weights_tools.detect import held, opened
from weights_tools.foreign import Arrays, Foreign
from weights_tools.pickled_arrays import NUMPY, PickledArray
from weights_tools.pickles import Allowed, load, ordered
from weights_tools.readers import places_squeezenet
from weights_tools.readers.by_name import floats

EPS = places_squeezenet.EPS
LISTS = ("param values", "values", "params")  # of the files of Lasagne's model zoo
MAX_ARRAYS = 100_000
SHOWN = 5
ASKS = (
    "Lasagne slides filters upside down unless it was told not to, and its files do not say which; say "
    "--set flip_filters=true (its own default) or --set flip_filters=false (cuDNN's layers, nets of Caffe)"
)
ALLOWED: Allowed = {**NUMPY, "collections.OrderedDict": ordered}


def read(path: str | os.PathLike, *, flip_filters: bool | None = None) -> Foreign:
    """A pickle of Lasagne's parameters; `flip_filters` as it was built, None: not said."""
    path = Path(path)
    opened(path)
    saved, _ = load(held(path), ALLOWED, str(path))
    values, classes = _values(saved, str(path))
    if len(values) > MAX_ARRAYS or not all(isinstance(value, PickledArray) for value in values):
        raise MismatchError(f"{path}: a pickle, but not of arrays in a row; save get_all_param_values()")
    arrays = [value.array(f"{path}: array {i}") for i, value in enumerate(values)]
    foreign = foreign_of(arrays, str(path), flip_filters=flip_filters)
    if classes and not foreign.classes:
        foreign.classes = classes
    return foreign


def foreign_of(arrays: Sequence[np.ndarray], what: str, *, flip_filters: bool | None = None) -> Foreign:
    """The layers of arrays in Lasagne's order; a net, where we know one by its shapes.

    Where it is not said, the filters are turned, and `asks` says what to say.
    """
    known = {turn: _whose(arrays, turn) for turn in (False, True)} if flip_filters is None else {}
    turned = flip_filters is not False and not known.get(False)
    foreign = Foreign("Lasagne parameters", layers=_layers(arrays, what, turned), flatten="chw")
    slides = any(own["w"].ndim == 4 and own["w"].shape[:2] != (1, 1) for own in _with_filters(foreign))
    if whose := known.get(False):
        foreign.steps.append(f"left the filters upright: the first are those of {whose}")
    elif turned and slides:
        foreign.steps.append("turned the filters by 180 degrees: Lasagne slides them upside down")
        foreign.asks = ASKS if flip_filters is None and not known[True] else ""
    own = list(foreign.layers.values())
    if turned and places_squeezenet.is_it(own):
        foreign.net, foreign.asks = places_squeezenet.net_of(own), ""
        foreign.preprocess, foreign.classes = foreign.net.preprocess, foreign.net.classes
        foreign.channel_order = "BGR"
        foreign.hints = {"name": "squeezenet1.1 of Places365", "input_size": (224, 224)}
        foreign.steps.append(
            "its shapes are those of SqueezeNet 1.1 for Places365, with batch norm and rrelu"
        )
        foreign.layers = {}
    return foreign


def _whose(arrays: Sequence[np.ndarray], turned: bool) -> str | None:
    """Whose published filters the first ones are, turned or as they lie there."""
    if len(arrays) < 2 or arrays[0].ndim != 4 or arrays[1].ndim != 1 or 0 in arrays[0].shape:
        return None
    known = known_filters(_filters(arrays[0], turned), arrays[1])
    return None if known is None else known[1]


def _values(saved: Any, what: str) -> tuple[list[Any], tuple[str, ...]]:
    """The arrays in a row, and names of classes where the model zoo put them beside."""
    if not isinstance(saved, dict):
        return (list(saved), ()) if isinstance(saved, list | tuple) else ([None], ())
    for key in LISTS:
        if isinstance(saved.get(key), list | tuple):
            words = saved.get("synset words", saved.get("classes"))
            named = isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)
            return list(saved[key]), tuple(map(str, words)) if words and named else ()
    shown = ", ".join(repr(str(key)[:40]) for key in list(saved)[:SHOWN]) or "nothing"
    raise MismatchError(
        f"{what}: a pickle without {' or '.join(map(repr, LISTS))} (it holds {shown}); "
        f"save get_all_param_values()"
    )


def _with_filters(foreign: Foreign) -> list[Arrays]:
    return [own for own in foreign.layers.values() if "w" in own]


def _layers(arrays: Sequence[np.ndarray], what: str, flip: bool) -> dict[str, Arrays]:
    """Each array of two axes or more begins a layer; those of one axis behind it are its own."""
    layers: dict[str, Arrays] = {}
    at, counts = 0, {"conv": 0, "fc": 0, "bn": 0}

    def name(kind: str) -> str:
        counts[kind] += 1
        return f"{kind}{counts[kind]}"

    while at < len(arrays):
        array, own = _float(arrays[at], at, what), {}
        if array.ndim in (2, 4):
            at += 1
            own["w"] = _filters(array, flip) if array.ndim == 4 else array
            layers[name("conv" if array.ndim == 4 else "fc")] = own
        elif array.ndim != 1:
            raise UnsupportedError(f"{what}: array {at} is {array.shape}, no filters and no vector")
        row = _vectors(arrays, at)
        at += len(row)
        row = [_float(vector, at, what) for vector in row]
        k = own["w"].shape[-1] if own else len(row[0])
        if len(row) not in (0, 1, 4, 5) or any(len(vector) != k for vector in row):
            found = ", ".join(str(vector.shape) for vector in row[:SHOWN])
            wanted = f"a bias ({k},), the four of a batch norm, or both"
            raise MismatchError(f"{what}: behind array {at - len(row) - 1} come {found}, expected {wanted}")
        if len(row) in (1, 5):
            own["b"] = row.pop(0)
        if row:
            layers[name("bn")] = _norm(row, what)
    if not layers:
        raise MismatchError(f"{what}: no arrays in it; nothing to convert")
    return layers


def _vectors(arrays: Sequence[np.ndarray], at: int) -> list[np.ndarray]:
    """The arrays of one axis from there on, of one length."""
    row: list[np.ndarray] = []
    while at < len(arrays) and arrays[at].ndim == 1 and len(row) < 6:
        row.append(arrays[at])
        at += 1
    return row


def _norm(row: Sequence[np.ndarray], what: str) -> Arrays:
    """beta, gamma, mean and 1 / sqrt(var + eps)."""
    beta, gamma, mean, inverse = row
    if not (inverse > 0).all():
        raise MismatchError(f"{what}: an inverse deviation is not above 0; not Lasagne's order of arrays?")
    var = np.maximum(inverse.astype(np.float64) ** -2 - EPS, 0).astype(np.float32)
    return {"gamma": gamma, "beta": beta, "mean": mean, "var": var}


def _filters(array: np.ndarray, flip: bool) -> np.ndarray:
    """(K, C, kh, kw) as (kh, kw, C, K)."""
    return (array[:, :, ::-1, ::-1] if flip else array).transpose(2, 3, 1, 0)


def _float(array: np.ndarray, at: int, what: str) -> np.ndarray:
    try:
        return floats(array)
    except UnsupportedError as error:
        raise UnsupportedError(f"{what}: array {at} {error}") from None
