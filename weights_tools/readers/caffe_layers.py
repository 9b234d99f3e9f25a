"""From one record of a Caffe net to one of our layers, in two steps.

`planned` looks at what the file says of a layer, so that all that we lack is found before anything is built;
what it hands back builds the layer once it is known what flows in. Caffe counts (C, H, W), we (H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from minidnn.errors import DamagedFileError, MismatchError, TooLargeError, UnsupportedError
from minidnn.layers import (
    FC,
    LRN,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    LeakyReLU,
    LRNWithin,
    MaxPool,
    PReLU,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from minidnn.layers.base import drawn, is_placeholder
from minidnn.window import Window
from weights_tools.readers.caffe_flow import NEEDS_SIZE, Flow
from weights_tools.readers.caffe_records import Record
from weights_tools.readers.caffe_schema import MAX_COUNT, Fields

MAX_NUMBERS = 1 << 40  # of one array, where no file bounds it
WEIGHTED = ("Convolution", "Deconvolution", "InnerProduct", "PReLU", "BatchNorm", "Scale")

Build = Callable[[Sequence[Flow]], Layer | None]  # None: what flows in flows out


def planned(record: Record, *, bare: bool = False) -> Build:
    """How to build this layer; `bare`, without weights. UnsupportedError says in a few words what we lack."""
    if record.type not in PLANS:
        raise UnsupportedError(record.type)
    if len(record.tops) != 1 and record.type != "Split":
        raise UnsupportedError(f"{record.type} with {len(record.tops)} outputs")
    joins = record.type in ("Concat", "Eltwise")
    if not record.bottoms:
        raise DamagedFileError(f"{record.what}: reads nothing; fetch the file again")
    if len(record.bottoms) > 1 and not joins:
        raise UnsupportedError(f"{record.type} of {len(record.bottoms)} inputs")
    return PLANS[record.type](record, bare)


def count_of_blobs(record: Record) -> int:
    """How many arrays a layer of this type has."""
    bias = {"Convolution": "convolution_param", "Deconvolution": "convolution_param"}
    bias |= {"InnerProduct": "inner_product_param", "Scale": "scale_param"}
    if record.type in bias:
        return 1 + bool(record.part(bias[record.type]).last("bias_term", record.type != "Scale"))
    return {"PReLU": 1, "BatchNorm": 3}.get(record.type, 0)


def array(record: Record, bare: bool, number: int, *shape: int) -> np.ndarray:
    """The number-th array of a layer as a view into the file; for a bare net one that takes no memory."""
    if bare:
        if prod(shape) > MAX_NUMBERS:
            raise TooLargeError(f"{record.what}: weights of {shape}, the limit is {MAX_NUMBERS:,} numbers")
        return drawn(None, shape, 1)
    return record.blobs[number].shaped(shape, f"{record.what}: array {number}")


def owned(view: np.ndarray) -> np.ndarray:
    """Float32 in memory of its own: views into a file lie unaligned, and end with it."""
    if is_placeholder(view):
        return view
    with np.errstate(all="ignore"):  # a double too large for a float becomes inf, for the search for such
        return np.array(view, np.float32, order="C")


def _reordered(view: np.ndarray, flow: Flow, what: str) -> np.ndarray:
    """Rows in our order, where they count the numbers of what was a map."""
    if is_placeholder(view) or not flow.maps:
        return owned(view)
    return owned(view[flow.order(len(view), what)])


# Convolution and the fully connected layer


def _window(part: Fields) -> Window:
    kh, kw = _pair(part, "kernel_size", "kernel", None, 1)
    ph, pw = _pair(part, "pad", "pad", 0, 0)
    stride, dilation = _pair(part, "stride", "stride", 1, 1), _pair(part, "dilation", "dilation", 1, 1)
    return Window.of((kh, kw), stride=stride, pad=(ph, ph, pw, pw), dilation=dilation)


def _pair(part: Fields, repeated: str, single: str, default: int | None, least: int) -> tuple[int, int]:
    """(y, x): stride_h and stride_w, or `stride` once for both, or once for each."""
    if f"{single}_h" in part or f"{single}_w" in part:
        missing = -1 if default is None else default
        return part.whole(f"{single}_h", missing, least), part.whole(f"{single}_w", missing, least)
    values = part.wholes(repeated, least)
    if len(values) > 2:
        raise UnsupportedError(f"{repeated} along {len(values)} axes")
    if not values and default is None:
        raise DamagedFileError(f"{part.what}: has no {repeated}; fetch the file again")
    y, x = values if len(values) == 2 else (values or [default or 0]) * 2
    return y, x


def _convolution(record: Record, bare: bool) -> Build:
    part, transposed = record.part("convolution_param"), record.type == "Deconvolution"
    _on_channels(record, part)
    window, bias = _window(part), part.last("bias_term", True)
    k, groups = part.whole("num_output", 0, most=MAX_COUNT), part.whole("group", 1, most=MAX_COUNT)

    def build(flows: Sequence[Flow]) -> Layer:
        flow = _map(record, flows[0])
        c = flow.c
        if c is None:  # then the filters must tell
            shape = record.blobs[0].shape if not bare else ()
            if len(shape) != 4:
                raise MismatchError(f"{record.what}: {NEEDS_SIZE}")
            c = shape[0] if transposed else shape[1] * groups
        if c % groups or k % groups:
            raise MismatchError(
                f"{record.what}: {groups} groups cannot share {c} channels and {k} filters evenly"
            )
        first, second = (c, k // groups) if transposed else (k, c // groups)
        w = owned(array(record, bare, 0, first, second, *window.kernel).transpose(2, 3, 1, 0))
        b = owned(array(record, bare, 1, k)) if bias else None
        return ConvTranspose(w, b, window, groups) if transposed else Conv(w, b, window, groups)

    return build


def _inner_product(record: Record, bare: bool) -> Build:
    part = record.part("inner_product_param")
    _on_channels(record, part)
    k, bias = part.whole("num_output", 0, most=MAX_COUNT), part.last("bias_term", True)
    transposed = part.last("transpose", False)

    def build(flows: Sequence[Flow]) -> Layer:
        flow = flows[0]
        n = flow.count
        if n is None:
            n = prod(record.blobs[0].shape) // k if not bare else 0
        w = array(record, bare, 0, n, k) if transposed else array(record, bare, 0, k, n).T
        b = owned(array(record, bare, 1, k)) if bias else None
        if flow.maps:
            return FC(_reordered(w, flow, record.what).reshape(1, 1, n, k), b)
        h, width, c = flow.sized(n, record.what)
        return FC(owned(w.reshape(c, h, width, k).transpose(1, 2, 0, 3)), b)

    return build


def _on_channels(record: Record, part: Fields, default: int = 1) -> None:
    axis = part.last("axis", default)
    if axis not in (1, -3):
        raise UnsupportedError(f"{record.type} along axis {axis}")


def _map(record: Record, flow: Flow) -> Flow:
    if flow.maps:
        raise UnsupportedError(f"{record.what}: {record.type} of a flattened map; such a net we cannot run")
    return flow


# Pooling


def _pooling(record: Record, bare: bool) -> Build:
    part = record.part("pooling_param")
    how, whole = part.last("pool", "MAX"), part.last("global_pooling", False)
    if how not in ("MAX", "AVE"):
        raise UnsupportedError(f"Pooling by {how}")
    ceil = part.last("round_mode", "CEIL") == "CEIL"
    window = None if whole else _window(part)

    def build(flows: Sequence[Flow]) -> Layer:
        flow = _map(record, flows[0])
        if whole and how == "AVE":
            return GlobalAvgPool()
        if window is None:
            if flow.h is None or flow.w is None:
                raise MismatchError(f"{record.what}: {NEEDS_SIZE}")
            return MaxPool(Window.of((flow.h, flow.w)))
        pooled = Window(window.kernel, window.stride, window.pad, ceil=ceil)
        return MaxPool(pooled) if how == "MAX" else AvgPool(pooled, "padded")

    return build


# Numbers by themselves, and with their neighbours


def _always(layer: Layer | None) -> Build:
    return lambda flows: layer


def _relu(record: Record, bare: bool) -> Build:
    leak = record.part("relu_param").real("negative_slope", 0.0)
    return _always(LeakyReLU(leak) if leak else ReLU())


def _prelu(record: Record, bare: bool) -> Build:
    shared = record.part("prelu_param").last("channel_shared", False)

    def build(flows: Sequence[Flow]) -> Layer:
        if shared:
            return PReLU(owned(array(record, bare, 0, 1)))
        return PReLU(_per_channel(record, bare, flows[0])(0))

    return build


def _softmax(record: Record, bare: bool) -> Build:
    _on_channels(record, record.part("softmax_param"))
    return _always(Softmax())


def _dropout(record: Record, bare: bool) -> Build:
    part = record.part("dropout_param")
    rate = part.real("dropout_ratio", 0.5)
    if not part.last("scale_train", True):
        raise UnsupportedError("Dropout that scales in tests")
    if not 0 <= rate < 1:
        raise DamagedFileError(
            f"{record.what}: 'dropout_ratio' is {rate}, expected a share from 0 to less than 1"
        )
    return _always(Dropout(rate))


def _power(record: Record, bare: bool) -> Build:
    part = record.part("power_param")
    power, scale, shift = part.real("power", 1.0), part.real("scale", 1.0), part.real("shift", 0.0)
    if (power, scale, shift) != (1, 1, 0):
        raise UnsupportedError(f"Power ({shift:g} + {scale:g} x)^{power:g}")
    return _always(None)


def _lrn(record: Record, bare: bool) -> Build:
    """Caffe's alpha is for the whole window, ours for one number."""
    part = record.part("lrn_param")
    size, alpha, beta = part.whole("local_size", 5), part.real("alpha", 1.0), part.real("beta", 0.75)
    if size % 2 == 0:
        raise DamagedFileError(f"{record.what}: 'local_size' is {size}, expected an odd number")
    if part.last("norm_region", "ACROSS_CHANNELS") == "WITHIN_CHANNEL":  # there Caffe takes no notice of k
        layer: LRN = LRNWithin(size, 1.0, alpha / size**2, beta)
    else:
        layer = LRN(size, part.real("k", 1.0), alpha / size, beta)

    def build(flows: Sequence[Flow]) -> Layer:
        _map(record, flows[0])
        return layer

    return build


