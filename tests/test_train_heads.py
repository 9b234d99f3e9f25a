"""Linear heads: no others are better, the penalty is chosen fairly, and nets can take them for their end."""

from __future__ import annotations

import argparse
import json
import re

import numpy as np
import pytest

from minidnn import layers as L
from minidnn import weights, zoo
from minidnn.cli import heads as command
from minidnn.cli import train as train_command
from minidnn.errors import DivergedError, MismatchError, ShapeError, UnknownLayerError, UsageError
from minidnn.net import Net, Node
from minidnn.train import transfer
from minidnn.train.data import Pictures, Splits
from minidnn.train.featurefile import Features
from minidnn.train.features import Extraction, Wanted
from minidnn.train.fit import Way, fit
from minidnn.train.heads import Head, choose_head, fit_head, held_back, judged
from minidnn.train.lbfgs import minimised
from minidnn.train.learning import learning
from minidnn.train.relearn import replace_head, with_head
from tests.test_train_features import CLASSES, pictures, small

NAMES = ("a", "b", "c", "d")


def rows(n: int, d: int, *, apart: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four clouds that overlap."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    centres = np.random.default_rng(77).standard_normal((4, d))
    return (apart * centres[labels] + rng.standard_normal((n, d))).astype("float32"), labels


def loss(head: Head, x: np.ndarray, labels: np.ndarray, w: np.ndarray, b: np.ndarray) -> float:
    """As the docstring has it, in loops, on the features as the head brings them to length 1."""
    total = 0.0
    for row, label in zip((x - head.mean) * head.scale, labels, strict=True):
        s = row @ w + b
        if head.kind == "svm":
            total += sum(max(0.0, 1 - (1 if q == label else -1) * s[q]) ** 2 for q in range(len(s)))
        else:
            total += np.log(np.exp(s).sum()) - s[label]
    return total / len(labels) + head.penalty * (w**2).sum()


# The head.


@pytest.mark.parametrize("kind", ["svm", "softmax"])
@pytest.mark.parametrize("d", [3, 90], ids=["fewer features than pictures", "more"])
def test_no_other_weights_are_better(kind, d):
    x, labels = rows(41, d)
    head = fit_head(x, labels, NAMES, kind=kind, penalty=1e-3)
    least, rng = loss(head, x, labels, head.w, head.b), np.random.default_rng(5)
    for size in (1e-2, 1e-1, 1.0):
        for _ in range(5):
            w = head.w + size * rng.standard_normal(head.w.shape) / np.sqrt(d)
            b = head.b + size * rng.standard_normal(4)
            assert loss(head, x, labels, w, b) > least * (1 - 1e-5)
    slope = np.zeros(4)
    for q in range(4):  # the biases are free: there the loss is flat
        step = 1e-4 * (np.arange(4) == q)
        slope[q] = loss(head, x, labels, head.w, head.b + step) - loss(head, x, labels, head.w, head.b - step)
    assert np.abs(slope / 2e-4).max() < 2e-3


@pytest.mark.parametrize("kind", ["svm", "softmax"])
def test_features_nobody_needs_change_nothing(kind):
    """With columns that are always the same the way there is another one (wide), and the answers agree."""
    x, labels = rows(41, 7)
    wide = np.hstack([x, np.full((41, 50), 3.25, "float32")])
    one, other = (fit_head(a, labels, NAMES, kind=kind, penalty=1e-3) for a in (x, wide))
    assert np.allclose(one.scores(x), other.scores(wide), atol=2e-3)
    assert np.abs(other.w[7:]).max() < 1e-6


def test_the_same_features_make_the_same_head():
    x, labels = rows(41, 90)
    one, other = (choose_head(x, labels, NAMES).head for _ in range(2))
    assert np.array_equal(one.w, other.w) and np.array_equal(one.b, other.b) and one.penalty == other.penalty


@pytest.mark.parametrize("normalise", ["standard", "l2"])
def test_how_loud_the_features_are_does_not_matter(normalise):
    x, labels = rows(41, 9)
    one, other = (fit_head(a, labels, NAMES, normalise=normalise) for a in (x, 1000 * x))
    assert np.allclose(one.scores(x), other.scores(1000 * x), atol=1e-3)
    assert judged(one, *rows(101, 9, seed=1)).accuracy > 0.8


def test_l2_takes_a_picture_without_features_as_it_is():
    x, labels = rows(41, 9)
    x[3] = 0
    assert np.isfinite(fit_head(x, labels, NAMES, normalise="l2").scores(x)).all()


def test_the_penalty_that_did_best_on_those_held_back_is_taken():
    x, labels = rows(80, 60, apart=0.6)
    head, tried = choice = choose_head(x, labels, NAMES, penalties=(1e-6, 1.0, 1e-2))
    assert list(tried) == [1.0, 1e-2, 1e-6], "from the simplest on"
    assert tried[head.penalty] == max(tried.values()) == choice.validation
    learned, held = held_back(labels, 0.25, 0)
    for penalty, share in tried.items():
        alone = fit_head(x[learned], labels[learned], NAMES, penalty=penalty)
        assert abs((alone.predict(x[held]) == labels[held]).mean() - share) <= 1 / len(held)


def test_of_equals_the_simplest_is_taken_and_what_gets_worse_is_left():
    x, labels = rows(40, 5, apart=9)
    head, tried = choose_head(x, labels, NAMES, penalties=(0.01, 0.1))
    assert tried == {0.1: 1.0, 0.01: 1.0} and head.penalty == 0.1


def test_those_held_back_are_a_share_of_each_class():
    labels = np.array([0] * 8 + [1] * 20 + [2])
    learned, held = held_back(labels, 0.25, seed=3)
    assert sorted([*learned, *held]) == list(range(29))
    assert np.bincount(labels[held], minlength=3).tolist() == [2, 5, 0], "the last of a class stays"
    assert not np.array_equal(held, held_back(labels, 0.25, seed=4)[1])


def test_judged_tells_what_is_taken_for_what():
    x = np.eye(3, dtype="float32")[[0, 0, 1, 2]]
    head = Head("svm", "standard", np.eye(3), np.zeros(3), np.zeros(3), np.ones(3), 0.1)
    found = judged(head, x, np.array([0, 1, 1, 0]))
    assert found.accuracy == 0.5 and found.confusion.tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert found.by_class[:2].tolist() == [0.5, 0.5] and np.isnan(found.by_class[2])
    with pytest.raises(UsageError, match="no pictures to judge the head by"):
        judged(head, x[:0], np.array([], int))
    with pytest.raises(ShapeError, match=r"reads rows of 3 features, found \(4, 2\)"):
        head.scores(x[:, :2])


def test_what_cannot_be_learned_from_is_told():
    x, labels = rows(12, 5)
    holes = x.copy()
    holes[3, 2] = np.nan
    for bad, words, kind in [
        ((x, labels * 0, NAMES), "all pictures are of one class, 'a'; there is nothing to learn", UsageError),
        ((x, labels % 3, NAMES), "no pictures of 'd' to learn from; add some", UsageError),
        ((holes, labels, NAMES), "1 of 60 features are not finite", DivergedError),
        ((x[:, :0], labels, NAMES), r"features \(12, 0\) and labels \(12,\); give \(N, D\)", ShapeError),
        ((x, labels[1:], NAMES), r"features \(12, 5\) and labels \(11,\)", ShapeError),
    ]:
        with pytest.raises(kind, match=words):
            fit_head(*bad)
    for options, words in [
        ({"kind": "smv"}, "kind 'smv': there are svm, softmax; did you mean 'svm'"),
        ({"normalise": "l1"}, "normalise 'l1': there are standard, l2"),
        ({"penalty": 0}, "penalty=0: give a number above 0"),
    ]:
        with pytest.raises(UsageError, match=words):
            fit_head(x, labels, NAMES, **options)
    with pytest.raises(UsageError, match="no penalties to choose from"):
        choose_head(x, labels, NAMES, penalties=())
    with pytest.raises(UsageError, match="one picture of each class: none can be held back"):
        choose_head(x[:4], labels[:4], NAMES)


# The solver.


def test_a_steep_valley_is_walked_to_its_end():
    scale = np.logspace(0, 3, 30)

    def valley(x):
        return 1 + float((scale * (x - 1) ** 2).sum()), 2 * scale * (x - 1)

    found = minimised(valley, np.zeros(30), steps=500, tolerance=1e-9)
    assert found.value < 1 + 1e-7 and found.asked < 400


def test_at_the_bottom_it_stays():
    found = minimised(lambda x: (1.0, 0 * x), np.ones(3), steps=9, tolerance=1e-9)
    assert found.value == 1 and found.asked == 1


def test_one_that_promises_and_does_not_keep_it_is_left():
    found = minimised(lambda x: (float(np.abs(x).sum()), -np.sign(x)), np.ones(3), steps=9, tolerance=1e-9)
    assert found.value == 3


# Layers compared.


@pytest.fixture
def net():
    return small()


@pytest.fixture
def seen(tmp_path, net):
    """Features of pictures whose class is where they are bright."""
    parts = {}
    for name, count in (("train", 36), ("test", 15)):
        data = pictures(count, seed=count)
        images = data.images // 3
        for image, label in zip(images, data.labels, strict=True):
            image[:, :, label] += 90
        parts[name] = Pictures(images, data.labels, CLASSES, name)
    path = tmp_path / "seen.h5"
    list(Extraction(path, net, parts, Wanted(("relu1", "relu2"), ("mean", "both"), batch=9)).run())
    return path


def test_every_layer_and_pooling_gets_its_heads(seen):
    found = list(transfer.compared(Features.open(seen)))
    assert [(r.layer, r.pool, r.kind) for r in found[:3]] == [
        ("relu1", "mean", "svm"),
        ("relu1", "mean", "softmax"),
        ("relu1", "both", "svm"),
    ]
    assert len(found) == 8 and found[2].width == 8 and found[0].test > 0.9
    assert found[0].judged.confusion.sum() == 15
    best = transfer.best(found)
    assert best.validation == max(row.validation for row in found)
    assert transfer.table(found).splitlines()[0].split("  ")[0] == "layer"
    marked = transfer.table(found, markdown=True).splitlines()
    assert marked[0] == "| layer | mean svm | mean softmax | both svm | both softmax |"
    assert re.fullmatch(r"\| relu2 \|( [\d.]+ \|){4}", marked[3])
    assert "of 15 test pictures" in transfer.told(best, CLASSES)


def test_a_set_without_a_test_part_is_split(tmp_path, net):
    path = tmp_path / "all.h5"
    list(Extraction(path, net, {"all": pictures(40)}, Wanted(("relu1",))).run())
    (row,) = transfer.compared(Features.open(path), kinds=("svm",))
    assert row.judged.confusion.sum() == 10


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_plot_has_a_line_for_each_pooling(seen, tmp_path, ending):
    pytest.importorskip("matplotlib")
    transfer.save_plot(tmp_path / f"p.{ending}", list(transfer.compared(Features.open(seen), kinds=("svm",))))
    assert (tmp_path / f"p.{ending}").stat().st_size > 1000
    with pytest.raises(UsageError, match=r"p.gif: plots are written as .svg or .png"):
        transfer.save_plot(tmp_path / "p.gif", [])


def run(*argv) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(map(str, argv))))


