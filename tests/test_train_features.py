"""`minidnn features`: what layers say of pictures, streamed to a file; stopped, killed, and gone on with."""

from __future__ import annotations

import argparse
import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from minidnn import layers as L
from minidnn import weights, zoo
from minidnn.cli import features as command
from minidnn.errors import (
    DamagedFileError,
    DivergedError,
    FileFormatError,
    MismatchError,
    OutputError,
    UnknownLayerError,
    UsageError,
)
from minidnn.images import Preprocess
from minidnn.net import Net
from minidnn.train import features
from minidnn.train.data import Pictures
from minidnn.train.featurefile import Features
from minidnn.train.features import Extraction, Wanted
from minidnn.train.pooling import POOLS, chosen_layers, halves, width, worth_a_look
from minidnn.window import Window
from tests.samples import distinct

ROOT = Path(__file__).parent.parent
CLASSES = ("sea", "sky", "sand")


def small(seed: int = 0, scale: float = 1.0) -> Net:
    rng = np.random.default_rng(seed)
    layers = {
        "conv1": L.Conv.random(rng, 3, 3, 4, pad=1),
        "relu1": L.ReLU(),
        "pool1": L.MaxPool(Window.of(2, stride=2)),
        "conv2": L.Conv.random(rng, (1, 3), 4, 5),
        "relu2": L.ReLU(),
    }
    preprocess = Preprocess(mean=(120.0,), std=(60.0 * scale,), size=(8, 10))
    return Net.chain(layers, input_shape=(8, 10, 3), preprocess=preprocess)


def pictures(count: int, seed: int = 0) -> Pictures:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 8, 10, 3), np.uint8)
    return Pictures(images, np.arange(count) % 3, CLASSES, f"{count} pictures")


@pytest.fixture
def net():
    return small()


@pytest.fixture
def parts():
    return {"test": pictures(7, seed=1), "train": pictures(11, seed=2)}


WANTED = Wanted(("relu*", "pool1"), ("mean", "grid"), batch=4)


def stream(path, net, parts, wanted=WANTED, *, upto: int | None = None, **how):
    """All of it, or only so many batches."""
    return list(itertools.islice(Extraction(path, net, parts, wanted).run(**how), upto))


@pytest.fixture
def whole(tmp_path, net, parts):
    """A file that was made in one go."""
    path = tmp_path / "whole.h5"
    stream(path, net, parts)
    return path


# What is kept of a map.


def test_each_pooling_keeps_what_it_says():
    x = distinct(np.random.default_rng(0), (2, 5, 7, 3))
    means, largest = x.mean(axis=(1, 2)), x.max(axis=(1, 2))
    assert np.array_equal(POOLS["flat"](x), x.reshape(2, 105))
    assert np.allclose(POOLS["mean"](x), means)
    assert np.array_equal(POOLS["max"](x), largest)
    assert np.allclose(POOLS["both"](x), np.hstack([means, largest]))
    found = POOLS["grid"](x).reshape(2, 5, 3)
    assert np.allclose(found[:, 0], means)
    assert np.allclose(found[:, 1], x[:, :3, :4].mean(axis=(1, 2))), "upper left"
    assert np.allclose(found[:, 2], x[:, :3, 3:].mean(axis=(1, 2))), "upper right"
    assert np.allclose(found[:, 3], x[:, 2:, :4].mean(axis=(1, 2))), "lower left"
    for name, pool in POOLS.items():
        assert pool(x).shape == (2, width(name, x.shape))


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7])
def test_halves_are_equally_long_and_cover_all(n):
    first, second = (list(range(n))[half] for half in halves(n))
    assert len(first) == len(second) and set(first) | set(second) == set(range(n))


