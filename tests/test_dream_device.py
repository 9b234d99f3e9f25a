"""A dream on a device: what crosses between it and the host in a step, and weights that go straight there."""

from collections import Counter

import numpy as np
import pytest

from minidnn import weights, zoo
from minidnn.arrays import device_of, to_device
from minidnn.cli.main import main
from minidnn.dream import Jitter, NaturalColours, Smooth, dream, squared_norm
from minidnn.dream.loop import Way
from minidnn.images import Preprocess
from minidnn.losses import cross_entropy
from minidnn.optim import MeanAbs, Momentum
from minidnn.train.data import Pictures, Splits
from minidnn.train.fit import Way as TrainWay
from minidnn.train.fit import fit
from minidnn.zoo.tiny import tiny
from tests import fakedevice
from tests.nets import every_layer, photo

# What a step hands to the host, each a number or a yes: whether image and seed are finite; the value; the
# norms of a layer, gradient, penalty and step; two numbers of MeanAbs; and two by which to see a leap.
TO_HOST = {1: 2, 4: 7, 8: 2}  # {bytes: how often}
TO_DEVICE = {4: 2, 12: 2, 36: 1}  # std and mean, both ways, and how colours mix
TO_HOST_IN_TRAINING = {1: 3, 4: 1}  # the same two, whether the labels are classes, and the loss


@pytest.fixture
def traffic():
    fakedevice.TRAFFIC.clear()
    return lambda way: dict(Counter(nbytes for there, nbytes in fakedevice.TRAFFIC if there == way))


def test_a_dream_step_hands_the_host_a_few_numbers_and_no_arrays(traffic):
    net, rng = zoo.get("gabor").to("fake"), np.random.default_rng(0)
    way = Way(MeanAbs(1.5), transforms=(Jitter(5),), shaping=(NaturalColours(), Smooth()))
    picture = to_device(rng.random((1, 24, 33, 3), "float32") * 255, "fake")
    steps = dream(net, picture, squared_norm("relu2"), way, rng=np.random.default_rng(1))
    next(steps)  # the first brings the blur's weights there
    for _ in range(2):
        fakedevice.TRAFFIC.clear()
        next(steps)
        assert traffic("to host") == TO_HOST
        assert traffic("to device") == TO_DEVICE


@pytest.mark.parametrize("mode", ["test", "train"])
def test_forward_and_back_only_ask_whether_what_came_in_is_finite(mode, traffic):
    net, rng = every_layer(), np.random.default_rng(0)
    image = to_device(photo(net), "fake")
    there, last = net.to("fake"), net.names[-1]
    res = there.init_res()
    fakedevice.TRAFFIC.clear()
    y = there.forwardto(res, last, image, mode=mode, rng=rng)
    there.backwardfrom(res, {last: y}, params=True)
    there.gradients(res)
    assert (traffic("to host"), traffic("to device")) == ({1: 2}, {})


def test_a_training_step_hands_the_host_its_loss(traffic):
    rng = np.random.default_rng(0)
    net, rule, memory = tiny(rng, batch_norms=True).to("fake"), Momentum(0.01), {}
    x = to_device(rng.standard_normal((4, 32, 32, 3)).astype("float32"), "fake")
    labels = to_device(rng.integers(0, 10, 4), "fake")
    res = net.init_res()
    for _ in range(2):
        fakedevice.TRAFFIC.clear()
        scores = net.forwardto(res, "scores", x, mode="train", keep="needed")
        loss, seed = cross_entropy(scores, labels)
        net.backwardfrom(res, {"scores": seed}, params=True, to=None)
        with net.updating() as w:
            for name, dzdw in net.gradients(res).items():
                step, memory[name] = rule.step(dzdw, memory.get(name))
                w[name] += step
        assert np.isfinite(loss)
        assert (traffic("to host"), traffic("to device")) == (TO_HOST_IN_TRAINING, {})


def test_a_step_of_the_trainer_sends_its_pictures_and_gets_scores_and_numbers(traffic):
    rng = np.random.default_rng(0)
    pictures = Pictures(
        rng.integers(0, 255, (8, 32, 32, 3), np.uint8), np.arange(8) % 10, tuple("abcdefghij"), "noise"
    )
    net = tiny(rng, batch_norms=True).to("fake")
    net = net.with_nodes(net.nodes, preprocess=Preprocess(mean=(128.0,) * 3, std=(60.0,) * 3))
    records = fit(net, Splits(pictures, pictures, pictures), TrainWay(batch=2, epochs=1))
    next(records)
    fakedevice.TRAFFIC.clear()
    next(records)
    batch, scores = 4 * 2 * 32 * 32 * 3, 4 * 2 * 10
    assert traffic("to device")[batch] == 1 and max(traffic("to device")) == batch
    assert traffic("to host").pop(scores) == 1
    assert all(nbytes <= 8 for nbytes in traffic("to host") if nbytes != scores), "and else only numbers"


def test_weights_go_straight_to_the_device(tmp_path, traffic):
    net = zoo.get("gabor")
    weights.save(tmp_path / "gabor.h5", net)
    there = weights.load(tmp_path / "gabor.h5", device="fake")
    assert {device_of(array) for array in there.params.values()} == {"fake"}
    sizes = Counter(array.nbytes for array in net.params.values())
    assert traffic("to device") == dict(sizes), "each array crosses once"
    assert traffic("to host") == {}
    x = np.random.default_rng(0).random((1, 20, 21, 3), "float32")
    y = there.forwardto(there.init_res(), "relu2", to_device(x, "fake"))
    assert np.allclose(y.host, net.forwardto(net.init_res(), "relu2", x), atol=1e-5)


def test_a_dream_of_a_device_is_replayed_there(tmp_path, capsys):
    picture, again = tmp_path / "dream.png", tmp_path / "again.png"
    what = ["--net", "gabor", "--size", "40x52", "--steps", "2", "--octaves", "1"]
    assert main(["dream", *what, "--device", "fake", "-o", str(picture)]) == 0
    capsys.readouterr()
    assert main(["replay", str(picture), "--device", "fake", "-o", str(again)]) == 0
    assert capsys.readouterr().out == "all 2 steps are the same, bit for bit\n"
    assert again.exists()
