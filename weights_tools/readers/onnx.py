"""ONNX models as nets of ours: the graph is walked once, from the image to what it makes of it.

Axes are followed by name, not moved: transposes and reshapes vanish, and filters come into our order.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from minidnn.errors import (
    DamagedFileError,
    FileFormatError,
    MismatchError,
    ShapeError,
    TooLargeError,
    UnsupportedError,
    UsageError,
)
from minidnn.layers import ReLU, Sigmoid, Tanh
from minidnn.net import Net
from weights_tools.foreign import Foreign
from weights_tools.readers import onnx_arithmetic as arithmetic
from weights_tools.readers import onnx_layers as layers
from weights_tools.readers import onnx_places as places
from weights_tools.readers.onnx_build import INPUT, Builder, Lost
from weights_tools.readers.onnx_fold import folded, folds
from weights_tools.readers.onnx_layout import Seen
from weights_tools.readers.onnx_proto import FLOATS, Model, OnnxNode, Port, Source

NEWEST_OPSET = 28  # whose words for the operations below we have compared with ours
MAX_NODES = 10_000  # of the net that comes out, as in our own files
UINT8 = 2

OPERATIONS: dict[str, Callable[[Builder, OnnxNode], Seen]] = {
    "Add": arithmetic.add,
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Cast": layers.cast,
    "Clip": layers.clip,
    "Concat": arithmetic.concat,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "DepthToSpace": places.depth_to_space,
    "Div": arithmetic.divide,
    "Dropout": layers.dropout,
    "Flatten": places.reshape,
    "Gemm": arithmetic.gemm,
    "GlobalAveragePool": layers.global_average,
    "GlobalMaxPool": layers.global_max,
    "Identity": lambda net, node: net.map(node),
    "LRN": layers.lrn,
    "LeakyRelu": layers.leaky_relu,
    "MatMul": arithmetic.matmul,
    "MaxPool": layers.max_pool,
    "Mul": arithmetic.multiply,
    "PRelu": layers.prelu,
    "Pad": places.pad,
    "ReduceMean": places.reduce_mean,
    "Relu": layers.pointwise(ReLU),
    "Reshape": places.reshape,
    "Resize": places.upsample,
    "Sigmoid": layers.pointwise(Sigmoid),
    "Softmax": layers.softmax,
    "SpaceToDepth": places.space_to_depth,
    "Squeeze": places.reshape,
    "Sub": arithmetic.subtract,
    "Sum": arithmetic.add,
    "Tanh": layers.pointwise(Tanh),
    "Transpose": places.transpose,
    "Unsqueeze": places.reshape,
    "Upsample": places.upsample,
}
WANT_IMAGES = {  # with the channels as second axis
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool"),
    *("GlobalMaxPool", "LRN", "MaxPool", "Resize", "SpaceToDepth", "Upsample"),
}
KEEP_AXES = {
    *("Add", "Cast", "Clip", "Div", "Dropout", "Identity", "LeakyRelu", "Mul", "PRelu", "Pad", "Relu"),
    *("Sigmoid", "Sub", "Sum", "Tanh"),
}


def read(
    path: str | os.PathLike, *, input_size: tuple[int, int] | None = None, allow_external: bool = False
) -> Foreign:
    """The net of an ONNX file. `input_size` is the (h, w) of its images, where the file leaves that open;
    `allow_external` lets large tensors be read from other files in the same folder.
    """
    model = Model(Source(path, allow_external=allow_external))
    opset = _opset(model)
    nodes = _needed(model)
    uses = Counter([*model.outputs, *(name for node in nodes for name in node.inputs)])
    net = Builder(model, opset, uses)
    if model.opset is None:
        net.warnings[
            "the file does not say which version of ONNX (opset) it follows; took it for the first"
        ] = None
    port, image = _image(model, nodes, uses, input_size)
    net.values[port.name] = image
    net.sizes[INPUT] = net.checked(f"{path}: input {port.name!r}", image.size)
    net.known_as[INPUT] = [port.name]
    with np.errstate(all="ignore"):  # what is not a number is told when weights are checked
        _walk(net, nodes)
    return _foreign(net, image)


def _opset(model: Model) -> int:
    path, opset = model.source.path, model.opset
    if opset is not None and not 1 <= opset <= NEWEST_OPSET:
        raise UnsupportedError(
            f"{path}: opset {opset}; we read 1 to {NEWEST_OPSET}: convert it with onnx.version_converter"
        )
    if model.sparse:
        raise UnsupportedError(f"{path}: {model.sparse} sparse tensors; save them as whole ones")
    return opset or 1


def _needed(model: Model) -> list[OnnxNode]:
    """The nodes that the outputs are computed from, in the order of the file."""
    wanted, nodes = set(model.outputs), []
    if not wanted:
        raise DamagedFileError(f"{model.source.path}: the graph has no outputs; fetch it again")
    for node in reversed(model.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(filter(None, node.inputs))
            nodes.append(node)
    if len(nodes) == 0:
        raise DamagedFileError(f"{model.source.path}: no node makes {model.outputs}; fetch it again")
    return nodes[::-1]


def _image(
    model: Model, nodes: Sequence[OnnxNode], uses: Counter[str], input_size: tuple[int, int] | None
) -> tuple[Port, Seen]:
    """The one input that is no weight, as a map of ours."""
    path = model.source.path
    ports = [port for port in model.inputs if port.name not in model.initializers and uses[port.name]]
    if len(ports) != 1:
        names = ", ".join(repr(port.name) for port in ports[:10]) or "none"
        raise UnsupportedError(f"{path}: {len(ports)} inputs ({names}); we run nets of one image")
    port = ports[0]
    if port.kind not in (*FLOATS, UINT8):
        raise UnsupportedError(f"{path}: input {port.name!r} of type {port.kind}; we run nets of images")
    rank = len(port.dims)
    if rank not in (2, 3, 4):
        raise UnsupportedError(f"{path}: input {port.name!r} of {rank} axes {port.dims}; images have 4")
    order = _order(port, nodes) if rank == 4 else "c" if rank == 2 else "hw"
    size = dict(zip(order, port.dims[1:], strict=True))
    if input_size is not None and min(input_size) < 1:
        found = "x".join(map(str, input_size))
        raise UsageError(f"{path}: an input size of {found}; give two numbers of at least 1")
    if input_size is not None and rank > 2:
        size["h"], size["w"] = input_size
    if None in size.values():
        found = "x".join(str(n or "?") for n in port.dims)
        if size.get("c", 1) is None:
            raise UsageError(
                f"{path}: input {port.name!r} is {found}, its channels are left open; save it again"
            )
        raise UsageError(
            f"{path}: input {port.name!r} is {found}; give the size of the images: --input-size HxW"
        )
    h, w, c = (size.get(letter) or 1 for letter in "hwc")
    return port, Seen.of(INPUT, port.dims[0] or 1, (h, w, c), order)


def _order(port: Port, nodes: Iterable[OnnxNode]) -> str:
    """In which order the input has rows, columns and channels: as the first layer tells that wants them."""
    views = {port.name: (0, 1, 2, 3)}
    for node in nodes:
        view = next((views[name] for name in node.inputs if name in views), None)
        if view is None:
            continue
        if node.op in WANT_IMAGES and view[0] == 0:
            return "".join("chw"[view.index(axis) - 1] for axis in (1, 2, 3))
        perm = tuple(node.integers("perm") or (3, 2, 1, 0))
        if node.op == "Transpose" and sorted(perm) == [0, 1, 2, 3]:
            views[node.outputs[0]] = tuple(view[i] for i in perm)  # type: ignore[assignment]
        elif node.op in KEEP_AXES:
            views[node.outputs[0]] = view
    rows, cols, last = port.dims[1:]
    return "hwc" if last in (1, 3) and all(n is None or n > 4 for n in (rows, cols)) else "chw"


def _walk(net: Builder, nodes: Iterable[OnnxNode]) -> None:
    """Make every node; what we lack is collected, so that it is told all at once."""
    lacking: dict[str, list[str]] = {}
    for node in nodes:
        made: list[Seen | np.ndarray | None] = []
        try:
            made = [_shown(net, node, _made(net, node))]
        except UnsupportedError as error:
            lacking.setdefault(str(error), []).append(node.name or node.outputs[0])
        except Lost:
            pass
        except (ShapeError, UsageError) as error:
            raise MismatchError(f"{node.where}: {error}") from None
        net.bind(node, made)
        if len(net.nodes) > MAX_NODES:
            raise TooLargeError(
                f"{net.source.path}: more than {MAX_NODES:,} layers; not a net that we could run"
            )
    if lacking:
        parts = [f"{what} ({_places(names)})" for what, names in lacking.items()]
        raise UnsupportedError(
            f"{net.source.path}: {len(parts)} things that we do not have: {'; '.join(parts)}; "
            "export the model without them"
        )


def _places(names: Sequence[str]) -> str:
    return f"{names[0]!r}" if len(names) == 1 else f"{names[0]!r} and {len(names) - 1} more"


def _made(net: Builder, node: OnnxNode) -> Seen | np.ndarray:
    if node.domain not in ("", "ai.onnx"):
        raise UnsupportedError(f"{node.op} of {node.domain!r}")
    if not node.outputs or any(net.uses[name] for name in node.outputs[1:] if name):
        raise UnsupportedError(f"{node.op} with more than one output")
    if folds(net, node):
        return folded(net, node)
    if node.op not in OPERATIONS:
        raise UnsupportedError(node.op)
    return OPERATIONS[node.op](net, node)


def _shown(net: Builder, node: OnnxNode, value: Seen | np.ndarray) -> Seen | np.ndarray:
    """An output of the whole graph is not only looked at in another way: its pixels are where they belong."""
    if not isinstance(value, Seen) or node.outputs[0] not in net.model.outputs:
        return value
    if any(value.pad):
        value = net.with_pad(node, value)
    if len(value.axes) == 3 and not any(map(value.lies_as, arithmetic.SIDE_BY_SIDE)):
        return net.as_image(node, value, suffix="")
    return value


def _foreign(net: Builder, image: Seen) -> Foreign:
    model, path = net.model, net.source.path
    outputs = [net.values.get(name) for name in model.outputs]
    for name, output in zip(model.outputs, outputs, strict=True):
        if not isinstance(output, Seen):
            raise MismatchError(f"{path}: output {name!r} does not depend on the image; fetch the file again")
    if not net.nodes:
        raise FileFormatError(f"{path}: no layers in it; name a model that computes something")
    names = {INPUT, *net.nodes}
    aliases = {
        alias: name for name, known in net.known_as.items() for alias in known if alias and alias not in names
    }
    steps = [what if count == 1 else f"{what}, {count} times" for what, count in net.done.items()]
    hints = {
        "name": model.name,
        "producer": model.producer,
        "opset": model.opset,
        "input_size": image.size[:2],
        "outputs": [output.node for output in outputs if isinstance(output, Seen)],
    }
    try:
        made = Net(net.nodes.values(), INPUT, input_shape=image.size, aliases=aliases)
    except (ShapeError, UsageError) as error:
        raise MismatchError(f"{path}: {error}") from None
    return Foreign("ONNX", net=made, steps=steps, warnings=list(net.warnings), hints=hints)
