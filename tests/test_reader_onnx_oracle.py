"""The ONNX reader against ONNX Runtime: one small file for each operation, and the real models."""

from __future__ import annotations

import numpy as np
import pytest

from tests import samples
from tests.onnxwriter import field, node, port, write
from weights_tools.readers import onnx

pytestmark = pytest.mark.oracle

X = (2, 4, 9, 11)  # (n, c, h, w) of the input, where a case says nothing else
OURS = {"chw": (0, 2, 3, 1), "hwc": (0, 1, 2, 3)}


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return samples.distinct(np.random.default_rng([seed, *shape]), shape).astype("float32")


def whole(*values: int) -> np.ndarray:
    return np.array(values, "int64")


def runtime(path, images, *outputs, extra=b""):
    """What ONNX Runtime makes of the images; `extra` is more of the same message: protobuf joins the two."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Its optimiser puts the zeros of a Pad into a MaxPool, where they count as nothing.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path.read_bytes() + extra, options, providers=["CPUExecutionProvider"])
    return session.run(list(outputs) or None, {session.get_inputs()[0].name: images})


def compare(path, images, order="chw", out="chw", tolerance=1e-5):
    """Run both on these images, which lie in the file's order, and compare."""
    (wanted,) = runtime(path, images)
    net = onnx.read(path).net
    flat = images.reshape(len(images), *net.input_shape)
    ours = np.ascontiguousarray(images.transpose(OURS[order])) if images.ndim == 4 else flat
    made = net.forwardto(net.init_res(), "y", ours)
    wanted = wanted.transpose(OURS[out]) if wanted.ndim == 4 else wanted.reshape(len(images), 1, 1, -1)
    assert made.shape == wanted.shape
    assert np.abs(made - wanted).max() <= tolerance * np.abs(wanted).max()


