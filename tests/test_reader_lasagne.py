"""Lasagne's parameters: arrays in a row, and a net for scenes whose wiring had to be found out."""

from __future__ import annotations

import io
import pickle
import random
import tarfile

import numpy as np
import pytest
from PIL import Image

from minidnn import images
from minidnn.errors import FileError, MismatchError, UnsafeFileError, UnsupportedError
from minidnn.layers import Conv
from tests.samples import distinct
from weights_tools.readers import lasagne, onnx
from weights_tools.readers.places_squeezenet import CLASSES

PLACES = "models/squeezenet/squeezenet_v1.1_places365_lasagne.params"
SCENES = "datasets/scene15/scene15_subset_40train_20test.tar"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def row(rng):
    """A convolution with a bias and a norm, one without a bias and with a norm, and a dense layer."""
    norm = [
        np.array(numbers, "f4") for numbers in ([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [0.5, 2, 4, 8])
    ]
    return [
        distinct(rng, (4, 3, 2, 5)).astype("f4"),
        np.arange(4, dtype="f4"),
        *norm,
        distinct(rng, (4, 6, 1, 3)).astype("f4"),
        *norm,
        distinct(rng, (7, 6)).astype("f4"),
        np.arange(6, dtype="f4"),
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.params"


def pickled(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_in_a_row_become_layers(path, row, protocol):
    foreign = lasagne.read(pickled(path, row, protocol))
    assert {name: list(own) for name, own in foreign.layers.items()} == {
        "conv1": ["w", "b"],
        "bn1": ["gamma", "beta", "mean", "var"],
        "conv2": ["w"],
        "bn2": ["gamma", "beta", "mean", "var"],
        "fc1": ["w", "b"],
    }
    upside_down = row[0][:, :, ::-1, ::-1].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(foreign.layers["conv1"]["w"], upside_down)
    np.testing.assert_array_equal(foreign.layers["fc1"]["w"], row[11])
    norm = foreign.layers["bn1"]
    assert (norm["gamma"].tolist(), norm["beta"].tolist()) == ([5, 6, 7, 8], [1, 2, 3, 4])
    np.testing.assert_allclose(1 / np.sqrt(norm["var"] + 1e-4), row[5], rtol=1e-6)
    assert foreign.flatten == "chw"
    assert foreign.steps == ["turned the filters by 180 degrees: Lasagne slides them upside down"]
    assert "flip_filters=false (cuDNN's layers" in foreign.asks


def test_filters_that_were_not_turned_can_stay_so(path, row):
    foreign = lasagne.read(pickled(path, row), flip_filters=False)
    np.testing.assert_array_equal(foreign.layers["conv1"]["w"], row[0].transpose(2, 3, 1, 0))
    assert not foreign.steps and not foreign.asks


def test_what_is_said_of_filters_is_asked_no_more(path, row):
    foreign = lasagne.read(pickled(path, row), flip_filters=True)
    np.testing.assert_array_equal(
        foreign.layers["conv1"]["w"], row[0][:, :, ::-1, ::-1].transpose(2, 3, 1, 0)
    )
    assert not foreign.asks
    only_points = [row[6][:, :, :, :1], *row[7:]]  # 1x1 filters look the same from both sides
    assert not lasagne.read(pickled(path, only_points)).asks


@pytest.mark.parametrize("upright", [True, False])
def test_published_filters_are_known_whichever_way_they_lie(path, data, upright):
    """VGG-16 of Lasagne's model zoo came from Caffe, with flip_filters=False."""
    net = onnx.read(data / "models/vgg16/vgg16_conv_imagenet_head_mri.onnx").net
    banks = [node.layer for node in net.nodes if isinstance(node.layer, Conv)][:2]
    row = []
    for bank in banks:
        w = bank.w.transpose(3, 2, 0, 1)
        row += [np.ascontiguousarray(w if upright else w[:, :, ::-1, ::-1]), bank.b]
    foreign = lasagne.read(pickled(path, row))
    if upright:
        assert foreign.steps == ["left the filters upright: the first are those of VGG-16 of its authors"]
    assert not foreign.asks
    for bank, own in zip(banks, foreign.layers.values(), strict=True):
        np.testing.assert_array_equal(own["w"], bank.w)


def test_the_dictionaries_of_the_model_zoo_are_read(path, row):
    foreign = lasagne.read(pickled(path, {"param values": row, "synset words": ["cat", "dog"]}))
    assert (len(foreign.layers), foreign.classes) == (5, ("cat", "dog"))
    with pytest.raises(MismatchError, match=r"without 'param values'.*\(it holds 'x', 'y'\)"):
        lasagne.read(pickled(path, {"x": 1, "y": row}))


def test_rows_that_are_no_layers_are_told(path, row):
    for wrong, error, words in [
        ([], MismatchError, "no arrays in it"),
        ([1, 2], MismatchError, "not of arrays in a row"),
        ("text", MismatchError, "not of arrays in a row"),
        (row[:1] + row[2:4], MismatchError, r"behind array 0 come \(4,\), \(4,\), expected a bias \(4,\)"),
        ([row[0], np.ones(5, "f4")], MismatchError, r"behind array 0 come \(5,\), expected a bias \(4,\)"),
        ([row[0][0]], UnsupportedError, r"array 0 is \(3, 2, 5\), no filters and no vector"),
        ([row[0].astype("i4")], UnsupportedError, "array 0 holds int32, not floats"),
        ([row[0], *row[2:5], -row[5]], MismatchError, "an inverse deviation is not above 0"),
    ]:
        with pytest.raises(error, match=words):
            lasagne.read(pickled(path, wrong))


def test_code_among_the_arrays_is_named_and_not_run(path, row, tmp_path):
    class Trap:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'canary')!r}, 'w')",)

    with pytest.raises(UnsafeFileError, match=r"asks for (builtins|__builtin__)\.exec"):
        lasagne.read(pickled(path, [*row, Trap()]))
    assert not (tmp_path / "canary").exists()