def _per_channel(record: Record, bare: bool, flow: Flow) -> Callable[[int], np.ndarray]:
    """The arrays of a layer that has one number for each channel."""
    count = flow.c
    if count is None:
        count = prod(record.blobs[0].shape) if not bare else 0
    return lambda number: _reordered(array(record, bare, number, count), flow, record.what)


def _batch_norm(record: Record, bare: bool) -> Build:
    """Caffe keeps sums of means and variances, and what to divide them by; 0 if there were none."""
    if len(record.blobs) not in (0, 3):
        raise UnsupportedError(f"BatchNorm of {len(record.blobs)} arrays")
    eps = record.part("batch_norm_param").real("eps", 1e-5)

    def build(flows: Sequence[Flow]) -> Layer:
        sums = _per_channel(record, bare, flows[0])
        if bare:  # placeholders of their own: each is filled by itself
            return BatchNorm(sums(0), sums(0), sums(0), sums(0), eps)
        mean, var = sums(0), sums(1)
        factor = float(array(record, bare, 2, 1)[0])
        share = np.float32(0 if factor == 0 else 1 / factor)
        with np.errstate(all="ignore"):
            mean, var = mean * share, var * share
            fine = bool((var + eps > 0).all())
        if not fine:
            raise DamagedFileError(f"{record.what}: variances that are not above 0; fetch the file again")
        return BatchNorm(np.ones_like(mean), np.zeros_like(mean), mean, var, eps)

    return build


