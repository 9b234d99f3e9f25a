"""Where published weights lie, and what is known for certain of each file.

A hash stands here only where its publisher states it: Keras' md5 in its applications, BVLC's sha1 in the
readmes of Caffe's models, and the first eight digits of the sha256 in torchvision's own file names.
"""

from __future__ import annotations

from typing import NamedTuple

KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
TORCH = "https://download.pytorch.org/models"
BVLC = "http://dl.caffe.berkeleyvision.org"
MATCONVNET = "https://www.vlfeat.org/matconvnet/models"
OXFORD = "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe"
CAFFE = "https://raw.githubusercontent.com/BVLC/caffe/master/models"
SQUEEZE = "https://raw.githubusercontent.com/forresti/SqueezeNet/master"


class Published(NamedTuple):
    """A file, and its hash as "md5:…", "sha1:…" or "sha256:…" (perhaps only the beginning)."""

    words: str
    url: str
    hash: str | None = None
    beside: str | None = None  # the url of the prototxt that it needs
    options: str = ""  # what `convert` has to be told of it
    is_weights: bool = True  # or the names of classes

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


FILES = {
    "imagenet-classes": Published(
        "the names of the 1000 classes, in the order of nearly all nets",
        "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json",
        "md5:c2c37ea517e94d9795004a39431a14cb",
        is_weights=False,
    ),
    "vgg16": Published(
        "VGG-16 of its authors, from Keras (BGR)",
        f"{KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
        "md5:64373286793e3c8b2b4e3219cbf3544b",
    ),
    "vgg16-notop": Published(
        "its convolutions alone: enough for dreams",
        f"{KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:6d6bbae143d832006294945121d1f1fc",
        options=" --arch vgg16",
    ),
    "vgg19": Published(
        "VGG-19 of its authors, from Keras (BGR)",
        f"{KERAS}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels.h5",
        "md5:cbe5617147190e668d6c5d5026f83318",
    ),
    "vgg19-notop": Published(
        "its convolutions alone",
        f"{KERAS}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:253f8cb515780f3b799900260a226db6",
        options=" --arch vgg19 --preprocessing vgg",
    ),
    "vgg16-torchvision": Published(
        "VGG-16 trained anew (RGB)", f"{TORCH}/vgg16-397923af.pth", "sha256:397923af"
    ),
    "vgg19-torchvision": Published(
        "VGG-19 trained anew (RGB)",
        f"{TORCH}/vgg19-dcbb9e9d.pth",
        "sha256:dcbb9e9d",
        options=" --preprocessing torchvision",
    ),
    "squeezenet1.0-torchvision": Published(
        "SqueezeNet 1.0 (RGB)", f"{TORCH}/squeezenet1_0-b66bff10.pth", "sha256:b66bff10"
    ),
    "squeezenet1.1-torchvision": Published(
        "SqueezeNet 1.1 (RGB)", f"{TORCH}/squeezenet1_1-b8a52dc0.pth", "sha256:b8a52dc0"
    ),
    "vgg16-matconvnet": Published(
        "VGG-16 of its authors (RGB), with names of classes", f"{MATCONVNET}/imagenet-vgg-verydeep-16.mat"
    ),
    "vgg-f": Published("VGG-F, the fast one (RGB)", f"{MATCONVNET}/imagenet-vgg-f.mat"),
    "vgg16-caffe": Published("VGG-16 of its authors (BGR)", f"{OXFORD}/VGG_ILSVRC_16_layers.caffemodel"),
    "googlenet": Published(
        "GoogLeNet of Caffe (BGR)",
        f"{BVLC}/bvlc_googlenet.caffemodel",
        "sha1:405fc5acd08a3bb12de8ee5e23a96bec22f08204",
        f"{CAFFE}/bvlc_googlenet/deploy.prototxt",
    ),
    "alexnet": Published(
        "AlexNet of Caffe (BGR)",
        f"{BVLC}/bvlc_alexnet.caffemodel",
        "sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
        f"{CAFFE}/bvlc_alexnet/deploy.prototxt",
    ),
    "squeezenet1.1": Published(
        "SqueezeNet 1.1 of its authors (BGR), 5 MB",
        f"{SQUEEZE}/SqueezeNet_v1.1/squeezenet_v1.1.caffemodel",
        None,
        f"{SQUEEZE}/SqueezeNet_v1.1/deploy.prototxt",
    ),
}
