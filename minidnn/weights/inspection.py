"""What a file holds, without its numbers; and whether its numbers are still those that were written."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from minidnn.params import once
from minidnn.weights.index import Tensor, non_finite, sha256_of
from minidnn.weights.reading import FORMAT, Weights
from minidnn.weights.typed import encoded


class Report(NamedTuple):
    """What `verify` found; no findings: every number is as it was written."""

    path: str
    tensors: int
    nbytes: int
    digest: str
    findings: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        return not self.findings


def verify(path: str | os.PathLike) -> Report:
    """Read every number of the file and hold it against the sha256 that was written with it."""
    weights = Weights.open(path)
    findings = [finding for tensor in weights.tensors for finding in _findings(weights, tensor)]
    nbytes = sum(tensor.nbytes for tensor in weights.tensors)
    return Report(str(path), len(weights.tensors), nbytes, weights.digest, tuple(findings))


def _findings(weights: Weights, tensor: Tensor) -> list[str]:
    raw, found = weights.raw(tensor), []
    if (actual := sha256_of(raw)) != tensor.sha256:
        found.append(f"{tensor.name!r} has changed: sha256 {actual}, expected {tensor.sha256[:64]}")
    if tensor.sha256_as_float32 not in (None, sha256_of(raw, "<f4")):
        found.append(f"{tensor.name!r} has another sha256 as float32 than is written; fetch the file again")
    if count := non_finite(raw):
        found.append(f"{tensor.name!r} has {count:,} of {raw.size:,} values that are not finite")
    return found


def describe(path: str | os.PathLike) -> dict[str, Any]:
    """All that a file says of itself, for people or as JSON."""
    weights = Weights.open(path)
    graph, input_shape, _ = weights.blueprint
    return {
        "path": weights.path,
        "format": f"{FORMAT} {weights.version[0]}.{weights.version[1]}",
        "generator": weights.generator,
        "bytes": weights.bytes.nbytes,
        "digest": weights.digest,
        "net": {
            "layers": len(graph.nodes),
            "input": graph.input,
            "input_shape": input_shape,
            "ends": graph.nodes[-1].name,
            "parameters": sum(array.size for array in once(graph.nodes, "params").values()),
            "aliases": dict(graph.aliases),
        },
        "tensors": [
            {"name": t.name, "dtype": t.dtype, "shape": t.shape, "nbytes": t.nbytes} for t in weights.tensors
        ],
        "preprocessing": _preprocessing(weights),
        "classes": weights.classes,
        "provenance": weights.provenance,
    }


def _preprocessing(weights: Weights) -> dict[str, Any] | None:
    if weights.preprocess is None:
        return None
    has_picture = getattr(weights.preprocess.mean, "ndim", 0) == 3
    shown = encoded(weights.preprocess, without=("mean",) if has_picture else ())
    return shown | ({"mean": f"a picture {weights.preprocess.mean.shape}"} if has_picture else {})  # type: ignore[union-attr]
