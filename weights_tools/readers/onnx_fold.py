"""What ONNX computes from constants and shapes alone: done while reading, and never seen again.

Exporters write shapes as little programs (Shape, Gather, Concat, Reshape). Views cost nothing; whatever
would be allocated is counted first.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from minidnn.errors import DamagedFileError, MismatchError, UnsupportedError
from weights_tools.readers.onnx_build import Builder
from weights_tools.readers.onnx_layout import Seen
from weights_tools.readers.onnx_proto import BFLOAT16, MAX_RANK, TYPES, OnnxNode


def constant(net: Builder, node: OnnxNode) -> np.ndarray:
    if "value" in node.attributes:
        return node.tensor("value")
    if "value_float" in node.attributes:
        return np.array(node.real("value_float", 0), np.float32)
    if "value_int" in node.attributes:
        return np.array(node.integer("value_int", 0), np.int64)
    if "value_ints" in node.attributes:
        return np.array(node.integers("value_ints"), np.int64)
    if "value_floats" in node.attributes:
        return node.attributes["value_floats"].reals(7)
    raise UnsupportedError("Constant of text, or sparse")


def constant_of_shape(net: Builder, node: OnnxNode, shape: np.ndarray) -> np.ndarray:
    fill = node.tensor("value").reshape(-1) if "value" in node.attributes else np.zeros(1, np.float32)
    sizes = [int(n) for n in shape.reshape(-1)[: MAX_RANK + 1]]
    if len(fill) != 1 or len(sizes) > MAX_RANK or any(n < 1 for n in sizes):
        raise MismatchError(f"{node.where} makes a shape {sizes} of {len(fill)} values; fetch the file again")
    net.source.take(prod(sizes) * fill.itemsize, node.where)
    return np.full(sizes, fill[0])


def shape(net: Builder, node: OnnxNode) -> np.ndarray:
    value = net.value(node, 0)
    sizes = value.shape if value is not None else ()
    start, end = node.integer("start", 0), node.integer("end", len(sizes))
    return np.array(sizes[start:end], np.int64)


def cast(net: Builder, node: OnnxNode, x: np.ndarray) -> np.ndarray:
    to = node.integer("to", 1)
    if to not in TYPES or to == BFLOAT16:
        raise UnsupportedError(f"Cast to type {to}")
    dtype = np.dtype("?" if to == 9 else TYPES[to][0])
    net.source.take(x.size * dtype.itemsize, node.where)
    return x.astype(dtype)


def gather(net: Builder, node: OnnxNode, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    axis = node.integer("axis", 0)
    net.source.take(x.size // max(1, x.shape[axis]) * index.size * x.itemsize, node.where)
    return np.take(x, index, axis)


def cut(net: Builder, node: OnnxNode, x: np.ndarray, *_: np.ndarray | None) -> np.ndarray:
    """Slice: from starts to ends along axes, in steps."""
    starts, ends = net.listed(node, "starts", 1) or [], net.listed(node, "ends", 2) or []
    axes = net.listed(node, "axes", 3) or list(range(len(starts)))
    steps = net.listed(node, "steps", 4) or [1] * len(starts)
    slices = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0 and end < -x.shape[axis]:  # beyond the first, going down
            slices[axis] = slice(start, None, step)
        else:
            slices[axis] = slice(start, end, step)
    return x[tuple(slices)]


def concat(net: Builder, node: OnnxNode, *parts: np.ndarray) -> np.ndarray:
    net.source.take(sum(part.nbytes for part in parts), node.where)
    return np.concatenate(parts, axis=node.integer("axis", 1))


def reshape(net: Builder, node: OnnxNode, x: np.ndarray, *_: np.ndarray | None) -> np.ndarray:
    wanted = new_shape(net, node, x.shape)
    net.source.take(0 if x.flags.c_contiguous else x.nbytes, node.where)
    return x.reshape(wanted)


def transpose(net: Builder, node: OnnxNode, x: np.ndarray) -> np.ndarray:
    return x.transpose(node.integers("perm"))


def arithmetic(operation: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """An operation number by number, on constants."""

    def folded(net: Builder, node: OnnxNode, *parts: np.ndarray) -> np.ndarray:
        shape = np.broadcast_shapes(*(part.shape for part in parts))
        net.source.take(8 * prod(shape), node.where)
        result = operation(
            *(aligned(net, node, part, len(shape)) if i else part for i, part in enumerate(parts))
        )
        return result.astype(parts[0].dtype, copy=False)

    return folded


def divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return a / b
    if not np.all(b):
        raise ZeroDivisionError("division by 0")
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))  # ONNX cuts towards 0


def aligned(net: Builder, node: OnnxNode, x: np.ndarray, rank: int) -> np.ndarray:
    """The second operand in files of before opset 7, which say at which axis it begins."""
    if net.opset >= 7 or "axis" not in node.attributes or not x.ndim:
        return x
    axis = node.integer("axis", 0)
    axis += rank if axis < 0 else 0
    if not 0 <= axis <= rank - x.ndim:
        raise MismatchError(f"{node.where}: {x.shape} at axis {axis} of {rank}; fetch the file again")
    return x.reshape(x.shape + (1,) * (rank - axis - x.ndim))


def new_shape(net: Builder, node: OnnxNode, old: tuple[int, ...]) -> tuple[int, ...]:
    """What Reshape, Flatten, Squeeze and Unsqueeze make of a shape."""
    if node.op == "Reshape":
        return _resolved(node, net.listed(node, "shape", 1), old)
    if node.op == "Flatten":
        axis = node.integer("axis", 1)
        return prod(old[:axis]), prod(old[axis:])
    axes = net.listed(node, "axes", 1)
    if node.op == "Squeeze":
        gone = [i for i, n in enumerate(old) if n == 1] if axes is None else _axes(node, axes, len(old))
        if any(old[i] != 1 for i in gone):
            raise MismatchError(f"{node.where} of {old} along {gone}: not of size 1; fetch the file again")
        return tuple(n for i, n in enumerate(old) if i not in gone)
    rank = len(old) + len(axes or ())
    new, rest = set(_axes(node, axes or [], rank)), iter(old)
    if len(new) != len(axes or ()):
        raise MismatchError(f"{node.where} along {axes}: one axis twice; fetch the file again")
    return tuple(1 if i in new else next(rest) for i in range(rank))


def _axes(node: OnnxNode, axes: list[int], rank: int) -> list[int]:
    if any(not -rank <= axis < rank for axis in axes) or rank > MAX_RANK:
        raise MismatchError(f"{node.where}: axes {axes} of {rank}; fetch the file again")
    return [axis % rank for axis in axes]


def _resolved(node: OnnxNode, wanted: list[int] | None, old: tuple[int, ...]) -> tuple[int, ...]:
    """A shape in which 0 stands for the old size, and -1 for what is left."""
    if wanted is None:
        raise DamagedFileError(f"{node.where} has no shape; fetch the file again")
    if node.integer("allowzero", 0) and 0 in wanted:
        raise UnsupportedError("Reshape to nothing")
    if wanted.count(-1) > 1 or any(n < -1 for n in wanted) or len(wanted) > MAX_RANK:
        raise DamagedFileError(
            f"{node.where} to {wanted}: one -1 at most, and else sizes; fetch the file again"
        )
    if any(n == 0 and i >= len(old) for i, n in enumerate(wanted)):
        raise MismatchError(f"{node.where} of {old} to {wanted}: there is no such axis; fetch the file again")
    sizes = [old[i] if n == 0 else n for i, n in enumerate(wanted)]
    rest = prod(n for n in sizes if n != -1)
    if -1 in sizes:
        sizes[sizes.index(-1)] = prod(old) // max(1, rest)
    if prod(sizes) != prod(old):
        raise MismatchError(f"{node.where} of {old} to {wanted}: not the same count; fetch the file again")
    return tuple(sizes)


FOLDS: dict[str, Callable[..., np.ndarray]] = {
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Shape": shape,
    "Size": lambda net, node: np.array(prod(shape(net, node).tolist()), np.int64),
    "Identity": lambda net, node, x: x,
    "Dropout": lambda net, node, x, *_: x,
    "Cast": cast,
    "Gather": gather,
    "Slice": cut,
    "Concat": concat,
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Add": arithmetic(np.add),
    "Sub": arithmetic(np.subtract),
    "Mul": arithmetic(np.multiply),
    "Div": arithmetic(divided),
    "Neg": arithmetic(np.negative),
    "Sqrt": arithmetic(np.sqrt),
    "Reciprocal": arithmetic(np.reciprocal),
    "Floor": arithmetic(np.floor),
    "Ceil": arithmetic(np.ceil),
}
ANYWAY = ("Shape", "Size", "Constant")  # foldable whatever they read


def folds(net: Builder, node: OnnxNode) -> bool:
    """Whether this can be computed now."""
    if node.op in ANYWAY:
        return True
    return node.op in FOLDS and not any(isinstance(net.value(node, i), Seen) for i in range(len(node.inputs)))


def folded(net: Builder, node: OnnxNode) -> np.ndarray:
    inputs = () if node.op in ANYWAY else tuple(net.value(node, i) for i in range(len(node.inputs)))
    try:
        return FOLDS[node.op](net, node, *inputs)
    except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise MismatchError(
            f"{node.where}: its constants do not fit ({error}); fetch the file again"
        ) from None
