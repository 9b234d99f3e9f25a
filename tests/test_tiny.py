"""The built-in net, and batch norms merged into the layers before them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from minidnn import layers as L
from minidnn import weights, zoo
from minidnn.errors import UsageError
from minidnn.net import Net, Node
from minidnn.summary import summarise
from minidnn.train.opening import open_data
from minidnn.train.recipe import built_in

DOCS = Path(__file__).parents[1] / "docs"


def with_moments(net: Net, seed: int = 0) -> Net:
    """The same net with batch norms that do something."""
    rng = np.random.default_rng(seed)
    drawn = {n: rng.uniform(0.5, 1.5, a.shape).astype(a.dtype) for n, a in net.buffers.items()}
    drawn |= {n: rng.uniform(0.5, 1.5, a.shape).astype(a.dtype) for n, a in net.params.items() if a.ndim == 1}
    return net.replacing(drawn)


def answers(net: Net, size=(32, 32), n=3, seed=1):
    x = np.random.default_rng(seed).standard_normal((n, *size, 3)).astype(net.dtype)
    return net.forwardto(net.init_res(), "scores", x)


def test_it_is_small_and_sees_far():
    net = zoo.get("tiny", seed=None)
    rows = {row.name: row for row in summarise(net, (32, 32)).rows}
    assert sum(a.size for a in net.params.values()) <= 1_400_000
    assert min(rows["relu8"].rf_size) >= 60


def test_it_takes_pictures_of_any_size():
    assert answers(zoo.get("tiny"), size=(49, 70)).shape == (3, 1, 1, 10)


def test_folded_it_gives_the_same_answers_without_batch_norms():
    trained = with_moments(zoo.get("tiny", batch_norms=True)).astype("float64")
    plain = zoo.folded(trained)
    assert not [node for node in plain.nodes if isinstance(node.layer, L.BatchNorm)]
    assert plain.names == zoo.get("tiny", seed=None).names and plain.name_of("bn3") == "conv3"
    np.testing.assert_allclose(answers(plain), answers(trained), rtol=1e-12)


def test_folded_and_saved_it_is_the_net_of_the_zoo(tmp_path):
    trained = with_moments(zoo.get("tiny", batch_norms=True))
    path = tmp_path / "tiny.h5"
    weights.save(path, zoo.folded(trained), dtype="float16")
    assert path.stat().st_size < 3_000_000
    found = zoo.get("tiny", weights=path)
    assert found.classes[3] == "cat"
    np.testing.assert_allclose(answers(found), answers(trained), atol=0.02 * np.abs(answers(trained)).max())


def test_an_fc_takes_its_batch_norm_too():
    rng = np.random.default_rng(0)
    norm = L.BatchNorm(*(rng.uniform(0.5, 1.5, 7) for _ in range(4)))
    net = Net.chain({"fc": L.FC(rng.standard_normal((2, 3, 3, 7)), None), "scores": norm})
    np.testing.assert_allclose(
        zoo.folded(net).forwardto(net.init_res(), "fc", x := rng.standard_normal((4, 2, 3, 3))),
        net.forwardto(net.init_res(), "scores", x),
        rtol=1e-12,
    )


@pytest.mark.parametrize("why", ["read by another", "shared", "behind a ReLU"])
def test_a_batch_norm_stays_where_it_cannot_be_merged(why):
    rng = np.random.default_rng(0)
    norm = L.BatchNorm(*(rng.uniform(0.5, 1.5, 3) for _ in range(4)))
    conv = L.Conv(rng.standard_normal((3, 3, 3, 3)), None, L.Conv.random(rng, 3, 3, 3, pad=1).window)
    nodes = {
        "read by another": [("conv", conv, "data"), ("bn", norm, "conv"), ("sum", L.Add(), ("bn", "conv"))],
        "shared": [("a", conv, "data"), ("bn", norm, "a"), ("b", L.Conv(conv.w, None, conv.window), "bn")],
        "behind a ReLU": [("conv", conv, "data"), ("relu", L.ReLU(), "conv"), ("bn", norm, "relu")],
    }[why]
    net = Net([Node(*node) for node in nodes])
    assert zoo.folded(net).names == net.names


# The weights that come with it.


def test_it_comes_trained():
    net = zoo.trained("tiny")
    assert net.names == zoo.get("tiny", seed=None).names and net.classes[5] == "dog"
    assert zoo.TRAINED["tiny"].stat().st_size < 3_000_000
    assert not weights.verify(zoo.TRAINED["tiny"]).findings
    with pytest.raises(UsageError, match="'vgg16' does not come trained; tiny does"):
        zoo.trained("vgg16")


def test_by_its_name_a_command_finds_its_file():
    assert zoo.file_of("tiny") == str(zoo.TRAINED["tiny"])
    assert zoo.file_of("my/tiny.h5") == "my/tiny.h5"


def test_it_says_how_it_was_trained():
    told = weights.Weights.open(zoo.TRAINED["tiny"]).provenance
    kept = json.loads((DOCS / "tiny" / "log.json").read_text())
    assert told["recipe"] == kept["recipe"] and told["result"]["top1"] == kept["test"]["top1"] == 0.123
    recipe = tomllib.loads(built_in()["cifar10-tiny"].read_text())
    assert recipe.items() <= told["recipe"].items(), "by the recipe that comes with it"


def test_it_knows_the_things_that_it_was_taught(data):
    parts = open_data(str(data / "datasets" / "cifar10"))
    images, labels = parts["test"].batch(np.arange(1000)), parts["test"].labels[:1000]
    net = zoo.trained("tiny")
    scores = net.forwardto(net.init_res(), "scores", net.preprocess.to_net(images))
    assert (scores.reshape(1000, 10).argmax(axis=1) == labels).mean() > 0.86