def test_300_mutations_end_in_arrays_or_in_words(path, row):
    rng, whole = random.Random(0), pickle.dumps(row[:8], 2)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randint(len(data) // 2, 4 * len(data))])
        try:
            lasagne.read(path)
        except FileError as error:
            assert str(error).startswith(str(path))


# The net for scenes.


@pytest.fixture(scope="module")
def places(data):
    return lasagne.read(data / PLACES)


def photos(data, *scenes: str, count: int):
    """Grey photos of scenes as the net wants them: the short side 224, the middle of it."""
    found = {scene: [] for scene in scenes}
    with tarfile.open(data / SCENES) as archive:
        for member in archive.getmembers():
            scene = member.name.split("/")[-2]
            if "/test/" in member.name and scene in found and len(found[scene]) < count and member.isfile():
                picture = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
                found[scene].append(np.asarray(picture, np.float32)[None])
    return found


def test_the_net_for_scenes_is_known_by_its_shapes(places):
    net = places.net
    assert not places.layers and not places.warnings
    assert (len(net.nodes), len(net.classes), net.preprocess.order) == (89, 365, "BGR")
    assert sum(array.size for array in net.params.values()) == 915_629
    assert (CLASSES[52], CLASSES[203], CLASSES[307]) == ("bedroom", "kitchen", "skyscraper")
    shapes = net.shapes((1, 224, 224, 3))
    assert [shapes[name][1:] for name in ("pool1", "pool3", "pool5", "conv10")] == [
        (55, 55, 64),
        (27, 27, 128),
        (13, 13, 256),
        (13, 13, 365),
    ]


def test_the_net_for_scenes_tells_scenes_apart(data, places):
    """The right names are among the first five of 365 for most; upside down they would be for few."""
    right = {
        "bedroom": {"bedroom", "hotel_room", "bedchamber"},
        "tallbuilding": {"skyscraper", "office_building"},
    }
    net, hits = places.net, 0
    for scene, pictures in photos(data, *right, count=5).items():
        for picture in pictures:
            x = net.preprocess.to_net(net.preprocess.fit(picture))
            scores = net.forwardto(net.init_res(), "prob", x, keep="needed")[0, 0, 0]
            hits += bool({net.classes[i] for i in np.argsort(-scores)[:5]} & right[scene])
    assert hits >= 7


def test_the_net_for_scenes_sees_the_numbers_it_remembers(data, places):
    """The mean and the deviation of each channel before a norm are those that the norm keeps."""
    net, x = places.net, []
    for name in ("cat_chelsea.png", "roofs_town.jpg", "river_landscape.jpg", "town_tubingen.jpg"):
        picture = images.load(data / "photos" / name)
        x.append(net.preprocess.to_net(net.preprocess.fit(picture)))
    res = net.init_res()
    banks = ["conv1", "fire3/expand3x3", "fire6/squeeze1x1", "fire9/squeeze1x1"]
    found = net.forwardto(res, banks, np.concatenate(x), keep=banks)
    for name, y in found.items():
        norm = net.node(next(node.name for node in net.nodes if name in node.inputs)).layer
        kept = np.sqrt(norm.var + norm.eps)
        assert np.corrcoef(y.mean(axis=(0, 1, 2)), norm.mean)[0, 1] > 0.75
        assert abs(np.log(y.std(axis=(0, 1, 2)) / kept).mean()) < 0.3
