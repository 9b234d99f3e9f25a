"""What a file is, told by its first bytes; and every kind of thing at the door that is no weight file."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile

import h5py
import numpy as np
import pytest

from minidnn.errors import DamagedFileError, FileFormatError, UnsafeFileError, UnsupportedError
from weights_tools.detect import kind_of, opened

REAL = {
    "caffe/lenet_mnist.caffemodel": "caffemodel",
    "caffe/lenet_mnist_deploy.prototxt": "prototxt",
    "caffe/cifar10_quick_iter_5000.caffemodel.h5": "caffe-h5",
    "caffe/mtcnn_det1.caffemodel": "caffemodel",
    "matconvnet/dncnn_gray_sigma25.mat": "mat73",
    "matconvnet/ffdnet_gray_retrained_matv5.mat": "mat5",
    "onnx/mnist_cntk.onnx": "onnx",
    "onnx/super_resolution.onnx": "onnx",
    "pytorch/resnet20-12fca82f.th": "torch-legacy",
    "pytorch/lenet_mnist_cnn.pt": "torch-legacy",
    "squeezenet/squeezenet1_1_torchvision.pth": "torch-zip",
    "squeezenet/squeezenet_v1.1.caffemodel": "caffemodel",
    "squeezenet/squeezenet_v1.1_keras_notop.h5": "keras",
    "squeezenet/squeezenet_v1.1_places365_lasagne.params": "pickle",
    "safetensors/mnist_denograd.safetensors": "safetensors",
    "vgg16/vgg16_conv_imagenet_head_mri.onnx": "onnx",
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.bin"  # a name that says nothing


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_known_by_their_content_whatever_they_are_called(data, path, name):
    path.symlink_to((data / "models" / name).resolve())
    assert kind_of(path) == REAL[name]


def zipped(*names):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return held.getvalue()


def test_archives_and_arrays_are_told_apart(path):
    for names, kind in [
        (["archive/data.pkl", "archive/data/0"], "torch-zip"),
        (["metadata.json", "config.json", "model.weights.h5"], "keras-zip"),
        (["conv1/w.npy", "conv1/b.npy"], "npz"),
    ]:
        path.write_bytes(zipped(*names))
        assert kind_of(path) == kind
    np.save(path.with_suffix(".npy"), np.zeros((2, 3)))
    assert kind_of(path.with_suffix(".npy")) == "npy"


def test_a_zip_of_other_things_is_named(path):
    path.write_bytes(zipped("holiday/beach.jpg"))
    with pytest.raises(FileFormatError, match=r"a zip archive, .* it holds holiday/beach.jpg"):
        kind_of(path)
    path.write_bytes(zipped("a/data.pkl")[:-9])
    with pytest.raises(DamagedFileError, match="a damaged zip archive"):
        kind_of(path)


def test_kinds_of_hdf5_are_told_apart(path):
    def held(**attributes):
        with h5py.File(path, "w") as file:
            file.create_group(attributes.pop("group", "g"))
            file.attrs.update(attributes)
        return kind_of(path)

    assert held(format="minidnn-weights") == "minidnn"
    assert held(layer_names=[b"conv1"]) == "keras"
    assert held(group="model_weights") == "keras"
    assert held(group="layers") == "keras"
    assert held(group="data") == "caffe-h5"
    assert held(group="#refs#") == "mat73"
    with pytest.raises(FileFormatError, match="HDF5, but not a weight file that we know: it holds rainfall"):
        held(group="rainfall")


def test_safetensors_and_messages(path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert kind_of(path) == "safetensors"
    path.write_bytes(b"\x08\x01\x10\x03\x18\x05\x20\x07\x2a\x04\x00\x00\x80\x3f")  # 1 x 3 x 5 x 7, one float
    assert kind_of(path) == "binaryproto"
    path.write_bytes(b'# the net of our paper\nname: "LeNet"\nlayer { }\n')
    assert kind_of(path) == "prototxt"


@pytest.mark.parametrize(
    "start, words",
    [
        (b"\x1f\x8b\x08", "gzip archive; unpack it first: gunzip"),
        (b"GGUF", "GGUF file of a language model"),
        (b"7767517\n", "ncnn graph; convert the model that it was made from"),
        (b"\x89PNG", r"picture \(PNG\); name the weight file"),
        (b"    TFL3", "TensorFlow Lite model"),
        (bytes(257) + b"ustar", "tar archive; unpack it first"),
    ],
)
def test_strangers_that_we_know_by_sight_get_advice(path, start, words):
    path.write_bytes(start + b"....")
    with pytest.raises(UnsupportedError, match=words):
        kind_of(path)


def test_what_nobody_knows_is_said_with_what_we_know(path):
    path.write_bytes(b"\x00\x01\x02 rubbish")
    with pytest.raises(FileFormatError, match=r"no weight file that we know .*Keras file .*ONNX model"):
        kind_of(path)


def test_zeros_and_old_matlab_files_are_told_by_name(path):
    path.write_bytes(bytes(500))
    with pytest.raises(DamagedFileError, match="nothing but zeros where a file begins; fetch it again"):
        kind_of(path)
    path.write_bytes(struct.pack("<5i", 0, 3, 2, 0, 2) + b"x\0" + bytes(48))
    with pytest.raises(UnsupportedError, match=r"a MATLAB file of version 4.*save it again: save\("):
        kind_of(path)


# At the door


def test_a_missing_file_brings_a_near_one_to_mind(tmp_path):
    (tmp_path / "vgg16.onnx").write_bytes(b"x")
    with pytest.raises(FileFormatError, match=r"no such file; did you mean 'vgg16.onnx'\?"):
        opened(tmp_path / "vgg61.onnx")


def test_a_directory_and_an_empty_file(tmp_path, path):
    with pytest.raises(FileFormatError, match="is a directory; name a file in it"):
        opened(tmp_path)
    path.touch()
    with pytest.raises(DamagedFileError, match="0 bytes; fetch it again"):
        opened(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files on this system")
def test_a_pipe_and_a_device_do_not_keep_us_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UnsafeFileError, match="not a regular file; copy its content to one"):
            opened(path)


def test_a_file_that_we_may_not_read(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path.write_bytes(b"x")
    monkeypatch.setattr(os, "open", refuse)  # by its mode alone it could not be: root may read everything
    with pytest.raises(FileFormatError, match="permission denied; look at its owner and mode"):
        opened(path)


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><html>404", b"\n  <html>", b"\xef\xbb\xbf<?xml version='1.0'?><Error>"]
)
def test_a_web_page_under_a_false_name(path, page):
    path.write_bytes(page)
    with pytest.raises(FileFormatError, match="looks like a web page: the download failed; fetch it again"):
        opened(path)


def test_a_git_lfs_pointer(path):
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 553\n")
    with pytest.raises(FileFormatError, match="a Git LFS pointer, the data is not here; run: git lfs pull"):
        opened(path)


def test_a_name_that_no_file_can_have():
    with pytest.raises(FileFormatError, match="null"):
        opened("a\0b")
