"""Caffe's nets, read from real files and from ones written here, against torch; and their graphs."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from minidnn import images, layers
from minidnn.errors import MismatchError
from minidnn.images import PRESETS, Preprocess
from tests import caffewriter as caffe
from tests.caffetorch import forward
from tests.caffewriter import layer
from tests.samples import distinct
from weights_tools.readers.caffe import read, read_mean
from weights_tools.readers.caffe_records import blobs_from_h5, from_binary, from_prototxt


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def model(tmp_path):
    """Writes a net as a .caffemodel."""

    def write(net, **how):
        path = tmp_path / "net.caffemodel"
        path.write_bytes(net if isinstance(net, bytes) else caffe.binary(net, **how))
        return path

    return write


@pytest.fixture
def deploy(tmp_path):
    """Writes a net as a .prototxt."""

    def write(net, **how):
        path = tmp_path / "deploy.prototxt"
        path.write_text(net if isinstance(net, str) else caffe.text(net, **how))
        return path

    return write


def conv(name, bottom, rng, k, c, kernel=(1, 1), *, top=None, **geometry):
    """A convolution of random filters over c channels (of a group)."""
    arrays = [distinct(rng, (k, c, *kernel)), distinct(rng, (k,))]
    geometry |= {"num_output": k, "kernel_h": kernel[0], "kernel_w": kernel[1]}
    if geometry.get("bias_term") is False:
        arrays.pop()
    return layer(name, "Convolution", bottom, top, arrays, convolution_param=geometry)


def dense(name, bottom, rng, k, n, *, transpose=False, **about):
    arrays = [distinct(rng, (n, k) if transpose else (k, n)), distinct(rng, (k,))]
    about |= {"num_output": k} | ({"transpose": True} if transpose else {})
    return layer(name, "InnerProduct", bottom, blobs=arrays, inner_product_param=about)


def image_input(c, h, w, name="data"):
    return {"input": [name], "input_shape": [{"dim": [1, c, h, w]}]}


def one(*records, c=3, h=11, w=8, **about):
    """A net of these layers for images of (h, w, c)."""
    return caffe.net(*records, **image_input(c, h, w), **about)


def classic(rng):
    """All that the first version has and we run too; for images of 17x14x4."""
    lrn = {"local_size": 3, "alpha": 0.7, "beta": 0.6, "k": 1.3}
    return caffe.net(
        conv("conv1", "data", rng, 6, 2, (3, 2), group=2, stride_h=2, stride_w=1, pad_h=1, pad_w=0),
        layer("relu1", "ReLU", "conv1", "conv1", relu_param={"negative_slope": 0.25}),
        layer("norm1", "LRN", "conv1", lrn_param=lrn),
        layer("split", "Split", "norm1", ["norm1_a", "norm1_b"]),
        conv("a", "norm1_a", rng, 5, 6, (3, 3), pad=[2], dilation=[2], bias_term=False),
        layer(
            "b", "Pooling", "norm1_b", pooling_param={"pool": "AVE", "kernel_size": 3, "stride": 1, "pad": 1}
        ),
        layer("cat", "Concat", ["a", "b"], concat_param={"concat_dim": 1}),
        layer("norm2", "LRN", "cat", lrn_param=lrn | {"norm_region": "WITHIN_CHANNEL"}),
        layer(
            "pool",
            "Pooling",
            "norm2",
            pooling_param={
                "kernel_h": 3,
                "kernel_w": 2,
                "stride_h": 2,
                "stride_w": 3,
                "pad_h": 1,
                "pad_w": 0,
            },
        ),
        layer(
            "up",
            "Deconvolution",
            "pool",
            blobs=[distinct(rng, (11, 7, 4, 3)), distinct(rng, (7,))],
            convolution_param={"num_output": 7, "kernel_h": 4, "kernel_w": 3, "stride": [2], "pad": [1]},
        ),
        layer("sig", "Sigmoid", "up"),
        layer("sum", "Eltwise", ["sig", "up"], eltwise_param={"operation": "SUM", "coeff": [1.0, 1.0]}),
        layer("same", "Power", "sum", power_param={"power": 1.0}),
        layer("tanh", "TanH", "same", "same"),
        layer("drop", "Dropout", "same", "same", dropout_param={"dropout_ratio": 0.3}),
        layer("flat", "Flatten", "same"),
        dense("fc1", "flat", rng, 9, 7 * 10 * 9),
        layer("relu2", "ReLU", "fc1", "fc1"),
        dense("fc2", "fc1", rng, 5, 9),
        layer("prob", "Softmax", "fc2"),
        input=["data"],
        input_dim=[2, 4, 17, 14],
    )


def modern(rng):
    """The layers that came later, and vectors laid out of several maps; for images of 9x13x3."""
    stamp = {"num_output": 6, "kernel_h": 5, "kernel_w": 2, "stride": [3], "group": 2, "bias_term": False}
    moments = [distinct(rng, (6,)), np.abs(distinct(rng, (6,))), np.array([2.5])]
    return caffe.net(
        layer("data", "Input", input_param={"shape": {"dim": [7, 3, 9, 13]}}),
        conv("conv1", "data", rng, 6, 3, (2, 3)),
        layer("bn1", "BatchNorm", "conv1", "conv1", moments, batch_norm_param={"eps": 0.03}),
        layer(
            "scale1",
            "Scale",
            "conv1",
            "conv1",
            [distinct(rng, (6,)) for _ in "gb"],
            scale_param={"bias_term": True},
        ),
        layer("prelu1", "PReLU", "conv1", "conv1", [distinct(rng, (6,))]),
        layer("bn2", "BatchNorm", "conv1", blobs=moments),
        layer("scale2", "Scale", "bn2", blobs=[distinct(rng, (6,))]),
        layer("both", "Eltwise", ["bn2", "scale2"]),
        layer("prelu2", "PReLU", "both", blobs=[np.array([0.3])], prelu_param={"channel_shared": True}),
        layer(
            "pool", "Pooling", "prelu2", pooling_param={"kernel_size": 2, "stride": 3, "round_mode": "FLOOR"}
        ),
        conv("conv2", "prelu2", rng, 4, 6, (3, 5)),
        layer("up", "Deconvolution", "conv2", blobs=[distinct(rng, (4, 3, 5, 2))], convolution_param=stamp),
        layer("flat1", "Flatten", "pool"),
        layer("flat2", "Reshape", "conv2", reshape_param={"shape": {"dim": [0, -1]}}),
        layer("vector", "Concat", ["flat1", "flat2"], concat_param={"axis": 1}),
        layer("prelu3", "PReLU", "vector", "vector", [distinct(rng, (6 * 3 * 4 + 4 * 6 * 7,))]),
        dense("fc", "vector", rng, 5, 6 * 3 * 4 + 4 * 6 * 7, transpose=True),
        layer("top", "Pooling", "conv2", pooling_param={"pool": "MAX", "global_pooling": True}),
        layer("mean", "Pooling", "conv2", pooling_param={"pool": "AVE", "global_pooling": True}),
    )


def run(net, image, *names):
    """Outputs in float64, in Caffe's order of axes."""
    outputs = net.astype("float64").forwardto(net.init_res(), names, image)
    return {name: np.moveaxis(y, 3, 1) for name, y in outputs.items()}