def test_the_command_prints_the_table_and_the_best(seen, capsys):
    assert run(seen, "--kind", "svm", "--confusion") == 0
    said = capsys.readouterr().out
    assert re.search(r"^layer +mean svm +both svm$", said, re.MULTILINE)
    assert "chosen by the pictures held back" in said and re.search(r"^  0 sea +\d", said, re.MULTILINE)
    assert run(seen, "--only", "relu2:mean", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in found] == ["svm", "softmax"] and found[0]["layer"] == "relu2"


def test_what_the_command_line_can_get_wrong(seen, tmp_path, net):
    other = tmp_path / "other.h5"
    data = Pictures(pictures(9).images, pictures(9).labels, ("x", "y", "z"), "other")
    list(Extraction(other, net, {"all": data}, Wanted(("relu1",))).run())
    for arguments, words in [
        ([seen, other], "other.h5: has other classes than .*seen.h5; compare them by themselves"),
        ([seen, "--only", "relu2:meen"], "has no 'relu2:meen', .*did you mean 'relu2:mean'"),
        ([seen, "--seed", -1], "--seed -1: give 0 or more"),
        ([seen, "--output", "x.h5"], "--net and --output go together"),
        ([seen, "--only", "relu2:both", "--net", "x.h5", "--output", "y.h5"], "give --pool mean"),
    ]:
        with pytest.raises((UsageError, MismatchError), match=words):
            run(*arguments)


