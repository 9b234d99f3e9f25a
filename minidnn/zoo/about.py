"""What is known of each net besides its layers: whose it is, what it is good for, where weights come from."""

from __future__ import annotations

from typing import NamedTuple


class About(NamedTuple):
    """`weights` names the files that the net was published with, or says why there are none."""

    paper: str
    words: str
    weights: str


ABOUT = {
    "gabor": About(
        "none: written as formulas", "edges, and curls made of edges; at hand at once", "built in, no file"
    ),
    "lenet": About(
        "LeCun et al. 1998, Caffe's form",
        "digits of MNIST, in 28x28",
        "Caffe lenet_iter_10000.caffemodel; MatConvNet trains one",
    ),
    "lenet5": About("LeCun et al. 1998, figure 2", "digits of MNIST, in 32x32", "train it"),
    "cifar-quick": About(
        "Krizhevsky 2011, Caffe's cifar10_quick",
        "ten kinds of things, in 32x32",
        "Caffe cifar10_quick_iter_4000.caffemodel, cifar10_quick_iter_5000.caffemodel.h5",
    ),
    "tiny": About(
        "none: ours, after VGG", "ten kinds of things; to dream with", "built in; minidnn train cifar10-tiny"
    ),
    "alexnet": About(
        "Krizhevsky et al. 2012",
        "the 1000 classes of ImageNet",
        "Caffe bvlc_alexnet.caffemodel; MatConvNet imagenet-caffe-alex.mat",
    ),
    "caffenet": About(
        "Jia et al. 2014, after AlexNet",
        "the 1000 classes of ImageNet",
        "Caffe bvlc_reference_caffenet.caffemodel; MatConvNet imagenet-caffe-ref.mat",
    ),
    "zfnet": About(
        "Zeiler & Fergus 2014, figure 3", "AlexNet looked into and mended", "none was published in this form"
    ),
    "nin": About("Lin et al. 2014", "1000 classes without an FC layer", "Caffe nin_imagenet.caffemodel"),
    "vgg-f": About(
        "Chatfield et al. 2014, CNN-F",
        "fast; near AlexNet",
        "MatConvNet imagenet-vgg-f.mat; Caffe VGG_CNN_F.caffemodel (BGR)",
    ),
    "vgg-m": About(
        "Chatfield et al. 2014, CNN-M",
        "medium; near ZFNet",
        "MatConvNet imagenet-vgg-m.mat; Caffe VGG_CNN_M.caffemodel (BGR)",
    ),
    "vgg-s": About(
        "Chatfield et al. 2014, CNN-S",
        "slow; near OverFeat",
        "MatConvNet imagenet-vgg-s.mat; Caffe VGG_CNN_S.caffemodel (BGR)",
    ),
    "vgg11": About("Simonyan & Zisserman 2015, A", "the smallest VGG", "torchvision vgg11-8a719046.pth"),
    "vgg13": About("Simonyan & Zisserman 2015, B", "VGG with ten 3x3", "torchvision vgg13-19584684.pth"),
    "vgg16": About(
        "Simonyan & Zisserman 2015, D",
        "the net to dream with",
        "MatConvNet imagenet-vgg-verydeep-16.mat; Caffe VGG_ILSVRC_16_layers.caffemodel (BGR); "
        "Keras vgg16_weights_tf_dim_ordering_tf_kernels.h5 (BGR); torchvision vgg16-397923af.pth",
    ),
    "vgg19": About(
        "Simonyan & Zisserman 2015, E",
        "the net of neural style",
        "MatConvNet imagenet-vgg-verydeep-19.mat; Caffe VGG_ILSVRC_19_layers.caffemodel (BGR); "
        "Keras vgg19_weights_tf_dim_ordering_tf_kernels.h5 (BGR); torchvision vgg19-dcbb9e9d.pth",
    ),
    "squeezenet1.0": About(
        "Iandola et al. 2016",
        "AlexNet's accuracy in 5 MB",
        "Caffe squeezenet_v1.0.caffemodel; torchvision squeezenet1_0-b66bff10.pth (RGB, last pad 0)",
    ),
    "squeezenet1.1": About(
        "Iandola et al. 2016, release 1.1",
        "the same, 2.4 times less work",
        "Caffe squeezenet_v1.1.caffemodel; torchvision squeezenet1_1-b8a52dc0.pth (RGB)",
    ),
    "googlenet": About(
        "Szegedy et al. 2015",
        "the net of the first DeepDreams",
        "Caffe bvlc_googlenet.caffemodel; MatConvNet imagenet-googlenet-dag.mat; "
        "Places205 googlelet_places205_train_iter_2400000.caffemodel (classes=205)",
    ),
    "inception-v3-stem": About(
        "Szegedy et al. 2016",
        "to dream with, up to mixed_4",
        "raw files with a MANIFEST.csv, of TensorFlow's inception-2015-12-05",
    ),
    "resnet18": About("He et al. 2016", "the 1000 classes, 18 deep", "torchvision resnet18-f37072fd.pth"),
    "resnet20": About("He et al. 2016, section 4.2", "CIFAR-10, 20 deep", "PyTorch resnet20-12fca82f.th"),
    "resnet50": About("He et al. 2016", "the 1000 classes, 50 deep", "torchvision resnet50-0676ba61.pth"),
    "sketchanet": About(
        "Yu et al. 2015",
        "250 kinds of hand drawings",
        "MatConvNet dataset_without_order_info_256.mat (channels=1)",
    ),
}