def agree(net, described, weights, image, blobs_of_nodes):
    """Our net and torch on the same image, (n, h, w, c)."""
    expected = forward(described.records, weights, {net.input: np.moveaxis(image, 3, 1).astype(np.float64)})
    ours = run(net, image, *blobs_of_nodes)
    for name, blob in blobs_of_nodes.items():
        wanted = expected[blob].reshape(ours[name].shape)
        error = np.abs(ours[name] - wanted).max() / np.abs(wanted).max()
        assert error < 1e-5, (name, error)


def weights_in(path):
    if path.suffix == ".h5":
        held = blobs_from_h5(path)
    else:
        held = {r.name: r.blobs for r in from_binary(memoryview(path.read_bytes()), "x").records}
    return {name: [blob.values.reshape(blob.shape) for blob in blobs] for name, blobs in held.items()}


# Numbers


@pytest.mark.oracle
@pytest.mark.parametrize(
    "how", ["current", "first version", "prototxt", "old prototxt", "legacy", "double", "unpacked"]
)
def test_a_net_computes_what_torch_computes_however_it_was_written(rng, model, deploy, how):
    pytest.importorskip("torch")
    net, old = classic(rng), how in ("first version", "old prototxt")
    style = how if how in ("legacy", "double", "unpacked") else "shape"
    path = model(net, old=old, style=style)
    prototxt = deploy(net, old=old) if "prototxt" in how else None
    found = read(path, prototxt=prototxt)
    assert found.net.input_shape == (17, 14, 4)
    described = from_prototxt(caffe.text(net), "x")
    named = {name: name for name in ["norm1", "cat", "norm2", "pool", "sum", "fc2", "prob"]}
    agree(found.net, described, weights_in(path), rng.standard_normal((2, 17, 14, 4)), named)


