"""The loop: it learns, by what it says it does, and stops in words when it cannot go on."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from minidnn import layers as L
from minidnn import losses, optim
from minidnn.errors import DivergedError, ShapeError, UsageError
from minidnn.images import Preprocess
from minidnn.net import Net, Node
from minidnn.train import schedules
from minidnn.train.data import Pictures, Splits, split
from minidnn.train.fit import Way, fit
from minidnn.train.init import initialised
from minidnn.train.judging import evaluate, first_non_finite, scores_of
from minidnn.train.schedules import Cosine, Linear, Plateau, Schedule, Step
from minidnn.window import Window

PRE = Preprocess("GRAY", mean=(128.0,), std=(60.0,))


def bars(n=90, seed=0) -> Pictures:
    """Three classes that a small net can tell apart: a bright bar above, in the middle, below."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.integers(60, 140, (n, 6, 8, 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 100
    return Pictures(images, labels, ("above", "middle", "below"), "bars")


def small(seed=0, *, classes=3, drop=False) -> Net:
    rng = np.random.default_rng(seed)
    layers = {
        "conv1": L.Conv.random(rng, 3, 1, 5, pad=1, bias=False),
        "bn1": L.BatchNorm(*(np.full(5, v, "float32") for v in (1, 0, 0, 1))),
        "relu1": L.ReLU(),
        "pool1": L.MaxPool(Window.of(2, stride=2)),
        "drop1": L.Dropout(0.2 if drop else 0.0),
        "fc": L.FC.random(rng, (3, 4, 5), classes),
        "prob": L.Softmax(),
    }
    return Net.chain(layers, input_shape=(6, 8, 1), preprocess=PRE)


def data(n=90) -> Splits:
    return split({"all": bars(n)}, seed=0)


WAY = Way(epochs=4, batch=16, optimiser=optim.Nesterov(0.05))


def test_it_learns():
    net, parts = small(), data()
    records = list(fit(net, parts, WAY))
    rows = records[-1].state.history
    assert len(rows) == 4 and len(records) == 4 * 4 and records[-1].ended == "all epochs are done"
    assert rows[-1]["loss"] < 0.2 * rows[0]["loss"] and rows[-1]["validation_top1"] < 0.1
    assert evaluate(net, parts.test)["top1"] < 0.1 and records[-1].eta == 0
    assert records[3].row is not None and records[4].row is None
    assert (records[4].epoch, records[4].batch, records[4].batches) == (2, 1, 4)


def test_the_same_seed_is_the_same_run_and_another_is_another():
    def weights(seed):
        net = small(drop=True)
        list(fit(net, data(), replace(WAY, epochs=1, seed=seed)))
        return net.params["fc/w"]

    assert np.array_equal(weights(1), weights(1)) and not np.array_equal(weights(1), weights(2))


def test_every_picture_is_seen_once_in_an_epoch():
    seen = []

    class Watched(Pictures):
        def batch(self, which):
            seen.extend(which)
            return super().batch(which)

    whole = bars(37)
    watched = Watched(whole.images, whole.labels, whole.classes, "watched")
    list(fit(small(), Splits(watched, bars(0), bars(5)), replace(WAY, epochs=1)))
    assert sorted(seen) == list(range(37))


@pytest.mark.parametrize(
    "optimiser", [optim.SGD(0.1), optim.SlideMomentum(0.1), optim.AdaGrad(0.1), optim.Adam(0.1)]
)
def test_a_step_is_the_optimisers_on_loss_and_penalty(optimiser):
    net, parts, penalty = small(), data(), 0.01
    whole = parts.train
    labels, x = whole.labels, PRE.to_net(whole.batch(np.arange(len(whole))))
    res = net.init_res()
    scores = net.forwardto(res, "fc", x, mode="train", rng=np.random.default_rng(0))
    loss, seed = losses.cross_entropy(scores, labels)
    net.backwardfrom(res, {"fc": seed}, params=True, to=None)
    wanted, squares = {}, 0.0
    for name, grad in net.gradients(res).items():
        w = net.params[name]
        if w.ndim > 1:  # biases and batch norms are not drawn to 0
            grad, squares = grad + 2 * penalty * w, squares + float((w * w).sum())
        wanted[name] = w + optimiser.step(grad)[0]
    way = Way(epochs=1, batch=len(whole), optimiser=optimiser, weight_penalty=penalty)
    record = next(fit(net, parts, way))
    assert record.loss == pytest.approx(loss, rel=1e-5)
    assert record.penalty == pytest.approx(penalty * squares, rel=1e-5)
    for name, w in wanted.items():
        np.testing.assert_allclose(net.params[name], w, rtol=1e-3, atol=1e-5)


def test_a_clipped_gradient_has_the_length_that_was_allowed():
    net, parts = small(), data()
    before = {name: w.copy() for name, w in net.params.items()}
    record = next(fit(net, parts, Way(batch=16, optimiser=optim.SGD(1.0), clip=0.01)))
    moved = sum(float(((net.params[name] - w) ** 2).sum()) for name, w in before.items())
    assert record.gradient_norm > 0.01 and np.sqrt(moved) == pytest.approx(0.01, rel=1e-3)


def test_batch_norms_fold_in_the_moments_of_the_batch():
    net, parts = small(), data()
    res, whole = net.init_res(), parts.train
    net.forwardto(res, "bn1", PRE.to_net(whole.batch(np.arange(len(whole)))), mode="train")
    batch = res["bn1"].aux
    next(fit(net, parts, Way(batch=len(whole), norm_share=0.25)))
    np.testing.assert_allclose(net.buffers["bn1/mean"], 0.25 * batch.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.buffers["bn1/var"], 0.75 + 0.25 * batch.var, rtol=1e-4)


