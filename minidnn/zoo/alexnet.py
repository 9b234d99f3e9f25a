"""AlexNet (Krizhevsky et al. 2012) and the two that came straight from it: CaffeNet and ZFNet.

AlexNet's two halves, once on two graphics cards, are the groups of its convolutions.
"""

from __future__ import annotations

from minidnn.images import PRESETS, VGG
from minidnn.layers import LRN, Layer, MaxPool
from minidnn.layers.base import Rng
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.blocks import POOL_3_2, classifier, conv_relu


def alexnet(rng: Rng = None, *, dropout: bool = False) -> Net:
    """21 layers, 60,965,224 parameters; it normalises, then pools. No rng: no weights yet."""
    return _alexnet(rng, dropout, norm_first=True)


def caffenet(rng: Rng = None, *, dropout: bool = False) -> Net:
    """AlexNet but for the order: CaffeNet pools, then normalises, which is less work."""
    return _alexnet(rng, dropout, norm_first=False)


def _alexnet(rng: Rng, dropout: bool, *, norm_first: bool) -> Net:
    layers = {
        **conv_relu(rng, 1, 11, 3, 96, stride=4),  # 55x55
        **_norm_and_pool(1, norm_first),  # 27x27
        **conv_relu(rng, 2, 5, 96, 256, pad=2, groups=2),
        **_norm_and_pool(2, norm_first),  # 13x13
        **conv_relu(rng, 3, 3, 256, 384, pad=1),
        **conv_relu(rng, 4, 3, 384, 384, pad=1, groups=2),
        **conv_relu(rng, 5, 3, 384, 256, pad=1, groups=2),
        "pool5": POOL_3_2,  # 6x6
        **classifier(rng, (6, 6, 256), hidden=4096, k=1000, dropout=dropout),
    }
    return Net.chain(layers, input_shape=(227, 227, 3), preprocess=PRESETS["caffe"])


def _norm_and_pool(number: int, norm_first: bool) -> dict[str, Layer]:
    both: list[tuple[str, Layer]] = [(f"norm{number}", LRN()), (f"pool{number}", POOL_3_2)]
    return dict(both if norm_first else both[::-1])


def zfnet(rng: Rng = None, *, dropout: bool = False) -> Net:
    """Smaller first filters, and no groups (Zeiler & Fergus 2014, figure 3): 62,357,608 parameters.

    Its sizes round down: 224 → 110 → 55 → 26 → 13 → 13 → 13 → 13 → 6. No rng: no weights yet.
    """
    padded_pool = MaxPool(Window.of(3, stride=2, pad=1))
    layers = {
        **conv_relu(rng, 1, 7, 3, 96, stride=2, pad=1),  # 110x110
        "pool1": padded_pool,
        "norm1": LRN(),  # 55x55
        **conv_relu(rng, 2, 5, 96, 256, stride=2),  # 26x26
        "pool2": padded_pool,
        "norm2": LRN(),  # 13x13
        **conv_relu(rng, 3, 3, 256, 384, pad=1),
        **conv_relu(rng, 4, 3, 384, 384, pad=1),
        **conv_relu(rng, 5, 3, 384, 256, pad=1),
        "pool5": MaxPool(Window.of(3, stride=2)),  # 6x6
        **classifier(rng, (6, 6, 256), hidden=4096, k=1000, dropout=dropout),
    }
    return Net.chain(layers, input_shape=(224, 224, 3), preprocess=VGG)