def test_layers_are_found_by_name_number_and_pattern(net):
    assert chosen_layers(net, ["relu2", "1", 3]) == ("conv1", "pool1", "relu2")
    assert chosen_layers(net, ["*"]) == ("relu1", "pool1", "relu2"), "a convolution as it leaves its ReLU"
    assert chosen_layers(net, ["data"]) == ("data",)
    with pytest.raises(UnknownLayerError, match="no layer 'reul2'; did you mean 'relu2'"):
        chosen_layers(net, ["reul2"])
    with pytest.raises(UnknownLayerError, match=r"no layer is called like 'fire\*'; there are relu1, pool1"):
        chosen_layers(net, ["fire*"])
    with pytest.raises(UsageError, match="no layer was named; give one, or a pattern"):
        chosen_layers(net, [])


def test_joins_are_worth_a_look_and_dropout_is_not():
    found = worth_a_look(zoo.get("squeezenet1.1", seed=None, dropout=True))
    assert "fire9/concat" in found and "drop9" not in found and "prob" not in found
    assert "fire9/expand3x3" not in found and "fire9/relu_expand3x3" in found


# The file.


def test_the_file_holds_what_the_net_says_of_each_picture(whole, net, parts):
    found = Features.open(whole)
    assert found.keys == ["relu1:mean", "relu1:grid", "pool1:mean", "pool1:grid", "relu2:mean", "relu2:grid"]
    assert found.parts == {"test": 7, "train": 11} and found.classes == CLASSES
    assert found.about["digest"] == weights.digest(net, upto="relu2")
    assert found.about["preprocess"]["mean"] == [120.0] and found.about["size"] == [8, 10]
    for part, data in parts.items():
        assert np.array_equal(found.labels(part), data.labels)
        x = net.preprocess.to_net(data.images)
        said = net.forwardto(net.init_res(), "relu2", x)
        assert np.allclose(found.rows("relu2:grid", part), POOLS["grid"](said), atol=1e-6)
    assert os.listdir(whole.parent) == ["whole.h5"], "and nothing else is left"


def test_never_more_than_a_batch_is_asked_for(tmp_path, net):
    asked = []

    class Watched(Pictures):
        def batch(self, which):
            asked.append(len(which))
            return super().batch(which)

    data = pictures(30)
    extraction = Extraction(tmp_path / "f.h5", net, {"all": Watched(**vars(data))}, WANTED)
    asked.clear()  # of the fingerprint
    assert [progress.done for progress in extraction.run()][-2:] == [28, 30]
    assert asked == [4] * 7 + [2]


def test_pictures_of_another_size_or_in_grey_are_brought_to_the_net(tmp_path, net):
    rng = np.random.default_rng(0)
    data = Pictures(rng.integers(0, 256, (3, 15, 12, 1), np.uint8), np.arange(3), CLASSES, "grey")
    stream(tmp_path / "f.h5", net, {"all": data}, Wanted(("data",), ("flat",)))
    rows = Features.open(tmp_path / "f.h5").rows("data:flat", "all").reshape(3, 8, 10, 3)
    assert np.allclose(rows[..., 0], rows[..., 2])
    stream(tmp_path / "g.h5", net, {"all": data}, Wanted(("data",), ("flat",), size=(2, 6)))
    assert Features.open(tmp_path / "g.h5").rows("data:flat", "all").shape == (3, 36)


def test_on_any_device(tmp_path, net, parts, whole, device):
    path = tmp_path / "there.h5"
    stream(path, net.to(device), parts)
    one, other = Features.open(path), Features.open(whole)
    assert np.allclose(one.rows("relu2:grid", "train"), other.rows("relu2:grid", "train"), atol=1e-5)


# Stopped, killed, and gone on with.


@pytest.mark.parametrize("done", [1, 2, 4])
def test_stopped_after_any_batch_it_goes_on_to_the_same_bytes(done, tmp_path, whole, net, parts):
    path = tmp_path / "parts.h5"
    stream(path, net, parts, upto=done)
    assert not path.exists()
    with pytest.raises(
        UsageError, match=r"parts.h5.parts: a run that was not done; go on with it by --resume"
    ):
        stream(path, net, parts)
    assert [progress.done for progress in stream(path, net, parts, resume=True)] == [4, 7, 11, 15, 18]
    assert path.read_bytes() == whole.read_bytes() and not (tmp_path / "parts.h5.parts").exists()
    assert stream(path, net, parts, resume=True) == [(18, 18)], "all is there"


