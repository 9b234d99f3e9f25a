"""Writes Caffe's nets, from one description as a dict, in all the ways that Caffe knows: binary and text.

The field numbers are copied out of Caffe's caffe.proto by hand, and not shared with the reader.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

ENUMS = {
    "pool": ["MAX", "AVE", "STOCHASTIC"],
    "round_mode": ["CEIL", "FLOOR"],
    "norm_region": ["ACROSS_CHANNELS", "WITHIN_CHANNEL"],
    "operation": ["PROD", "SUM", "MAX"],
    "phase": ["TRAIN", "TEST"],
}
SHAPE = {"dim": 1}
RULE = {"phase": 1, "min_level": 2, "max_level": 3, "stage": 4, "not_stage": 5}
CONVOLUTION = {
    "num_output": 1,
    "bias_term": 2,
    "pad": 3,
    "kernel_size": 4,
    "group": 5,
    "stride": 6,
    "pad_h": 9,
    "pad_w": 10,
}
CONVOLUTION |= {"kernel_h": 11, "kernel_w": 12, "stride_h": 13, "stride_w": 14, "axis": 16, "dilation": 18}
POOLING = {
    "pool": 1,
    "kernel_size": 2,
    "stride": 3,
    "pad": 4,
    "kernel_h": 5,
    "kernel_w": 6,
    "stride_h": 7,
    "stride_w": 8,
}
POOLING |= {"pad_h": 9, "pad_w": 10, "global_pooling": 12, "round_mode": 13}

# What a layer says for itself: its number now, its number in the first version, its fields.
PARTS: dict[str, tuple[int, int | None, dict[str, Any]]] = {
    "transform_param": (
        100,
        36,
        {"scale": 1, "crop_size": 3, "mean_file": 4, "mean_value": 5, "force_color": 6},
    ),
    "concat_param": (104, 9, {"concat_dim": 1, "axis": 2}),
    "convolution_param": (106, 10, CONVOLUTION),
    "dropout_param": (108, 12, {"dropout_ratio": 1}),
    "eltwise_param": (110, 24, {"operation": 1, "coeff": 2}),
    "inner_product_param": (117, 17, {"num_output": 1, "bias_term": 2, "axis": 5, "transpose": 6}),
    "lrn_param": (118, 18, {"local_size": 1, "alpha": 2, "beta": 3, "norm_region": 4, "k": 5}),
    "memory_data_param": (119, 22, {"batch_size": 1, "channels": 2, "height": 3, "width": 4}),
    "pooling_param": (121, 19, POOLING),
    "power_param": (122, 21, {"power": 1, "scale": 2, "shift": 3}),
    "relu_param": (123, 30, {"negative_slope": 1}),
    "softmax_param": (125, 39, {"axis": 2}),
    "prelu_param": (131, None, {"channel_shared": 2}),
    "reshape_param": (133, None, {"shape": (1, SHAPE), "axis": 2, "num_axes": 3}),
    "flatten_param": (135, None, {"axis": 1, "end_axis": 2}),
    "batch_norm_param": (139, None, {"use_global_stats": 1, "eps": 3}),
    "scale_param": (142, None, {"axis": 1, "num_axes": 2, "bias_term": 4}),
    "input_param": (143, None, {"shape": (1, SHAPE)}),
}
LAYER = {"name": 1, "type": 2, "bottom": 3, "top": 4, "blobs": 7, "include": (8, RULE), "exclude": (9, RULE)}
OLD_LAYER = {
    "name": 4,
    "type": 5,
    "bottom": 2,
    "top": 3,
    "blobs": 6,
    "include": (32, RULE),
    "exclude": (33, RULE),
}
LAYER |= {part: (now, inner) for part, (now, _, inner) in PARTS.items()}
OLD_LAYER |= {part: (then, inner) for part, (_, then, inner) in PARTS.items() if then}
NET = {"name": 1, "input": 3, "input_dim": 4, "input_shape": (8, SHAPE)}
OLD_TYPES = {
    "Concat": (3, "CONCAT"), "Convolution": (4, "CONVOLUTION"), "Dropout": (6, "DROPOUT"),
    "Flatten": (8, "FLATTEN"), "InnerProduct": (14, "INNER_PRODUCT"), "LRN": (15, "LRN"),
    "Pooling": (17, "POOLING"), "ReLU": (18, "RELU"), "Sigmoid": (19, "SIGMOID"), "Softmax": (20, "SOFTMAX"),
    "SoftmaxWithLoss": (21, "SOFTMAX_LOSS"), "Split": (22, "SPLIT"), "TanH": (23, "TANH"),
    "Eltwise": (25, "ELTWISE"), "Power": (26, "POWER"), "Deconvolution": (39, "DECONVOLUTION"),
    "Threshold": (31, "THRESHOLD"),
}  # fmt: skip


def layer(
    name: str, kind: str, bottom: Any = (), top: Any = None, blobs: Any = (), **parts: Any
) -> dict[str, Any]:
    """`top` is the layer's own name unless it is said; `top=bottom` works in place."""
    bottom = [bottom] if isinstance(bottom, str) else list(bottom)
    top = [name] if top is None else [top] if isinstance(top, str) else list(top)
    return {"name": name, "type": kind, "bottom": bottom, "top": top, "blobs": list(blobs)} | parts


