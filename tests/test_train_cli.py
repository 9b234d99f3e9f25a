"""`minidnn train`: from a recipe to a folder with weights, log and curves; stopped and gone on with."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import threading

import numpy as np
import pytest

from minidnn import weights, zoo
from minidnn.cli import train
from minidnn.cli.settings import from_toml
from minidnn.errors import (
    DamagedFileError,
    DivergedError,
    FileFormatError,
    MismatchError,
    OutputError,
    ShapeError,
    UsageError,
)
from minidnn.layers import BatchNorm
from minidnn.train import checkpoint, recipe
from minidnn.train.data import Pictures
from minidnn.train.recipe import Recipe
from tests import fakedevice


@pytest.fixture
def digits(tmp_path):
    """Pictures of 28x28 that LeNet can tell apart: a bright square, and where it is says what it is."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 10
    images = rng.integers(0, 60, (120, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 5 * (label // 5) + 6, 5 * (label % 5) + 1
        image[top : top + 6, left : left + 6] = 220
    path = tmp_path / "digits.npz"
    np.savez(path, images=images, labels=labels)
    return path


def run(*argv) -> int:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return train.run(parser.parse_args(list(map(str, argv))))


def settings(*more):
    return [word for setting in ("optimiser=adam", "rate=0.001", *more) for word in ("--set", setting)]


def test_it_trains_and_leaves_weights_a_log_and_curves(digits, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--data", digits, "-o", out, "--epochs", 4, "--batch", 12, *settings()) == 0
    said = capsys.readouterr().out
    assert "lenet, 431,080 parameters" in said and "72 for train, 24 for validation, 24 for test" in said
    assert "epoch   4: loss" in said and ", top-5 " in said and "test error: top-1" in said
    net, log = weights.load(out / "weights.h5"), json.loads((out / "log.json").read_text())
    assert net.preprocess.order == "GRAY" and net.preprocess.mean[0] > 10 and net.classes[7] == "7"
    assert len(log["epochs"]) == 4 and log["test"]["top1"] < 0.3 and log["recipe"]["rate"] == 0.001
    assert (out / "best.h5").exists()
    if importlib.util.find_spec("matplotlib") is None:
        assert "curves want matplotlib: pip install" in said
    else:
        assert (out / "curves.svg").read_bytes().lstrip().startswith(b"<?xml")
    found = weights.Weights.open(out / "weights.h5").provenance
    assert found["recipe"]["epochs"] == 4 and found["result"]["top1"] == log["test"]["top1"]


def test_stopped_by_ctrl_c_it_keeps_all_and_goes_on_to_the_same_weights(
    digits, tmp_path, capsys, monkeypatch
):
    whole, out, take = tmp_path / "whole", tmp_path / "out", train.Session.take
    arguments = ["--data", digits, "--epochs", 2, "--batch", 12, *settings("augment=shift 1,noise 5")]
    run(*arguments, "-o", whole)

    def interrupted(self, record, bar):
        take(self, record, bar)
        if (record.epoch, record.batch) == (1, 4):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(train.Session, "take", interrupted)
        assert run(*arguments, "-o", out) == 130
    assert f"go on: minidnn train --resume -o {out}" in capsys.readouterr().out
    assert json.loads((out / "log.json").read_text())["ended"] == "stopped"
    with pytest.raises(UsageError, match="holds a run already; go on with it by --resume"):
        run(*arguments, "-o", out)
    assert run("--resume", "-o", out) == 0
    assert weights.digest(weights.load(out / "weights.h5")) == weights.digest(
        weights.load(whole / "weights.h5")
    )


def test_a_run_goes_on_on_another_device_than_it_began_on(digits, tmp_path, device):
    def weights_after(out, *devices):
        run("--data", digits, "-o", out, "--epochs", 1, "--batch", 12, *settings(), "--device", devices[0])
        for epochs, name in enumerate(devices[1:], start=2):
            assert run("--resume", "-o", out, "--epochs", epochs, "--device", name) == 0
            assert json.loads((out / "log.json").read_text())["device"] == name
        return checkpoint.load(out / "checkpoint.npz").weights["fc3/w"]

    fakedevice.TRAFFIC.clear()
    here = weights_after(tmp_path / "here", "cpu", "cpu", "cpu")
    assert not fakedevice.TRAFFIC
    there = weights_after(tmp_path / "there", device, "cpu", device)
    assert bool(fakedevice.TRAFFIC) == (device == "fake")
    np.testing.assert_allclose(there, here, atol=1e-3)


def test_it_ends_early_and_says_so(digits, tmp_path, capsys):
    more = settings("patience=1", "schedule=plateau", "loss=structured_hinge", "clip=1")
    assert run("--data", digits, "-o", tmp_path / "out", "--epochs", 40, "--batch", 12, *more) == 0
    assert "ends here: no new low of the loss for 1 epochs" in capsys.readouterr().out
    log = json.loads((tmp_path / "out" / "log.json").read_text())
    assert len(log["epochs"]) < 40 and log["ended"] == "no new low of the loss for 1 epochs"


def test_more_epochs_can_be_asked_for_later_and_nothing_else(digits, tmp_path):
    out = tmp_path / "out"
    run("--data", digits, "-o", out, "--epochs", 1, "--batch", 12)
    assert run("--resume", "-o", out, "--epochs", 2) == 0
    assert checkpoint.load(out / "checkpoint.npz").state.epoch == 2
    with pytest.raises(UsageError, match="leave out rate, seed"):
        run("--resume", "-o", out, "--rate", 0.5, "--seed", 0)


def test_other_data_are_noticed_and_data_that_moved_can_be_named(digits, tmp_path):
    out, moved = tmp_path / "out", tmp_path / "moved.npz"
    run("--data", digits, "-o", out, "--epochs", 1, "--batch", 12)
    shutil.move(digits, moved)
    assert run("--resume", "-o", out, "--data", moved) == 0
    arrays = dict(np.load(moved))
    np.savez(moved, images=arrays["images"], labels=arrays["labels"][::-1])
    with pytest.raises(MismatchError, match="began with other data than these; give the same --data"):
        run("--resume", "-o", out, "--data", moved)


def test_data_that_vanish_during_a_run_are_not_missed(digits, tmp_path, monkeypatch):
    take = train.Session.take

    def deleting(self, record, bar):
        digits.unlink(missing_ok=True)
        take(self, record, bar)

    monkeypatch.setattr(train.Session, "take", deleting)
    assert run("--data", digits, "-o", tmp_path / "out", "--epochs", 1, "--batch", 12) == 0


def test_two_runs_do_not_write_to_one_folder(digits, tmp_path):
    pytest.importorskip("fcntl")
    with (
        train.owned(tmp_path / "out"),
        pytest.raises(
            OutputError, match="another run is writing here; wait for it, or give another --output"
        ),
    ):
        run("--data", digits, "-o", tmp_path / "out", "--epochs", 1, "--batch", 12)
    with train.owned(tmp_path / "out"):
        pass


def test_a_run_that_diverges_leaves_the_last_good_checkpoint(digits, tmp_path):
    out = tmp_path / "out"
    with np.errstate(all="ignore"), pytest.raises(DivergedError, match=r"try rate="):
        run(
            "--data",
            digits,
            "-o",
            out,
            "--epochs",
            30,
            "--batch",
            12,
            "--rate",
            1e9,
            "--set",
            "schedule=constant",
        )
    assert json.loads((out / "log.json").read_text())["ended"] == "diverged"
    assert all(np.isfinite(a).all() for a in checkpoint.load(out / "checkpoint.npz").weights.values())


def test_a_disk_that_is_full_leaves_the_checkpoint_before(digits, tmp_path):
    resource = pytest.importorskip("resource")
    out = tmp_path / "out"
    run("--data", digits, "-o", out, "--epochs", 1, "--batch", 12)
    before, limits = (out / "checkpoint.npz").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        with pytest.raises(OutputError, match=r"checkpoint\.npz: File too large; allow larger files"):
            run("--resume", "-o", out, "--epochs", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (out / "checkpoint.npz").read_bytes() == before
    assert run("--resume", "-o", out, "--epochs", 2) == 0


def test_checkpoints_that_cannot_be_gone_on_with(digits, tmp_path):
    out, path = tmp_path / "out", tmp_path / "out" / "checkpoint.npz"
    with pytest.raises(FileFormatError, match=r"checkpoint\.npz: no such file"):
        run("--resume", "-o", out)
    run("--data", digits, "-o", out, "--epochs", 1, "--batch", 12)
    whole, saved = path.read_bytes(), checkpoint.load(path)
    path.write_bytes(whole[:-1000])
    with pytest.raises(DamagedFileError, match=r"checkpoint\.npz: no whole"):
        run("--resume", "-o", out)
    net, about = saved.into(Recipe().first_net(Recipe(data=str(digits)).splits().train)), saved.about
    other = about | {"recipe": about["recipe"] | {"net": "lenet5", "options": ()}}
    for changes, error, words in [
        ({"recipe": about["recipe"] | {"rate": "quick"}}, UsageError, "rate=quick: give it like its default"),
        ({"recipe": 3}, DamagedFileError, "no recipe in it"),
        ({}, DamagedFileError, "no recipe in it"),
        (other, (MismatchError, ShapeError), "."),
    ]:
        checkpoint.save(path, net, saved.state, changes)
        with pytest.raises(error, match=words):
            run("--resume", "-o", out, "--epochs", 2)


def test_a_net_with_batch_norms_is_saved_without_and_can_be_gone_on_with(tmp_path):
    rng = np.random.default_rng(0)
    path, out = tmp_path / "things.npz", tmp_path / "out"
    np.savez(path, images=rng.integers(0, 256, (20, 32, 32, 3), np.uint8), labels=np.arange(20) % 10)
    tiny = ["--set", "options=batch_norms=true", "--set", "dtype=float16", "--set", "fold=true"]
    assert run("--data", path, "--net", "tiny", "-o", out, "--epochs", 1, "--batch", 6, *tiny) == 0
    net = zoo.get("tiny", weights=out / "weights.h5")
    assert not [node for node in net.nodes if isinstance(node.layer, BatchNorm)]
    again = ["--net", out / "weights.h5", "-o", tmp_path / "again", "--epochs", 1, "--batch", 6]
    assert run("--data", path, *again, "--rate", 1e-4) == 0


def test_a_dry_run_only_says_what_would_be_done(digits, tmp_path, capsys):
    assert run("--data", digits, "-o", tmp_path / "out", "--dry-run", "--batch", 60) == 0
    assert "10 epochs of 2 batches of 60, nesterov at rate 0.01 (cosine)" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_what_the_command_line_can_get_wrong(digits, tmp_path):
    for arguments, words in [
        (["--dry-run"], "no data to train on; give --data PATH"),
        (
            ["mnist-lenet.tml"],
            "no recipe and no file 'mnist-lenet.tml'; there are .*did you mean 'mnist-lenet'",
        ),
        (["--data", digits, "--rate", -1], "Nesterov got rate=-1"),
        (["--data", digits, "--set", "optimiser=adm"], "no optimiser 'adm'; .*did you mean 'adam'"),
        (
            ["--data", digits, "--batch", 12, "--set", "schedule=cos"],
            "no schedule 'cos'; .*did you mean 'cosine'",
        ),
        (["--data", digits, "--set", "epoch=3"], "no setting 'epoch'; did you mean 'epochs'"),
        (["--data", digits, "--set", "options=x"], "options: 'x'; give it as name=value"),
        (["--data", digits, "--net", "lenett"], "no net 'lenett'"),
        (["--data", digits, "--batch", 5000], "batches of 5000, and 72 pictures to learn from"),
        (["--data", digits, "--set", "dropout=0.5"], "dropout=0.5, and lenet has no Dropout layer"),
        (["--data", digits, "--epochs", -2], "epochs=-2; give 0 or more"),
    ]:
        with pytest.raises(UsageError, match=words):
            run(*arguments, "-o", tmp_path / "out")
    with pytest.raises(ShapeError, match="train: pictures of 1 channels, the net sees 3; give others, or"):
        run("--data", digits, "--net", "tiny", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists(), "and nothing was begun"


def test_pictures_of_one_class_or_in_colour(tmp_path):
    path, images = tmp_path / "some.npz", np.random.default_rng(0).integers(0, 9, (20, 28, 28, 3), np.uint8)
    np.savez(path, images=images, labels=np.zeros(20, int))
    with pytest.raises(UsageError, match="train: all pictures are of one class, '0'; there is nothing"):
        run("--data", path, "-o", tmp_path / "out")
    np.savez(path, images=images, labels=np.arange(20) % 10)
    with pytest.raises(ShapeError, match="train: pictures of 3 channels, the net sees 1; set grey=true"):
        run("--data", path, "-o", tmp_path / "out")
    assert run("--data", path, "-o", tmp_path / "out", "--set", "grey=true", "--batch", 7, "--dry-run") == 0


def test_classes_without_a_picture_are_named(tmp_path, capsys):
    path, images = tmp_path / "some.npz", np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8)
    np.savez(path, images=images, labels=np.arange(60) % 10 // 4 * 4, classes=np.array(list("abcdefghij")))
    assert run("--data", path, "-o", tmp_path / "out", "--batch", 7, "--dry-run") == 0
    assert "nothing to learn 'b', 'c', 'd', 'f', 'g' … from" in capsys.readouterr().out


def test_digits_of_another_size_are_brought_to_that_of_the_net(tmp_path, capsys):
    path, images = tmp_path / "small.npz", np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % 10)
    with pytest.raises(ShapeError):
        run("--data", path, "-o", tmp_path / "out", "--dry-run")
    training = ("--epochs", 1, "--batch", 9, "--set", "size=28")
    assert run("--data", path, "-o", tmp_path / "out", *training) == 0
    assert "28x28x1 pictures of 10 classes" in capsys.readouterr().out


@pytest.mark.parametrize("name", recipe.built_in())
def test_the_built_in_recipes_can_be_read(name):
    found = train.changed(Recipe(), from_toml(str(train.found_recipe(name))))
    assert found.way().epochs > 1 and Recipe.from_json(json.loads(json.dumps(found.as_json()))) == found
    assert zoo.get(found.net, seed=None, **found._options())


def test_it_runs_beside_the_main_thread(digits, tmp_path):
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(
            run("--data", digits, "-o", tmp_path / "out", "--epochs", 1, "--batch", 12)
        )
    )
    thread.start()
    thread.join()
    assert codes == [0]


def test_the_net_that_comes_trained_goes_on_from_there():
    rng = np.random.default_rng(0)
    learned = Pictures(rng.integers(0, 255, (6, 32, 32, 3), np.uint8), np.arange(6) % 2, ("a", "b"), "six")
    recipe = Recipe(net="tiny", first_weights="trained", head="last")
    net = recipe.first_net(learned)
    assert recipe.goes_on and Recipe(net="mine.h5").goes_on and not Recipe(net="tiny").goes_on
    assert np.array_equal(net.params["conv8/w"], zoo.trained("tiny").params["conv8/w"])
    assert net.classes == ("a", "b") and net.params["conv9/w"].shape == (1, 1, 256, 2)
    with pytest.raises(UsageError, match="'vgg16' does not come trained"):
        Recipe(net="vgg16", first_weights="trained").first_net(learned)
