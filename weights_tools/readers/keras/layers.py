"""From Keras's layers to ours: one function for each of its classes that we have, and the table of them.

A layer with an activation becomes two nodes, `conv1` and `conv1_relu`; one that does nothing in testing
becomes none, and its name another one of the layer before.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from minidnn import layers as L
from minidnn.errors import DamagedFileError, UnsupportedError
from minidnn.window import Window
from weights_tools.readers.keras import windowed
from weights_tools.readers.keras.activations import ACTIVATIONS, activated, activation_name
from weights_tools.readers.keras.assembly import Assembly, Map
from weights_tools.readers.keras.part import Part

Builder = Callable[[Assembly, Part, list[Map]], Map]


def dense(net: Assembly, part: Part, maps: list[Map]) -> Map:
    """On a map, Keras multiplies the channels of each pixel: a 1x1 convolution."""
    x = net.settled(maps[0])
    kernel, bias = net.filters(part, rank=2)
    if x.rank == 4:
        if net.is_chw:
            raise UnsupportedError("over the columns of a channels_first map")
        return activated(net, part, net.add(part, L.Conv(kernel[None, None], bias, Window.of(1)), x))
    kernel = net.in_our_order(kernel, x)
    return activated(net, part, net.add(part, L.FC(kernel[None, None], bias), x))


def flatten(net: Assembly, part: Part, maps: list[Map]) -> Map:
    x = net.settled(maps[0])
    if x.rank == 2:
        return net.nothing(part, x)
    turned_back = part.text("data_format", "channels_last") == "channels_first"  # Keras does that itself
    return net.add(part, L.Flatten(), x, rank=2, chw=net.is_chw and not turned_back)


def reshape(net: Assembly, part: Part, maps: list[Map]) -> Map:
    """What is a Flatten by another name, or changes nothing."""
    x, target = net.settled(maps[0]), part.config.get("target_shape")
    own = x.keras_size(net.is_chw)
    count = prod(size for size in own if size is not None) if None not in own else -1
    if not isinstance(target, list) or not all(type(size) is int for size in target):
        raise DamagedFileError(f"'target_shape' is {str(target)[:60]}, expected whole numbers")
    if target.count(-1) == 1 and count > 0:
        known = prod(size for size in target if size != -1)
        target = [count // max(1, known) if size == -1 else size for size in target]
    if target == list(own):
        return net.nothing(part, x)
    is_pixel = target == ([count, 1, 1] if net.is_chw else [1, 1, count])
    if (target == [count] or is_pixel) and (x.rank == 2 or (x.h, x.w) == (1, 1)):
        return net.nothing(part, x, rank=4 if is_pixel else 2)
    if target == [count]:
        return net.add(part, L.Flatten(), x, rank=2, chw=net.is_chw)
    raise UnsupportedError(f"from {own} to {str(target)[:60]}")


def batch_norm(net: Assembly, part: Part, maps: list[Map]) -> Map:
    x = net.settled(maps[0])
    _check_axis(net, part, x)
    if part.config.get("mode", 0) != 0:  # of Keras 1
        raise UnsupportedError(f"in mode {str(part.config['mode'])[:20]}")
    *learnt, mean, var = (net.in_our_order(array, x) for array in net.arrays(part))
    scale, centre = part.flag("scale", True), part.flag("center", True)
    gamma = learnt.pop(0) if scale else np.ones_like(mean)
    beta = learnt.pop(0) if centre else np.zeros_like(mean)
    return net.add(part, L.BatchNorm(gamma, beta, mean, var, part.number("epsilon", 1e-3)), x)


def activation(net: Assembly, part: Part, maps: list[Map]) -> Map:
    return activated(net, part, net.settled(maps[0]), suffixed=False)


def relu(net: Assembly, part: Part, maps: list[Map]) -> Map:
    x = net.settled(maps[0])
    leak = part.number("negative_slope") if _has(part, "negative_slope") else 0.0
    if _has(part, "max_value"):
        raise UnsupportedError(f"cut off at {str(part.config['max_value'])[:20]}")
    if _has(part, "threshold") and part.number("threshold"):
        raise UnsupportedError(f"with a threshold of {part.number('threshold')}")
    return net.add(part, L.LeakyReLU(leak) if leak else L.ReLU(), x)


def leaky_relu(net: Assembly, part: Part, maps: list[Map]) -> Map:
    word = "negative_slope" if _has(part, "negative_slope") else "alpha"
    return net.add(part, L.LeakyReLU(part.number(word, 0.3)), net.settled(maps[0]))


def prelu(net: Assembly, part: Part, maps: list[Map]) -> Map:
    x, (slope,) = net.settled(maps[0]), net.arrays(part)
    if x.rank == 4 and slope.ndim == 3:
        slope = slope.transpose(1, 2, 0) if net.is_chw else slope
        if slope.shape[:2] != (1, 1):
            raise UnsupportedError("with a slope for each pixel; share it: shared_axes=[1, 2]")
    return net.add(part, L.PReLU(net.in_our_order(slope.reshape(-1), x)), x)


def softmax(net: Assembly, part: Part, maps: list[Map]) -> Map:
    x = net.settled(maps[0])
    _check_axis(net, part, x)
    return net.add(part, L.Softmax(), x)


def dropout(net: Assembly, part: Part, maps: list[Map]) -> Map:
    rate = part.number("rate", 0.5)
    if not 0 <= rate < 1:
        raise DamagedFileError(f"'rate' is {rate}, expected a share from 0 to less than 1")
    return net.add(part, L.Dropout(rate), net.settled(maps[0]))


def nothing(net: Assembly, part: Part, maps: list[Map]) -> Map:
    return net.nothing(part, maps[0])


def add(net: Assembly, part: Part, maps: list[Map]) -> Map:
    xs = [net.settled(x) for x in maps]
    if len(xs) < 2 or len({(x.h, x.w, x.c, x.chw) for x in xs}) > 1:
        sizes = " and ".join(str((x.h, x.w, x.c)) for x in xs)
        raise UnsupportedError(f"of {sizes}, expected two maps or more of one size")
    return net.add(part, L.Add(), *xs)


def concat(net: Assembly, part: Part, maps: list[Map]) -> Map:
    xs = [net.settled(x) for x in maps]
    if len(xs) < 2 or len({x.rank for x in xs}) > 1 or any(x.chw for x in xs):
        raise UnsupportedError(f"of {len(xs)} inputs, expected two or more maps, or channels_last vectors")
    _check_axis(net, part, xs[0])
    return net.add(part, L.Concat(), *xs)


def merge(net: Assembly, part: Part, maps: list[Map]) -> Map:
    """Keras 1 had one class for all that joins."""
    mode = part.text("mode", "sum")
    if mode not in ("sum", "concat"):
        raise UnsupportedError(f"by {mode!r}")
    return (add if mode == "sum" else concat)(net, part, maps)


def rescaling(net: Assembly, part: Part, maps: list[Map]) -> Map:
    """y = x * scale + offset, as a 1x1 convolution of each channel alone."""
    x = net.settled(maps[0])
    if x.c is None:
        raise UnsupportedError("of an unknown number of channels")
    scale = np.full((1, 1, 1, x.c), part.number("scale"), "float32")
    offset = np.full(x.c, part.number("offset", 0.0), "float32")
    return net.add(part, L.Conv(scale, offset, Window.of(1), x.c), x)


TABLE: dict[str, Builder] = {
    "Activation": activation,
    "Add": add,
    "AveragePooling2D": windowed.avg_pool,
    "BatchNormalization": batch_norm,
    "Concatenate": concat,
    "Conv2D": windowed.conv,
    "Conv2DTranspose": windowed.conv_transpose,
    "Dense": dense,
    "DepthwiseConv2D": windowed.depthwise_conv,
    "Dropout": dropout,
    "Flatten": flatten,
    "GlobalAveragePooling2D": windowed.global_avg_pool,
    "GlobalMaxPooling2D": windowed.global_max_pool,
    "LeakyReLU": leaky_relu,
    "MaxPooling2D": windowed.max_pool,
    "Merge": merge,
    "PReLU": prelu,
    "ReLU": relu,
    "Rescaling": rescaling,
    "Reshape": reshape,
    "SeparableConv2D": windowed.separable_conv,
    "Softmax": softmax,
    "UpSampling2D": windowed.upsample,
    "ZeroPadding2D": windowed.zero_padding,
}
# What only training has: noise and augmentation.
NOISE = (
    *("AlphaDropout", "GaussianDropout", "GaussianNoise", "SpatialDropout2D", "RandomBrightness"),
    *("RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom"),
)
TABLE |= dict.fromkeys(("InputLayer", "ActivityRegularization", *NOISE), nothing)

JOINS = ("Add", "Concatenate", "Merge")


def lacking(part: Part) -> str:
    """What a layer asks for that we do not have, in words; nothing if we have all of it."""
    if part.kind == "Lambda":
        return f"{part.name!r} (Lambda: a program, which is never run)"
    if part.kind not in TABLE:
        return f"{part.name!r} ({part.kind[:60]})"
    name = activation_name(part)
    return "" if name == "linear" or name in ACTIVATIONS else f"{part.name!r} (activation {name[:60]!r})"


def _has(part: Part, word: str) -> bool:
    return part.config.get(word) is not None


def _check_axis(net: Assembly, part: Part, x: Map) -> None:
    """Only the channels can be normalised, concatenated or weighed against each other."""
    axis = part.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    channels = (1, -1) if x.rank == 2 else (1, -3) if net.is_chw else (3, -1)
    if axis not in channels:
        raise UnsupportedError(f"along axis {str(axis)[:20]}, expected that of the channels, {channels[0]}")