@pytest.mark.oracle
def test_later_layers_and_flattened_maps_compute_what_torch_computes(rng, model, deploy):
    pytest.importorskip("torch")
    net = modern(rng)
    path = model(net)
    for found in [read(path), read(path, prototxt=deploy(net))]:
        named = {"prelu1": "conv1", "both": "both", "fc": "fc", "top": "top", "mean": "mean", "up": "up"}
        agree(
            found.net,
            from_prototxt(caffe.text(net), "x"),
            weights_in(path),
            rng.standard_normal((2, 9, 13, 3)),
            named,
        )


REAL = {
    "caffe/lenet_mnist.caffemodel": ("caffe/lenet_mnist_deploy.prototxt", {"ip2": "ip2"}),
    "caffe/cifar10_quick_iter_4000.caffemodel": ("caffe/cifar10_quick_deploy.prototxt", {"ip2": "ip2"}),
    "caffe/cifar10_quick_iter_5000.caffemodel.h5": ("caffe/cifar10_quick_deploy.prototxt", {"ip2": "ip2"}),
    "caffe/mtcnn_det1.caffemodel": ("caffe/mtcnn_det1.prototxt", {"prob1": "prob1", "conv4-2": "conv4-2"}),
    "caffe/mtcnn_det2.caffemodel": ("caffe/mtcnn_det2.prototxt", {"prob1": "prob1", "conv5-2": "conv5-2"}),
    "squeezenet/squeezenet_v1.0.caffemodel": (
        "squeezenet/squeezenet_v1.0_deploy.prototxt",
        {"pool10": "pool10"},
    ),
    "squeezenet/squeezenet_v1.1.caffemodel": (
        "squeezenet/squeezenet_v1.1_deploy.prototxt",
        {"pool10": "pool10"},
    ),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", REAL)
def test_a_real_net_computes_what_torch_computes(data, rng, name):
    pytest.importorskip("torch")
    prototxt, named = REAL[name]
    path, prototxt = data / "models" / name, data / "models" / prototxt
    net = read(path, prototxt=prototxt).net
    agree(
        net,
        from_prototxt(prototxt.read_text(), "x"),
        weights_in(path),
        rng.standard_normal((1, *net.input_shape)),
        named,
    )


# Real files


def test_lenet_knows_its_digits(data):
    folder = data / "datasets" / "mnist"
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        digits = np.frombuffer(file.read(16 + 2000 * 784), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + 2000), np.uint8, offset=8)
    model, deploy = (
        data / "models" / "caffe" / f"lenet_mnist{end}" for end in (".caffemodel", "_deploy.prototxt")
    )
    found, alone = read(model, prototxt=deploy), read(model)
    assert all(np.array_equal(array, alone.net.params[name]) for name, array in found.net.params.items())
    x = found.preprocess.to_net(digits)
    assert x.max() < 1
    scores = found.net.forwardto(found.net.init_res(), "prob", x, keep=["prob"])
    assert (scores.reshape(2000, 10).argmax(axis=1) == labels).sum() == 1973


@pytest.fixture(scope="session")
def photos(data):
    """The 63 photos as SqueezeNet wants them, and their classes."""
    files = sorted((data / "datasets" / "imagenet_samples").glob("*.JPEG"))
    seen = PRESETS["caffe"]
    pixels = [seen.fit(images.load(file)) for file in files]
    return seen.to_net(np.concatenate(pixels)), np.array([int(file.name[:4]) for file in files])


