"""Tiles give what the whole picture gives: the same outputs and gradient, on odd sizes and at borders."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidnn import layers as L
from minidnn import zoo
from minidnn.arrays import to_device, to_host
from minidnn.errors import ShapeError, StaleResError, UnknownLayerError, UsageError
from minidnn.layers.base import drawn
from minidnn.net import Net, Node
from minidnn.tiles import Tiling, tiled_gradient
from minidnn.window import Window
from tests.nets import every_layer


def known(name: str, upto: str) -> Net:
    """A net of the zoo as far as that layer, with random weights of its own."""
    net, rng = zoo.get(name, seed=None), np.random.default_rng(0)
    reached = net.ancestors([upto])
    net = net.with_nodes([node for node in net.nodes if node.name in reached], input_shape=None)
    return net.replacing({key: drawn(rng, a.shape, prod(a.shape[:3])) for key, a in net.params.items()})


def picture(shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
    return (np.random.default_rng(1).standard_normal(shape) * 30).astype(dtype)


def gradients(net: Net, image: np.ndarray, layers: list, tile: tuple[int, int]):
    """(outputs, gradient) of the whole, the same of the tiles, and the tiles; z = Σ y² / largest y."""
    names, res = net.names_of(layers), net.init_res()
    ys = net.forwardto(res, names, image, keep="needed")
    seeds = {name: 2 * y / np.abs(y).max() for name, y in ys.items()}
    tiling = Tiling(net, image.shape, layers, tile=tile)
    found = tiling.forward(image)
    return (ys, net.backwardfrom(res, seeds)), (found, tiling.backward(image, seeds)), tiling


def check(net: Net, image: np.ndarray, layers: list, tile: tuple[int, int], within: float) -> Tiling:
    (ys, dzdx), (found, tiled), tiling = gradients(net, image, layers, tile)
    for name, y in ys.items():
        assert np.abs(found[name] - y).max() <= within * np.abs(y).max()
    assert np.abs(tiled - dzdx).max() <= within * np.abs(dzdx).max()
    assert tiled.dtype == dzdx.dtype and [*found] == [*ys]
    return tiling


@pytest.mark.parametrize(
    ("name", "layers", "size", "tile"),
    [
        ("vgg16", ["conv4_3"], (59, 41), (24, 32)),
        ("vgg16", ["relu2_1", "pool3"], (61, 49), (32, 16)),
        ("squeezenet1.0", ["conv10"], (83, 99), (32, 48)),
        ("squeezenet1.1", ["fire8/concat"], (97, 61), (32, 16)),
        ("googlenet", ["inception_3b/output", "inception_4b/output"], (97, 131), (64, 48)),
    ],
)
def test_tiles_of_a_known_net_give_what_the_whole_gives(name, layers, size, tile):
    """Pools that round up, windows padded at one end, LRN, forks and joins; to the last digits of float64."""
    net = known(name, layers[-1]).astype("float64")
    tiling = check(net, picture((1, *size, 3)), layers, tile, within=1e-13)
    assert len(tiling.parts) > 3


@pytest.mark.parametrize(("kernels", "within"), [("im2col", 3e-6), ("winograd2", 2e-5), ("auto", 1e-4)])
def test_in_float32_only_the_rounding_differs(kernels, within):
    net = known("vgg16", "conv3_3").with_kernels(kernels)
    check(net, picture((1, 66, 90, 3), "float32"), ["conv3_3"], (32, 40), within)


def local(seed: int = 0) -> Net:
    """Every layer that sees only a part of the picture, on windows in which no two numbers are equal."""
    rng = np.random.default_rng(seed)
    norm = L.BatchNorm(*(rng.uniform(0.5, 1.5, 5).astype("float32") for _ in range(4)))
    uneven = Window.of((3, 2), stride=(2, 1), pad=(1, 0, 0, 1), ceil=True)
    shrinking = Window.of((4, 3), stride=(3, 2), pad=(1, 2, 1, 1), ceil=True)
    nodes = [
        Node("conv", L.Conv.random(rng, (4, 3), 3, 5, stride=(2, 1), pad=(2, 0, 1, 3)), ("data",)),
        Node("bn", norm, ("conv",)),
        Node("relu", L.ReLU(), ("bn",)),
        Node("wide", L.Conv.random(rng, (2, 3), 5, 5, pad=(0, 2, 2, 2), dilation=(2, 2)), ("relu",)),
        Node("add", L.Add(), ("wide", "relu")),
        Node("lrn", L.LRN(4, 1.0, 0.2, 0.75), ("add",)),
        Node("within", L.LRNWithin(5, 1.0, 0.2, 0.75), ("lrn",)),
        Node("max", L.MaxPool(uneven), ("within",)),
        Node("real", L.AvgPool(Window.of(3, pad=1), "real"), ("max",)),
        Node("padded", L.AvgPool(Window.of(3, pad=1), "padded"), ("max",)),
        Node("taps", L.AvgPool(Window.of((3, 5), pad=(1, 1, 2, 2)), "all"), ("max",)),
        Node("cat", L.Concat(), ("real", "padded", "taps")),
        Node("twin", L.Conv.random(rng, 1, 15, 6, groups=3), ("cat",)),
        Node("leaky", L.LeakyReLU(0.1), ("twin",)),
        Node("prelu", L.PReLU(np.full(6, 0.3, "float32")), ("leaky",)),
        Node("up", L.Upsample(3, "bilinear"), ("prelu",)),
        Node("up2", L.Upsample(3, "nearest"), ("prelu",)),
        Node("stamped", L.ConvTranspose.random(rng, 5, 6, 4, stride=3, pad=1), ("prelu",)),
        Node("both", L.Concat(), ("up", "up2", "stamped")),
        Node("drop", L.Dropout(0.3), ("both",)),
        Node("shrunk", L.AvgPool(shrinking, "padded"), ("drop",)),
        Node("reversal", L.GradientReversal(0.5), ("shrunk",)),
        Node("zeros", L.PadChannels(2, 1), ("reversal",)),
        Node("sigmoid", L.Sigmoid(), ("zeros",)),
        Node("tanh", L.Tanh(), ("sigmoid",)),
        Node("prob", L.Softmax(), ("tanh",)),
    ]  # fmt: skip
    return Net(nodes).astype("float64")


@pytest.mark.parametrize("tile", [(7, 9), (12, 50), (5, 4)])
@pytest.mark.parametrize(
    "layers", [["prob"], ["add", "prob"], ["stamped", "max"], ["up"], ["within", "conv"]]
)
def test_every_layer_that_is_local_goes_in_tiles(tile, layers):
    check(local(), picture((2, 31, 26, 3)) / 30, layers, tile, within=1e-12)


windows = st.builds(
    lambda kernel, stride, pad, dilation, ceil: Window.of(
        kernel, stride=stride, pad=pad, dilation=dilation, ceil=ceil
    ),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.booleans(),
)
kinds = st.lists(
    st.tuples(st.sampled_from(["conv", "max", "avg", "padded", "stamp", "near", "mixed"]), windows),
    min_size=1,
    max_size=3,
)


@settings(max_examples=80, deadline=None)
@given(
    kinds,
    st.tuples(st.integers(8, 21), st.integers(9, 20)),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
)
def test_whatever_the_windows(chosen, size, tile):
    rng, layers = np.random.default_rng(0), {}
    for number, (kind, window) in enumerate(chosen):
        layer = {
            "conv": lambda w: L.Conv(rng.standard_normal((*w.kernel, 2, 2)), rng.standard_normal(2), w),
            "max": L.MaxPool,
            "avg": L.AvgPool,
            "padded": lambda w: L.AvgPool(w, "padded"),
            "stamp": lambda w: L.ConvTranspose(
                rng.standard_normal((*w.kernel, 2, 2)),
                rng.standard_normal(2),
                Window(w.kernel, w.stride, w.pad, w.dilation),
                extra=tuple(max(0, stride - 1) for stride in w.stride),
            ),
            "near": lambda w: L.Upsample(w.kernel[0], "nearest"),
            "mixed": lambda w: L.Upsample(w.kernel[0], "bilinear"),
        }[kind](window)
        layers[f"{kind}{number}"] = layer
    net = Net.chain(layers)
    try:
        shapes = net.shapes((1, *size, 2))
    except ShapeError:
        return
    last = [*layers][-1]
    if prod(shapes[last]) < 30_000:
        check(net, rng.standard_normal((1, *size, 2)), [last], tile, within=1e-11)


def test_a_tile_pads_only_where_the_whole_pads():
    net = known("vgg16", "conv2_1")
    tiling = Tiling(net, (1, 64, 96, 3), "conv2_1", tile=(16, 16))
    for part in tiling.parts:
        (top, bottom), (left, right) = part.pixels
        pad = part.net.node("conv1_1").layer.window.pad
        assert pad == (top == 0, bottom == 64, left == 0, right == 96)
    assert len({id(part.net) for part in tiling.parts}) == 9, "corners, edges, and one for all amidst"
    amidst = tiling.amidst()
    assert amidst.own["conv2_1"] == ((8, 16), (16, 24)) and amidst.pixels == ((12, 36), (28, 52))


def test_every_place_belongs_to_one_tile():
    net = known("googlenet", "inception_4b/output")
    tiling = Tiling(net, (1, 150, 141, 3), ["conv2/3x3", "inception_4b/output"], tile=(40, 56))
    for name in tiling.layers:
        count = np.zeros(tiling.shapes[name][1:3], int)
        for part in tiling.parts:
            (top, bottom), (left, right) = part.own[name]
            count[top:bottom, left:right] += 1
        assert (count == 1).all()


def test_a_seed_in_one_corner_runs_one_tile(monkeypatch):
    net, image = local(), picture((1, 31, 26, 3))
    tiling = Tiling(net, image.shape, "add", tile=(7, 9))
    seed = np.zeros(tiling.shapes["add"])
    seed[:, 0, 0] = 1
    ran = []
    forwardto = Net.forwardto
    monkeypatch.setattr(Net, "forwardto", lambda *args, **how: ran.append(1) or forwardto(*args, **how))
    tiled = tiling.backward(image, {"add": seed})
    assert len(ran) == 1 < len(tiling.parts)
    res = net.init_res()
    forwardto(net, res, "add", image)
    np.testing.assert_allclose(tiled, net.backwardfrom(res, {"add": seed}), atol=1e-12)


def test_a_bar_may_watch():
    net, image, seen = local(), picture((1, 31, 26, 3)), []

    def watched(parts):
        for part in parts:
            yield part
            seen.append(part)

    value, dzdx, ys = tiled_gradient(net, image, "max", squares, tile=(11, 12), each=watched)
    assert len(seen) == 2 * len(Tiling(net, image.shape, "max", tile=(11, 12)).parts)
    assert value == (ys["max"] ** 2).sum() and dzdx.shape == image.shape


def squares(ys):
    return sum((y * y).sum() for y in ys.values()), {name: 2 * y for name, y in ys.items()}


def test_the_image_itself_may_be_asked_for():
    net, image = local(), picture((1, 31, 26, 3))
    value, dzdx, ys = tiled_gradient(net, image, 0, squares, tile=(8, 9))
    assert value == (image**2).sum() and ys["data"] is image
    np.testing.assert_array_equal(dzdx, 2 * image)
    both = tiled_gradient(net, image, [0, "max"], squares, tile=(8, 9))[1]
    alone = tiled_gradient(net, image, "max", squares, tile=(8, 9))[1]
    np.testing.assert_allclose(both, dzdx + alone, rtol=1e-12)


def test_tiles_share_the_filters_that_the_net_has_prepared():
    net = known("vgg16", "conv3_2")
    tiled_gradient(net, picture((1, 80, 96, 3), "float32"), "conv3_2", squares, tile=(32, 32))
    once = net.prepared.nbytes
    assert once > 0
    res = net.init_res()
    ys = net.forwardto(res, ["conv3_2"], picture((1, 80, 96, 3), "float32"))
    net.backwardfrom(res, ys)
    assert net.prepared.nbytes == once


def test_a_tile_is_computed_as_the_whole_is():
    """By itself a map of 4x4 would be done by winograd2; as a part of a larger one it is not."""
    net = known("vgg16", "conv2_2")
    part, conv = Tiling(net, (1, 96, 96, 3), "conv2_2", tile=(8, 8)).amidst(), net.node("conv2_2").layer
    chosen = [
        n.prepared["conv2_2"].algorithm((1, 6, 6, 128), conv.w, Window.of(3), 1) for n in (net, part.net)
    ]
    assert chosen == ["winograd2", "winograd4"]


def test_tiles_run_on_every_device(device):
    net, image = local(), picture((1, 31, 26, 3))
    wanted = tiled_gradient(net, image, "prob", squares, tile=(11, 12))[1]
    found = tiled_gradient(net.to(device), to_device(image, device), "prob", squares, tile=(11, 12))[1]
    np.testing.assert_allclose(to_host(found), wanted, rtol=1e-9, atol=1e-12)


def test_what_sees_the_whole_map_is_named():
    with pytest.raises(
        UsageError, match=r"no tiles up to fc7: 'fc6' \(FC\) sees the whole map; net.as_conv.*'fc7'"
    ):
        Tiling(zoo.get("vgg16", seed=None), (1, 224, 224, 3), "fc7")
    with pytest.raises(UsageError, match=r"'pool10' \(GlobalAvgPool\) is a mean over the whole map"):
        Tiling(zoo.get("squeezenet1.1", seed=None), (1, 227, 227, 3), "prob")
    with pytest.raises(
        UsageError, match=r"'unpool1' \(MaxUnpool\) puts.*'flat' \(Flatten\) forgets.*'fc' \(FC\)"
    ):
        Tiling(every_layer(), (1, 12, 14, 3), "prob")


def test_a_layer_of_your_own_is_not_guessed_at():
    class Mystery(L.Layer):
        pass

    with pytest.raises(UsageError, match=r"'odd' \(Mystery\) is of no kind known here"):
        Tiling(Net.chain({"odd": Mystery()}), (1, 5, 7, 3), "odd")


def test_training_depends_on_the_whole_batch():
    with pytest.raises(UsageError, match=r"'bn' \(BatchNorm\) in training depends on.*'drop' \(Dropout\) in"):
        Tiling(local(), (1, 31, 26, 3), "prob", mode="train")


def test_what_does_not_fit_is_said():
    net, image = local(), picture((1, 31, 26, 3))
    tiling = Tiling(net, image.shape, "max", tile=(8, 9))
    with pytest.raises(
        ShapeError, match=r"tiles are for images \(1, 31, 26, 3\), this one is \(1, 31, 25, 3\)"
    ):
        tiling.forward(image[:, :, 1:])
    with pytest.raises(ShapeError, match=r"seed for 'max' is \(1, 2, 3, 5\), its output here is"):
        tiling.backward(image, {"max": np.zeros((1, 2, 3, 5))})
    with pytest.raises(UsageError, match="a seed for 'conv', and the tiles go to max"):
        tiling.backward(image, {"conv": np.zeros((1, 2, 3, 5))})
    with pytest.raises(UsageError, match="tiles of 0x9 pixels; give at least 1x1"):
        Tiling(net, image.shape, "max", tile=(0, 9))
    with pytest.raises(UnknownLayerError, match="no layer 'mox'"):
        Tiling(net, image.shape, "mox")
    with net.updating() as w:
        w["conv/w"] *= 2
    with pytest.raises(StaleResError, match="the weights have changed since these tiles were laid out"):
        tiling.forward(image)
