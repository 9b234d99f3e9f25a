"""Keras's convolutions and pools, and the padding that its files leave to whoever runs them."""

from __future__ import annotations

from dataclasses import replace

from minidnn import layers as L
from minidnn.errors import MismatchError, UnsupportedError, UsageError
from minidnn.window import Window
from weights_tools.readers.keras.activations import activated
from weights_tools.readers.keras.arrays import depthwise
from weights_tools.readers.keras.assembly import NO_PAD, Assembly, Map
from weights_tools.readers.keras.part import Part


def conv(net: Assembly, part: Part, maps: list[Map]) -> Map:
    kernel, bias = net.filters(part)
    window, x = _window(net, part, maps[0], "kernel_size")
    y = net.add(part, L.Conv(kernel, bias, window, part.whole("groups", 1)), x)
    return activated(net, part, y)


def depthwise_conv(net: Assembly, part: Part, maps: list[Map]) -> Map:
    kernel, bias = net.filters(part)
    window, x = _window(net, part, maps[0], "kernel_size")
    y = net.add(part, L.Conv(depthwise(kernel), bias, window, kernel.shape[2]), x)
    return activated(net, part, y)


def separable_conv(net: Assembly, part: Part, maps: list[Map]) -> Map:
    deep, point, *bias = net.arrays(part)
    if deep.ndim != 4 or point.ndim != 4:
        raise MismatchError(f"kernels of shape {deep.shape} and {point.shape}, expected four axes each")
    window, x = _window(net, part, maps[0], "kernel_size")
    y = net.add(part, L.Conv(depthwise(deep), None, window, deep.shape[2]), x, suffix="depthwise")
    y = net.add(part, L.Conv(point, bias[0] if bias else None, Window.of(point.shape[:2])), y)
    return activated(net, part, y)