@pytest.mark.parametrize(("version", "least"), [("1.0", (44, 52)), ("1.1", (40, 56))])
def test_squeezenet_knows_its_classes(data, photos, version, least):
    folder, (x, labels) = data / "models" / "squeezenet", photos
    net = read(
        folder / f"squeezenet_v{version}.caffemodel",
        prototxt=folder / f"squeezenet_v{version}_deploy.prototxt",
    ).net
    scores = net.forwardto(net.init_res(), "pool10", x, keep=["pool10"])[:, 0, 0]
    ranks = (-scores).argsort(axis=1)
    hits = (ranks == labels[:, None])[:, :5]
    assert (hits[:, 0].sum() >= least[0], hits.sum() >= least[1]) == (True, True), (
        hits[:, 0].sum(),
        hits.sum(),
    )


# The graph


def test_layers_in_place_get_outputs_of_their_own(rng, model):
    net = read(
        model(
            one(
                conv("conv/1", "data", rng, 4, 3, top="x"),
                layer("relu/1", "ReLU", "x", "x"),
                layer("before", "TanH", "x"),
                layer("drop", "Dropout", "x", "x"),
                layer("sum", "Eltwise", ["x", "before"]),
            )
        )
    ).net
    assert [(node.name, node.inputs) for node in net.nodes] == [
        ("conv/1", ("data",)),
        ("relu/1", ("conv/1",)),
        ("before", ("relu/1",)),
        ("drop", ("relu/1",)),
        ("sum", ("drop", "before")),
    ]


def test_a_layer_over_the_image_itself_is_read_in_its_place(rng, model):
    net = read(model(one(layer("norm", "LRN", "data", "data"), conv("conv", "data", rng, 4, 3)))).net
    assert [node.inputs for node in net.nodes] == [("data",), ("norm",)]


@pytest.mark.parametrize(
    "head",
    [
        {"input": ["pixels"], "input_dim": [5, 3, 11, 8]},
        {"input": ["pixels"], "input_shape": [{"dim": [5, 3, 11, 8]}]},
        layer("in", "Input", top="pixels", input_param={"shape": {"dim": [5, 3, 11, 8]}}),
        layer("in", "MemoryData", top=["pixels", "label"],
              memory_data_param={"batch_size": 5, "channels": 3, "height": 11, "width": 8}),
    ],
    ids=["input_dim", "input_shape", "Input", "MemoryData"],
)  # fmt: skip
def test_the_image_has_the_name_and_the_size_that_the_file_says(rng, model, head):
    first = conv("conv", "pixels", rng, 4, 3)
    net = caffe.net(head, first) if "type" in head else caffe.net(first, **head)
    found = read(model(net))
    assert (found.net.input, found.net.input_shape, found.hints["input_size"]) == (
        "pixels",
        (11, 8, 3),
        (11, 8),
    )


def training(rng):
    """As nets are trained: data layers for both phases, a loss, an accuracy, labels."""
    transform = {"scale": 0.5, "crop_size": 9, "mean_value": [104.0, 117.0, 123.0]}
    given, train, test = ["data", "label"], [{"phase": "TRAIN"}], [{"phase": "TEST"}]
    return caffe.net(
        layer("data", "Data", top=given, include=train, transform_param={"crop_size": 7}),
        layer("data", "Data", top=given, include=test, transform_param=transform),
        conv("conv", "data", rng, 4, 3),
        layer("noise", "Dropout", "conv", "conv", exclude=test),
        layer("aux", "Sigmoid", "conv", include=[{"phase": "TEST", "stage": ["deploy"]}]),
        layer("late", "ReLU", "conv", "conv", include=[*train, {"phase": "TEST", "max_level": 2}]),
        layer("half", "Slice", "label", ["label1", "label2"]),
        layer("acc", "Accuracy", ["conv", "label1"], include=test),
        layer("loss", "SoftmaxWithLoss", ["conv", "label2"]),
    )  # fmt: skip


