"""Our nets as files that onnxruntime and ncnn read, written by hand: no library comes between."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.peers import both_pads
from minidnn.graph import Node
from minidnn.layers import FC, LRN, AvgPool, Concat, Conv, Dropout, GlobalAvgPool, MaxPool, ReLU, Softmax
from minidnn.net import Net
from tests import onnxwriter

Run = Callable[[], np.ndarray]


def onnxruntime_forward(net: Net, x: np.ndarray, target: str, threads: int, folder: Path) -> Run:
    """Forward to the target by onnxruntime on the CPU."""
    import onnxruntime

    path = write_onnx(net, x.shape, target, folder / "net.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # it would steal the others' turns
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return lambda: session.run(None, {"x": image})[0].transpose(0, 2, 3, 1)


def ncnn_forward(net: Net, x: np.ndarray, target: str, threads: int, folder: Path) -> Run:
    """Forward to the target by ncnn in float32, an image at a time: it knows no batches."""
    import ncnn

    write_ncnn(net, target, folder)
    loaded = ncnn.Net()
    loaded.opt.num_threads = threads
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(loaded.opt, f"use_{name}", False)
    loaded.load_param(str(folder / "net.param"))
    loaded.load_model(str(folder / "net.bin"))
    planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    images = [ncnn.Mat(image).clone() for image in planes]  # a Mat alone does not hold on to its array

    def forward() -> np.ndarray:
        outs = []
        for image in images:
            extractor = loaded.create_extractor()
            extractor.input("data", image)
            y = np.array(extractor.extract(target)[1])
            outs.append(y.reshape(-1, 1, 1) if y.ndim == 1 else y)
        return np.stack(outs).transpose(0, 2, 3, 1)

    return forward


def write_onnx(net: Net, x_shape: tuple[int, ...], target: str, path: Path) -> Path:
    """The nodes that the target needs, as ONNX operators."""
    nodes, constants = [], {}
    for node in _needed(net, target):
        name, reads, layer = node.name, " ".join(_port(net, one) for one in node.inputs), node.layer
        if isinstance(layer, Conv):
            constants[f"{name}/w"] = np.ascontiguousarray(layer.w.transpose(3, 2, 0, 1))
            constants[f"{name}/b"] = _bias(layer)
            about = {"kernel_shape": layer.window.kernel, "strides": layer.window.stride}
            about |= {"pads": both_pads(layer.window) * 2, "group": layer.groups}
            nodes.append(onnxwriter.node("Conv", f"{reads} {name}/w {name}/b", name, **about))
        elif isinstance(layer, FC):
            constants[f"{name}/w"] = layer.w.transpose(2, 0, 1, 3).reshape(-1, layer.w.shape[3])
            constants[f"{name}/b"] = _bias(layer)
            nodes.append(onnxwriter.node("Flatten", reads, f"{name}/flat"))
            nodes.append(onnxwriter.node("Gemm", f"{name}/flat {name}/w {name}/b", f"{name}/row"))
            constants[f"{name}/shape"] = np.array([-1, layer.w.shape[3], 1, 1])
            nodes.append(onnxwriter.node("Reshape", f"{name}/row {name}/shape", name))
        else:
            nodes.append(onnxwriter.node(*_onnx_plain(layer, reads), name, **_onnx_about(layer)))
    n, h, w, c = x_shape
    return onnxwriter.write(path, nodes, constants, x=(n, c, h, w), y=(target,))


def _onnx_plain(layer: object, reads: str) -> tuple[str, str]:
    names = {
        ReLU: "Relu",
        MaxPool: "MaxPool",
        AvgPool: "AveragePool",
        GlobalAvgPool: "GlobalAveragePool",
        LRN: "LRN",
        Concat: "Concat",
        Softmax: "Softmax",
        Dropout: "Identity",
    }
    return names[type(layer)], reads


def _onnx_about(layer: object) -> dict[str, object]:
    if isinstance(layer, MaxPool | AvgPool):
        window = layer.window
        about: dict[str, object] = {"kernel_shape": window.kernel, "strides": window.stride}
        about |= {"pads": both_pads(window) * 2, "ceil_mode": int(window.ceil)}
        if isinstance(layer, AvgPool):
            about["count_include_pad"] = int(layer.divisor == "padded")
        return about
    if isinstance(layer, LRN):
        scale = float(layer.alpha * layer.size)
        return {"size": layer.size, "alpha": scale, "beta": float(layer.beta), "bias": float(layer.kappa)}
    return {"axis": 1} if isinstance(layer, Concat | Softmax) else {}


def write_ncnn(net: Net, target: str, folder: Path) -> None:
    """net.param, a line for each layer, and net.bin; a ReLU goes with its convolution, as ncnn's tools do."""
    needed, lines = _needed(net, target), ["Input data 0 1 data"]
    fused = {
        node.inputs[0]: node.name
        for node in needed
        if isinstance(node.layer, ReLU)
        and node.inputs[0] != net.input
        and isinstance(net.node(node.inputs[0]).layer, Conv | FC)
    }
    made = {node.name: fused.get(node.name, node.name) for node in needed}
    readers: dict[str, list[str]] = {}
    for node in needed:
        if node.name not in fused.values():
            for one in node.inputs:
                readers.setdefault(one, []).append(node.name)
    blobs = 1
    with (folder / "net.bin").open("wb") as weights:
        for node in needed:
            if node.name in fused.values():
                continue
            reads = [f"{one}:{node.name}" if len(readers[one]) > 1 else one for one in node.inputs]
            kind, about = _ncnn_layer(node, node.name in fused)
            y = made[node.name]
            lines.append(f"{kind} {node.name} {len(reads)} 1 {' '.join(reads)} {y} {about}")
            blobs += 1
            if isinstance(node.layer, Conv | FC):
                w = node.layer.w.transpose(3, 2, 0, 1)
                weights.write(struct.pack("<i", 0) + w.astype("<f4").tobytes() + _bias(node.layer).tobytes())
            if len(readers.get(y, ())) > 1:
                copies = [f"{y}:{reader}" for reader in readers[y]]
                lines.append(f"Split split_{y} 1 {len(copies)} {y} {' '.join(copies)}")
                blobs += len(copies)
    head = f"7767517\n{len(lines)} {blobs}\n"
    (folder / "net.param").write_text(head + "\n".join(lines) + "\n")


