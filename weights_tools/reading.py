"""Which reader takes which file, by what is in it. Caffe's nets come as two files, in either order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidnn import weights, zoo
from minidnn.errors import UsageError
from minidnn.net import Net
from minidnn.zoo.raw import load_raw
from weights_tools.detect import NAMES, kind_of
from weights_tools.foreign import Foreign

CAFFE = {"caffemodel", "caffe-h5"}


def read(
    paths: Sequence[Path],
    *,
    input_size: tuple[int, int] | None = None,
    allow_external: bool = False,
    flip_filters: bool | None = None,
) -> Foreign:
    """What these files hold: one, or a prototxt and the weights that belong to it.

    `input_size`, `allow_external` and `flip_filters` are for the formats that leave it open.
    """
    kinds = [kind_of(path) for path in paths]
    if flip_filters is not None and kinds not in (["pickle"], ["npz"]):
        raise UsageError(f"{paths[0]}: {NAMES[kinds[0]]}; --set flip_filters is for Lasagne's, leave it out")
    if len(paths) == 2 and "prototxt" in kinds and CAFFE.intersection(kinds):
        prototxt, model = (paths[kinds.index("prototxt")], paths[1 - kinds.index("prototxt")])
        return _caffe(model, prototxt)
    if len(paths) > 1:
        found = ", ".join(f"{path.name}: {NAMES[kind]}" for path, kind in zip(paths, kinds, strict=True))
        what = f"several files belong together for Caffe only, a prototxt and its weights; {found}"
        raise UsageError(f"{what}; convert one by one")
    if kinds[0] == "pickle":
        from weights_tools.readers import lasagne

        return lasagne.read(paths[0], flip_filters=flip_filters)
    if kinds[0] in ("npz", "npy"):
        from weights_tools.readers import npz

        return npz.read(paths[0], flip_filters=flip_filters)
    return _one(paths[0], kinds[0], input_size, allow_external)


def _one(path: Path, kind: str, input_size: tuple[int, int] | None, allow_external: bool) -> Foreign:
    if kind == "minidnn":
        return _ours(path)
    if kind == "raw":
        net = load_raw(zoo.get("inception-v3-stem", seed=None), path)
        return Foreign("raw float32", net=net, preprocess=net.preprocess)
    if kind in CAFFE:
        return _caffe(path, None)
    if kind == "prototxt":
        raise UsageError(f"{path}: a net without its weights; name the .caffemodel too")
    if kind == "binaryproto":
        raise UsageError(f"{path}: a mean image, no net; give it as --mean {path.name} beside the net")
    if kind in ("mat5", "mat73"):
        from weights_tools.readers import matconvnet

        return matconvnet.read(path)
    if kind in ("keras", "keras-zip"):
        from weights_tools.readers import keras

        return keras.read(path, input_size=input_size)
    if kind == "onnx":
        from weights_tools.readers import onnx

        return onnx.read(path, input_size=input_size, allow_external=allow_external)
    if kind in ("torch-zip", "torch-legacy"):
        from weights_tools.readers import pytorch

        return pytorch.read(path)
    from weights_tools.readers import safetensors

    return safetensors.read(path)


def _ours(path: Path) -> Foreign:
    """To be written anew: in half precision, in RGB, with names of classes."""
    stored = weights.Weights.open(path)
    net = stored.net()
    kept = {name: net.about[name] for name in ("input_shape", "aliases")}
    plain = Net(net.nodes, net.input, **kept)
    about = {"preprocess": net.preprocess, "classes": stored.classes, "class_ids": stored.class_ids}
    return Foreign("minidnn file", net=plain, **about)


def _caffe(model: Path, prototxt: Path | None) -> Foreign:
    from weights_tools.readers import caffe

    return caffe.read(model, prototxt=prototxt)


def mean_picture(path: Path) -> np.ndarray:
    """The mean image of Caffe (H, W, C), in the order of its channels."""
    kind = kind_of(path)
    if kind != "binaryproto":
        raise UsageError(f"--mean {path}: {NAMES[kind]}; a .binaryproto of Caffe is wanted")
    from weights_tools.readers import caffe

    return caffe.read_mean(path)