def _scale(record: Record, bare: bool) -> Build:
    """By itself it is a BatchNorm whose statistics change nothing."""
    part = record.part("scale_param")
    _on_channels(record, part)
    if part.last("num_axes", 1) != 1:
        raise UnsupportedError(f"Scale over {part.last('num_axes', 1)} axes")
    bias = part.last("bias_term", False)

    def build(flows: Sequence[Flow]) -> Layer:
        arrays = _per_channel(record, bare, flows[0])
        gamma = arrays(0)
        none, one = np.zeros(gamma.shape, np.float32), np.ones(gamma.shape, np.float32)
        return BatchNorm(gamma, arrays(1) if bias else none, none, one, 0.0)

    return build


# Joining and flattening


def _concat(record: Record, bare: bool) -> Build:
    part = record.part("concat_param")
    _on_channels(record, part, part.last("concat_dim", 1))
    return _always(Concat())


def _eltwise(record: Record, bare: bool) -> Build:
    part = record.part("eltwise_param")
    how, coefficients = part.last("operation", "SUM"), part.all("coeff")
    if how != "SUM" or any(c != 1 for c in coefficients):
        raise UnsupportedError(f"Eltwise {how}" + (" with coefficients" if how == "SUM" else ""))

    def build(flows: Sequence[Flow]) -> Layer:
        if len({flow.maps for flow in flows}) > 1:
            raise UnsupportedError(f"{record.what}: a sum of maps that were flattened differently")
        return Add()

    return build


def _flatten(record: Record, bare: bool) -> Build:
    part = record.part("flatten_param")
    _on_channels(record, part)
    if part.last("end_axis", -1) not in (-1, 3):
        raise UnsupportedError(f"Flatten up to axis {part.last('end_axis', -1)}")
    return _always(Flatten())


def _reshape(record: Record, bare: bool) -> Build:
    """Only what flattens, or changes nothing."""
    part = record.part("reshape_param")
    dims = part.part("shape").all("dim")
    if part.last("axis", 0) != 0 or part.last("num_axes", -1) != -1 or not dims:
        raise UnsupportedError("Reshape of some axes")
    if not any(dims):
        return _always(None)
    if dims[0] != 0 or len(dims) < 2 or any(dim != 1 for dim in dims[2:]):
        raise UnsupportedError(f"Reshape to {' x '.join(map(str, dims[:8]))}")

    def build(flows: Sequence[Flow]) -> Layer:
        if dims[1] not in (-1, flows[0].count):
            raise UnsupportedError(f"{record.what}: Reshape of {flows[0].count} numbers to {dims[1]}")
        return Flatten()

    return build


PLANS: dict[str, Callable[[Record, bool], Build]] = {
    "BatchNorm": _batch_norm,
    "Concat": _concat,
    "Convolution": _convolution,
    "Deconvolution": _convolution,
    "Dropout": _dropout,
    "Eltwise": _eltwise,
    "Flatten": _flatten,
    "InnerProduct": _inner_product,
    "LRN": _lrn,
    "PReLU": _prelu,
    "Pooling": _pooling,
    "Power": _power,
    "ReLU": _relu,
    "Reshape": _reshape,
    "Scale": _scale,
    "Sigmoid": lambda record, bare: _always(Sigmoid()),
    "Softmax": _softmax,
    "Split": lambda record, bare: _always(None),
    "TanH": lambda record, bare: _always(Tanh()),
}
