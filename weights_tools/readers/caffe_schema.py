"""The fields of Caffe's messages that mean something to us, and one way to ask for them, binary or text.

A schema is {field: (its number on the wire, what it holds)}; what it holds is a Python type, a tuple of words
for an enumeration, or the schema of another message. All other fields of a file are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

from minidnn.errors import DamagedFileError
from weights_tools.prototxt import Block
from weights_tools.wire import Message

MAX_SIZE = 1 << 14  # of a map, a window, a stride: whatever is counted in pixels
MAX_COUNT = 1 << 24  # of what comes out of a layer
MAX_VALUES = 100_000  # of one field

Schema = dict[str, tuple[int, Any]]

SHAPE: Schema = {"dim": (1, int)}
RULE: Schema = {
    "phase": (1, ("TRAIN", "TEST")),
    "min_level": (2, int),
    "max_level": (3, int),
    "stage": (4, str),
    "not_stage": (5, str),
}  # fmt: skip
TRANSFORM: Schema = {
    "scale": (1, float),
    "crop_size": (3, int),
    "mean_file": (4, str),
    "mean_value": (5, float),
    "force_color": (6, bool),
    "force_gray": (7, bool),
}
CONVOLUTION: Schema = {
    "num_output": (1, int),
    "bias_term": (2, bool),
    "pad": (3, int),
    "kernel_size": (4, int),
    "group": (5, int),
    "stride": (6, int),
    "pad_h": (9, int),
    "pad_w": (10, int),
    "kernel_h": (11, int),
    "kernel_w": (12, int),
    "stride_h": (13, int),
    "stride_w": (14, int),
    "axis": (16, int),
    "dilation": (18, int),
}
POOLING: Schema = {
    "pool": (1, ("MAX", "AVE", "STOCHASTIC")),
    "kernel_size": (2, int),
    "stride": (3, int),
    "pad": (4, int),
    "kernel_h": (5, int),
    "kernel_w": (6, int),
    "stride_h": (7, int),
    "stride_w": (8, int),
    "pad_h": (9, int),
    "pad_w": (10, int),
    "global_pooling": (12, bool),
    "round_mode": (13, ("CEIL", "FLOOR")),
}
LRN: Schema = {
    "local_size": (1, int),
    "alpha": (2, float),
    "beta": (3, float),
    "norm_region": (4, ("ACROSS_CHANNELS", "WITHIN_CHANNEL")),
    "k": (5, float),
}
INNER_PRODUCT: Schema = {
    "num_output": (1, int), "bias_term": (2, bool), "axis": (5, int), "transpose": (6, bool)
}  # fmt: skip

# What a layer says for itself: the number of that among its fields, now and in the first version; its schema.
PARTS: dict[str, tuple[int, int | None, Schema]] = {
    "transform_param": (100, 36, TRANSFORM),
    "concat_param": (104, 9, {"concat_dim": (1, int), "axis": (2, int)}),
    "convolution_param": (106, 10, CONVOLUTION),
    "dropout_param": (108, 12, {"dropout_ratio": (1, float), "scale_train": (2, bool)}),
    "eltwise_param": (110, 24, {"operation": (1, ("PROD", "SUM", "MAX")), "coeff": (2, float)}),
    "inner_product_param": (117, 17, INNER_PRODUCT),
    "lrn_param": (118, 18, LRN),
    "memory_data_param": (119, 22, {"channels": (2, int), "height": (3, int), "width": (4, int)}),
    "pooling_param": (121, 19, POOLING),
    "power_param": (122, 21, {"power": (1, float), "scale": (2, float), "shift": (3, float)}),
    "relu_param": (123, 30, {"negative_slope": (1, float)}),
    "softmax_param": (125, 39, {"axis": (2, int)}),
    "prelu_param": (131, None, {"channel_shared": (2, bool)}),
    "reshape_param": (133, None, {"shape": (1, SHAPE), "axis": (2, int), "num_axes": (3, int)}),
    "flatten_param": (135, None, {"axis": (1, int), "end_axis": (2, int)}),
    "batch_norm_param": (139, None, {"use_global_stats": (1, bool), "eps": (3, float)}),
    "scale_param": (142, None, {"axis": (1, int), "num_axes": (2, int), "bias_term": (4, bool)}),
    "input_param": (143, None, {"shape": (1, SHAPE)}),
}
LAYER: Schema = {
    "name": (1, str),
    "type": (2, str),
    "bottom": (3, str),
    "top": (4, str),
    "include": (8, RULE),
    "exclude": (9, RULE),
} | {part: (now, schema) for part, (now, _, schema) in PARTS.items()}

# Types of layers of the first version in the order of their numbers, and what they are called now.
OLD_AND_NEW = """
NONE=None ACCURACY=Accuracy BNLL=BNLL CONCAT=Concat CONVOLUTION=Convolution DATA=Data DROPOUT=Dropout
EUCLIDEAN_LOSS=EuclideanLoss FLATTEN=Flatten HDF5_DATA=HDF5Data HDF5_OUTPUT=HDF5Output IM2COL=Im2col
IMAGE_DATA=ImageData INFOGAIN_LOSS=InfogainLoss INNER_PRODUCT=InnerProduct LRN=LRN
MULTINOMIAL_LOGISTIC_LOSS=MultinomialLogisticLoss POOLING=Pooling RELU=ReLU SIGMOID=Sigmoid SOFTMAX=Softmax
SOFTMAX_LOSS=SoftmaxWithLoss SPLIT=Split TANH=TanH WINDOW_DATA=WindowData ELTWISE=Eltwise POWER=Power
SIGMOID_CROSS_ENTROPY_LOSS=SigmoidCrossEntropyLoss HINGE_LOSS=HingeLoss MEMORY_DATA=MemoryData ARGMAX=ArgMax
THRESHOLD=Threshold DUMMY_DATA=DummyData SLICE=Slice MVN=MVN ABSVAL=AbsVal SILENCE=Silence
CONTRASTIVE_LOSS=ContrastiveLoss EXP=Exp DECONVOLUTION=Deconvolution
"""
TYPES = dict(pair.split("=") for pair in OLD_AND_NEW.split())
OLD_LAYER: Schema = {
    "layer": (1, {}),  # a layer of version 0
    "bottom": (2, str),
    "top": (3, str),
    "name": (4, str),
    "type": (5, tuple(TYPES)),
    "include": (32, RULE),
    "exclude": (33, RULE),
} | {part: (then, schema) for part, (_, then, schema) in PARTS.items() if then is not None}
NET: Schema = {
    "name": (1, str), "input": (3, str), "input_dim": (4, int), "input_shape": (8, SHAPE)
}  # fmt: skip


@dataclass(frozen=True)
class Fields:
    """The fields of one message by name, as Python values; a number is checked when it is asked for."""

    what: str  # which message, for errors
    values: dict[str, list[Any]]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def all(self, name: str) -> list[Any]:
        return self.values.get(name, [])

    def last(self, name: str, default: Any) -> Any:
        """A field that comes once: should it come again, the last counts."""
        values = self.values.get(name)
        return values[-1] if values else default

    def part(self, name: str) -> Fields:
        """A message within this one; where it is missing, one with nothing but defaults."""
        found = self.last(name, None)
        return Fields(self.what, {}) if found is None else found

    def whole(self, name: str, default: int, least: int = 1, most: int = MAX_SIZE) -> int:
        return self._whole(name, self.last(name, default), least, most)

    def wholes(self, name: str, least: int = 1, most: int = MAX_SIZE) -> list[int]:
        return [self._whole(name, value, least, most) for value in self.all(name)]

    def real(self, name: str, default: float) -> float:
        value = self.last(name, default)
        if not isfinite(value):
            raise DamagedFileError(
                f"{self.what}: {name!r} is {value}, expected a number; fetch the file again"
            )
        return value

    def _whole(self, name: str, value: int, least: int, most: int) -> int:
        if not least <= value <= most:
            wanted = f"expected a whole number from {least} to {most:,}"
            raise DamagedFileError(f"{self.what}: {name!r} is {value:,}, {wanted}; fetch the file again")
        return value


def from_wire(message: Message, schema: Schema) -> Fields:
    """Recurs along the schema, which ends, not along the file."""
    values = {}
    for name, (number, kind) in schema.items():
        if number in message:
            found = _unwired(message, name, number, kind)
            if len(found) > MAX_VALUES:
                raise DamagedFileError(f"{message.what}: {name!r} has {len(found):,} values; fetch it again")
            values[name] = found
    return Fields(message.what, values)


def _unwired(message: Message, name: str, number: int, kind: Any) -> list[Any]:
    if isinstance(kind, dict):
        return [from_wire(inner, kind) for inner in message.messages(number, name)]
    if kind is str:
        return message.texts(number)
    if kind is float:
        return message.reals(number)[: MAX_VALUES + 1].tolist()
    numbers = message.numbers(number)
    if isinstance(kind, tuple):
        return [kind[n] if 0 <= n < len(kind) else f"number {n}" for n in numbers]
    return [kind(n) for n in numbers]


def from_text(block: Block, schema: Schema, what: str) -> Fields:
    """The same from a prototxt; what a field holds is checked now, where its place in the file is known."""
    values: dict[str, list[Any]] = {}
    for name, (_, kind) in schema.items():
        if name in block.fields:
            values[name] = _untexted(block, name, kind, what)
    return Fields(what, values)


def _untexted(block: Block, name: str, kind: Any, what: str) -> list[Any]:
    if isinstance(kind, dict):
        return [from_text(inner, kind, f"{inner.at} {name}") for inner in block.blocks(name)]
    scalars = block.scalars(name)
    if kind is str:
        return [scalar.string() for scalar in scalars]
    if kind is float:
        return [scalar.real() for scalar in scalars]
    if kind is bool:
        return [scalar.flag() for scalar in scalars]
    if kind is int:
        return [scalar.whole() for scalar in scalars]
    return [
        kind[n] if scalar.kind == "number" and (n := scalar.whole()) in range(len(kind)) else scalar.text
        for scalar in scalars
    ]
