"""A second opinion on Keras's layers: a forward pass in PyTorch, straight from the JSON, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F

ACTIVATIONS: dict[str, Callable] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda x: torch.softmax(x, 1),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
}


def forward(described: dict[str, Any], arrays: dict[str, list[np.ndarray]], x: np.ndarray) -> np.ndarray:
    """The last output of a functional model that reads images (N, H, W, C); of Keras 2 or 3."""
    made: dict[str, torch.Tensor] = {}
    for layer in described["config"]["layers"]:
        name, config = layer["name"], layer["config"]
        weights = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays.get(name, [])]
        xs = [made[before] for before in _reads(layer)]
        if layer["class_name"] == "InputLayer":
            made[name] = torch.from_numpy(x).permute(0, 3, 1, 2)
        else:
            y = globals()["_" + layer["class_name"].lower()](config, weights, *xs)
            made[name] = ACTIVATIONS[config.get("activation") or "linear"](y)
    y = made[name]
    return (y.permute(0, 2, 3, 1) if y.ndim == 4 else y[:, None, None]).numpy()


def legacy_file(path: Any) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """The JSON and the arrays of a full model in HDF5."""
    with h5py.File(path) as file:
        root = file["model_weights"]
        arrays = {
            name: [root[name][weight][()] for weight in root[name].attrs["weight_names"]] for name in root
        }
        return json.loads(file.attrs["model_config"]), arrays


def _reads(layer: dict[str, Any]) -> list[str]:
    if not layer["inbound_nodes"]:
        return []
    call = layer["inbound_nodes"][0]
    if isinstance(call, dict):
        args = call["args"][0] if isinstance(call["args"][0], list) else call["args"]
        return [one["config"]["keras_history"][0] for one in args]
    return [one[0] for one in call]


def _padded(config: dict, x: Any, word: str, value: float = 0.0) -> Any:
    """What padding 'same' adds, by TensorFlow's own rule."""
    if config.get("padding", "valid") == "valid":
        return x
    sides: list[int] = []
    for axis, size in ((1, x.shape[3]), (0, x.shape[2])):  # F.pad begins at the last axis
        stride = _stride(config, word)[axis]
        extent = (config[word][axis] - 1) * config.get("dilation_rate", [1, 1])[axis] + 1
        over = size % stride or stride
        total = max(0, extent - over)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides, value=value)


def _stride(config: dict, word: str) -> list[int]:
    return config.get("strides") or ([1, 1] if word == "kernel_size" else config[word])


def _conv2d(config: dict, weights: list, x: Any) -> Any:
    kernel, bias = (*weights, None)[:2]
    how = {"dilation": config.get("dilation_rate", [1, 1]), "groups": config.get("groups", 1)}
    x = _padded(config, x, "kernel_size")
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, _stride(config, "kernel_size"), **how)


def _depthwiseconv2d(config: dict, weights: list, x: Any) -> Any:
    kernel, bias = (*weights, None)[:2]
    kernel = kernel.permute(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])
    x = _padded(config, x, "kernel_size")
    return F.conv2d(x, kernel, bias, _stride(config, "kernel_size"), groups=x.shape[1])


def _separableconv2d(config: dict, weights: list, x: Any) -> Any:
    deep, point, *bias = weights
    x = _depthwiseconv2d(config, [deep], x)
    return F.conv2d(x, point.permute(3, 2, 0, 1), *bias)


def _conv2dtranspose(config: dict, weights: list, x: Any) -> Any:
    kernel, bias = weights
    (sy, sx), (kh, kw) = config["strides"], config["kernel_size"]
    y = F.conv_transpose2d(x, kernel.permute(3, 2, 0, 1), bias, (sy, sx))
    if config["padding"] == "same":
        h, w = x.shape[2] * sy, x.shape[3] * sx
        top, left = (kh - sy) // 2, (kw - sx) // 2
        y = y[:, :, top : top + h, left : left + w]
    return y


def _dense(config: dict, weights: list, x: Any) -> Any:
    return F.linear(x, weights[0].T, weights[1] if len(weights) > 1 else None)


def _batchnormalization(config: dict, weights: list, x: Any) -> Any:
    names = [n for n, on in (("gamma", config["scale"]), ("beta", config["center"])) if on]
    held = dict(zip([*names, "mean", "var"], weights, strict=True))
    return F.batch_norm(
        x, held["mean"], held["var"], held.get("gamma"), held.get("beta"), eps=config["epsilon"]
    )


def _maxpooling2d(config: dict, weights: list, x: Any) -> Any:
    x = _padded(config, x, "pool_size", -torch.inf)
    return F.max_pool2d(x, config["pool_size"], _stride(config, "pool_size"))


def _averagepooling2d(config: dict, weights: list, x: Any) -> Any:
    real = _padded(config, torch.ones_like(x), "pool_size")
    size, stride = config["pool_size"], _stride(config, "pool_size")
    return F.avg_pool2d(_padded(config, x, "pool_size"), size, stride) / F.avg_pool2d(real, size, stride)


def _globalaveragepooling2d(config: dict, weights: list, x: Any) -> Any:
    return x.mean((2, 3))


def _globalmaxpooling2d(config: dict, weights: list, x: Any) -> Any:
    return x.amax((2, 3))


def _flatten(config: dict, weights: list, x: Any) -> Any:
    return x.permute(0, 2, 3, 1).flatten(1)


def _zeropadding2d(config: dict, weights: list, x: Any) -> Any:
    (top, bottom), (left, right) = config["padding"]
    return F.pad(x, (left, right, top, bottom))


def _upsampling2d(config: dict, weights: list, x: Any) -> Any:
    how = {"mode": "bilinear", "align_corners": False} if config["interpolation"] == "bilinear" else {}
    return F.interpolate(x, scale_factor=config["size"][0], **how)


def _prelu(config: dict, weights: list, x: Any) -> Any:
    return F.prelu(x, weights[0].flatten())


def _leakyrelu(config: dict, weights: list, x: Any) -> Any:
    return F.leaky_relu(x, config["negative_slope"])


def _activation(config: dict, weights: list, x: Any) -> Any:
    return x


def _dropout(config: dict, weights: list, x: Any) -> Any:
    return x


def _add(config: dict, weights: list, *xs: Any) -> Any:
    return sum(xs[1:], start=xs[0])


def _concatenate(config: dict, weights: list, *xs: Any) -> Any:
    return torch.cat(xs, 1)