def test_of_a_training_only_what_runs_in_tests_is_kept(rng, deploy, model):
    for found in [read(model(training(rng))), read(deploy(training(rng)))]:
        assert [node.name for node in found.net.nodes] == ["conv", "late", "prob"]
        assert found.net.input_shape == (9, 9, 3)
        assert found.preprocess == Preprocess("BGR", 0.5, (52.0, 58.5, 61.5), size=(9, 9))
        assert found.steps == [
            "dropped layer 'noise' (not for tests)",
            "dropped layer 'aux' (not for tests)",
            "dropped layer 'acc' (Accuracy)",
            "made 'prob' of the loss 'loss': the probabilities in it",
            "dropped layer 'half' (Slice of labels)",
        ]


def test_two_losses_keep_their_names_and_one_beside_a_softmax_goes(rng, model):
    first = conv("conv", "data", rng, 4, 3)
    losses = [layer(name, "SoftmaxWithLoss", ["conv", "label"]) for name in ("loss1/loss", "loss2/loss")]
    about = {"input": ["data", "label"], "input_dim": [1, 3, 11, 8, 1, 1, 1, 1]}
    net = read(model(caffe.net(first, *losses, **about))).net
    assert net.names == ("data", "conv", "loss1/loss", "loss2/loss")
    net = read(model(caffe.net(first, layer("p", "Softmax", "conv"), losses[0], **about))).net
    assert net.names == ("data", "conv", "p")


def test_a_batch_norm_and_its_scale_become_one_layer(rng, model):
    net = read(model(modern(rng))).net
    bn1, bn2, scale2 = (net.node(name).layer for name in ("bn1", "bn2", "scale2"))
    assert net.aliases == {"scale1": "bn1"}
    assert net.node("scale1").name == "bn1"
    assert bn1.eps == pytest.approx(0.03) and not np.allclose(bn1.gamma, 1)
    assert np.allclose(bn2.gamma, 1) and np.allclose(bn2.beta, 0), "its sum is read by others too"
    assert scale2.eps == 0 and np.allclose(scale2.var, 1)


def test_a_batch_norm_that_never_saw_a_batch_has_moments_of_zero(rng, model):
    moments = [distinct(rng, (3,)), distinct(rng, (3,)), np.array([0.0])]
    norm = read(model(one(layer("bn", "BatchNorm", "data", blobs=moments)))).net.node("bn").layer
    assert not norm.mean.any() and not norm.var.any()


def test_arrays_are_float32_and_own_their_memory(rng, model):
    path = model(classic(rng), style="double")
    net = read(path).net
    for array in (net.params | net.buffers).values():
        assert (array.dtype, array.flags.c_contiguous, array.flags.aligned) == (np.float32, True, True)
        assert not isinstance(array.base, memoryview)
    assert net.node("conv1").layer.w.shape == (3, 2, 2, 6)
    assert net.node("up").layer.w.shape == (4, 3, 7, 11)
    assert net.node("fc1").layer.w.shape == (1, 1, 630, 9)


def test_a_prototxt_alone_is_a_net_of_shapes(rng, deploy):
    for net in [classic(rng), modern(rng)]:
        found = read(deploy(net))
        with_weights = {name: array.shape for name, array in found.net.params.items()}
        assert found.net.without_weights
        assert with_weights["conv1/w"][3] == 6
        assert not any(any(array.strides) for name, array in found.net.params.items() if name.endswith("/w"))


def test_weights_without_wiring_come_as_bare_layers(data):
    found = read(data / "models" / "squeezenet" / "squeezenet_v1.1.caffemodel")
    assert (found.net, found.flatten, len(found.layers)) == (None, "chw", 26)
    assert found.layers["fire2/expand3x3"]["w"].shape == (3, 3, 16, 64)
    assert "give the deploy .prototxt" in found.warnings[0]


