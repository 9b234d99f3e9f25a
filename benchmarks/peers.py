"""The same net by us and by PyTorch, with the same weights and the same image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from minidnn import zoo
from minidnn.layers import (
    FC,
    LRN,
    AvgPool,
    Concat,
    Conv,
    Dropout,
    GlobalAvgPool,
    Layer,
    MaxPool,
    ReLU,
    Softmax,
)
from minidnn.net import Net
from minidnn.window import Window

TARGET = "relu5_3"
LAYOUTS = ["channels_last", "contiguous_format"]


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


def picture(size: int, seed: int = 1, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, size, size, 3), "float32") * 255 - 120


def ours(net: Net, x: np.ndarray, *, keep: str = "needed", target: str = TARGET) -> tuple[Callable, Callable]:
    """Forward to the target, and a dream step: forward, z = |y|², and the gradient by the image."""
    res = net.init_res()

    def forward() -> np.ndarray:
        return net.forwardto(res, target, x, keep=keep)

    def step() -> np.ndarray:
        y = net.forwardto(res, target, x, keep=keep)
        return net.backwardfrom(res, {target: 2 * y})

    return forward, step


def torchs(
    net: Net,
    x: np.ndarray,
    layout: str,
    threads: int,
    *,
    target: str = TARGET,
    masks: Mapping[str, Callable] | None = None,
) -> tuple[Callable, Callable]:
    """The same by PyTorch; layout is "channels_last" or "contiguous_format". It lets go of ours.

    By `masks` some layers do something else: with those of `our_masks` it goes our way at every corner.
    """
    import torch

    torch.set_num_threads(threads)
    memory_format, start = getattr(torch, layout), net.input
    asked = net.ancestors([target])
    steps = [
        (
            node.name,
            (masks or {}).get(node.name) or _torch_layer(torch, node.layer, memory_format),
            node.inputs,
        )
        for node in net.nodes
        if node.name in asked
    ]
    image = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=memory_format)

    def model(x: Any) -> Any:
        values = {start: x}
        for name, apply, inputs in steps:
            values[name] = apply(*(values[each] for each in inputs))
        return values[target]

    def forward() -> np.ndarray:
        with torch.inference_mode():
            return model(image).permute(0, 2, 3, 1).numpy()

    def step() -> np.ndarray:
        unknown = image.clone().requires_grad_(True)
        (model(unknown) ** 2).sum().backward()
        return unknown.grad.permute(0, 2, 3, 1).numpy()

    return forward, step


def our_masks(net: Net, x: np.ndarray, target: str = TARGET) -> dict[str, Callable]:
    """Of each ReLU what it let through in our run, and of each max-pooling the pixels that it took.

    Where a number is 0 but for rounding, or two pixels are alike, two engines go different ways, and their
    gradients differ by far more than rounding. By one engine's choices both compute one smooth function.
    """
    import torch

    res, masks = net.init_res(), dict[str, Callable]()
    net.forwardto(res, target, x, keep="needed")
    for node in net.nodes:
        aux, shape = res[node.name].aux, res[node.name].shape
        if isinstance(node.layer, ReLU) and aux is not None:
            open_ = np.unpackbits(aux, count=int(np.prod(shape))).reshape(shape).astype("float32")
            masks[node.name] = partial(torch.mul, torch.from_numpy(open_.transpose(0, 3, 1, 2).copy()))
        elif isinstance(node.layer, MaxPool) and aux is not None:
            window, width = node.layer.window, res[node.inputs[0]].shape[2]
            (rows, columns), (sy, sx), tap = np.indices(shape[1:3]), window.stride, aux.astype("int64")
            down = (rows * sy - window.pad[0])[..., None] + tap // window.kernel[1] * window.dilation[0]
            across = (columns * sx - window.pad[2])[..., None] + tap % window.kernel[1] * window.dilation[1]
            taken = torch.from_numpy((down * width + across).transpose(0, 3, 1, 2).copy())
            masks[node.name] = partial(_taken, taken)
    return masks


def _taken(places: Any, x: Any) -> Any:
    """The pixels at these places of every channel."""
    return x.flatten(2).gather(2, places.flatten(2)).view(places.shape)


def _torch_layer(torch: Any, layer: Layer, memory_format: Any) -> Callable[..., Any]:
    """One layer as a function of tensors; a ReLU writes over what it reads, as is usual there."""
    F = torch.nn.functional
    if isinstance(layer, Conv):
        w = torch.from_numpy(layer.w.transpose(3, 2, 0, 1).copy()).contiguous(memory_format=memory_format)
        b = None if layer.b is None else torch.from_numpy(layer.b.copy())
        where = (layer.window.stride, both_pads(layer.window), layer.window.dilation, layer.groups)
        return lambda x: F.conv2d(x, w, b, *where)
    if isinstance(layer, FC):
        h, width, c, k = layer.w.shape
        w = torch.from_numpy(layer.w.transpose(3, 2, 0, 1).reshape(k, c * h * width).copy())
        b = None if layer.b is None else torch.from_numpy(layer.b.copy())
        return lambda x: F.linear(x.flatten(1), w, b)[:, :, None, None]
    if isinstance(layer, MaxPool | AvgPool):
        where, ceil = (layer.window.kernel, layer.window.stride, both_pads(layer.window)), layer.window.ceil
        if isinstance(layer, MaxPool):
            return lambda x: F.max_pool2d(x, *where, ceil_mode=ceil)
        counts_pads = layer.divisor == "padded"
        return lambda x: F.avg_pool2d(x, *where, ceil, counts_pads)
    plain: dict[type[Layer], Callable[..., Any]] = {
        ReLU: torch.relu_,
        GlobalAvgPool: lambda x: x.mean((2, 3), keepdim=True),
        Concat: lambda *xs: torch.cat(xs, 1),
        Softmax: lambda x: torch.softmax(x, 1),
        Dropout: lambda x: x,
    }
    if isinstance(layer, LRN):
        about = (layer.size, layer.alpha * layer.size, layer.beta, layer.kappa)
        return lambda x: F.local_response_norm(x, *about)
    return plain[type(layer)]


def both_pads(window: Window) -> tuple[int, int]:
    """The pads as others give them, one for each axis."""
    top, bottom, left, right = window.pad
    if (top, left) != (bottom, right):
        raise SystemExit(f"the peers have no pads that differ, as {window.pad}")
    return top, left