def test_only_what_is_missing_is_computed(tmp_path, net, parts, monkeypatch):
    path, count = tmp_path / "f.h5", []
    stream(path, net, parts, upto=3)
    compute = Extraction._features
    monkeypatch.setattr(Extraction, "_features", lambda *args: count.append(len(args[2])) or compute(*args))
    (tmp_path / "f.h5.parts" / "test-000001.npz").write_bytes(b"PK, and then the power failed")
    stream(path, net, parts, resume=True)
    assert count == [3, 4, 3], "the batch that was damaged, and the two that were not there"


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_killed_it_goes_on_to_the_same_bytes(tmp_path, whole, net, parts):
    code = """
import time
from minidnn.train.features import Extraction
from tests.test_train_features import WANTED, pictures, small
parts = {"test": pictures(7, seed=1), "train": pictures(11, seed=2)}
for _ in Extraction("killed.h5", small(), parts, WANTED).run():
    time.sleep(0.2)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.Popen([sys.executable, "-B", "-c", code], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("killed.h5.parts/*.npz"))) < 2:
        assert ran.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    ran.send_signal(signal.SIGKILL)
    ran.wait()
    path = tmp_path / "killed.h5"
    assert not path.exists()
    stream(path, net, parts, resume=True)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"net": small(seed=5)}, "of another net"),
        ({"net": small(scale=2)}, "of another preprocess"),
        ({"parts": {"test": pictures(7, seed=1), "train": pictures(11, seed=3)}}, "of another data"),
        (
            {"wanted": replace(WANTED, layers=("relu*",))},
            r"of another layers \(\['relu1', 'pool1', 'relu2'\], now",
        ),
        (
            {"wanted": replace(WANTED, pools=("mean",))},
            r"of another pools \(\['mean', 'grid'\], now \['mean'\]\)",
        ),
        ({"wanted": replace(WANTED, batch=5)}, "of another batch"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_only_the_same_is_gone_on_with(changed, words, tmp_path, net, parts):
    path, same = tmp_path / "f.h5", {"net": net, "parts": parts, "wanted": WANTED}
    stream(path, **same, upto=2)
    with pytest.raises(MismatchError, match=rf"f.h5.parts: {words}.*; resume with the same, or"):
        stream(path, **same | changed, resume=True)
    stream(path, **same, resume=True)
    with pytest.raises(MismatchError, match=rf"f.h5: {words}"):
        stream(path, **same | changed, resume=True)


def test_a_note_that_is_damaged_is_told(tmp_path, net, parts):
    stream(tmp_path / "f.h5", net, parts, upto=1)
    (tmp_path / "f.h5.parts" / "about.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"about.json: damaged .*; delete the folder and begin anew"):
        stream(tmp_path / "f.h5", net, parts, resume=True)


# What can go wrong on the way.


def test_numbers_that_are_not_finite_are_told_with_their_picture(tmp_path, parts):
    net = small()
    with net.updating() as w:
        w["conv2/w"][...] = 3e38
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            DivergedError, match="picture 0 of 7 pictures: 'relu2' says what is not finite; check the weights"
        ),
    ):
        stream(tmp_path / "f.h5", net, parts)


def test_what_is_asked_for_must_make_sense(tmp_path, net, parts):
    with pytest.raises(UsageError, match=r"no pooling 'men'; there are mean, .*; did you mean 'mean'"):
        Wanted(("relu1",), ("men",))
    with pytest.raises(UsageError, match="batches of 0; give 1 or more"):
        Wanted(("relu1",), batch=0)
    nothing = net.with_nodes(net.nodes, preprocess=None)
    with pytest.raises(UsageError, match="says nothing of how pictures become"):
        stream(tmp_path / "f.h5", nothing, parts)
    with pytest.raises(OutputError, match=r"nowhere/f.h5: No such file or directory; make the folder first"):
        stream(tmp_path / "nowhere" / "f.h5", net, parts)


def test_room_on_the_disk_is_looked_at_first(tmp_path, net, parts, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(OutputError, match=r"takes 11,232 bytes on the way, 5 are free; ask for fewer layers"):
        stream(tmp_path / "f.h5", net, parts)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_leaves_all_that_was_done(tmp_path, whole, net, parts, monkeypatch):
    path, save, left = tmp_path / "f.h5", np.savez, iter([True, True])

    def filling(file, **arrays):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", filling)
        with pytest.raises(OutputError, match="No space left on device; free some space"):
            stream(path, net, parts)
    assert len(list(tmp_path.glob("f.h5.parts/*.npz"))) == 2 and not path.exists()
    stream(path, net, parts, resume=True)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="limits as POSIX has them")
def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path, whole):
    """The batches are small enough, the file that they become is not."""
    code = """
