"""The experiments of the course, each on a small picture: they draw, they plot, and they say what is true."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import images, weights, zoo
from minidnn.cli.main import main
from minidnn.layers import Conv
from minidnn.net import Net
from minidnn.recipes.experiments import COURSE, EXPERIMENTS, Result, three_layers
from minidnn.recipes.job import Job


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    images.save(path, images.clouds_over_hills(40, 52))
    return str(path)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "peek"])
def test_an_experiment_draws_a_sheet_and_a_plot(tmp_path, photo, name, capsys):
    words = ["experiment", name, photo, "-o", str(tmp_path / "out"), "--size", "40x52", "--guide", photo]
    assert main(words) == 0
    sheet = images.load(tmp_path / "out" / f"{name}.png")
    assert sheet.shape[2] > sheet.shape[1] and sheet.std() > 10
    assert (tmp_path / "out" / f"{name}.svg").read_bytes().startswith(b"<?xml")
    assert f"{name}.svg" in capsys.readouterr().out


def test_peek_prints_the_table_and_what_the_last_layers_are_for(tmp_path, capsys):
    weights.save(tmp_path / "lenet.h5", zoo.get("lenet"))
    assert main(["experiment", "peek", "--net", str(tmp_path / "lenet.h5"), "-o", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "431,080" in told
    assert "The last 4 layers, fc3 to prob, differ" in told
    assert "prob, is a softmax: of what fc4 says of each class it makes probabilities" in told


def test_sizes_are_those_around_the_picture(tmp_path, photo):
    result = Result()
    for _ in EXPERIMENTS["sizes"](Job(photo=photo, size=(20, 26)), result):
        pass
    assert [name for name, _ in result.pictures] == ["start", "13x10", "26x20", "52x40"]
    assert result.words == [
        "This net, trained on 32x32, has no fully connected layer: all of it runs at any size."
    ]


@pytest.mark.parametrize("given, size", [([], (128, 128)), (["--size", "40x52"], (40, 52))])
def test_a_small_net_that_takes_any_size_is_not_shown_on_stamps(monkeypatch, tmp_path, given, size):
    asked = []
    monkeypatch.setitem(EXPERIMENTS, "layers", lambda job, result: iter(asked.append(job) or ()))
    monkeypatch.setattr("minidnn.cli.experiment._write", lambda *_: None)
    assert main(["experiment", "layers", "-o", str(tmp_path), *given]) == 0
    assert [job.size for job in asked] == [size]


def test_two_nets_dream_of_one_picture_side_by_side(tmp_path, photo):
    weights.save(tmp_path / "other.h5", zoo.get("gabor"))
    nets = ["--net", "gabor", "--net", str(tmp_path / "other.h5"), "--layer", "relu1", "--layer", "relu2"]
    assert main(["experiment", "nets", photo, *nets, "--size", "40x52", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "nets.png").exists()


def test_the_layers_of_the_course_are_3_15_and_27_of_vgg16():
    net = zoo.get("vgg16", seed=None)
    assert three_layers(net) == COURSE
    assert [net.number_of(name) for name in COURSE] == [3, 15, 27]


@pytest.mark.parametrize("count", range(2, 17))
def test_other_nets_have_an_early_a_middle_and_a_late_layer(count):
    rng = np.random.default_rng(count)
    net = Net.chain({f"conv{k:02}": Conv.random(rng, 1, 3, 3) for k in range(1, count + 1)})
    early, middle, late = three_layers(net)
    assert early <= middle < late
    assert early < middle or count == 2


def test_the_guide_experiment_asks_for_its_guide(photo, tmp_path, capsys):
    assert main(["experiment", "guide", photo, "-o", str(tmp_path)]) == 2
    assert "wants a second picture: --guide PHOTO" in capsys.readouterr().err
