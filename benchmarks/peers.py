"""VGG-16 up to its last convolution by us and by PyTorch, with the same weights and the same image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidnn import zoo
from minidnn.layers import Conv, ReLU
from minidnn.net import Net

TARGET = "relu5_3"


def vgg(seed: int = 0) -> Net:
    """VGG-16 with random weights up to its last convolution."""
    net, rng = zoo.get("vgg16", seed=None), np.random.default_rng(seed)
    convs = {name: array for name, array in net.params.items() if name.startswith("conv")}
    drawn = {
        name: rng.standard_normal(a.shape, "float32") * np.float32(np.sqrt(2 / (a.size / a.shape[3])))
        if a.ndim == 4
        else rng.standard_normal(a.shape, "float32")
        for name, a in convs.items()
    }
    return net.replacing(drawn)


def picture(size: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((1, size, size, 3), "float32") * 255 - 120


def ours(net: Net, x: np.ndarray, *, keep: str = "needed") -> tuple[Callable, Callable]:
    """Forward to the target, and a dream step: forward, z = |y|², and the gradient by the image."""
    res = net.init_res()

    def forward() -> np.ndarray:
        return net.forwardto(res, TARGET, x, keep=keep)

    def step() -> np.ndarray:
        y = net.forwardto(res, TARGET, x, keep=keep)
        return net.backwardfrom(res, {TARGET: 2 * y})

    return forward, step


def torchs(net: Net, x: np.ndarray, layout: str, threads: int) -> tuple[Callable, Callable]:
    """The same by PyTorch; layout is "channels_last" or "contiguous_format"."""
    import torch

    torch.set_num_threads(threads)
    memory_format = getattr(torch, layout)
    modules: list[Any] = []
    for node in net.nodes[: net.number_of(TARGET)]:
        if isinstance(node.layer, Conv):
            module = torch.nn.Conv2d(node.layer.w.shape[2], node.layer.w.shape[3], 3, padding=1)
            module.weight.data = torch.from_numpy(node.layer.w.transpose(3, 2, 0, 1).copy())
            module.bias.data = torch.from_numpy(node.layer.b.copy())
        elif isinstance(node.layer, ReLU):
            module = torch.nn.ReLU(inplace=True)
        else:
            module = torch.nn.MaxPool2d(2, 2, ceil_mode=True)
        modules.append(module)
    model = torch.nn.Sequential(*modules).requires_grad_(False).to(memory_format=memory_format)
    image = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=memory_format)

    def forward() -> np.ndarray:
        with torch.no_grad():
            return model(image).permute(0, 2, 3, 1).numpy()

    def step() -> np.ndarray:
        unknown = image.clone().requires_grad_(True)
        (model(unknown) ** 2).sum().backward()
        return unknown.grad.permute(0, 2, 3, 1).numpy()

    return forward, step
