"""The weights of a net: read-only, shared by identity, changed only through the one door."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import layers as L
from minidnn.errors import MismatchError, StaleResError, UnknownLayerError, UsageError, WeightsError
from minidnn.net import Net, Node
from tests.nets import forked, photo


def test_weights_are_named_once_and_shared_ones_under_the_first():
    assert list(forked().params) == ["conv1/w", "conv1/b", "a/w", "a/b", "b/w", "b/b"]


def test_buffers_are_apart_from_what_is_trained():
    norm = L.BatchNorm(*(np.full(3, float(i)) for i in range(4)))
    net = Net.chain({"bn": norm})
    assert list(net.params) == ["bn/gamma", "bn/beta"]
    assert list(net.buffers) == ["bn/mean", "bn/var"]


def test_weights_cannot_be_written_to():
    net = forked()
    with pytest.raises(ValueError, match="read-only"):
        net.params["conv1/w"][...] = 0
    with pytest.raises(ValueError, match="read-only"):
        net.node("conv1").layer.w[...] = 0


def test_updating_is_the_one_door():
    net, image = forked(), photo(forked())
    before = net.forwardto(net.init_res(), "out", image)
    with net.updating() as weights:
        weights["a/w"] *= 0.5
    after = net.forwardto(net.init_res(), "out", image)
    assert not np.array_equal(before, after)
    assert net.node("a").layer.w is net.node("twin").layer.w, "sharers still share"
    assert net.node("a").layer.w.flags.writeable is False


def test_updating_leaves_the_callers_arrays_and_related_nets_alone():
    mine = np.ones((1, 1, 2, 3))
    net = Net.chain({"conv": L.Conv(mine, None, L.Conv.random(None, 1, 2, 3).window)})
    for _ in range(2):
        other = net.astype("float64")
        with net.updating() as weights:
            weights["conv/w"] += 1
        assert np.array_equal(other.params["conv/w"], net.params["conv/w"] - 1)
    assert mine.min() == mine.max() == 1 and mine.flags.writeable


def test_updating_twice_copies_once():
    net = forked()
    with net.updating() as first:
        array = first["conv1/w"]
    with net.updating() as second:
        assert second["conv1/w"] is array


def test_setting_a_weight_writes_into_it():
    net = forked()
    with net.updating() as weights:
        weights["a/w"] = weights["a/w"] * 2
        array = weights["a/w"]
        with pytest.raises(UnknownLayerError, match="no weights 'a/v'"):
            weights["a/v"] = array
        with pytest.raises(UsageError, match="within net"), net.updating():
            pass
    assert net.node("twin").layer.w is array
    assert np.array_equal(array, 2 * forked().params["a/w"])


def test_a_run_does_not_go_on_with_other_weights_than_it_began_with():
    net, image = forked(), photo(forked())
    res = net.init_res()
    y = net.forwardto(res, "out", image)
    with net.updating() as weights:
        weights["a/w"] *= 2
    for go_on in (lambda: net.forwardto(res, "out"), lambda: net.backwardfrom(res, {"out": y})):
        with pytest.raises(StaleResError, match="the weights have changed since this run began"):
            go_on()
    net.forwardto(res, "pool1", image)
    moved = net.to("cpu")
    assert moved.forwardto(res, "out").shape == y.shape, "a net made from this one goes on"


def test_a_net_without_weights_stays_one_in_another_dtype():
    net = Net.chain({"conv": L.Conv.random(None, 3, 3, 64)}).astype("float64")
    assert net.without_weights == {"conv"} and net.dtype == np.float64
    with pytest.raises(WeightsError, match="conv"), net.updating():
        pass


def test_the_door_closes_also_after_an_error():
    net = forked()
    with pytest.raises(RuntimeError), net.updating():
        raise RuntimeError
    assert not net.params["conv1/w"].flags.writeable


def test_a_training_step_lowers_the_loss_and_moves_sharers_together():
    net, image = forked(), photo(forked())
    res = net.init_res()

    def loss():
        return 0.5 * float((net.forwardto(res, "out", image) ** 2).sum())

    before = loss()
    net.backwardfrom(res, {"out": res["out"].x}, params=True, to=None)
    step = net.gradients(res)
    with net.updating() as weights:
        for name, dzdw in step.items():
            weights[name] -= 1e-3 * dzdw
    assert loss() < before


def test_astype_is_another_net_and_keeps_the_sharing():
    net = forked()
    half = net.astype("float32")
    assert half.dtype == np.float32 and net.dtype == np.float64
    assert half.node("a").layer.w is half.node("twin").layer.w
    assert half.input_shape == net.input_shape
    with pytest.raises(UsageError, match="float32 or float64, not in 'float16'"):
        net.astype("float16")


def test_replacing_gives_the_sharers_the_new_array():
    net = forked()
    new = net.replacing({"a/w": np.zeros((3, 3, 4, 3))})
    assert not new.node("twin").layer.w.any()
    assert net.node("twin").layer.w.any()


def test_replacing_with_a_wrong_name_or_shape_says_so():
    with pytest.raises(UnknownLayerError, match="no weights 'conv1/v'; did you mean 'conv1/w'"):
        forked().replacing({"conv1/v": np.zeros(3)})
    with pytest.raises(MismatchError, match=r"Conv wants 'w' as \(3, 3, 3, 4\), found \(3,\)"):
        forked().replacing({"conv1/w": np.zeros(3)})


def test_a_net_without_weights_can_be_looked_at_but_not_run():
    net = Net.chain({"conv": L.Conv.random(None, 3, 3, 64), "relu": L.ReLU()}, input_shape=(9, 9, 3))
    assert net.without_weights == {"conv"}
    assert net.params["conv/w"].shape == (3, 3, 3, 64)
    with pytest.raises(WeightsError, match="'conv' has no weights yet, only shapes"):
        net.forwardto(net.init_res(), "relu", np.zeros((1, 9, 9, 3)))


def test_gradients_are_summed_over_the_sharers_that_were_on_the_way():
    net, image = forked(), photo(forked())
    res = net.init_res()
    net.forwardto(res, "a", image)
    net.backwardfrom(res, {"a": np.ones(res["a"].shape)}, params=True)
    assert list(net.gradients(res)) == ["conv1/w", "conv1/b", "a/w", "a/b"]


def test_what_a_net_is_known_by_is_handed_on():
    net = Net([Node("relu", L.ReLU(), ("data",))], classes=["cat", "dog"], preprocess="as is")
    assert net.astype("float64").classes == ("cat", "dog")
    assert net.to("cpu").preprocess == "as is"
    assert repr(forked()) == "<Net of 8 layers from 'data' to 'out', 249 parameters>"