def net(*layers: dict[str, Any], name: str = "testnet", **about: Any) -> dict[str, Any]:
    return {"name": name, "layers": layers} | about


# The wire


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: Any) -> bytes:
    """One field: whole numbers as varints, floats in 4 bytes, everything else with its length before it."""
    if isinstance(value, bool | int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else bytes(value)
    return varint(number << 3 | 2) + varint(len(data)) + data


def message(values: dict[str, Any], numbers: dict[str, Any]) -> bytes:
    out = b""
    for name, value in values.items():
        if name not in numbers:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            number, inner = numbers[name] if isinstance(numbers[name], tuple) else (numbers[name], None)
            if isinstance(one, str) and name in ENUMS:
                one = ENUMS[name].index(one)
            out += field(number, message(one, inner) if isinstance(one, dict) else one)
    return out


def blob(array: Any, *, style: str = "shape") -> bytes:
    """An array as a BlobProto: with its "shape", in "legacy" 4-D, as "double", or with "unpacked" floats."""
    array = np.asarray(array)
    shape = field(7, field(1, b"".join(map(varint, array.shape))))
    if style == "legacy":
        dims = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(field(number, dim) for number, dim in enumerate(dims, start=1))
    if style == "unpacked":
        return shape + b"".join(field(5, float(value)) for value in array.ravel())
    if style == "double":
        return shape + field(8, array.astype("<f8").tobytes())
    return shape + field(5, array.astype("<f4").tobytes())


def binary(net: dict[str, Any], *, old: bool = False, style: str = "shape") -> bytes:
    """The .caffemodel, in its current form or in that of the first version."""
    out = message(net, NET)
    for one in net["layers"]:
        blobs = [
            one_blob if isinstance(one_blob, bytes) else blob(one_blob, style=style)
            for one_blob in one["blobs"]
        ]
        kind = OLD_TYPES[one["type"]][0] if old and isinstance(one["type"], str) else one["type"]
        written = message(one | {"blobs": blobs, "type": kind}, OLD_LAYER if old else LAYER)
        out += field(2 if old else 100, written)
    return out


# Text


def text(net: dict[str, Any], *, old: bool = False) -> str:
    """The .prototxt: no arrays in it."""
    lines = _lines({name: value for name, value in net.items() if name != "layers"}, "")
    for one in net["layers"]:
        shown = {name: value for name, value in one.items() if name != "blobs"}
        if old:
            shown["type"] = Bare(OLD_TYPES[one["type"]][1])
        lines += ["layers {" if old else "layer {", *_lines(shown, "  "), "}"]
    return "\n".join(lines) + "\n"


class Bare(str):
    """A word that is written without quotes."""


def _lines(values: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in values.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, dict):
                lines += [f"{indent}{name} {{", *_lines(one, indent + "  "), f"{indent}}}"]
            elif isinstance(one, str) and name not in ENUMS and not isinstance(one, Bare):
                lines.append(f'{indent}{name}: "{one}"')
            else:
                lines.append(f"{indent}{name}: {str(one).lower() if isinstance(one, bool) else one}")
    return lines