def test_one_class_only_is_told(tmp_path, net):
    data = Pictures(pictures(9).images, np.zeros(9, int), ("sea",), "one")
    list(Extraction(tmp_path / "one.h5", net, {"all": data}, Wanted(("relu1",))).run())
    with pytest.raises(UsageError, match="all pictures are of one class, 'sea'; there is nothing to learn"):
        run(tmp_path / "one.h5")


# A new end for a net.


def test_the_best_head_becomes_the_end_of_the_net(seen, tmp_path, net, capsys):
    weights.save(tmp_path / "net.h5", net)
    assert run(seen, "--net", tmp_path / "net.h5", "-o", tmp_path / "new.h5", "--kind", "softmax") == 0
    new, found = weights.load(tmp_path / "new.h5"), Features.open(seen)
    assert new.classes == CLASSES and new.preprocess.size == (8, 10)
    told = weights.Weights.open(tmp_path / "new.h5").provenance["head"]
    row = next(row for row in transfer.compared(found, kinds=("softmax",), keys=[f"{told['layer']}:mean"]))
    head, x = row.choice.head, found.rows(f"{told['layer']}:mean", "test")
    scores = head.scores(x)
    images = pictures(15, seed=15).images // 3
    for image, label in zip(images, pictures(15).labels, strict=True):
        image[:, :, label] += 90
    said = new.forwardto(new.init_res(), "head", new.preprocess.to_net(images))
    assert np.allclose(said[:, 0, 0], scores, atol=1e-4)


