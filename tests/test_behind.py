"""A ReLU and a pooling done on the way by their convolution: the same numbers as one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import layers as L
from minidnn.errors import StaleResError
from minidnn.graph import Node, in_steps
from minidnn.kernels import Kernel, ReluPool
from minidnn.kernels.cpu import tiling, winograd
from minidnn.kernels.memory import Arena
from minidnn.net import Net
from minidnn.rules import deconvnet, guided
from minidnn.window import Window
from tests.nets import wholly_by

POOLS = {
    "no pool": None,
    "pairs": Window.of(2, stride=2),
    "pairs, rounded up": Window.of(2, stride=2, ceil=True),
    "pairs, padded": Window.of(2, stride=2, pad=(1, 0, 0, 1)),
    "overlapping": Window.of((3, 2), stride=(2, 1)),
}
SHAPES = {  # of the image, the count of filters, and their pads
    "even": ((2, 10, 12, 16), 24, (1, 1, 1, 1)),
    "odd": ((1, 9, 7, 16), 16, (1, 1, 1, 1)),
    "half odd, no pad": ((3, 8, 9, 5), 8, (0, 0, 0, 0)),
    "no whole bytes": ((2, 6, 8, 16), 20, (0, 2, 1, 1)),
    "few tiles": ((1, 4, 4, 16), 32, (1, 1, 1, 1)),
    "many tiles": ((1, 70, 66, 16), 16, (1, 1, 1, 1)),
}
KERNELS = ["im2col", "chunked", "winograd2", "winograd4", "shifted"]


def near(found, wanted):
    return found.shape == wanted.shape and np.abs(found - wanted).max() <= 1e-12 * np.abs(wanted).max()


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
@pytest.mark.parametrize(("shape", "k", "pad"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("name", KERNELS)
def test_it_is_one_after_the_other_both_ways(name, shape, k, pad, pool):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape[0], shape[2], shape[1], shape[3])).transpose(
        0, 2, 1, 3
    )  # not in one piece
    w, b = rng.standard_normal((3, 3, shape[3], k)), rng.standard_normal(k)
    conv, relu = L.Conv(w, b, Window.of(3, pad=pad)), L.ReLU()
    between = conv.forward(x)[0]
    y, bits = relu.forward(between)
    switches = None
    if pool is not None:
        y, switches = L.MaxPool(pool).forward(y)

    how, mem = Kernel(name), Arena()
    for _ in range(2):  # the second time on a desk that has served
        found, behind = conv.forward(x, how=how, mem=mem, behind=ReluPool(pool))
        assert near(found, y) and np.array_equal(behind.bits, bits)
        assert (switches is None and behind.switches is None) or np.array_equal(behind.switches, switches)

        dzdy = rng.standard_normal(y.shape[::-1]).transpose()
        wanted = dzdy
        if pool is not None:
            wanted = L.MaxPool(pool).backward(dzdy, aux=switches, x_shape=between.shape)
        wanted = conv.backward(relu.backward(wanted, aux=bits), x_shape=x.shape)
        assert near(conv.backward(dzdy, x_shape=x.shape, how=how, mem=mem, behind=behind), wanted)


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_are_too(groups):
    rng = np.random.default_rng(1)
    conv = L.Conv(rng.standard_normal((3, 3, 16 // groups, 16)), None, Window.of(3, pad=1), groups)
    x = rng.standard_normal((2, 6, 8, 16))
    y, bits = L.ReLU().forward(conv.forward(x)[0])
    pooled, switches = L.MaxPool(Window.of(2, stride=2)).forward(y)
    found, behind = conv.forward(x, how=Kernel("chunked"), behind=ReluPool(Window.of(2, stride=2)))
    assert near(found, pooled) and np.array_equal(behind.bits, bits)
    assert np.array_equal(behind.switches, switches)
    dzdy = rng.standard_normal(found.shape)
    wanted = L.MaxPool(Window.of(2, stride=2)).backward(dzdy, aux=switches, x_shape=y.shape)
    wanted = conv.backward(L.ReLU().backward(wanted, aux=bits), x_shape=x.shape)
    assert near(conv.backward(dzdy, x_shape=x.shape, how=Kernel("chunked"), behind=behind), wanted)


@pytest.mark.parametrize("name", ["winograd2", "winograd4"])
def test_it_is_the_same_where_rows_are_cut(name, monkeypatch):
    """So that blocks begin amidst a row."""
    monkeypatch.setattr(tiling, "IN_CACHE", 40_000)
    tiling.tiling.cache_clear()
    rng, pool = np.random.default_rng(4), Window.of(2, stride=2)
    conv, x = (
        L.Conv(rng.standard_normal((3, 3, 8, 8)), None, Window.of(3, pad=1)),
        rng.standard_normal((1, 8, 600, 8)),
    )
    assert (
        len({block.left for block in winograd.tiling((8, 600), 8, 8, 8, conv.window, winograd.F4).blocks(1)})
        > 1
    )
    y, bits = L.ReLU().forward(conv.forward(x)[0])
    pooled, switches = L.MaxPool(pool).forward(y)
    found, behind = conv.forward(x, how=Kernel(name), behind=ReluPool(pool))
    assert near(found, pooled)
    assert np.array_equal(behind.bits, bits) and np.array_equal(behind.switches, switches)
    dzdy = rng.standard_normal(pooled.shape)
    wanted = L.MaxPool(pool).backward(dzdy, aux=switches, x_shape=y.shape)
    wanted = conv.backward(L.ReLU().backward(wanted, aux=bits), x_shape=x.shape)
    assert near(conv.backward(dzdy, x_shape=x.shape, how=Kernel(name), behind=behind), wanted)
    tiling.tiling.cache_clear()


def test_seeds_and_rules_cut_a_step():
    net = chain(Window.of(2, stride=2)).astype("float64")
    x = np.random.default_rng(5).standard_normal((1, 8, 8, 3))
    whole, lean = net.init_res(), net.init_res()
    y = net.forwardto(whole, "pool0", x)
    net.forwardto(lean, "pool0", x, keep="needed")
    seeds = {"pool0": y, "relu": whole["relu"].x}
    for rules in (None, guided(), deconvnet()):
        wanted = net.backwardfrom(whole, seeds, rules=rules)
        assert np.allclose(net.backwardfrom(lean, seeds, rules=rules), wanted)
    assert np.allclose(net.backwardfrom(lean, seeds, to="conv"), net.backwardfrom(whole, seeds, to="conv"))
    bare = net.init_res()
    net.forwardto(bare, "pool0", x, keep=["pool0"])
    with pytest.raises(StaleResError, match="'relu' remembered was dropped"):
        net.backwardfrom(bare, {"pool0": y})


def test_a_convolution_of_another_kind_is_a_step_by_itself():
    class Negated(L.Conv):
        def forward(self, x, **state):
            return -super().forward(x, **state)[0], None

    node = chain().nodes[0]
    other = Negated(node.layer.w, node.layer.b, node.layer.window)
    assert named([Node("conv", other, ("data",)), *chain().nodes[1:]]) == [["conv"], ["relu"]]


def chain(*pools):
    rng = np.random.default_rng(2)
    layers = {"conv": L.Conv.random(rng, 3, 3, 16, pad=1), "relu": L.ReLU()}
    made = layers | {f"pool{i}": L.MaxPool(pool) for i, pool in enumerate(pools)}
    return Net.chain(made, input_shape=(8, 12, 3))


def named(nodes, *looked_at):
    return [[node.name for node in step] for step in in_steps(nodes, looked_at)]


def test_a_step_ends_where_somebody_looks_or_another_reads():
    nodes = list(chain(Window.of(2, stride=2), Window.of(2)).nodes)
    assert named(nodes) == [["conv", "relu", "pool0"], ["pool1"]]
    assert named(nodes, "pool0") == [["conv", "relu", "pool0"], ["pool1"]], "the end of it may be looked at"
    assert named(nodes, "relu") == [["conv", "relu"], ["pool0"], ["pool1"]]
    assert named(nodes, "conv") == [["conv"], ["relu"], ["pool0"], ["pool1"]]
    assert named([*nodes, Node("more", L.Tanh(), ("relu",))]) == [
        ["conv", "relu"], ["pool0"], ["pool1"], ["more"]]  # fmt: skip
    assert named(nodes[1:]) == [["relu"], ["pool0"], ["pool1"]]


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_net_that_is_not_looked_at_says_and_sends_back_the_same(kernels):
    net = wholly_by(kernels, chain(Window.of(2, stride=2)).astype("float64"))
    x = np.random.default_rng(3).standard_normal((2, 8, 12, 3))
    whole, lean = net.init_res(), net.init_res()
    y = net.forwardto(whole, "pool0", x)
    assert np.array_equal(net.forwardto(lean, "pool0", x, keep="needed"), y)
    assert lean["relu"].x is None and lean["relu"].shape == (2, 8, 12, 16)
    seeds = {"pool0": y**2}
    assert np.allclose(net.backwardfrom(lean, seeds), net.backwardfrom(whole, seeds), rtol=1e-12, atol=1e-12)
    assert lean["relu"].dzdx is None and whole["relu"].dzdx is not None
    assert np.array_equal(  # a run that was not looked at can still be asked
        net.backwardfrom(lean, seeds, to="relu"), whole["relu"].dzdx
    )
    net.backwardfrom(whole, seeds, params=True)
    retrained = net.init_res()
    net.forwardto(retrained, "pool0", x, mode="train", keep="needed")
    net.backwardfrom(retrained, seeds, params=True)
    assert np.allclose(retrained["conv"].dzdw["w"], whole["conv"].dzdw["w"])