C = numbers  # a constant
CASES = {
    "conv": (
        [node("Conv", "x w b", "y", pads=[2, 0, 1, 3], strides=[2, 1], dilations=[1, 2], group=2)],
        {"w": C(6, 2, 3, 2), "b": C(6)},
    ),
    "conv without a bias, then a sum": (
        [node("Conv", "x w", "a"), node("Add", "a b", "y")],
        {"w": C(5, 4, 3, 2), "b": C(5, 1, 1)},
    ),
    "a sum that comes first": (
        [node("Conv", "x w", "a"), node("Add", "b a", "y")],
        {"w": C(5, 4, 3, 2), "b": C(1, 5, 1, 1)},
    ),
    "a conv whose output is also read before the sum": (
        [node("Conv", "x w b", "a"), node("Add", "a c", "d"), node("Add", "a d", "y")],
        {"w": C(5, 4, 3, 2), "b": C(5), "c": C(5, 1, 1, seed=1)},
    ),
    "conv padded to the upper side": (
        [node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 3])],
        {"w": C(5, 4, 3, 2)},
    ),
    "conv padded to the lower side": (
        [node("Conv", "x w", "y", auto_pad="SAME_LOWER", strides=[3, 2])],
        {"w": C(5, 4, 4, 3)},
    ),
    "conv without pads, in a word": ([node("Conv", "x w", "y", auto_pad="VALID")], {"w": C(5, 4, 3, 2)}),
    "one filter for each channel": ([node("Conv", "x w", "y", group=4)], {"w": C(4, 1, 3, 2)}),
    "conv transposed": (
        [
            node(
                "ConvTranspose",
                "x w b",
                "y",
                pads=[0, 1, 2, 0],
                strides=[3, 2],
                output_padding=[1, 0],
                group=2,
            )
        ],
        {"w": C(4, 3, 4, 5), "b": C(6)},
    ),
    "max pooling": ([node("MaxPool", "x", "y", kernel_shape=[3, 2], pads=[1, 0, 2, 1], strides=[2, 3])], {}),
    "max pooling with gaps": ([node("MaxPool", "x", "y", kernel_shape=[3, 2], dilations=[2, 3])], {}),
    "max pooling rounded up": (
        [node("MaxPool", "x", "y", kernel_shape=[2, 3], strides=[2, 3], ceil_mode=1)],
        {},
    ),
    "average of real pixels": (
        [node("AveragePool", "x", "y", kernel_shape=[3, 2], pads=[1, 0, 2, 1], strides=[2, 3])],
        {},
    ),
    "average with the padding": (
        [
            node(
                "AveragePool",
                "x",
                "y",
                kernel_shape=[3, 2],
                pads=[1, 0, 2, 1],
                strides=[2, 3],
                count_include_pad=1,
            )
        ],
        {},
    ),
    "average padded to fit": (
        [node("AveragePool", "x", "y", kernel_shape=[3, 2], strides=[2, 3], auto_pad="SAME_UPPER")],
        {},
    ),
    "mean of the map": ([node("GlobalAveragePool", "x", "y")], {}),
    "largest of the map": ([node("GlobalMaxPool", "x", "y")], {}),
    "mean along axes, kept": ([node("ReduceMean", "x", "y", axes=[2, -1])], {}),
    "mean along axes, gone": ([node("ReduceMean", "x", "y", axes=[-2, -1], keepdims=0)], {}),
    "mean along axes that are an input": (
        [node("ReduceMean", "x a", "y", keepdims=0)],
        {"a": whole(3, 2)},
        {"opset": 18},
    ),
    "lrn": ([node("LRN", "x", "y", size=3, alpha=0.7, beta=0.6, bias=1.5)], {}),
    "batch norm": (
        [node("BatchNormalization", "x g b m v", "y", epsilon=0.02)],
        {"g": C(4), "b": C(4, seed=1), "m": C(4, seed=2), "v": C(4, seed=3) ** 2},
    ),
    "batch norm, then a scale and a shift": (
        [node("BatchNormalization", "x g b m v", "a"), node("Mul", "a s", "c"), node("Add", "c t", "y")],
        {
            "g": C(4),
            "b": C(4, seed=1),
            "m": C(4, seed=2),
            "v": C(4, seed=3) ** 2,
            "s": C(4, 1, 1, seed=4),
            "t": C(4, 1, 1, seed=5),
        },
    ),
    "batch norm of a flat map": (
        [node("Flatten", "x", "a"), node("BatchNormalization", "a g b m v", "c"), node("Gemm", "c w", "y")],
        {"g": C(396), "b": C(396, seed=1), "m": C(396, seed=2), "v": C(396, seed=3) ** 2, "w": C(396, 7)},
    ),
    "relu": ([node("Relu", "x", "y")], {}),
    "leaky relu": ([node("LeakyRelu", "x", "y", alpha=0.3)], {}),
    "prelu for each channel": ([node("PRelu", "x s", "y")], {"s": C(4, 1, 1)}),
    "prelu for all": ([node("PRelu", "x s", "y")], {"s": C(1)}),
    "sigmoid": ([node("Sigmoid", "x", "y")], {}),
    "tanh": ([node("Tanh", "x", "y")], {}),
    "clip below 0": ([node("Clip", "x low", "y")], {"low": np.float32(0)}),
    "clip to 0.3": ([node("Clip", "x low high", "y")], {"low": np.float32(0), "high": np.float32(0.3)}),
    "clip of opset 10": ([node("Clip", "x", "y", min=0.0, max=0.4)], {}, {"opset": 10}),
    "softmax of each pixel": ([node("Softmax", "x", "y", axis=1)], {}),
    "softmax of the whole map": (
        [node("Softmax", "x", "a"), node("Flatten", "a", "b"), node("Gemm", "b w", "y")],
        {"w": C(396, 7)},
        {"opset": 11},
    ),
    "softmax of a vector": (
        [node("GlobalAveragePool", "x", "a"), node("Flatten", "a", "b"), node("Softmax", "b", "y")],
        {},
    ),
    "dense": (
        [node("Flatten", "x", "a"), node("Gemm", "a w b", "y", transB=1, alpha=0.5, beta=3.0)],
        {"w": C(7, 396), "b": C(7)},
    ),
    "dense by matrix product": (
        [node("Reshape", "x s", "a"), node("MatMul", "a w", "c"), node("Add", "c b", "y")],
        {"s": whole(0, -1), "w": C(396, 7), "b": C(7)},
    ),
    "two dense layers": (
        [
            node("Flatten", "x", "a"),
            node("Gemm", "a w b", "c"),
            node("Relu", "c", "d"),
            node("Gemm", "d v", "y"),
        ],
        {"w": C(396, 7), "b": C(1, 7), "v": C(7, 5)},
    ),
    "channels last": (
        [
            node("Transpose", "x", "a", perm=[0, 3, 1, 2]),
            node("Conv", "a w b", "c"),
            node("Transpose", "c", "d", perm=[0, 2, 3, 1]),
            node("Reshape", "d s", "e"),
            node("MatMul", "e v", "y"),
        ],
        {"w": C(5, 3, 3, 2), "b": C(5), "s": whole(-1, 350), "v": C(350, 6)},
        {"x": (2, 9, 11, 3), "order": "hwc"},
    ),
    "channels last all the way": (
        [
            node("Add", "x b", "a"),
            node("MatMul", "a w", "c"),
            node("Relu", "c", "d"),
            node("Softmax", "d", "y"),
        ],
        {"b": C(3), "w": C(3, 5)},
        {"x": (2, 9, 11, 3), "order": "hwc", "out": "hwc"},
    ),
    "channels last, padded": (
        [
            node("Pad", "x p", "a"),
            node("Transpose", "a", "b", perm=[0, 3, 1, 2]),
            node("Conv", "b w", "c", pads=[0, 0, 1, 0]),
            node("Transpose", "c", "y", perm=[0, 2, 3, 1]),
        ],
        {"p": whole(0, 1, 2, 0, 0, 3, 4, 0), "w": C(5, 3, 3, 2)},
        {"x": (2, 9, 11, 3), "order": "hwc", "out": "hwc"},
    ),
    "a shape computed from the image": (
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Unsqueeze", "n first", "n1"),
            node("Concat", "n1 rest", "t", axis=0),
            node("Cast", "t", "t64", to=7),
            node("Reshape", "x t64", "a"),
            node("Gemm", "a w", "y"),
        ],
        {"zero": np.int64(0), "first": whole(0), "rest": whole(-1), "w": C(396, 7)},
    ),
    "a product of the image's sizes": (
        [
            node("Shape", "x", "s"),
            node("Slice", "s i j", "chw"),
            node("Gather", "chw one", "h"),
            node("Gather", "chw two", "w"),
            node("Mul", "h w", "hw"),
            node("Unsqueeze", "hw first", "hw1"),
            node("Concat", "head hw1", "t", axis=0),
            node("Reshape", "x t", "a"),
            node("ReduceMean", "a", "y", axes=[2], keepdims=0),
        ],
        {
            "i": whole(1),
            "j": whole(4),
            "one": np.int64(1),
            "two": np.int64(2),
            "first": whole(0),
            "head": whole(0, 4),
        },
    ),
    "scale": ([node("Mul", "x s", "y")], {"s": C(4, 1, 1)}),
    "scale and shift": (
        [node("Mul", "x s", "a"), node("Add", "a t", "y")],
        {"s": C(1, 4, 1, 1), "t": C(4, 1, 1, seed=1)},
    ),
    "scale of a conv": (
        [node("Conv", "x w", "a"), node("Mul", "a s", "y")],
        {"w": C(5, 4, 3, 2), "s": C(5, 1, 1)},
    ),
    "divided": ([node("Div", "x s", "y")], {"s": C(4, 1, 1)}),
    "made less": ([node("Sub", "x s", "y")], {"s": C(4, 1, 1)}),
    "taken from a number": ([node("Sub", "s x", "y")], {"s": np.float32(0.7)}),
    "a constant computed from constants": (
        [
            node("Constant", "", "two", value=np.float32([2.5])),
            node("Mul", "s two", "t"),
            node("Sqrt", "t", "u"),
            node("Add", "x u", "y"),
        ],
        {"s": C(4, 1, 1) ** 2},
    ),
    "maps added": ([node("Relu", "x", "a"), node("Add", "a x", "y")], {}),
    "maps and a number summed": (
        [node("Relu", "x", "a"), node("Tanh", "x", "b"), node("Sum", "a x b c", "y")],
        {"c": C(4, 1, 1)},
    ),
    "maps subtracted": ([node("Relu", "x", "a"), node("Sub", "x a", "y")], {}),
    "a map added to itself": ([node("Relu", "x", "a"), node("Add", "a a", "y")], {}),
    "maps side by side": (
        [node("Relu", "x", "a"), node("Conv", "x w", "b"), node("Concat", "a b x", "y", axis=1)],
        {"w": C(5, 4, 1, 1)},
    ),
    "flat maps side by side": (
        [
            node("Relu", "x", "a"),
            node("Conv", "x w", "b"),
            node("Flatten", "a", "c"),
            node("Flatten", "b", "d"),
            node("Concat", "c d", "e", axis=-1),
            node("Gemm", "e v", "y"),
        ],
        {"w": C(5, 4, 3, 2), "v": C(746, 6)},
    ),
    "pixel shuffle": (
        [
            node("Reshape", "x s", "a"),
            node("Transpose", "a", "b", perm=[0, 1, 4, 2, 5, 3]),
            node("Reshape", "b t", "y"),
        ],
        {"s": whole(2, 5, 2, 3, 9, 11), "t": whole(2, 5, 18, 33)},
        {"x": (2, 30, 9, 11)},
    ),
    "depth to space": ([node("DepthToSpace", "x", "y", blocksize=2)], {}, {"x": (2, 12, 5, 7)}),
    "depth to space, the other way": (
        [node("DepthToSpace", "x", "y", blocksize=2, mode="CRD")],
        {},
        {"x": (2, 12, 5, 7)},
    ),
    "space to depth": ([node("SpaceToDepth", "x", "y", blocksize=2)], {}, {"x": (2, 3, 8, 10)}),
    "channels shuffled": (
        [
            node("Reshape", "x s", "a"),
            node("Transpose", "a", "b", perm=[0, 2, 1, 3, 4]),
            node("Reshape", "b t", "c"),
            node("Conv", "c w", "y", group=2),
        ],
        {"s": whole(2, 2, 3, 9, 11), "t": whole(0, 6, 9, 11), "w": C(8, 3, 3, 2)},
        {"x": (2, 6, 9, 11)},
    ),
    "a vector made a map": (
        [
            node("Flatten", "x", "a"),
            node("Gemm", "a v", "b"),
            node("Reshape", "b s", "c"),
            node("Conv", "c w", "y"),
        ],
        {"v": C(12, 60), "s": whole(-1, 3, 4, 5), "w": C(7, 3, 2, 3)},
        {"x": (2, 12, 1, 1)},
    ),
    "padded, then conv": (
        [node("Pad", "x p", "a"), node("Conv", "a w", "y", pads=[0, 1, 2, 0])],
        {"p": whole(0, 0, 1, 2, 0, 0, 3, 4), "w": C(5, 4, 3, 2)},
    ),
    "padded by attributes, then conv": (
        [
            node("Pad", "x", "a", pads=[0, 0, 1, 2, 0, 0, 3, 4]),
            node("Conv", "a w", "y", auto_pad="SAME_UPPER", strides=[2, 3]),
        ],
        {"w": C(5, 4, 3, 2)},
        {"opset": 9},
    ),
    "padded, then the largest, after a relu": (
        [
            node("Relu", "x", "r"),
            node("Pad", "r p", "a"),
            node("MaxPool", "a", "y", kernel_shape=[3, 4], strides=[2, 3]),
        ],
        {"p": whole(0, 0, 1, 2, 0, 0, 0, 3)},
    ),
    "padded, then the largest, of any sign": (
        [node("Pad", "x p", "a"), node("MaxPool", "a", "y", kernel_shape=[3, 4], strides=[2, 3])],
        {"p": whole(0, 0, 1, 2, 0, 0, 0, 3)},
    ),
    "padded with minus infinity": (
        [node("Pad", "x p f", "a"), node("MaxPool", "a", "y", kernel_shape=[3, 4])],
        {"p": whole(0, 0, 1, 2, 0, 0, 0, 3), "f": np.float32(-np.inf)},
    ),
    "padded, then the average": (
        [node("Pad", "x p", "a"), node("AveragePool", "a", "y", kernel_shape=[3, 4], strides=[2, 3])],
        {"p": whole(0, 0, 1, 2, 0, 0, 0, 3)},
    ),
    "padded and padded again, then the average": (
        [node("Pad", "x p", "a"), node("AveragePool", "a", "y", kernel_shape=[3, 4], pads=[0, 1, 2, 0])],
        {"p": whole(0, 0, 1, 2, 0, 0, 0, 3)},
    ),
    "padded at the end": (
        [node("Relu", "x", "a"), node("Pad", "a p", "y")],
        {"p": whole(0, 0, 1, 2, 0, 0, 3, 4)},
    ),
    "padded along two axes": (
        [node("Pad", "x p - a", "b"), node("Tanh", "b", "y")],
        {"p": whole(1, 2, 3, 4), "a": whole(-1, 2)},
        {"opset": 18},
    ),
    "passed on": (
        [
            node("Identity", "x", "a"),
            node("Dropout", "a", "b"),
            node("Cast", "b", "c", to=1),
            node("Relu", "c", "y"),
        ],
        {},
    ),
    "axes of one, put in and taken out": (
        [
            node("Unsqueeze", "x i", "a"),
            node("Squeeze", "a i", "b"),
            node("GlobalAveragePool", "b", "c"),
            node("Squeeze", "c j", "d"),
            node("Gemm", "d w", "y"),
        ],
        {"i": whole(1), "j": whole(2, -1), "w": C(4, 7)},
    ),
    "axes of one, by attributes": (
        [
            node("Unsqueeze", "x", "a", axes=[1, 4]),
            node("Squeeze", "a", "b", axes=[4, 1]),
            node("Relu", "b", "y"),
        ],
        {},
        {"opset": 11},
    ),
    "enlarged": ([node("Upsample", "x s", "y")], {"s": np.float32([1, 1, 3, 3])}, {"opset": 9}),
    "enlarged smoothly": ([node("Resize", "x - s", "y", mode="linear")], {"s": np.float32([1, 1, 2, 2])}),
    "enlarged to a size": (
        [
            node(
                "Resize",
                "x - - s",
                "y",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"s": whole(2, 4, 27, 33)},
    ),
    "an image without channels": (
        [node("Flatten", "x", "a"), node("Gemm", "a w", "y")],
        {"w": C(99, 7)},
        {"x": (2, 9, 11)},
    ),
    "a vector": ([node("Gemm", "x w", "a"), node("Tanh", "a", "y")], {"w": C(13, 7)}, {"x": (2, 13)}),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_gives_what_onnx_runtime_gives(name, tmp_path):
    nodes, constants, *about = CASES[name]
    asked = {"x": X, **(about[0] if about else {})}
    orders = {key: asked.pop(key) for key in ("order", "out") if key in asked}
    path = write(tmp_path / "small.onnx", nodes, constants, **asked)
    compare(path, numbers(*asked["x"], seed=9), **orders)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_of_any_geometry_gives_what_onnx_runtime_gives(op, seed, tmp_path):
    rng = np.random.default_rng([seed, len(op)])
    kernel, stride, dilation, (h, w) = (samples.two(rng, *one) for one in ((2, 5), (1, 4), (1, 3), (13, 19)))
    pads = [int(rng.integers(0, k)) for k in kernel * 2]  # top, left, bottom, right
    about = {"kernel_shape": kernel, "strides": stride, "dilations": dilation}
    about |= {"pads": pads, "ceil_mode": seed % 2}
    if op == "AveragePool":
        about["count_include_pad"] = seed // 2 % 2
    path = write(tmp_path / "small.onnx", [node(op, "x", "y", **about)], x=(2, 3, h, w), opset=19)
    compare(path, numbers(2, 3, h, w, seed=seed))


def test_the_real_digits_net_gives_what_onnx_runtime_gives(data):
    path = data / "models/onnx/mnist_cntk.onnx"
    net, images = onnx.read(path).net, numbers(1, 1, 28, 28)
    made = net.forwardto(net.init_res(), "Plus214_Output_0", images.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(made.reshape(1, 10), runtime(path, images)[0], rtol=1e-4, atol=1e-5)


def test_the_real_vgg16_gives_what_onnx_runtime_gives(data):
    """Also within: outputs are added to the file for what lies before the last layer."""
    path = data / "models/vgg16/vgg16_conv_imagenet_head_mri.onnx"
    net, images = onnx.read(path).net, 100 * numbers(1, 240, 240, 3)
    inside = [
        f"functional_1/{name}:0"
        for name in ("block3_conv2_1/Relu", "block5_pool_1/MaxPool2d", "dense_3_1/BiasAdd")
    ]
    added = field(7, b"".join(field(12, port(name, None)) for name in inside))
    wanted = runtime(path, images, *inside, "dense_3", extra=added)
    made = net.forwardto(net.init_res(), [*inside, "dense_3"], images)
    for mine, theirs in zip(made.values(), wanted, strict=True):
        theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs.reshape(mine.shape)
        assert np.abs(mine - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_the_real_super_resolution_gives_what_torch_gives(data):
    """ONNX Runtime refuses it: the file names no opset."""
    torch = pytest.importorskip("torch")
    net, images = onnx.read(data / "models/onnx/super_resolution.onnx").net, numbers(1, 1, 224, 224)
    x = torch.tensor(images)
    for name in ("conv_11", "conv_15", "conv_19", "conv_23"):
        conv = net.node(name).layer
        w = torch.tensor(conv.w.transpose(3, 2, 0, 1).copy())
        x = torch.nn.functional.conv2d(x, w, torch.tensor(conv.b.copy()), padding=conv.window.pad[0])
        x = x if name == "conv_23" else torch.relu(x)
    wanted = torch.pixel_shuffle(x, 3).numpy()
    made = net.forwardto(net.init_res(), "27", images.transpose(0, 2, 3, 1))
    assert np.abs(made[..., 0] - wanted[:, 0]).max() < 1e-4 * np.abs(wanted).max()
