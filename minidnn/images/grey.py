"""Grey pictures and nets that want colours: fold the filters of the first layer into one channel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minidnn.errors import UsageError
from minidnn.images.preprocess import Preprocess
from minidnn.layers import Conv
from minidnn.net import Net


def fold_grey(net: Net) -> Net:
    """A net for grey pictures that answers as this one does when a picture comes as three equal channels.

        sum over c of  w_c * (g * scale - mean_c) / std_c  =  w' * (g * scale - m) + b'
        w' = sum of w_c / std_c          m = mean of the means          b' = sum of w_c / std_c * (m - mean_c)

    The filters are summed over their channels, not averaged: that would be a third. What lies outside the
    picture is 0 to both nets, a grey of m to this one but of three colours to the other; so a padded layer
    differs at the border, unless all means are equal.
    """
    preprocess: Preprocess = net.preprocess or Preprocess()
    mean, std, _ = np.broadcast_arrays(preprocess.mean, preprocess.std, np.zeros(3))
    grey = mean.mean(axis=-1, keepdims=True)  # (1,), or (H, W, 1) for a picture
    readers = {node.name for node in net.nodes if net.input in node.inputs}
    nodes = [
        node._replace(layer=_folded(node.layer, mean, std, grey)) if node.name in readers else node
        for node in net.nodes
    ]
    size = net.input_shape and (*net.input_shape[:2], 1)
    own = grey if grey.ndim == 3 else tuple(grey.tolist())
    seen = replace(preprocess, order="GRAY", mean=own, std=(1.0,)) if net.preprocess is not None else None
    return net.with_nodes(nodes, input_shape=size, preprocess=seen)


def _folded(layer: Any, mean: np.ndarray, std: np.ndarray, grey: np.ndarray) -> Conv:
    if not isinstance(layer, Conv) or layer.groups != 1 or layer.w.shape[2] != 3:
        raise UsageError(f"{layer} reads the picture; only a Conv of three channels can be folded")
    if grey.ndim == 3 and np.ptp(mean - grey, axis=(0, 1)).max() > 0:
        raise UsageError("a mean picture in colours cannot be folded; make it a mean per channel")
    shift = (grey - mean).reshape(-1, 3)[0]  # what each channel is brighter than m
    w = layer.w / std.reshape(-1, 3)[0][:, None]  # (kh, kw, 3, K)
    b = (w * shift[:, None]).sum(axis=(0, 1, 2)) + (0 if layer.b is None else layer.b)
    return replace(layer, w=w.sum(axis=2, keepdims=True).astype(layer.w.dtype), b=b.astype(layer.w.dtype))
