"""The student: a short lesson by a small teacher, from the command line to the net that is left."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest

from examples import student
from examples.student import PAIRS
from minidnn import images, weights
from minidnn.images import VGG
from minidnn.layers import Conv, MaxPool, ReLU
from minidnn.net import Net
from minidnn.train.fit import State
from minidnn.window import Window
from minidnn.zoo.tiny import CLASSES

BLOCKS = (2, 2, 3, 3, 1)  # convolutions before each pool, as VGG-16 has them; of the last block the first


def teacher(*, stride: int = 2) -> Net:
    """VGG-16 up to conv5_2, with a handful of filters in each layer."""
    rng, layers, c = np.random.default_rng(0), {}, 3
    for block, convolutions in enumerate(BLOCKS, start=1):
        for number in range(1, convolutions + 1 + (block == 5)):
            name, k = f"{block}_{number}", 3 + 2 * block + number
            layers[f"conv{name}"] = Conv.random(rng, 3, c, k, pad=1)
            layers[f"relu{name}"] = ReLU()
            c = k
        if block < 5:
            layers[f"pool{block}"] = MaxPool(Window.of(2, stride=stride))
    return Net.chain(layers, preprocess=VGG)


@pytest.fixture
def school(tmp_path, monkeypatch):
    """A folder with all that a lesson wants, and the options that say so."""
    monkeypatch.setattr(student, "HALF", 3)
    monkeypatch.setattr(student, "perf_counter", map(float, count()).__next__)  # a step takes a second
    rng = np.random.default_rng(1)
    for part, each in (("train", 5), ("test", 2)):
        for kind in CLASSES:
            folder = tmp_path / "data" / part / kind
            folder.mkdir(parents=True)
            for number in range(each):
                images.save(folder / f"{number}.png", rng.uniform(0, 255, (1, 32, 32, 3)))
    (tmp_path / "photos").mkdir()
    images.save(tmp_path / "photos" / "wide.png", rng.uniform(0, 255, (1, 70, 90, 3)))
    monkeypatch.setenv("MINIDNN_CACHE", str(tmp_path / "cache"))
    weights.save(tmp_path / "teacher.h5", teacher())
    places = {"--teacher": "teacher.h5", "--data": "data", "--photos": "photos", "-o": "out"}
    options = [word for option, name in places.items() for word in (option, str(tmp_path / name))]
    return tmp_path, [*options, "--views", "9", "--dreams", "1"]


def test_what_is_left_of_a_lesson_is_the_built_in_net_without_translators(school, capsys):
    folder, options = school
    student.main([*options, "--minutes", "0.05"])
    net = weights.load(folder / "out" / "student.h5")
    assert len(list((folder / "out" / "dreams").iterdir())) == 1
    assert not [name for name in net.names if name.startswith(("as ", "bn"))]
    assert sum(array.size for array in net.params.values()) == 1_184_106
    assert net.classes == CLASSES
    assert "of 20 test pictures named rightly" in capsys.readouterr().out


def test_a_lesson_goes_on_where_it_stopped_and_asks_the_teacher_nothing_again(school, monkeypatch):
    folder, options = school
    student.main([*options, "--minutes", "0.05"])
    with pytest.raises(SystemExit, match="holds a run already; go on with it by --resume"):
        student.main(options)
    before = student.checkpoint.load(folder / "out" / "checkpoint.npz").state
    monkeypatch.setattr(student, "ask", None)
    student.main([*options, "--minutes", "0.1", "--resume"])
    after = student.checkpoint.load(folder / "out" / "checkpoint.npz").state
    assert (before.batch, before.seconds, len(before.history)) == (3, 3, 1)
    assert (after.batch, after.seconds, len(after.history)) == (6, 6, 2)


def test_the_student_understands_more_and_more(school):
    folder, options = school
    student.main([*options, "--minutes", "0.001"])
    net = student.beginner(weights.load(folder / "teacher.h5"), data := _data(folder), seed=0)
    bank = {name: np.load(folder / "out" / "bank" / f"{name}.npy") for name in ("views", *PAIRS.values())}
    told = list(student.lesson(net, bank, data, State(), seconds=30, seed=0))
    for layer in PAIRS.values():
        understood = [step[f"as {layer}"] for step in told]
        assert np.mean(understood[-5:]) > np.mean(understood[:5]) + 0.05


def test_what_the_teacher_says_has_mean_0_and_deviation_1(school):
    folder, options = school
    student.main([*options, "--minutes", "0.001"])
    seen = np.load(folder / "out" / "bank" / "relu3_3.npy").astype(float)
    assert np.abs(seen.mean(axis=(0, 1, 2))).max() < 0.1
    spread = seen.std(axis=(0, 1, 2))
    assert np.abs(spread[spread > 0] - 1).max() < 0.1  # and a channel that is always silent has none


def test_a_teacher_whose_maps_are_of_other_sizes_is_refused(school):
    folder, options = school
    weights.save(folder / "teacher.h5", teacher(stride=1))
    found = "the student's 'relu4' has maps of 16x16, the teacher's 'relu3_3' of "
    with pytest.raises(SystemExit, match=found):
        student.main(options)


def test_a_folder_without_pictures_is_refused(school):
    folder, options = school
    (folder / "photos" / "wide.png").unlink()
    with pytest.raises(SystemExit, match="photos: no pictures in it"):
        student.main(options)


def _data(folder):
    return student.open_data(folder / "data")["train"]