def conv_transpose(net: Assembly, part: Part, maps: list[Map]) -> Map:
    """Keras says how large the output is; what that crops, or adds, is divided as evenly as it goes."""
    kernel, bias = net.filters(part)
    x, is_same = net.settled(maps[0]), _is_same(part)
    window = _bare_window(part, "kernel_size")
    given = part.config.get("output_padding")
    pads, extra = [], []
    for axis, (taps, extent, stride) in enumerate(
        zip(window.kernel, window.extent, window.stride, strict=True)
    ):
        crop = extent - stride if is_same else min(0, extent - stride)
        if given is not None:
            crop = 2 * (taps // 2 if is_same else 0) - part.wholes("output_padding", None, 2, 0)[axis]
        pads += [max(0, crop) // 2, max(0, crop) - max(0, crop) // 2]
        extra.append(max(0, -crop))
    if any(more >= stride for more, stride in zip(extra, window.stride, strict=True)):
        raise UnsupportedError(
            f"with output_padding {extra} and strides {window.stride}, which it must not reach"
        )
    window = replace(window, pad=(pads[0], pads[1], pads[2], pads[3]))
    y = net.add(part, L.ConvTranspose(kernel, bias, window, extra=(extra[0], extra[1])), x)
    return activated(net, part, y)


def max_pool(net: Assembly, part: Part, maps: list[Map]) -> Map:
    x = maps[0]
    if any(x.pad):  # the zeros of a ZeroPadding2D: they never win where nothing is below 0
        kh, kw = part.pair("pool_size", 2)
        fits = max(x.pad[:2]) < kh and max(x.pad[2:]) < kw and not _is_same(part)
        x = x if x.is_positive and fits else net.settled(x)
    window, x = _window(net, part, x, "pool_size")
    return net.add(part, L.MaxPool(window), x)


def avg_pool(net: Assembly, part: Part, maps: list[Map]) -> Map:
    """The padding of 'same' does not count; the zeros of a ZeroPadding2D before it do."""
    window, x = _window(net, part, net.settled(maps[0]), "pool_size")
    return net.add(part, L.AvgPool(window, "real"), x)


def global_avg_pool(net: Assembly, part: Part, maps: list[Map]) -> Map:
    return net.add(part, L.GlobalAvgPool(), net.settled(maps[0]), rank=_pooled_rank(part))


def global_max_pool(net: Assembly, part: Part, maps: list[Map]) -> Map:
    x = net.settled(maps[0])
    if x.h is None or x.w is None:
        raise UnsupportedError("over maps of a size that the file leaves open; give input_size=(h, w)")
    return net.add(part, L.MaxPool(Window.of((x.h, x.w))), x, rank=_pooled_rank(part))


def zero_padding(net: Assembly, part: Part, maps: list[Map]) -> Map:
    """Left to the window behind it; see Assembly.settled for when there is none."""
    given = part.config.get("padding", 1)
    if isinstance(given, list):  # [[top, bottom], [left, right]], [y, x], or all four
        given = [one for pair in given for one in (pair if isinstance(pair, list) else [pair])]
    pads = part.checked("padding", given if isinstance(given, list) else [given] * 2, least=0)
    if len(pads) not in (2, 4):
        raise UnsupportedError(f"by {pads}; give one number for each side")
    top, bottom, left, right = pads if len(pads) == 4 else (pads[0], pads[0], pads[1], pads[1])
    return net.padded(part, maps[0], (top, bottom, left, right))


def upsample(net: Assembly, part: Part, maps: list[Map]) -> Map:
    (y, x), method = part.pair("size", 2), part.text("interpolation", "nearest")
    if y != x or method not in ("nearest", "bilinear"):
        raise UnsupportedError(f"by {y} and {x}, {method!r}; both must be one number, nearest or bilinear")
    return net.add(part, L.Upsample(y, method), net.settled(maps[0]))


def _is_same(part: Part) -> bool:
    padding = part.text("padding", "valid")
    if padding not in ("same", "valid"):
        raise UnsupportedError(f"padding {padding[:20]!r}")
    return padding == "same"


def _bare_window(part: Part, word: str) -> Window:
    """The window as the config has it, without pads; a pool moves by its own size."""
    kernel = part.pair(word, 2 if word == "pool_size" else None)
    strides = part.pair("strides", kernel if word == "pool_size" else 1)
    return Window.of(kernel, stride=strides, dilation=part.pair("dilation_rate", 1))


def _window(net: Assembly, part: Part, x: Map, word: str) -> tuple[Window, Map]:
    """The window with its pads, and the map that it slides over.

        'same' makes ceil(n / stride) windows, and pads by   max((windows - 1) * stride + extent - n, 0)

    in all, half of it before and the greater half behind: with a stride that depends on n.
    """
    bare, pad = _bare_window(part, word), x.pad
    x_inside = replace(x, pad=NO_PAD)
    if not _is_same(part):
        return replace(bare, pad=pad), x_inside
    if word == "pool_size" and bare.kernel == bare.stride == (2, 2):
        return replace(bare, pad=pad, ceil=True), x_inside  # the same at any size
    found = list(pad)
    for axis, size in enumerate((x.h, x.w)):
        extent, stride = bare.extent[axis], bare.stride[axis]
        if stride == 1:
            total = extent - 1
        elif extent == 1:
            total = 0
        elif size is None:
            raise UsageError(
                "pads by the size of its map, which the file leaves open; say how large images are: "
                "input_size=(h, w)"
            )
        else:
            size += pad[2 * axis] + pad[2 * axis + 1]
            total = max(((size - 1) // stride) * stride + extent - size, 0)
            net.depends_on_size = True
        found[2 * axis] += total // 2
        found[2 * axis + 1] += total - total // 2
    return replace(bare, pad=(found[0], found[1], found[2], found[3])), x_inside


def _pooled_rank(part: Part) -> int:
    return 4 if part.flag("keepdims", False) else 2
