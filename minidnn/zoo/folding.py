"""Batch norm is for training. Afterwards it multiplies and adds, and the layer before it can do that too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from minidnn.arrays import device_of, to_device, to_host
from minidnn.layers import FC, BatchNorm, Conv
from minidnn.net import Net
from minidnn.params import sharers


def folded(net: Net) -> Net:
    """The same answers with the BatchNorms merged into the convolutions that they read.

        gamma * (x * w + b - mean) / sqrt(var + eps) + beta  =  x * (w * s) + (b - mean) * s + beta
        with s = gamma / sqrt(var + eps)

    That is exact, but for the rounding of the new weights, which are computed in float64. Who read a
    BatchNorm now reads its convolution, and its name becomes another name of that. A BatchNorm stays where
    somebody else reads the convolution, or shares its weights, or where there is no convolution before it.
    """
    nodes = {node.name: node for node in net.nodes}
    readers = {name: [node for node in net.nodes if name in node.inputs] for name in nodes}
    shared = {n for held, _ in sharers(net.nodes, "params") if len(held) > 1 for n, _ in held}
    merged: dict[str, str] = {}  # a BatchNorm that goes: the convolution that does its work
    for norm in net.nodes:
        before = nodes.get(norm.inputs[0])
        if not isinstance(norm.layer, BatchNorm) or before is None or before.name in shared:
            continue
        if isinstance(before.layer, Conv | FC) and readers[before.name] == [norm]:
            nodes[before.name] = before._replace(layer=_merged(before.layer, norm.layer))
            merged[norm.name] = before.name
    kept = [
        nodes[node.name]._replace(inputs=tuple(merged.get(name, name) for name in node.inputs))
        for node in net.nodes
        if node.name not in merged
    ]
    setting = net.about.get("kernels", "auto")
    if not isinstance(setting, str):
        setting = {name: how for name, how in setting.items() if name not in merged}
    return net.with_nodes(kept, aliases=dict(net.aliases) | merged, kernels=setting)


def _merged(layer: Conv | FC, norm: BatchNorm) -> Conv | FC:
    gamma, beta, mean, var, w = (
        to_host(a).astype("float64") for a in (norm.gamma, norm.beta, norm.mean, norm.var, layer.w)
    )
    b = np.zeros(len(gamma)) if layer.b is None else to_host(layer.b).astype("float64")
    scale = gamma / np.sqrt(var + norm.eps)
    dtype, device = layer.w.dtype, device_of(layer.w)
    w, b = (to_device(a.astype(dtype), device) for a in (w * scale, (b - mean) * scale + beta))
    return replace(layer, w=w, b=b)