def test_a_head_goes_on_its_own_net_only(seen, net):
    found = Features.open(seen)
    head = fit_head(found.rows("relu2:mean", "train"), found.labels("train"), CLASSES)
    with pytest.raises(MismatchError, match=r"seen.h5: features of .*, another net than this one"):
        with_head(small(seed=4), found, "relu2:mean", head)
    with pytest.raises(UsageError, match="pooled by 'both', normalised by 'standard'; make such a one"):
        with_head(net, found, "relu2:both", head)
    with pytest.raises(MismatchError, match="the head reads 5 features, 'relu1' has 4; name its layer"):
        with_head(net, found, "relu1:mean", head)


def test_the_last_layer_is_replaced_for_other_classes():
    old = zoo.get("squeezenet1.1", seed=1)
    new = replace_head(old, ("cat", "dog", "owl"))
    assert new.names == old.names and new.classes == ("cat", "dog", "owl")
    assert new.shapes((1, 227, 227, 3))["prob"] == (1, 1, 1, 3)
    assert new.node("fire9/expand3x3").layer.w is old.node("fire9/expand3x3").layer.w
    assert np.array_equal(
        replace_head(old, ("x", "y")).params["conv10/w"], replace_head(old, ("x", "y")).params["conv10/w"]
    )


def test_a_new_end_comes_behind_any_layer(net):
    new = replace_head(net, CLASSES, after="pool1")
    assert new.names == ("data", "conv1", "relu1", "pool1", "mean", "head", "prob")
    assert new.shapes((1, 8, 10, 3))["prob"] == (1, 1, 1, 3)
    again = replace_head(new, ("x", "y"), after="mean")
    assert again.names[4:] == ("mean", "mean_new", "head", "prob")


def test_where_there_can_be_no_new_end(net):
    with pytest.raises(UsageError, match="1 classes to tell apart; give two or more"):
        replace_head(net, ["cat"])
    with pytest.raises(UsageError, match="classes 'cat': give a list of names"):
        replace_head(net, "cat")
    with pytest.raises(UnknownLayerError, match="no layer 'pol1'; did you mean 'pool1'"):
        replace_head(net, CLASSES, after="pol1")
    with pytest.raises(UsageError, match="'data' is the input of the net; name a layer"):
        replace_head(net, CLASSES, after="data")
    with pytest.raises(UsageError, match="no layer with filters to replace"):
        replace_head(Net.chain({"relu": L.ReLU()}), CLASSES)
    norm = L.BatchNorm(*(np.ones(5, "float32") for _ in range(4)))
    bound = net.with_nodes([*net.nodes, Node("bn", norm, ("relu2",))])
    with pytest.raises(UsageError, match="'bn' behind 'conv2' has weights for its old answers; say behind"):
        replace_head(bound, CLASSES)
    loose = Net(net.nodes, preprocess=net.preprocess)
    with pytest.raises(UsageError, match="images of no particular size"):
        replace_head(loose, CLASSES, after="pool1")


# Some layers learn, the others stay.


