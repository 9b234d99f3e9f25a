"""Caffe's nets: .caffemodel (also of the first version), .caffemodel.h5, .prototxt, means in .binaryproto.

What a deploy .prototxt says of the graph goes before what the weights say. Other files that a net names, like
its mean image, are never opened: give them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minidnn.errors import FileFormatError, MismatchError, TooLargeError, did_you_mean
from minidnn.net import Net
from weights_tools.detect import HDF5, opened
from weights_tools.foreign import Arrays, Foreign
from weights_tools.prototxt import MAX_BYTES
from weights_tools.readers.caffe_graph import Wiring, wired
from weights_tools.readers.caffe_images import preprocessing, read_mean
from weights_tools.readers.caffe_layers import WEIGHTED, count_of_blobs, owned
from weights_tools.readers.caffe_records import (
    Blob,
    Described,
    Record,
    blobs_from_h5,
    from_binary,
    from_prototxt,
    mapped,
)

__all__ = ["read", "read_mean"]

AnyPath = str | os.PathLike


def read(path: AnyPath, *, prototxt: AnyPath | None = None) -> Foreign:
    """The net in a Caffe file.

    A .prototxt by itself gives a net without weights; a .caffemodel whose layers are not wired, bare layers.
    """
    path = Path(path)
    head = opened(path)
    if head.startswith(HDF5):
        return _with_graph(path, blobs_from_h5(path), None, prototxt)
    if _is_text(path, head):
        net = _prototxt(path)
        return _foreign(net, wired(net, bare=True), path)
    model = from_binary(mapped(path), str(path))
    if prototxt is not None:
        return _with_graph(path, _by_name(model), model, prototxt)
    if model.is_wired:
        _check_blobs(model.records)
        return _foreign(model, wired(model), path)
    return _bare_layers(model)


# Files


def _is_text(path: Path, head: bytes) -> bool:
    return path.suffix.lower() in (".prototxt", ".pbtxt", ".txt") or not re.search(rb"[^\t\n\v\f\r -~]", head)


def _prototxt(path: Path) -> Described:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise TooLargeError(f"{path}: {size:,} bytes, the limit is {MAX_BYTES:,}; is it a .prototxt?")
    return from_prototxt(path.read_bytes().decode("utf-8-sig", "replace"), str(path))


# Weights and graph


def _with_graph(
    path: Path, blobs: Mapping[str, tuple[Blob, ...]], model: Described | None, prototxt: AnyPath | None
) -> Foreign:
    if prototxt is None:
        raise MismatchError(f"{path}: weights without a graph; give the deploy .prototxt with it")
    opened(prototxt)
    net = _prototxt(Path(prototxt))
    wanted = [r.name for r in net.records if r.in_test_phase and r.type in WEIGHTED]
    missing = [name for name in wanted if not blobs.get(name)]
    if missing:
        matched = f"{len(wanted) - len(missing)} of {len(wanted)} layers of {prototxt} matched"
        if len(missing) == len(wanted):
            has = ", ".join(map(repr, list(blobs)[:4])) or "no arrays"
            raise MismatchError(
                f"{path}: {matched}: wrong pair? It wants {_listed(wanted)}; in the file is {has}"
            )
        near = did_you_mean(missing[0], [name for name in blobs if name not in wanted])
        raise MismatchError(f"{path}: {matched}; missing is {_listed(missing)}{near}; wrong pair?")
    records = tuple(replace(r, blobs=blobs.get(r.name, ())) if r.type in WEIGHTED else r for r in net.records)
    _check_blobs(records)
    wiring = wired(replace(net, records=records))
    spare = [name for name, arrays in blobs.items() if arrays and name not in wanted]
    if spare:
        wiring.warnings.append(f"weights that the graph does not want: {_listed(spare)}")
    if wiring.transform is None and model is not None:
        wiring.transform = next(
            (r.part("transform_param") for r in model.records if "transform_param" in r.fields), None
        )
    return _foreign(net, wiring, path)


def _by_name(model: Described) -> dict[str, tuple[Blob, ...]]:
    named: dict[str, tuple[Blob, ...]] = {}
    for record in model.records:
        if record.blobs and record.name in named:
            raise MismatchError(
                f"{record.what}: two layers of that name have weights; rename one in both files"
            )
        if record.blobs:
            named[record.name] = record.blobs
    return named


def _check_blobs(records: Sequence[Record]) -> None:
    for record in records:
        count, wanted = len(record.blobs), count_of_blobs(record)
        strange_norm = record.type == "BatchNorm" and count  # which is not damaged, but another Caffe's
        if record.type in WEIGHTED and record.in_test_phase and count != wanted and not strange_norm:
            raise MismatchError(
                f"{record.what}: found {count} arrays, expected {wanted}; is it the right .prototxt?"
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(repr(name[:60]) for name in names[:4]) + more


def _bare_layers(model: Described) -> Foreign:
    """Arrays in our order of axes by layer, where nothing is said of who reads whom."""
    layers: dict[str, Arrays] = {}
    warnings = ["the file does not say how its layers are wired; give the deploy .prototxt with it"]
    for record in model.records:
        if not record.blobs:
            continue
        arrays = _arrays(record)
        if arrays is None or record.name in layers:
            warnings.append(f"left out the arrays of {record.name!r} ({record.type})")
        else:
            layers[record.name] = arrays
    if not layers:
        raise FileFormatError(f"{model.where}: no weights of a net in it; is it a Caffe net at all?")
    return Foreign("Caffe", layers=layers, flatten="chw", warnings=warnings, hints={"name": model.name})


def _arrays(record: Record) -> Arrays | None:
    first, *others = record.blobs
    rows = [owned(blob.values) for blob in others]
    match record.type, len(rows):
        case "Convolution" | "Deconvolution", 0 | 1:
            if len(first.shape) != 4:
                raise MismatchError(f"{record.what}: filters of shape {first.shape}, expected 4 axes")
            w = owned(first.values.reshape(first.shape).transpose(2, 3, 1, 0))
            return {"w": w} | ({"b": rows[0]} if rows else {})
        case "InnerProduct", 0 | 1:
            if len(first.shape) < 2 or any(size != 1 for size in first.shape[:-2]):
                raise MismatchError(f"{record.what}: weights of shape {first.shape}, expected (out, in)")
            matrix = first.values.reshape(first.shape[-2:])
            is_ours = record.part("inner_product_param").last("transpose", False)
            return {"w": owned(matrix if is_ours else matrix.T)} | ({"b": rows[0]} if rows else {})
        case "PReLU", 0:
            return {"slope": owned(first.values)}
        case "BatchNorm", 2 if rows[1].size == 1:
            share = 0 if rows[1][0] == 0 else 1 / rows[1][0]
            return {"mean": owned(first.values) * share, "var": rows[0] * share}
        case "Scale", 0 | 1:
            return {"gamma": owned(first.values)} | ({"beta": rows[0]} if rows else {})
    return None


# What is known beside the graph


def _foreign(net: Described, wiring: Wiring, path: Path) -> Foreign:
    size = wiring.input_shape[:2] if wiring.input_shape else None
    told = preprocessing((*(size or (None, None)), wiring.channels), wiring.transform, str(path))
    about: dict[str, Any] = {"preprocess": told.preprocess, "aliases": wiring.aliases}
    ours = Net(wiring.nodes, wiring.input, input_shape=wiring.input_shape, **about)
    if wiring.input_shape is None:
        wiring.warnings.append(
            "the file does not say how large images are; where it matters, maps are taken to be square"
        )
    order = told.preprocess.order if told.preprocess else "GRAY" if wiring.channels == 1 else None
    scale = 1.0 if wiring.transform is None else wiring.transform.real("scale", 1.0)
    return Foreign(
        "Caffe",
        net=ours,
        flatten="chw",
        channel_order=order,
        preprocess=told.preprocess,
        steps=wiring.steps,
        warnings=wiring.warnings + told.warnings,
        hints={"name": net.name, "input_size": size} | ({"scale": scale} if scale != 1 else {}),
    )