def test_it_ends_early_when_nothing_gets_better():
    way = replace(WAY, epochs=50, patience=2, optimiser=optim.SGD(1e-9))
    *_, last = fit(small(), data(), way)
    assert last.ended == "no new low of the loss for 2 epochs" and last.epoch < 50


def test_top5_is_kinder_than_top1():
    found = evaluate(small(), bars(30))
    assert found["top5"] == 0 <= found["top1"], "of three classes the right one is among five"


def test_without_a_softmax_the_last_layer_is_what_the_loss_sees():
    net = small()
    assert scores_of(net) == "fc"
    assert scores_of(Net(net.nodes[:-1])) == "fc"


# What cannot be trained


def test_a_loss_that_runs_away_stops_and_names_the_layer_and_a_rate():
    net = small()
    linear = Net([node for node in net.nodes if node.name == "conv1"], preprocess=PRE, input_shape=(6, 8, 1))
    head = L.FC.random(np.random.default_rng(0), (6, 8, 5), 3)
    linear = linear.with_nodes([*linear.nodes, Node("fc", head, ("conv1",))])
    words = r"epoch 1, .* is (nan|inf).*the last checkpoint is from before; try rate=10000 \(now"
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match=words):
        list(fit(linear, data(), replace(WAY, optimiser=optim.SGD(1e5))))
    with net.updating() as weights:
        weights["fc/w"][0, 0, 0, 0] = np.nan
    with pytest.raises(DivergedError, match="the first layer that is not finite is 'fc'"):
        next(fit(net, data(), WAY))


def test_the_first_layer_that_is_not_finite_is_found():
    net = small()
    x = np.full((1, 6, 8, 1), 1e38, "float32")
    with np.errstate(all="ignore"):
        assert first_non_finite(net, x) == "bn1", "whose squares overflow"
        assert first_non_finite(net, x / 1e38) is None


def test_ways_that_are_none():
    for settings, words in [
        ({"batch": 0}, "batch=0; give 1 or more"),
        ({"weight_penalty": -1}, "weight_penalty=-1; give 0 or more"),
        ({"clip": float("nan")}, "clip=nan"),
        ({"norm_share": 0}, "norm_share=0; give a share"),
        ({"loss": "hinge"}, "no loss 'hinge' to train with; there are cross_entropy"),
    ]:
        with pytest.raises(UsageError, match=words):
            Way(**settings)


def test_data_that_do_not_fit_the_net():
    with pytest.raises(ShapeError, match="the net gives 4 answers, train has 3 classes"):
        next(fit(small(classes=4), data(), WAY))
    with pytest.raises(UsageError, match="batches of 500, and 54 pictures to learn from; make them smaller"):
        next(fit(small(), data(), replace(WAY, batch=500)))
    net = small()
    with pytest.raises(UsageError, match="says nothing of how pictures become what it sees"):
        next(fit(net.with_nodes(net.nodes, preprocess=None), data(), WAY))


# First weights


@pytest.mark.parametrize(
    ("way", "variance"), [("he", 2 / 54), ("xavier", 2 / (54 + 180)), ("uniform", 1 / 54 / 3)]
)
def test_first_weights_have_their_variance(way, variance):
    net = Net.chain({"conv": L.Conv.random(None, 3, 6, 20)})
    w = initialised(net, way, np.random.default_rng(0)).params["conv/w"]
    assert w.dtype == np.float32 and float((w * w).mean()) == pytest.approx(variance, rel=0.1)


def test_first_weights_of_other_layers():
    net = initialised(small(), "zeros", np.random.default_rng(0))
    assert not net.params["fc/w"].any() and (net.params["bn1/gamma"] == 1).all()
    with pytest.raises(UsageError, match=r"no first weights 'hee'; there are he, xavier.*did you mean 'he'"):
        initialised(net, "hee", np.random.default_rng(0))


# Schedules


def test_schedules():
    assert [Schedule(warm_up=2).factor(t, 10) for t in (1, 2, 9)] == [0.5, 1, 1]
    assert [Step(every=3, drop=0.5).factor(t, 10) for t in (2.9, 3, 6)] == [1, 0.5, 0.25]
    assert [round(Cosine(warm_up=2).factor(t, 10), 6) for t in (1, 2, 6, 10)] == [0.5, 1, 0.5, 1e-6]
    assert [round(Linear(last=0.2).factor(t, 10), 6) for t in (0, 5, 10)] == [1, 0.6, 0.2]
    assert Schedule(warm_up=2).factor(0, 10) > 0, "an optimiser takes no rate of 0"


def test_plateau_drops_when_the_loss_has_no_new_low():
    drop = Plateau(patience=2, drop=0.5)
    assert drop.factor(5, 10, [3, 2, 1]) == 1
    assert drop.factor(5, 10, [3, 2, 2, 2]) == 0.5
    assert drop.factor(5, 10, [3, 2, 2, 2, 1, 1, 1]) == 0.25


def test_schedules_that_are_none():
    for make in (
        lambda: Step(every=0),
        lambda: Cosine(last=-1),
        lambda: Plateau(patience=0),
        lambda: Schedule(-1),
    ):
        with pytest.raises(UsageError, match="or more"):
            make()
    assert set(schedules.SCHEDULES) == {"constant", "step", "cosine", "linear", "plateau"}


def test_a_run_that_is_done_yields_nothing_more():
    parts = data()
    net = small()
    *_, last = fit(net, parts, replace(WAY, epochs=1))
    assert list(fit(net, parts, replace(WAY, epochs=1), state=last.state)) == []
    assert len(list(islice(fit(net, parts, replace(WAY, epochs=2), state=last.state), 10))) == 4
