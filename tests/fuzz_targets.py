"""What tests.fuzz damages: real files, and small ones in the formats of which no real one is small."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

import h5py
import numpy as np

from minidnn import images, weights, zoo
from minidnn.net import Net
from tests import mutations
from tests.caffewriter import blob
from tests.longworker import ROOT
from tests.mutations import Mutation
from weights_tools import jobs, reading, writers
from weights_tools.wiring import graph_text
from weights_tools.writers import npz, safetensors

DATA = Path(os.environ.get("MINIDNN_TEST_DATA") or ROOT.parent / "shared" / "data")


class Target(NamedTuple):
    """The first file is damaged, the others stay as they are; of `weight` depends how often it is taken."""

    change: Mutation
    files: tuple[str, ...]
    weight: int = 4
    half: bool = False
    arch: str | None = None  # for arrays that do not say what net they are

    def run(self, paths: list[Path], output: Path, rng: Random, has_read: Callable[[], object]) -> str:
        """Convert as it is done behind the wall, check what came of it, and give the report."""
        if self.files[0].endswith(IMAGES):
            pixels = images.load(paths[0])
            assert np.isfinite(pixels).all() and pixels.ndim == 4
            return ""
        if self.files[0].endswith(".binaryproto"):
            assert reading.mean_picture(paths[0]).ndim == 3
            return ""
        if self.files[0].endswith(WIRINGS):
            return converted(paths[1:], output, rng, has_read, str(paths[0]))
        return converted(paths, output, rng, has_read, self.arch)


WIRINGS = (".json", ".wiring.prototxt")
IMAGES = (".png", ".jpg", ".JPEG", ".gif", ".bmp", ".tiff", ".webp")


def converted(
    paths: list[Path], output: Path, rng: Random, has_read: Callable[[], object], arch: str | None
) -> str:
    options = {"arch": arch, "preprocessing": "none", "dtype": rng.choice(["float32"] * 7 + ["float16"])}
    options["settings"] = {"activation": "relu", "pool": "max"} if arch == "lenet5" else {}
    job = {"do": "convert", "what": paths[0].name, "inputs": [str(path) for path in paths]}
    job |= {"output": str(output), "options": options}
    read, reading.read = reading.read, lambda *a, **k: (read(*a, **k), has_read())[0]
    try:
        if rng.random() < 0.1:
            return str(jobs.do(job | {"do": "inspect"})["text"])
        report = str(jobs.do(job)["report"])
    finally:
        reading.read = read
    found = weights.verify(output)
    assert found.is_sound, found.findings
    weights.Weights.open(output).load()  # which says no to what is not finite
    return report


READERS: dict[str, list[Target]] = {
    "caffe": [
        Target(mutations.in_message, ("caffe/mtcnn_det1.caffemodel",)),
        Target(mutations.in_message, ("caffe/mtcnn_det1.caffemodel", "caffe/mtcnn_det1.prototxt")),
        Target(
            mutations.in_message, ("caffe/lenet_mnist.caffemodel", "caffe/lenet_mnist_deploy.prototxt"), 1
        ),
        Target(mutations.in_message, ("made/mean.binaryproto",), 1),
    ],
    "prototxt": [
        Target(mutations.in_text, ("caffe/mtcnn_det1.prototxt", "caffe/mtcnn_det1.caffemodel")),
        Target(mutations.in_text, ("caffe/mtcnn_det2.prototxt", "caffe/mtcnn_det2.caffemodel"), 2),
        Target(mutations.in_text, ("caffe/lenet_mnist_deploy.prototxt", "caffe/lenet_mnist.caffemodel"), 1),
    ],
    "caffe-h5": [
        Target(
            mutations.in_hdf5,
            ("caffe/cifar10_quick_iter_5000.caffemodel.h5", "caffe/cifar10_quick_deploy.prototxt"),
        )
    ],
    "keras": [
        Target(mutations.in_hdf5, ("keras/fer2013_mini_XCEPTION.102-0.66.hdf5",)),
        Target(mutations.in_hdf5, ("squeezenet/squeezenet_v1.1_keras_notop.h5",), 1, arch="squeezenet1.1"),
        Target(mutations.in_zip, ("made/small.keras",)),
    ],
    "mat73": [
        Target(mutations.in_hdf5, ("matconvnet/dncnn_gray_sigma25.mat",), 2),
        Target(mutations.in_hdf5, ("matconvnet/dncnn_dagnn_epoch50.mat",), 1),
        Target(mutations.in_hdf5, ("made/small73.mat",), 12),
    ],
    "mat5": [
        Target(mutations.in_mat5, ("matconvnet/ffdnet_gray_retrained_matv5.mat",), 1),
        Target(mutations.in_mat5, ("made/small5.mat",), 3),
        Target(mutations.in_mat5, ("made/packed5.mat",), 3),
    ],
    "onnx": [
        Target(mutations.in_message, ("onnx/mnist_cntk.onnx",)),
        Target(mutations.in_message, ("onnx/super_resolution.onnx",), 1),
    ],
    "torch-legacy": [
        Target(mutations.in_pickle, ("pytorch/vgg19_small16x_e1_base.pth",), arch="vgg19"),
        Target(mutations.in_pickle, ("pytorch/vgg19_small16x_e2_base.pth",), arch="vgg19"),
        Target(mutations.in_pickle, ("pytorch/lenet_mnist_cnn.pt",), 2, arch="lenet5"),
        Target(mutations.in_pickle, ("pytorch/resnet20-12fca82f.th",), 1),
    ],
    "torch-zip": [
        Target(mutations.in_zip, ("made/small.pth",), 8, arch="lenet5"),
        Target(mutations.in_zip, ("squeezenet/squeezenet1_1_torchvision.pth",), 1),
    ],
    "lasagne": [
        Target(mutations.in_pickle, ("made/small.params",), 8, arch="lenet5"),
        Target(mutations.in_pickle, ("squeezenet/squeezenet_v1.1_places365_lasagne.params",), 1),
    ],
    "safetensors": [
        Target(mutations.in_safetensors, ("safetensors/mnist_denograd.safetensors",)),
        Target(mutations.in_safetensors, ("made/small.safetensors",), arch="lenet5"),
    ],
    "npz": [
        Target(mutations.in_zip, ("made/small.npz",), arch="lenet5"),
        Target(mutations.in_head, ("made/one.npy",), 1),
    ],
    "wiring": [
        Target(mutations.blind, ("made/small.json", "made/small.npz")),
        Target(mutations.blind, ("made/small.wiring.prototxt", "made/small.npz")),
    ],
    "minidnn": [
        Target(mutations.in_hdf5, ("made/small.h5",)),
        Target(mutations.in_hdf5, ("made/half.h5",), half=True),
    ],
    "image": [
        Target(mutations.blind, ("datasets/small_samples/cifar10_00_3.png",)),
        Target(mutations.blind, ("datasets/imagenet_samples/0128_n02002724_black_stork.JPEG",)),
        Target(mutations.blind, ("made/small.gif",)),
        Target(mutations.blind, ("made/small.tiff",)),
        Target(mutations.blind, ("made/small.webp",)),
        Target(mutations.blind, ("made/small.bmp",)),
    ],
}


def small() -> list[str]:
    """Files to take an end from."""
    return [
        "made/small.h5",
        "made/small5.mat",
        "made/small.npz",
        "caffe/mtcnn_det1.caffemodel",
        "onnx/mnist_cntk.onnx",
    ]


@cache
def bytes_of(name: str) -> bytes:
    if name.startswith("made/"):
        return _made(name.removeprefix("made/"))
    return next(path for path in (DATA / "models" / name, DATA / name) if path.exists()).read_bytes()


def put(target: Target, data: bytes, folder: Path) -> list[Path]:
    """The damaged file and those that belong to it."""
    paths = [folder / Path(name).name for name in target.files]
    paths[0] = paths[0].with_stem("mutant")
    for path, content in zip(paths, [data, *map(bytes_of, target.files[1:])], strict=True):
        path.write_bytes(content)
    return paths


def put_canary(folder: Path, words: str) -> None:
    """Two files that nobody may look at, and nobody write beside."""
    folder.mkdir()
    secret = (words * 4096).encode()[:65_536]
    (folder / "secret.txt").write_bytes(secret)
    with h5py.File(folder / "secret.h5", "w") as file:
        file["secret"] = np.frombuffer(secret, "f4")


def import_readers() -> None:
    """What is imported now is not counted as needed by the first file."""
    import weights_tools.readers

    for package in (weights_tools.readers, writers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


@cache
def _net() -> Net:
    return zoo.get("lenet5", seed=0)


def _made(name: str) -> bytes:
    """A small sound file of that name."""
    if name.endswith((".gif", ".tiff", ".webp", ".bmp")):
        from PIL import Image

        held = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8)
        Image.fromarray(pixels).save(held, name.rpartition(".")[2].upper())
        return held.getvalue()
    import tempfile

    with tempfile.TemporaryDirectory(prefix="minidnn-") as folder:
        path = Path(folder) / name
        MAKERS[name](path)
        return path.read_bytes()


def _conv(name: str, reads: str, k: int) -> str:
    said = f"convolution_param {{ num_output: {k} kernel_size: 5 }}"
    return f'layer {{ name: "{name}" type: "Convolution" bottom: "{reads}" top: "{name}" {said} }}\n'


def _pool(name: str, reads: str) -> str:
    said = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
    return f'layer {{ name: "{name}" type: "Pooling" bottom: "{reads}" top: "{name}" {said} }}\n'


def _dense(name: str, reads: str, k: int) -> str:
    said = f"inner_product_param {{ num_output: {k} }}"
    return f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{reads}" top: "{name}" {said} }}\n'


LENET5 = (
    'input: "data"\ninput_shape { dim: 1 dim: 1 dim: 32 dim: 32 }\n'
    + "".join([_conv("c1", "data", 6), _pool("s2", "c1"), _conv("c3", "s2", 16), _pool("s4", "c3")])
    + "".join([_conv("c5", "s4", 120), _dense("f6", "c5", 84), _dense("output", "f6", 10)])
)


def _torch_arrays() -> dict[str, np.ndarray]:
    found = {}
    for name, array in _net().params.items():
        layer, key = name.rsplit("/", 1)
        found[f"{layer}.{'weight' if key == 'w' else 'bias'}"] = (
            array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        )
    return found


def _pth(path: Path) -> None:
    """As torch.save does it, from the pieces that the reader's tests have."""
    from tests.test_reader_pytorch import named, tensor, zipped

    arrays = {name: np.ascontiguousarray(array, "<f4") for name, array in _torch_arrays().items()}
    tensors = {name: tensor(str(i), a.size, a.shape) for i, (name, a) in enumerate(arrays.items())}
    zipped(path, named(tensors), {str(i): a.tobytes() for i, a in enumerate(arrays.values())})


