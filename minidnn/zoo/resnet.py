"""ResNets (He et al. 2016): blocks that add what they compute to what they read.

ResNet-18 and -50 are table 1 in the layout of torchvision, whose blocks halve the map in their 3x3 filters;
ResNet-20 is section 4.2, for CIFAR. Layers stand in the order of PyTorch's state dicts.
"""

from __future__ import annotations

from dataclasses import replace

from minidnn.graph import Node
from minidnn.images import PRESETS
from minidnn.layers import FC, Add, Conv, GlobalAvgPool, Layer, MaxPool, PadChannels, ReLU, Softmax
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.blocks import batch_norm, follow

CIFAR = replace(PRESETS["torchvision"], size=(32, 32), resize=None)


def resnet18(rng: Rng = None) -> Net:
    """Blocks of two 3x3: 69 layers, 11,689,512 parameters. No rng: no weights yet."""
    return _resnet(rng, blocks=(2, 2, 2, 2), expansion=1)


def resnet50(rng: Rng = None) -> Net:
    """Blocks of 1x1, 3x3, 1x1: 175 layers, 25,557,032 parameters. No rng: no weights yet."""
    return _resnet(rng, blocks=(3, 4, 6, 3), expansion=4)


def resnet20(rng: Rng = None) -> Net:
    """Nine blocks for images of 32x32: 73 layers, 269,722 parameters. No rng: no weights yet.

    Its shortcuts have no parameters (option A): every other pixel, and zeros for the channels that are new.
    """
    nodes: list[Node] = []
    before = follow(nodes, "data", _conv_bn(rng, "", 1, 3, 3, 16) | {"relu": ReLU()})
    c = 16
    for stage, k in enumerate((16, 32, 64), start=1):
        for block in range(3):
            at, stride = f"layer{stage}/{block}/", 2 if k != c else 1
            longer = follow(nodes, before, _plain(rng, at, c, k, stride))
            new = (k - c) // 2
            skip: dict[str, Layer] = {
                f"{at}shortcut/subsample": MaxPool(Window.of(1, stride=stride)),
                f"{at}shortcut/pad": PadChannels(new, new),
            }
            before = _join(nodes, at, longer, follow(nodes, before, skip if k != c else {}))
            c = k
    follow(nodes, before, {"avgpool": GlobalAvgPool(), "linear": FC.random(rng, (1, 1, 64), 10)})
    follow(nodes, "linear", {"prob": Softmax()})
    return Net(nodes, input_shape=(32, 32, 3), preprocess=CIFAR)


def _resnet(rng: Rng, *, blocks: tuple[int, ...], expansion: int) -> Net:
    nodes: list[Node] = []
    first = _conv_bn(rng, "", 1, 7, 3, 64, stride=2)  # 112x112
    first |= {"relu": ReLU(), "maxpool": MaxPool(Window.of(3, stride=2, pad=1))}  # 56x56
    before, c = follow(nodes, "data", first), 64
    for stage, count in enumerate(blocks, start=1):
        width = 64 * 2 ** (stage - 1)
        for block in range(count):
            at, stride, k = f"layer{stage}/{block}/", 2 if stage > 1 and block == 0 else 1, width * expansion
            build = _plain if expansion == 1 else _bottleneck
            longer = follow(nodes, before, build(rng, at, c, k, stride))
            skip = _projection(rng, at, c, k, stride) if (c, stride) != (k, 1) else {}
            before = _join(nodes, at, longer, follow(nodes, before, skip))
            c = k
    last = {"avgpool": GlobalAvgPool(), "fc": FC.random(rng, (1, 1, c), 1000), "prob": Softmax()}
    follow(nodes, before, last)
    return Net(nodes, input_shape=(224, 224, 3), preprocess=PRESETS["torchvision"])


def _plain(rng: Rng, at: str, c: int, k: int, stride: int) -> dict[str, Layer]:
    """Two 3x3; the first takes the stride."""
    first = _conv_bn(rng, at, 1, 3, c, k, stride) | {f"{at}relu1": ReLU()}
    return first | _conv_bn(rng, at, 2, 3, k, k)


def _bottleneck(rng: Rng, at: str, c: int, k: int, stride: int) -> dict[str, Layer]:
    """1x1 down to a quarter, 3x3 with the stride, 1x1 up again."""
    narrow = k // 4
    first = _conv_bn(rng, at, 1, 1, c, narrow) | {f"{at}relu1": ReLU()}
    second = _conv_bn(rng, at, 2, 3, narrow, narrow, stride) | {f"{at}relu2": ReLU()}
    return first | second | _conv_bn(rng, at, 3, 1, narrow, k)


def _projection(rng: Rng, at: str, c: int, k: int, stride: int) -> dict[str, Layer]:
    conv = Conv.random(rng, 1, c, k, stride=stride, bias=False)
    return {f"{at}downsample/0": conv, f"{at}downsample/1": batch_norm(rng, k)}


def _conv_bn(rng: Rng, at: str, number: int, size: int, c: int, k: int, stride: int = 1) -> dict[str, Layer]:
    conv = Conv.random(rng, size, c, k, stride=stride, pad=size // 2, bias=False)
    return {f"{at}conv{number}": conv, f"{at}bn{number}": batch_norm(rng, k)}


def _join(nodes: list[Node], at: str, longer: str, skip: str) -> str:
    nodes.append(Node(f"{at}add", Add(), (longer, skip)))
    return follow(nodes, f"{at}add", {f"{at}relu": ReLU()})