def _ncnn_layer(node: Node, relu: bool) -> tuple[str, str]:
    """Its name there, and its numbered settings."""
    layer = node.layer
    if isinstance(layer, Conv):
        (kh, kw), (sy, sx), (top, left) = layer.window.kernel, layer.window.stride, both_pads(layer.window)
        place = f"0={layer.w.shape[3]} 1={kw} 11={kh} 3={sx} 13={sy} 4={left} 14={top}"
        return "Convolution", f"{place} 5=1 6={layer.w.size} 9={int(relu)}"
    if isinstance(layer, FC):
        return "InnerProduct", f"0={layer.w.shape[3]} 1=1 2={layer.w.size} 9={int(relu)}"
    if isinstance(layer, MaxPool | AvgPool):
        (kh, kw), (sy, sx), (top, left) = layer.window.kernel, layer.window.stride, both_pads(layer.window)
        mode = 0 if layer.window.ceil else 1
        place = f"1={kw} 11={kh} 2={sx} 12={sy} 3={left} 13={top} 14={left} 15={top} 5={mode}"
        return "Pooling", f"0={int(isinstance(layer, AvgPool))} {place}"
    if isinstance(layer, LRN):
        scale = layer.alpha * layer.size
        return "LRN", f"0=0 1={layer.size} 2={scale:.9g} 3={layer.beta:.9g} 4={layer.kappa:.9g}"
    plain = {
        GlobalAvgPool: ("Pooling", "0=1 4=1"),
        ReLU: ("ReLU", ""),
        Concat: ("Concat", "0=0"),
        Softmax: ("Softmax", "0=0"),
        Dropout: ("Noop", ""),
    }
    return plain[type(layer)]


def _needed(net: Net, target: str) -> list[Node]:
    asked = net.ancestors([target])
    return [node for node in net.nodes if node.name in asked]


def _port(net: Net, name: str) -> str:
    return "x" if name == net.input else name


def _bias(layer: Conv | FC) -> np.ndarray:
    return np.zeros(layer.w.shape[3], "float32") if layer.b is None else layer.b