def test_learning_names_what_moves_and_where_the_way_back_ends(net):
    assert learning(net, ["conv2"], "relu2") == (frozenset({"conv2/w", "conv2/b"}), ("pool1",))
    assert learning(net, ["*"], "relu2").walls == ("data",)
    fire = zoo.get("squeezenet1.1", seed=None)
    found = learning(fire, ["fire9/expand3x3"], "pool10")
    assert found.walls == ("fire9/relu_squeeze1x1", "fire9/relu_expand1x1")
    with pytest.raises(
        UnknownLayerError, match="no layer 'cnov2' that has weights to learn; did you mean 'conv2'"
    ):
        learning(net, ["cnov2"], "relu2")
    with pytest.raises(UnknownLayerError, match="no layer 'relu1' that has weights to learn"):
        learning(net, ["relu1"], "relu2")
    with pytest.raises(UsageError, match="conv2: not on the way to 'relu1'; nothing would be learned"):
        learning(net, ["conv2"], "relu1")


def test_what_is_shared_moves_for_all_who_share(net):
    layer = net.node("conv2").layer
    twin = net.with_nodes([*net.nodes, Node("twin", L.Conv(layer.w, layer.b, layer.window), ("pool1",)),
                           Node("sum", L.Add(), ("relu2", "twin"))])  # fmt: skip
    assert learning(twin, ["twin"], "sum").arrays == {"conv2/w", "conv2/b"}


def learn(net, **how):
    """The weights after some steps, and all gradients' lengths."""
    data = Splits(pictures(24), pictures(6, seed=1), pictures(6, seed=2))
    net = replace_head(net, CLASSES, after="relu2")
    first = {name: array.copy() for name, array in net.params.items()}
    lengths = [record.gradient_norm for record in fit(net, data, Way(epochs=1, batch=8, **how))]
    moved = {name for name, array in net.params.items() if not np.array_equal(array, first[name])}
    return net, moved, lengths


def test_only_the_layers_that_may_learn_move(net):
    assert learn(net)[1] == {"conv1/w", "conv1/b", "conv2/w", "conv2/b", "head/w", "head/b"}
    assert learn(net, learn=("head",))[1] == {"head/w", "head/b"}
    assert learn(net, learn=("conv1", "head"))[1] == {"conv1/w", "conv1/b", "head/w", "head/b"}


def test_all_by_name_is_the_same_as_all(net):
    one, _, lengths = learn(net)
    other, _, same = learn(net, learn=("*",))
    assert np.allclose(lengths, same, rtol=1e-6)
    assert all(np.allclose(one.params[name], other.params[name], atol=1e-6) for name in one.params)


def test_what_stays_is_not_in_training():
    """A batch norm and a dropout before the layers that learn answer as in a test, and keep their moments."""
    rng = np.random.default_rng(0)
    norm = L.BatchNorm(*(rng.uniform(0.5, 1.5, 4).astype("float32") for _ in range(4)))
    net = small()
    nodes = [*net.nodes[:2], Node("bn", norm, ("relu1",)), Node("drop", L.Dropout(0.5), ("bn",))]
    nodes += [net.nodes[2]._replace(inputs=("drop",)), *net.nodes[3:]]
    net, moved, _ = learn(net.with_nodes(nodes), learn=("conv2", "head"))
    assert moved == {"conv2/w", "conv2/b", "head/w", "head/b"}
    assert all(np.array_equal(net.buffers[f"bn/{name}"], getattr(norm, name)) for name in ("mean", "var"))


def test_minidnn_train_takes_a_trained_net_to_other_classes(tmp_path, net):
    old, data = tmp_path / "old.h5", tmp_path / "data.npz"
    weights.save(old, net)
    np.savez(data, images=pictures(30).images, labels=pictures(30).labels)
    parser = argparse.ArgumentParser()
    train_command.add_arguments(parser)
    argv = ["--net", old, "--data", data, "-o", tmp_path / "out", "--epochs", 2, "--batch", 6]
    for words in ("head=relu2", "learn=head", "normalise=false"):
        argv += ["--set", words]
    assert train_command.run(parser.parse_args(list(map(str, argv)))) == 0
    new = weights.load(tmp_path / "out" / "weights.h5")
    assert new.names[-2:] == ("head", "prob") and len(new.classes) == 3
    assert np.array_equal(new.params["conv2/w"], net.params["conv2/w"]) and new.preprocess == net.preprocess