from minidnn.errors import OutputError
from minidnn.train.features import Extraction
from tests.test_train_features import WANTED, pictures, small
try:
    list(Extraction("whole.h5", small(), {"all": pictures(90)}, WANTED).run())
except OutputError as error:
    print(error)
"""
    before = whole.read_bytes()
    ran = subprocess.run(
        ["bash", "-c", 'ulimit -f 12; exec "$@"', "bash", sys.executable, "-B", "-c", code],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert "whole.h5: File too large; allow larger files" in ran.stdout, ran.stderr
    assert whole.read_bytes() == before


# Reading what a stranger wrote.


def edited(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_a_file_that_is_cut_short_or_something_else_is_refused(tmp_path, whole, net):
    content = whole.read_bytes()
    for size in (len(content) - 1, len(content) // 2, 100):
        (tmp_path / "cut.h5").write_bytes(content[:size])
        with pytest.raises(DamagedFileError, match=r"truncated|damaged|ends .* behind the file"):
            Features.open(tmp_path / "cut.h5").rows("relu2:grid", "train")
    weights.save(tmp_path / "net.h5", net)
    with pytest.raises(FileFormatError, match=r"net.h5: no file of features; make one by: minidnn features"):
        Features.open(tmp_path / "net.h5")
    with pytest.raises(FileFormatError, match=r"whol.h5: no such file; did you mean 'whole.h5'"):
        Features.open(tmp_path / "whol.h5")
    edited(whole, lambda file: file.attrs.modify("version", np.array(9, "<u2")))
    with pytest.raises(FileFormatError, match="version 9, we read 1; update minidnn"):
        Features.open(whole)


def test_a_file_that_contradicts_itself_is_refused(whole):
    def shorter(file):
        del file["parts/test/labels"]
        file["parts/test/labels"] = np.zeros(6, "<i4")

    with pytest.raises(DamagedFileError, match=r"'parts/test/labels' is \(6,\) int32, expected \(7,\) <i4"):
        Features.open(edited(whole, shorter))


def test_what_the_file_says_of_itself_is_not_believed(whole):
    about = json.loads(h5py.File(whole)["about"][()].tobytes())

    def told(**changes):
        def change(file):
            del file["about"]
            file["about"] = np.frombuffer(json.dumps(about | changes).encode(), np.uint8)

        return edited(whole, change)

    for changes, words in [
        ({"parts": 3}, "no whole file of features"),
        ({"layers": [["x"]]}, "no whole file of features|is missing"),
        ({"widths": {}}, "no whole file of features"),
        ({"parts": {"../..": {"count": 7}}}, r"missing"),
    ]:
        with pytest.raises((DamagedFileError, MismatchError), match=words):
            Features.open(told(**changes))


def test_numbers_in_it_are_looked_at(whole):
    found = Features.open(whole)
    with pytest.raises(MismatchError, match=r"has no 'relu1:maen', there are .*; did you mean 'relu1:mean'"):
        found.rows("relu1:maen", "test")
    edited(whole, lambda file: file["parts/test/relu1:mean"].__setitem__((2, 1), np.nan))
    with pytest.raises(DamagedFileError, match="1 features of 'relu1:mean' are not finite; make them again"):
        found.rows("relu1:mean", "test")
    edited(whole, lambda file: file["parts/test/labels"].__setitem__(2, 3))
    with pytest.raises(DamagedFileError, match="labels up to 3, and there are classes 0 to 2"):
        found.labels("test")


# The command.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures of several sizes in class folders, and a net in a file."""
    monkeypatch.setenv("MINIDNN_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name in ("sea", "sky"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 256, (9 + number, 12, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    weights.save(tmp_path / "net.h5", small())
    return tmp_path / "pictures"


def run(folder, *more) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = folder.parent / "f.h5"
    argv = [folder.parent / "net.h5", folder, "--layer", "relu2", "-o", out, "--batch", 2, *more]
    return command.run(parser.parse_args(list(map(str, argv))))


def test_the_command_says_what_it_wrote(folder, capsys):
    assert run(folder, "--pool", "max", "--pool", "mean") == 0
    said = capsys.readouterr().out
    assert re.search(r"wrote .*f.h5: 10 of all; 1 layers, 2 kinds of features \([\d,]+ bytes\)", said)
    assert "learn from it: minidnn heads" in said
    assert Features.open(folder.parent / "f.h5").keys == ["relu2:max", "relu2:mean"]
    assert run(folder, "--pool", "max", "--pool", "mean", "--resume") == 0
    assert not (folder.parent / "f.h5.parts").exists()


def test_ctrl_c_keeps_what_is_done(folder, capsys, monkeypatch):
    compute, count = Extraction._features, iter(range(9))

    def interrupted(self, data, which):
        if next(count) == 1:
            signal.raise_signal(signal.SIGINT)
        return compute(self, data, which)

    monkeypatch.setattr(Extraction, "_features", interrupted)
    assert run(folder) == 130
    assert "f.h5.parts holds what is done: the same with --resume goes on" in capsys.readouterr().out
    assert run(folder, "--resume") == 0 and next(count) == 5, "no batch was made twice"


def test_a_damaged_picture_and_an_empty_class_are_named(folder):
    (folder / "sky" / "3.png").write_bytes((folder / "sky" / "3.png").read_bytes()[:60])
    with pytest.raises(DamagedFileError, match=r"'sky/3.png' is damaged, cut short or no picture"):
        run(folder)
    shutil.rmtree(folder / "sky")
    (folder / "sky").mkdir()
    with pytest.raises(FileFormatError, match="an empty folder; put the pictures of 'sky' in, or delete it"):
        run(folder)


def test_what_the_command_line_can_get_wrong(folder, tmp_path):
    with pytest.raises(UnknownLayerError, match="no layer 'relu22'; did you mean 'relu2'"):
        run(folder, "--layer", "relu22")
    with pytest.raises(UsageError, match="is a folder; give --output the name of a file"):
        run(folder, "-o", tmp_path)
    assert not list(tmp_path.glob("*.parts"))


def test_squeezenet_reads_scenes(data, tmp_path):
    """The real set, eight pictures of it: the tar is opened, its classes are found, all is finite."""
    tar = data / "datasets" / "scene15" / "scene15_subset_40train_20test.tar"
    if not tar.exists():
        pytest.skip("no scenes there")
    from minidnn.train.data import Part
    from minidnn.train.opening import open_data

    parts = open_data(tar, size=(32, 32), cache=tmp_path / "cache")
    assert {name: len(part) for name, part in parts.items()} == {"test": 300, "train": 600}
    few = {name: Part(part, np.arange(0, len(part), len(part) // 4), name) for name, part in parts.items()}
    stream(tmp_path / "f.h5", zoo.get("squeezenet1.1"), few, Wanted(("fire2/concat",), size=(32, 32)))
    found = Features.open(tmp_path / "f.h5")
    assert len(found.classes) == 15 and found.rows("fire2/concat:mean", "test").shape == (4, 128)
