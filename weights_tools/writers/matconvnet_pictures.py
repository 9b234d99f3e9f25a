"""What a net wants to see, in MatConvNet's terms: RGB from 0 to 255, less an average image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minidnn.images import Preprocess
from minidnn.layers import FC, Conv
from minidnn.net import Net
from weights_tools.writers.matconvnet_layers import cell, numbers


def lacking(net: Net) -> list[str]:
    """The layers that read pictures as MatConvNet has none and cannot be made to read its own."""
    if not _is_foreign(net.preprocess):
        return []
    strange = [
        f"{node.name}: {type(node.layer).__name__}"
        for node in net.nodes
        if net.input in node.inputs and not _takes_all_channels(node.layer, net.preprocess.channels)
    ]
    what = "pictures but RGB from 0 to 255, which only a convolution over all channels can be made to read"
    return [f"{what} ({', '.join(strange)})"] if strange else []


def seen_as_rgb(net: Net) -> tuple[Net, list[str]]:
    """The same net for pixels that are neither scaled nor swapped, and what was done to its first filters.

        (p * scale - mean) / std * w  =  (p - mean / scale) * (w * scale / std)

    The average is subtracted before any padding, so zeros there mean the same to both. Swapped filters, and
    those times a power of two, are the same to the last bit; others are rounded once.
    """
    preprocess: Preprocess | None = net.preprocess
    if preprocess is None or not _is_foreign(preprocess):
        return net, []
    factor = np.broadcast_to(np.divide(preprocess.scale, preprocess.std), preprocess.channels)
    mean = np.divide(preprocess.mean, preprocess.scale)
    swap = -1 if preprocess.order == "BGR" else 1
    nodes, remarks = [], []
    for node in net.nodes:
        if net.input in node.inputs:
            node = node._replace(layer=_rescaled(node.layer, factor, swap))
            remarks += _remarks(node.name, factor, swap)
        nodes.append(node)
    own: Any = mean[..., ::swap] if mean.shape[-1] > 1 else mean
    order = "RGB" if preprocess.order == "BGR" else preprocess.order
    own = own.astype("float32") if own.ndim == 3 else tuple(own.tolist())
    told = replace(preprocess, order=order, scale=1.0, mean=own, std=(1.0,))
    return net.with_nodes(nodes, preprocess=told), remarks


def _is_foreign(preprocess: Preprocess | None) -> bool:
    """Whether pictures are other than RGB or grey from 0 to 255, less a mean."""
    if preprocess is None:
        return False
    return preprocess.order == "BGR" or preprocess.scale != 1 or set(preprocess.std) != {1}


def _takes_all_channels(layer: Any, channels: int) -> bool:
    return isinstance(layer, Conv | FC) and layer.w.shape[2] == channels


def _rescaled(layer: Any, factor: np.ndarray, swap: int) -> Any:
    scaled = layer.w * factor[:, None].astype(layer.w.dtype)
    return replace(layer, w=np.ascontiguousarray(scaled[:, :, ::swap]))


def _remarks(name: str, factor: np.ndarray, swap: int) -> list[str]:
    said = [f"{name!r}: the channels of its filters were turned round, from BGR to RGB"] if swap < 0 else []
    if (factor != 1).any():
        each = ", ".join(f"{one:.6g}" for one in np.unique(factor))
        rounded = (np.frexp(factor)[0] != 0.5).any()
        exact = "rounded once" if rounded else "a power of two, so exactly"
        what = "MatConvNet subtracts a mean and does nothing else to pictures"
        said.append(f"{name!r}: its filters were multiplied by {each} ({exact}), for {what}")
    return said


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