def test_bare_layers_of_every_kind_are_in_our_order(rng, model):
    wired = modern(rng)
    for one_layer in wired["layers"]:
        one_layer |= {"bottom": [], "top": []}
    found = read(model(wired)).layers
    assert {name: {k: a.shape for k, a in arrays.items()} for name, arrays in found.items()} == {
        "conv1": {"w": (2, 3, 3, 6), "b": (6,)},
        "bn1": {"mean": (6,), "var": (6,)},
        "scale1": {"gamma": (6,), "beta": (6,)},
        "prelu1": {"slope": (6,)},
        "bn2": {"mean": (6,), "var": (6,)},
        "scale2": {"gamma": (6,)},
        "prelu2": {"slope": (1,)},
        "conv2": {"w": (3, 5, 6, 4), "b": (4,)},
        "up": {"w": (5, 2, 3, 4)},
        "prelu3": {"slope": (240,)},
        "fc": {"w": (240, 5), "b": (5,)},
    }


def test_where_no_size_is_known_maps_are_taken_to_be_square(data):
    found = read(data / "models" / "caffe" / "cifar10_quick_iter_4000.caffemodel")
    assert found.net.input_shape is None
    assert found.net.node("ip1").layer.w.shape == (4, 4, 64, 64)
    assert any("taken to be square" in warning for warning in found.warnings)


def test_of_two_outputs_both_are_there(data):
    folder = data / "models" / "caffe"
    net = read(folder / "mtcnn_det1.caffemodel", prototxt=folder / "mtcnn_det1.prototxt").net
    ends = {node.name for node in net.nodes} - {name for node in net.nodes for name in node.inputs}
    assert ends == {"conv4-2", "prob1"}
    assert isinstance(net.node("PReLU1").layer, layers.PReLU)


def test_layers_that_share_a_name_or_have_a_reserved_one_are_renamed(rng, model):
    records = [
        conv("data", "data", rng, 4, 3, top="x"),
        layer("r", "ReLU", "x", "x"),
        layer("r", "TanH", "x", "x"),
    ]
    found = read(model(one(*records, layer("all", "Sigmoid", "x"), layer("", "Softmax", "all", "y"))))
    assert found.net.names == ("data", "data_1", "r", "r_3", "all_4", "softmax")
    assert found.warnings[0] == "the name 'data' is taken: the later layer is 'data_1'"


# Means


def test_a_mean_image_is_turned(rng, model, tmp_path):
    picture = distinct(rng, (1, 3, 12, 13))
    for style in ["shape", "legacy", "double"]:
        (tmp_path / "mean.binaryproto").write_bytes(caffe.blob(picture, style=style))
        mean = read_mean(tmp_path / "mean.binaryproto")
        np.testing.assert_allclose(mean, picture[0].transpose(1, 2, 0), rtol=1e-6)
    found = read(model(one(conv("conv", "data", rng, 4, 3), h=10, w=7)))
    assert found.preprocess is None and "give the mean" in found.warnings[0]


def test_a_mean_in_another_file_is_named_and_never_opened(rng, model):
    transform = {"mean_file": "/etc/../secret/mean.binaryproto", "crop_size": 9}
    net = caffe.net(
        layer("d", "Data", top="data", transform_param=transform), conv("conv", "data", rng, 4, 3)
    )
    found = read(model(net))
    assert found.preprocess is None
    assert "its mean image is in another file, 'mean.binaryproto': give that as the mean" in found.warnings


def test_the_scale_beside_a_mean_image_is_told(rng, model):
    transform = {"mean_file": "mean.binaryproto", "crop_size": 9, "scale": 0.25}
    net = caffe.net(
        layer("d", "Data", top="data", transform_param=transform), conv("conv", "data", rng, 4, 3)
    )
    assert read(model(net)).hints["scale"] == 0.25


def test_a_mean_that_does_not_fit_is_refused(rng, model):
    transform = {"mean_value": [1.0, 2.0], "crop_size": 9}
    net = caffe.net(
        layer("d", "Data", top="data", transform_param=transform), conv("conv", "data", rng, 4, 3)
    )
    with pytest.raises(MismatchError, match="the mean has 2 channels, images have 3"):
        read(model(net))


def test_a_mean_file_that_holds_no_image_is_refused(tmp_path):
    (tmp_path / "m").write_bytes(caffe.blob(np.zeros((2, 3, 4, 5))))
    with pytest.raises(MismatchError, match=r"shape \(2, 3, 4, 5\), expected one image"):
        read_mean(tmp_path / "m")
