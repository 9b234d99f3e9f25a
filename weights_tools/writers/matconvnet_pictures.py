"""What a net wants to see, in MatConvNet's terms: RGB from 0 to 255, less an average image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minidnn.errors import UnsupportedError
from minidnn.images import Preprocess
from minidnn.layers import FC, Conv
from minidnn.net import Net
from weights_tools.writers.matconvnet_layers import cell, numbers


def seen_as_rgb(path: Path, net: Net) -> Net:
    """The same net for pixels that are neither scaled nor swapped; its first filters see to that.

        (p * scale - mean) / std * w  =  (p - mean / scale) * (w * scale / std)

    The average is subtracted before any padding, so zeros there mean the same to both.
    """
    preprocess: Preprocess | None = net.preprocess
    if preprocess is None or (
        preprocess.order != "BGR" and preprocess.scale == 1 and set(preprocess.std) == {1}
    ):
        return net
    factor = np.broadcast_to(np.divide(preprocess.scale, preprocess.std), preprocess.channels)
    mean = np.divide(preprocess.mean, preprocess.scale)
    swap = -1 if preprocess.order == "BGR" else 1
    nodes = []
    for node in net.nodes:
        if net.input in node.inputs:
            node = node._replace(layer=_rescaled(path, node.name, node.layer, factor, swap))
        nodes.append(node)
    own: Any = mean[..., ::swap] if mean.shape[-1] > 1 else mean
    order = "RGB" if preprocess.order == "BGR" else preprocess.order
    own = own.astype("float32") if own.ndim == 3 else tuple(own.tolist())
    return net.with_nodes(nodes, preprocess=replace(preprocess, order=order, scale=1.0, mean=own, std=(1.0,)))


def _rescaled(path: Path, name: str, layer: Any, factor: np.ndarray, swap: int) -> Any:
    if not isinstance(layer, Conv | FC) or layer.w.shape[2] != len(factor):
        what = f"a {type(layer).__name__} that reads pictures as another convention has them"
        advice = "only a convolution over all channels can be made to read RGB from 0 to 255"
        raise UnsupportedError(f"{path}: {name!r} is {what}; {advice}")
    scaled = layer.w * factor[:, None].astype(layer.w.dtype)
    return replace(layer, w=np.ascontiguousarray(scaled[:, :, ::swap]))


def described(net: Net) -> dict[str, Any]:
    """`meta`: the pictures and the classes."""
    meta: dict[str, Any] = {}
    preprocess: Preprocess | None = net.preprocess
    if net.input_shape is not None:
        h, w, c = net.input_shape
        meta["inputs"] = {"name": net.input, "size": numbers((h, w, c, 1))}
    if preprocess is not None:
        meta["normalization"] = _normalization(net, preprocess)
    if net.classes:
        meta["classes"] = {"name": cell(net.classes), "description": cell(net.classes)}
    return meta


def _normalization(net: Net, preprocess: Preprocess) -> dict[str, Any]:
    mean = np.asarray(preprocess.mean)
    if mean.ndim == 1:
        mean = mean.reshape(1, 1, -1)
    fields: dict[str, Any] = {"averageImage": mean, "interpolation": preprocess.interpolation}
    size = net.input_shape[:2] if net.input_shape else preprocess.size
    if size is None:
        return fields
    border = (0, 0) if preprocess.resize is None else tuple(preprocess.resize - side for side in size)
    return fields | {
        "imageSize": numbers((*size, preprocess.channels)),
        "keepAspect": float(preprocess.resize is not None),
        "border": numbers(border),
        "cropSize": numbers(side / (side + more) for side, more in zip(size, border, strict=True)),
    }