def _keras(path: Path) -> None:
    from tests import keraswriter as k

    rng = np.random.default_rng(0)
    layers = [
        k.image(8, 9, 3),
        k.said(
            "Conv2D",
            "conv",
            "pic",
            arrays=(rng.normal(size=(3, 2, 3, 5)), rng.normal(size=5)),
            kernel_size=[3, 2],
        ),
        k.said("BatchNormalization", "bn", "conv", arrays=tuple(rng.uniform(1, 2, (4, 5)))),
        k.said("Activation", "act", "bn", activation="relu"),
        k.said("Flatten", "flat", "act"),
        k.said("Dense", "dense", "flat", arrays=(rng.normal(size=(240, 7)), rng.normal(size=7)), units=7),
    ]
    k.write_keras(path, layers, k.graph(layers, ["dense"]))


def _params(path: Path) -> None:
    path.write_bytes(pickle.dumps([np.ascontiguousarray(a) for a in _torch_arrays().values()], 2))


def _mat(path: Path, container: str) -> None:
    from tests import matwriter

    rng = np.random.default_rng(0)
    conv = {"type": "conv", "name": "conv1", "stride": np.array([1.0, 2.0]), "pad": np.zeros(4)}
    conv["weights"] = [rng.normal(size=(3, 2, 1, 5)).astype("f4"), rng.normal(size=(1, 5)).astype("f4")]
    pool = {
        "type": "pool",
        "name": "pool1",
        "method": "max",
        "pool": np.array([2.0, 3.0]),
        "stride": 1.0,
        "pad": 0.0,
    }
    layers = [conv, {"type": "relu", "name": "relu1"}, pool]
    meta = {"normalization": {"imageSize": np.array([13.0, 17.0, 1.0]), "averageImage": np.float32(7)}}
    matwriter.save(path, {"layers": layers, "meta": meta}, container)


def _mean(path: Path) -> None:
    path.write_bytes(
        blob(np.random.default_rng(0).uniform(0, 255, (1, 3, 9, 11)).astype("f4"), style="legacy")
    )


MAKERS: dict[str, Callable[[Path], object]] = {
    "small.h5": lambda path: weights.save(path, _net()),
    "half.h5": lambda path: weights.save(path, _net(), dtype="float16"),
    "small5.mat": lambda path: _mat(path, "v5"),
    "packed5.mat": lambda path: _mat(path, "v5 packed"),
    "small73.mat": lambda path: _mat(path, "v7.3"),
    "small.npz": lambda path: npz.write(path, _net()),
    "small.safetensors": lambda path: safetensors.write(path, _net()),
    "small.json": lambda path: path.write_text(graph_text(_net()), encoding="utf-8"),
    "small.wiring.prototxt": lambda path: path.write_text(LENET5, encoding="utf-8"),
    "one.npy": lambda path: np.save(path, np.ones((3, 4, 5), "f4"), allow_pickle=False),
    "small.pth": _pth,
    "small.keras": _keras,
    "small.params": _params,
    "mean.binaryproto": _mean,
}
