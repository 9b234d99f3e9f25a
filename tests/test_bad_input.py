"""What a user may get wrong, and the words that come back: what was asked, what was found, what to do."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import layers as L
from minidnn.errors import (
    DeviceError,
    DivergedError,
    MinidnnError,
    ShapeError,
    StaleResError,
    UnknownLayerError,
    UsageError,
    did_you_mean,
)
from minidnn.net import Net, Node
from minidnn.window import Window
from tests.nets import forked, photo


def relu(name, *inputs):
    return Node(name, L.ReLU(), inputs)


# Layers that are not there


def test_an_unknown_layer_brings_a_near_one_to_mind(net, image):
    with pytest.raises(UnknownLayerError, match=r"^no layer 'conv_1'; did you mean 'conv1'\?$"):
        net.forwardto(net.init_res(), "conv_1", image)
    with pytest.raises(UnknownLayerError, match=r"^no layer 'xyz'$"):
        net.forwardto(net.init_res(), "xyz", image)
    assert did_you_mean("qqq", ["conv1"]) == ""


def test_a_number_may_be_numpys(net, image):
    assert net.forwardto(net.init_res(), np.int64(1), image).shape == (2, 8, 10, 4)


@pytest.mark.parametrize("number", [-1, 9, 1.5])
def test_an_unknown_number_brings_the_range(net, image, number):
    with pytest.raises(UnknownLayerError, match=f"no layer {number}: this net has 0 \\(data\\) to 8"):
        net.forwardto(net.init_res(), number, image)


def test_the_input_is_no_layer(net):
    with pytest.raises(UnknownLayerError, match="'data' is the input of the net"):
        net.node(0)


def test_no_layer_at_all(net, image):
    with pytest.raises(UsageError, match="no layer was named"):
        net.forwardto(net.init_res(), [], image)


def test_a_rule_for_an_unknown_layer(net, image):
    res = net.init_res()
    y = net.forwardto(res, "out", image)
    with pytest.raises(UnknownLayerError, match="no layer 'relu2'; did you mean 'relu1'"):
        net.backwardfrom(res, {"out": y}, rules={"relu2": lambda layer, dzdy, **_: dzdy})


# Images


def test_wrong_channels(net, image):
    with pytest.raises(
        ShapeError, match=r"Conv 3x3x3x4 wants 3 channels, x has 1 .* a grey image\?"
    ) as caught:
        net.forwardto(net.init_res(), "out", image[..., :1])
    assert "in layer 'conv1', reading 'data'" in caught.value.__notes__


def test_an_image_too_small_for_the_net_is_told_the_smallest_that_fits():
    layers = {f"pool{i}": L.MaxPool(Window.of(3, stride=2)) for i in range(3)}
    with pytest.raises(ShapeError, match="window of 3x3 pixels does not fit on an image of 2x2") as caught:
        net = Net.chain(layers)
        net.forwardto(net.init_res(), "pool3" if "pool3" in net.names else "pool2", np.zeros((1, 12, 12, 3)))
    assert "the smallest square image that gets this far is 15x15" in caught.value.__notes__


def test_a_larger_image_for_a_fully_connected_layer():
    net = Net.chain({"fc": L.FC(np.zeros((4, 5, 3, 2)), None)})
    with pytest.raises(
        ShapeError, match=r"trained on maps of \(4, 5, 3\), x has \(6, 5, 3\): .*as_convolutional\(\)"
    ):
        net.forwardto(net.init_res(), "fc", np.zeros((1, 6, 5, 3)))
    with pytest.raises(ShapeError, match="the same count in another shape; Flatten before"):
        net.forwardto(net.init_res(), "fc", np.zeros((1, 1, 1, 60)))
    with pytest.raises(ShapeError, match=r"x has \(3, 5, 3\): give images of the trained size"):
        net.forwardto(net.init_res(), "fc", np.zeros((1, 3, 5, 3)))


def test_one_image_without_its_batch(net, image):
    with pytest.raises(
        ShapeError, match=r"an image is \(N, H, W, C\), found \(8, 10, 3\); image\[None\] makes a batch"
    ):
        net.forwardto(net.init_res(), "out", image[0])
    with pytest.raises(ShapeError, match=r"found \(8, 10\)$"):
        net.forwardto(net.init_res(), "out", image[0, ..., 0])


def test_a_batch_of_zero(net, image):
    with pytest.raises(
        ShapeError, match=r"a batch of zero images \(shape \(0, 8, 10, 3\)\); give at least one"
    ):
        net.forwardto(net.init_res(), "out", image[:0])


def test_an_image_without_pixels(net, image):
    with pytest.raises(ShapeError, match=r"an image without pixels \(shape \(2, 0, 10, 3\)\)"):
        net.forwardto(net.init_res(), "out", image[:, :0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none(net, image, bad):
    image[1, 2, 3, 0] = bad
    with pytest.raises(
        DivergedError, match=r"1 of 480 numbers that are NaN or infinite, the first at \(1, 2, 3, 0\)"
    ):
        net.forwardto(net.init_res(), "out", image)


def test_what_is_no_array(net):
    with pytest.raises(UsageError, match="wanted an array, found list; numpy"):
        net.forwardto(net.init_res(), "out", [[1, 2]])
    with pytest.raises(UsageError, match="an image holds real numbers, found complex128"):
        net.forwardto(net.init_res(), "out", np.zeros((1, 8, 10, 3), complex))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float16"])
def test_integers_and_half_floats_become_float32(dtype):
    net = forked().astype("float32")
    image = (np.arange(240).reshape(1, 8, 10, 3) % 7).astype(dtype)
    res = net.init_res()
    y = net.forwardto(res, "out", image)
    assert y.dtype == np.float32 and res["data"].x.dtype == np.float32
    assert np.array_equal(y, net.forwardto(net.init_res(), "out", image.astype("float32")))


def test_double_precision_passes_untouched():
    net = forked().astype("float32")
    assert net.forwardto(net.init_res(), "out", photo(net)).dtype == np.float64


def test_views_and_read_only_images_work(net, image):
    view = np.asfortranarray(image)[:, ::-1]
    view.flags.writeable = False
    found = net.forwardto(net.init_res(), "out", view)
    assert np.allclose(found, net.forwardto(net.init_res(), "out", view.copy(order="C")), rtol=1e-12)


def test_a_refused_image_loses_nothing(net, image):
    res = net.init_res()
    y = net.forwardto(res, "out", image)
    with pytest.raises(MinidnnError):
        net.forwardto(res, "out", image[..., :1])
    assert res["out"].x is y


def test_an_image_and_a_start_contradict_each_other(net, image):
    with pytest.raises(UsageError, match=r"an image and start=\.\.\. at once"):
        net.forwardto(net.init_res(), "out", image, start="pool1")


def test_an_unknown_mode(net, image):
    with pytest.raises(UsageError, match="no mode 'training'; there are"):
        net.forwardto(net.init_res(), "out", image, mode="training")


def test_training_with_dropout_wants_an_rng():
    net = Net.chain({"drop": L.Dropout()})
    for rng in (None, 0):
        with pytest.raises(UsageError, match=r"draws a mask: give rng=numpy\.random\.default_rng"):
            net.forwardto(net.init_res(), "drop", np.zeros((1, 2, 3, 4)), mode="train", rng=rng)


# Runs


def test_a_run_that_has_not_run(net):
    with pytest.raises(
        StaleResError, match=r"slot 'out' is empty: call forwardto\(res, 'out', image\) first"
    ):
        net.backwardfrom(net.init_res(), {"out": np.zeros((2, 4, 5, 8))})
    with pytest.raises(StaleResError, match="slot 'data' is empty"):
        net.forwardto(net.init_res(), "out")
    with pytest.raises(StaleResError, match="slot 'pool1' is empty"):
        net.forwardto(net.init_res(), "out", start="pool1")


def test_a_seed_for_a_layer_that_was_not_run(net, image):
    res = net.init_res()
    net.forwardto(res, "a", image)
    with pytest.raises(StaleResError, match="slot 'b' is empty"):
        net.backwardfrom(res, {"b": np.zeros((2, 4, 5, 2))})


def test_a_seed_of_another_shape(net, image):
    res = net.init_res()
    net.forwardto(res, "out", image)
    with pytest.raises(
        ShapeError, match=r"the seed for 'out' is \(2, 4, 5, 1\), its output is \(2, 4, 5, 8\)"
    ):
        net.backwardfrom(res, {"out": np.zeros((2, 4, 5, 1))})


def test_a_seed_of_no_number_or_twice_for_one_layer(net, image):
    res = net.init_res()
    y = net.forwardto(res, "out", image)
    for bad in (y * np.nan, y * 1j):
        with pytest.raises(
            DivergedError, match="the seed for 'out' has numbers that are complex, NaN or infinite"
        ):
            net.backwardfrom(res, {"out": bad})
    with pytest.raises(UsageError, match="two seeds for one layer among 'out', 8; add them up"):
        net.backwardfrom(res, {"out": y, 8: y})
    with pytest.raises(UsageError, match="backwardfrom without seeds"):
        net.backwardfrom(res, y)


def test_no_seed_or_one_that_never_arrives(net, image):
    res = net.init_res()
    y = net.forwardto(res, "out", image)
    with pytest.raises(UsageError, match="backwardfrom without seeds"):
        net.backwardfrom(res, {})
    with pytest.raises(UsageError, match="the seed for 'conv1' never reaches 'pool1'; leave it out"):
        net.backwardfrom(res, {"out": y, "conv1": res["conv1"].x}, to="pool1")
    with pytest.raises(UsageError, match="no gradient reaches 'b' from 'a'; seed it, or a layer behind it"):
        net.backwardfrom(res, {"a": res["a"].x}, to=["b", "pool1"])


# Devices


def test_host_meets_device(net, image):
    from tests.fakedevice import BACKEND

    there = net.to("fake")
    words = r"host array \(2, 8, 10, 3\) meets device array \(3, 3, 3, 4\): move one"
    with pytest.raises(DeviceError, match=words):
        there.forwardto(there.init_res(), "out", image)
    with pytest.raises(DeviceError, match=r"device array .* meets host array"):
        net.forwardto(net.init_res(), "out", BACKEND.put(image))
    res = there.init_res()
    y = there.forwardto(res, "out", BACKEND.put(image))
    with pytest.raises(DeviceError, match="meets"):
        there.backwardfrom(res, {"out": BACKEND.get(y)})


# Graphs


def test_a_cycle_or_a_wrong_order():
    with pytest.raises(
        UsageError, match="'a' reads 'b', which is not made before it: a cycle, or the wrong order"
    ):
        Net([relu("a", "b"), relu("b", "a")])
    with pytest.raises(UsageError, match="'a' reads 'a', which is not made before it"):
        Net([relu("a", "a")])


def test_an_input_that_is_nowhere():
    with pytest.raises(
        UnknownLayerError, match="'b' reads 'relu', and there is no such layer; did you mean 'relu1'"
    ):
        Net([relu("relu1", "data"), relu("b", "relu")])


def test_two_layers_of_one_name():
    with pytest.raises(UsageError, match="two layers are called 'a'"):
        Net([relu("a", "data"), relu("a", "a")])
    with pytest.raises(UsageError, match="two layers are called 'data'"):
        Net([relu("data", "data")])


def test_a_layer_that_reads_nothing_and_a_net_of_nothing():
    with pytest.raises(UsageError, match="'a' reads nothing; name its inputs"):
        Net([relu("a")])
    with pytest.raises(UsageError, match="a net without layers"):
        Net([])


def test_a_layer_with_too_many_inputs_or_that_is_none():
    with pytest.raises(UsageError, match="'b' reads 'a', 'data'; a ReLU does not take 2 inputs"):
        Net([relu("a", "data"), relu("b", "a", "data")])
    with pytest.raises(UsageError, match="a MaxUnpool does not take 1 inputs"):
        Net([Node("a", L.MaxUnpool(Window.of(2)), ("data",))])
    with pytest.raises(UsageError, match=r"'a' is <class .*ReLU'>, not a layer; make one: ReLU\(\)"):
        Net.chain({"a": L.ReLU})
    with pytest.raises(UsageError, match="a layer cannot be called 'all'"):
        Net([relu("all", "data")])


def test_one_input_needs_no_tuple():
    assert Net([Node("a", L.ReLU(), "data")]).node("a").inputs == ("data",)


def test_shapes_are_checked_when_the_net_is_built():
    with pytest.raises(ShapeError, match="wants 3 channels, x has 4") as caught:
        Net.chain({"conv": L.Conv.random(None, 3, 3, 8)}, input_shape=(9, 9, 4))
    assert "in layer 'conv', reading 'data'" in caught.value.__notes__


# Layers that contradict themselves

CONTRADICTIONS = [
    (lambda: Window.of(3, pad=-1), "pad of a window is .*at least 0"),
    (lambda: L.Conv(np.zeros((3, 3, 2, 4)), None, Window.of(5)), "filters of 3x3 and a window of"),
    (lambda: L.Conv(np.zeros((3, 3, 2, 4)), None, 3), "wants a Window, found 3; Window.of"),
    (lambda: Window((3, 3), pad=(0, 0)), r"pad of a window is \(0, 0\); give 4 whole numbers"),
    (lambda: Window((3.5, 3)), "kernel of a window is .*; give 2 whole numbers"),
    (lambda: L.Conv(np.zeros((3, 3, 4)), None, Window.of(3)), r"wants filters \(kh, kw, in, out\)"),
    (
        lambda: L.Conv(np.zeros((3, 3, 2, 4)), np.zeros(3), Window.of(3)),
        r"a bias of shape \(4,\), found \(3,\)",
    ),
    (
        lambda: L.Conv(np.zeros((3, 3, 2, 4)), None, Window.of(3), groups=3),
        "cannot share 4 filters among 3 groups",
    ),
    (
        lambda: L.ConvTranspose(np.zeros((3, 3, 4, 2)), None, Window.of(3, stride=2), extra=(2, 0)),
        "extra must be from 0 to less than the",
    ),
    (
        lambda: L.ConvTranspose.random(None, 3, 2, 4, pad=2).out_shape((1, 1, 1, 2)),
        "use a larger x or less pad",
    ),
    (lambda: L.PReLU(np.zeros(3)).out_shape((1, 2, 2, 4)), r"slopes \(3,\), x has 4 channels"),
    (lambda: L.AvgPool(Window.of(2), "some"), "no divisor 'some'; there are 'real', 'padded' and 'all'"),
    (
        lambda: L.MaxPool(Window.of(2, pad=2)).out_shape((1, 4, 4, 1)),
        "lies in the padding .* alone; pad less",
    ),
    (
        lambda: L.MaxUnpool(Window.of(2)).out_shape((1, 2, 2, 1), (1, 4, 4, 1)),
        "name the input of the MaxPool that it",
    ),
    (lambda: L.Upsample(0), "give a factor of at least 1"),
    (lambda: L.Upsample(2, "cubic"), "'nearest' or 'bilinear'"),
    (lambda: L.LRN(0), "over 0 neighbours; give at least 1"),
    (lambda: L.LRNWithin(4), "give an odd number"),
    (lambda: L.BatchNorm(*[np.zeros(3)] * 3, np.zeros(2)), "of one length, found"),
    (lambda: L.BatchNorm(*[np.zeros(3)] * 4).out_shape((1, 2, 2, 4)), "wants 3 channels, x has 4"),
    (lambda: L.Dropout(1.0), "a share from 0 to less than 1"),
    (
        lambda: L.Dropout(0.5, np.ones((1, 2, 2, 3))).out_shape((1, 4, 4, 3)),
        "a frozen mask .* make them agree",
    ),
    (lambda: L.Concat().out_shape((1, 2, 2, 3), (1, 3, 2, 3)), "Concat wants maps of one size"),
    (lambda: L.Add().out_shape((1, 2, 2, 3), (1, 2, 2, 4)), "Add wants maps of one shape"),
    (lambda: L.ReLU().replacing(w=np.zeros(3)), "ReLU has no array 'w'"),
]


@pytest.mark.parametrize(("make", "words"), CONTRADICTIONS)
def test_a_layer_that_contradicts_itself(make, words):
    with pytest.raises(MinidnnError, match=words):
        make()
