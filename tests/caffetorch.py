"""Caffe's layers in torch, (N, C, H, W), walking the records of a net in order: an oracle for the reader.

It shares only the parsing of files with the reader; blobs live in a dict and are written over, as in Caffe.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def forward(records: Any, weights: dict[str, list[np.ndarray]], blobs: dict[str, Any]) -> dict[str, Any]:
    """All blobs after a run; `weights` by layer, in the file's shapes."""
    import torch

    blobs = {name: torch.as_tensor(value) for name, value in blobs.items()}
    for record in records:
        if record.type in ("Input", "Data"):
            continue
        xs = [blobs[name] for name in record.bottoms]
        ws = [torch.tensor(np.array(w, np.float64)) for w in weights.get(record.name, [])]
        y = _run(record, xs, ws)
        blobs |= dict.fromkeys(record.tops, y)
    return {name: value.numpy() for name, value in blobs.items()}


def _pair(values: dict[str, list], many: str, one: str, default: int) -> tuple[int, int]:
    if f"{one}_h" in values:
        return values[f"{one}_h"][-1], values[f"{one}_w"][-1]
    found = values.get(many, [default])
    return found[0], found[-1]


def _run(record: Any, xs: list, ws: list) -> Any:
    import torch
    import torch.nn.functional as F

    def said(part: str) -> dict[str, list]:
        held = record.fields.values.get(part)
        return held[-1].values if held else {}

    x = xs[0]
    match record.type:
        case "Convolution" | "Deconvolution":
            p = said("convolution_param")
            run = F.conv2d if record.type == "Convolution" else F.conv_transpose2d
            return run(
                x,
                ws[0],
                ws[1].reshape(-1) if len(ws) > 1 else None,
                stride=_pair(p, "stride", "stride", 1),
                padding=_pair(p, "pad", "pad", 0),
                dilation=_pair(p, "dilation", "dilation", 1),
                groups=p.get("group", [1])[-1],
            )
        case "Pooling":
            p = said("pooling_param")
            average = p.get("pool", ["MAX"])[-1] == "AVE"
            if p.get("global_pooling", [False])[-1]:
                return x.mean(dim=(2, 3), keepdim=True) if average else x.amax(dim=(2, 3), keepdim=True)
            run = F.avg_pool2d if average else F.max_pool2d
            return run(
                x,
                _pair(p, "kernel_size", "kernel", 1),
                stride=_pair(p, "stride", "stride", 1),
                padding=_pair(p, "pad", "pad", 0),
                ceil_mode=p.get("round_mode", ["CEIL"])[-1] == "CEIL",
            )
        case "InnerProduct":
            w = ws[0].reshape(ws[0].shape[-2:])
            if said("inner_product_param").get("transpose", [False])[-1]:
                w = w.T
            y = x.reshape(len(x), -1) @ w.T
            return y + ws[1].reshape(-1) if len(ws) > 1 else y
        case "ReLU":
            return F.leaky_relu(x, said("relu_param").get("negative_slope", [0.0])[-1])
        case "PReLU":
            return F.prelu(x, ws[0].reshape(-1))
        case "Sigmoid":
            return torch.sigmoid(x)
        case "TanH":
            return torch.tanh(x)
        case "Dropout" | "Split" | "Power":
            return x
        case "Softmax":
            return torch.softmax(x, dim=1)
        case "LRN":
            p = said("lrn_param")
            size, alpha = p.get("local_size", [5])[-1], p.get("alpha", [1.0])[-1]
            beta, k = p.get("beta", [0.75])[-1], p.get("k", [1.0])[-1]
            if p.get("norm_region", [""])[-1] == "WITHIN_CHANNEL":
                mean_square = F.avg_pool2d(x * x, size, stride=1, padding=(size - 1) // 2)
                return x * (1 + alpha * mean_square) ** -beta
            return F.local_response_norm(x, size, alpha, beta, k)
        case "BatchNorm":
            eps = said("batch_norm_param").get("eps", [1e-5])[-1]
            share = 0 if float(ws[2]) == 0 else 1 / float(ws[2])
            return F.batch_norm(x, ws[0] * share, ws[1] * share, eps=eps)
        case "Scale":
            across = (1, -1) + (1,) * (x.ndim - 2)
            y = x * ws[0].reshape(across)
            return y + ws[1].reshape(across) if len(ws) > 1 else y
        case "Concat":
            return torch.cat(xs, dim=1)
        case "Eltwise":
            return sum(xs)
        case "Flatten" | "Reshape":
            return x.reshape(len(x), -1)
    raise NotImplementedError(record.type)
