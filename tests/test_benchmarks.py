"""The benchmarks: equal nets everywhere, checks that can fail, and results that can be compared."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as front
from benchmarks import compare, curves, dream, exported, kernels, layers, nets, peers, race
from minidnn import layers as L
from minidnn.kernels.cpu.threads import CREW
from minidnn.net import Net, Node
from minidnn.window import Window
from minidnn.zoo.blocks import POOL_3_2

SIDE = 31


def small() -> Net:
    """Every kind of layer that the raced nets have, forked and joined."""
    rng = np.random.default_rng(0)
    pooled = L.AvgPool(Window.of(3, stride=2), "padded")
    nodes = [
        Node("conv1", L.Conv.random(rng, 5, 3, 8, stride=2, pad=2), ("data",)),
        Node("relu1", L.ReLU(), ("conv1",)),
        Node("pool1", POOL_3_2, ("relu1",)),
        Node("norm1", L.LRN(3, 1.5, 0.3, 0.75), ("pool1",)),
        Node("a", L.Conv.random(rng, 1, 8, 6), ("norm1",)),
        Node("relu_a", L.ReLU(), ("a",)),
        Node("b", L.Conv.random(rng, 3, 8, 7, pad=1), ("norm1",)),
        Node("relu_b", L.ReLU(), ("b",)),
        Node("same", L.MaxPool(Window.of(3, pad=1)), ("norm1",)),
        Node("join", L.Concat(), ("relu_a", "relu_b", "same")),
        Node("pool2", pooled, ("join",)),
        Node("drop", L.Dropout(0.5), ("pool2",)),
        Node("fc", L.FC.random(rng, (3, 3, 21), 9), ("drop",)),
        Node("relu_fc", L.ReLU(), ("fc",)),
        Node("score", L.Conv.random(rng, 1, 21, 5), ("drop",)),
        Node("mean", L.GlobalAvgPool(), ("score",)),
        Node("prob", L.Softmax(), ("mean",)),
    ]
    return Net(nodes, input_shape=(SIDE, SIDE, 3))


def picture(batch=2):
    return np.random.default_rng(1).standard_normal((batch, SIDE, SIDE, 3)).astype("float32")


@pytest.mark.oracle
@pytest.mark.parametrize("layout", peers.LAYOUTS)
@pytest.mark.parametrize("target", ["join", "relu_fc", "prob"])
def test_pytorch_is_given_the_same_net(layout, target):
    pytest.importorskip("torch")
    forward, step = peers.torchs(small(), picture(), layout, 1, target=target)
    our_forward, our_step = peers.ours(small(), picture(), target=target)
    assert race.error(our_forward(), forward().astype("float64")) < 1e-5
    assert race.cosine(our_step(), step()) > 0.99999


@pytest.mark.oracle
@pytest.mark.parametrize("make", ["onnxruntime_forward", "ncnn_forward"])
@pytest.mark.parametrize("target", ["norm1", "join", "fc", "prob"])
def test_the_others_are_given_the_same_net(make, target, tmp_path):
    pytest.importorskip(make.removesuffix("_forward"))
    forward = getattr(exported, make)(small(), picture(), target, 1, tmp_path)
    wanted = peers.ours(small(), picture(), target=target)[0]()
    assert forward().shape == wanted.shape
    assert race.error(forward(), wanted.astype("float64")) < 1e-5


def test_a_map_read_twice_is_split_for_ncnn(tmp_path):
    exported.write_ncnn(small(), "join", tmp_path)
    lines = (tmp_path / "net.param").read_text().splitlines()
    count, blobs = map(int, lines[1].split())
    assert count == len(lines) - 2 and blobs == sum(int(line.split()[3]) for line in lines[2:])
    assert [line for line in lines if line.startswith("Split")] == [
        "Split split_norm1 1 3 norm1 norm1:a norm1:b norm1:same"
    ]
    assert not any(line.startswith("ReLU") for line in lines), "they go with their convolutions"


def test_pads_that_no_peer_has_are_refused():
    with pytest.raises(SystemExit, match=r"no pads that differ, as \(0, 1, 0, 1\)"):
        peers.both_pads(Window.of(3, pad=(0, 1, 0, 1)))


def test_who_computes_something_else_does_not_race():
    y = np.ones((1, 2, 3, 4), "float32")
    right, wrong = lambda: y, lambda: y + np.float32(1e-3) * np.arange(4, dtype="float32")
    forward = nets.Work("small", "prob")
    assert nets.check({"torch channels_last": right, "minidnn": right}, forward)["minidnn"] == 0
    with pytest.raises(SystemExit, match=r"small forward, prob: ncnn computes something else \(0.003\)"):
        nets.check({"torch channels_last": right, "ncnn": wrong}, forward)
    step = nets.Work("small", "prob", "dream step")
    with pytest.raises(SystemExit, match="minidnn computes something else"):
        nets.check({"torch channels_last": right, "minidnn": lambda: y * np.arange(4)}, step)


def test_a_row_of_the_table_says_how_many_times_as_fast():
    times = {
        "minidnn": [9.0, 10.0, 30.0],
        "torch channels_last": [25.0] * 3,
        "torch contiguous_format": [40.0] * 3,
    }
    row = nets.row_of(nets.Work("small", "prob"), 31, times | {"ncnn": [8.0] * 3}, {})
    assert nets.table([row]).splitlines()[-1] == (
        "| small | forward, prob | 31² | 1 | 10.0 ms | 25.0 ms (2.50x) |  | 8.0 ms (0.80x) |"
    )
    assert row["spread"]["minidnn"] == pytest.approx(1.05)
    assert race.spread([3.0]) == 0


@pytest.mark.oracle
@pytest.mark.parametrize("target", ["pool1", "relu_fc"])
def test_with_our_masks_pytorch_finds_our_gradient_number_by_number(target):
    pytest.importorskip("torch")
    net, x = small(), picture()
    masks = peers.our_masks(net, x, target)
    assert {"relu1", "pool1"} <= set(masks)
    _, step = peers.torchs(net, x, peers.LAYOUTS[0], 1, target=target, masks=masks)
    assert race.error(peers.ours(net, x, target=target)[1](), step().astype("float64")) < 2e-5


@pytest.mark.oracle
def test_so_it_does_for_vgg_by_the_fast_kernels():
    pytest.importorskip("torch")
    dream.check_with_masks(64)
    with pytest.raises(SystemExit, match="another gradient"):
        dream.check_with_masks(64, times=1.001)


def test_a_dream_race_begins_only_when_all_make_the_same(capsys):
    y, g = np.arange(6.0), np.arange(4.0)
    right = (lambda: y, lambda: g)
    theirs = dict.fromkeys(peers.LAYOUTS, right)
    dream.check({"ours": right}, theirs)
    assert "outputs within 0.0e+00, gradients at cosine 1.00000" in capsys.readouterr().out
    for wrong in ((lambda: y + 0.01, right[1]), (right[0], lambda: g[::-1])):
        with pytest.raises(SystemExit, match="ours does not compute what PyTorch computes"):
            dream.check({"ours": wrong}, theirs)


def test_of_several_runs_the_middle_one_counts():
    rows = [
        {
            "work": "forward",
            "ms": ms,
            "torch ms": 2 * ms + i,
            "times as fast": 2 + i / ms,
            "spread": {"": i / 10},
        }
        for i, ms in enumerate([10.0, 30.0, 20.0])
    ]
    found = dream.middle(rows)
    assert (found["ms"], found["torch ms"], found["spread"]) == (20.0, 42.0, {"": 0.2})
    assert found["times as fast"] == pytest.approx(2 + 1 / 30) and found["of"] == [2.0, 2.033, 2.1]
    assert dream.middle([{"work": "memory", "MB": 5.0, "torch MB": 7.0}])["of"] == [5.0]


def test_every_work_names_layers_of_its_net():
    for work in nets.WORKS:
        net = nets.zoo.get(work.net, seed=None)
        assert work.target in net.names and work.takes(224)


def test_a_net_with_fully_connected_layers_races_at_its_own_size_alone():
    assert not nets.Work("vgg16", "prob").takes(512)
    assert nets.Work("vgg16", "relu5_3").takes(512) and nets.Work("squeezenet1.1", "prob").takes(512)


# Comparing


def results(ms, machine="A", spread=0.0, layer="conv1"):
    row = {"layer": layer, "ms": {"ours": ms, "theirs": 50.0}, "GFLOP/s": 1000 / ms, "MB": ms * 2}
    return {"machine": {"cpu": machine}, "results": [row | {"spread": {"ours": spread}}]}


def test_what_changed_beyond_noise_is_named():
    text = compare.compared(results(20.0), results(10.0))
    assert [line.split()[:2] for line in text.splitlines()] == [
        ["faster", "2.00"],
        ["less", "2.00"],
        ["faster", "2.00"],
        ["as", "before"],
    ]
    assert {line.split()[0] for line in compare.compared(results(10.0), results(20.0)).splitlines()} == {
        "slower",
        "more",
        "as",
    }


def test_noise_is_what_is_said_or_what_the_rounds_showed():
    line = next(
        line for line in compare.compared(results(11.0), results(10.0)).splitlines() if "ours" in line
    )
    assert line.startswith("as before")
    assert "faster" in compare.compared(results(11.0), results(10.0), noise=0.05)
    wide = compare.compared(results(20.0, spread=1.5), results(10.0))
    assert next(line for line in wide.splitlines() if "ours" in line).startswith("as before")


def test_other_machines_and_other_rows_are_pointed_out():
    text = compare.compared(results(20.0), results(10.0, machine="B", layer="conv2"))
    assert "not the same machine: cpu was A, is B" in text
    assert "only in the first: conv1 ours ms" in text and "only in the second: conv2 ours ms" in text
    assert text.endswith("no number is in both")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{", "not the results of a benchmark"),
        ("[1]", "no machine, no results"),
        ('{"results": []}', "no machine, no results"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, content, words):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit, match=words):
        compare._read(str(path))


def test_all_kept_results_can_be_compared_with_themselves():
    for path in sorted(race.RESULTS.glob("*.json")):
        found = json.loads(path.read_text())
        assert "faster" not in compare.compared(found, found), path.name


# The races themselves, on nothing much


def test_a_profile_has_every_layer_and_its_share_of_the_limit():
    limits = layers.Limits(gflops=100.0, gbytes=10.0)
    rows = layers.profile(small(), "prob", picture(1), 1, limits)
    assert sum(row["kind"].count("+") + 1 for row in rows) == len(small().names) - 3  # not fc and its ReLU
    by_name = {row["layer"]: row for row in rows}
    conv = by_name["conv1"]
    flops, moved = 2 * 16 * 16 * 75 * 8, 4 * (31 * 31 * 3 + 8 * 8 * 8 + 75 * 8 + 8)
    assert conv["GFLOP/s"] == pytest.approx(flops / conv["forward ms"] / 1e6)
    assert conv["GB/s"] == pytest.approx(moved / conv["forward ms"] / 1e6)
    assert conv["share"] == pytest.approx(1e3 * max(flops / 100e9, moved / 10e9) / conv["forward ms"])
    assert conv["kind"] == "Conv+ReLU+MaxPool" and "relu1" not in by_name, "done on the way"
    assert "all Conv+ReLU+MaxPool" in layers.table(rows)


def test_the_errors_of_kernels_are_found_on_what_the_layers_really_read():
    rng = np.random.default_rng(0)
    net = Net.chain({"conv1": L.Conv.random(rng, 3, 3, 16, pad=1), "relu5_3": L.ReLU()})
    (node, (x,)), *rest = kernels.inputs(net, [picture(1)])
    assert node.name == "conv1" and rest == [] and np.array_equal(x, picture(1))
    assert 0 < kernels.worst(node.layer, x, kernels.Kernel("winograd4")) < 5e-5
    runs = kernels.both_ways(node.layer, x, "chunked", kernels.Kernel("chunked"))
    assert list(runs) == ["chunked forward", "chunked backward"]
    for work in runs.values():
        work()


def test_curves_are_drawn_with_both_on_one_picture(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(curves, "PICTURES", tmp_path)
    row = {
        "size": 64,
        "ms": {"minidnn": 5.0, "torch channels_last": 7.0},
        "MB": {"minidnn": 3.0, "torch": 4.0},
    }
    curves.draw([row, row | {"size": 128}], "size", "a title", "side", "seconds", "picture")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_front_door_lists_all_races_and_refuses_no_threads(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    assert front.main() == 0
    told = capsys.readouterr().out
    assert all(name in told for name in front.RACES)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "compare", "a", "b", "--threads", "0"])
    assert front.main() == 2
    assert "0 threads cannot work; give at least 1" in capsys.readouterr().err


def test_threads_are_those_asked_for(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(front.RACES["compare"], "run", lambda args: seen.append(CREW.size))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "compare", "a", "b", "--threads", "3"])
    before = CREW.size
    assert front.main() == 0 and seen == [3] and CREW.size == before


def test_a_missing_peer_is_said_to_be_missing(monkeypatch, capsys):
    monkeypatch.setattr(nets, "find_spec", lambda name: None)
    monkeypatch.setattr(nets, "WORKS", [])
    monkeypatch.setattr(nets, "record", lambda name, rows: Path("kept.json"))
    nets.run(nets_args())
    out = capsys.readouterr().out
    assert "onnxruntime is missing" in out and "ncnn is missing" in out


def nets_args():
    parser = argparse.ArgumentParser()
    nets.add_arguments(parser)
    return parser.parse_args([])
