"""What a net sees in photos: names, certainties, errors over a folder, and grey pictures."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from minidnn import images, weights
from minidnn.cli import classify, evaluate
from minidnn.cli.classify import Classifier
from minidnn.cli.main import COMMANDS, main
from minidnn.errors import FileFormatError, MismatchError, UsageError
from minidnn.graph import Node
from minidnn.images import Preprocess
from minidnn.layers import Conv, GlobalAvgPool, Softmax
from minidnn.net import Net
from minidnn.weights.classes import Classes, class_names, read_classes
from minidnn.window import Window
from weights_tools.convert import Options, convert

POOL = GlobalAvgPool()
NAMES = ("red, crimson", "green", "blue sky")


@pytest.fixture(autouse=True)
def enrolled(monkeypatch):
    monkeypatch.setitem(COMMANDS, "classify", classify)
    monkeypatch.setitem(COMMANDS, "evaluate", evaluate)


def said(capsys, *argv, code=0):
    assert main([str(word) for word in argv]) == code
    out, err = capsys.readouterr()
    return err if code else out


def colours(*, softmax=True, size=(6, 8), classes=NAMES, order="BGR"):
    """A net that tells which colour a picture has: its filters are the colours."""
    w = np.eye(3, dtype="f4")[::-1].reshape(1, 1, 3, 3).copy() if order == "BGR" else np.eye(3, dtype="f4")
    layers = {"conv": Conv(w.reshape(1, 1, 3, 3), np.zeros(3, "f4"), Window.of(1)), "pool": GlobalAvgPool()}
    preprocess = Preprocess(order, scale=1 / 32, mean=(1.0, 2.0, 3.0), size=size, resize=9)
    return Net.chain(
        layers | ({"prob": Softmax()} if softmax else {}),
        input_shape=(*size, 3),
        preprocess=preprocess,
        classes=classes,
    )


@pytest.fixture
def net(tmp_path):
    weights.save(tmp_path / "net.h5", colours())
    return tmp_path / "net.h5"


@pytest.fixture
def photos(tmp_path):
    """Three photos, each mostly of one colour."""
    paths = []
    for number, colour in enumerate(["red", "green", "blue"]):
        pixels = np.full((12, 20, 3), 20.0)
        pixels[..., number] = 230
        paths.append(tmp_path / f"{colour}.png")
        images.save(paths[-1], pixels)
    return paths


def test_classify_names_what_it_sees_with_a_bar_for_each(capsys, net, photos):
    lines = said(capsys, "classify", photos[0], "--net", net, "--top", 2).splitlines()
    assert lines[0] == str(photos[0])
    assert lines[1].split("  ")[1].startswith("red, crimson")
    assert "█" * 28 in lines[1] and len(lines) == 3


def test_several_photos_as_json(capsys, net, photos):
    answers = json.loads(said(capsys, "classify", *photos, "--net", net, "--json"))
    assert [answer["file"] for answer in answers] == [str(photo) for photo in photos]
    assert [answer["top"][0]["index"] for answer in answers] == [0, 1, 2]
    assert answers[2]["top"][0]["name"] == "blue sky"
    assert sum(entry["probability"] for entry in answers[1]["top"]) == pytest.approx(1, abs=1e-5)


def test_what_the_net_gets_to_see_is_saved(capsys, net, photos, tmp_path):
    said(capsys, "classify", photos[0], "--net", net, "--input-picture", tmp_path / "seen.png")
    seen = images.load(tmp_path / "seen.png")
    assert seen.shape == (1, 6, 8, 3)
    np.testing.assert_allclose(seen[0, 2, 3], [230, 20, 20], atol=1)
    said(capsys, "classify", *photos, "--net", net, "--input-picture", tmp_path / "seen.png")
    assert (tmp_path / "seen-blue.png").exists()


def test_a_net_without_softmax_gives_the_same_probabilities(photos):
    with_it, without = (Classifier.of(colours(softmax=on), "net") for on in (True, False))
    fitted = with_it.fitted(photos[1])
    np.testing.assert_allclose(without.probabilities(fitted), with_it.probabilities(fitted), rtol=1e-5)


def test_a_net_without_names_gives_numbers_and_a_file_gives_names(capsys, tmp_path, photos):
    weights.save(tmp_path / "silent.h5", colours(classes=()))
    out = said(capsys, "classify", photos[2], "--net", tmp_path / "silent.h5")
    assert "  2 " in out and "this net has no names for them; --classes FILE gives them" in out
    (tmp_path / "names.txt").write_text("n00000001 a, b\nn00000002 c\nnightly d\n")
    named = ["--net", tmp_path / "silent.h5", "--classes", tmp_path / "names.txt"]
    assert "nightly d" in said(capsys, "classify", photos[2], *named).splitlines()[1]
    (tmp_path / "names.txt").write_text("a\nb\n")
    err = said(capsys, "classify", photos[2], *named, code=3)
    assert "2 names of classes for 3 answers; give the --classes of this net" in err


def test_names_of_classes_from_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("n01440764 tench, Tinca tinca\n\nn01443537 goldfish\nnot an id\n", encoding="utf-8")
    assert class_names(path) == ("tench, Tinca tinca", "goldfish", "not an id")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="not a text file; give a name a line"):
        class_names(path)
    path.write_text("\n\n")
    with pytest.raises(FileFormatError, match="no names in it"):
        class_names(path)
    with pytest.raises(
        FileFormatError, match=r"no such file with names of classes; did you mean 'names.txt'\?"
    ):
        class_names(tmp_path / "name.txt")


@pytest.mark.parametrize(
    "text",
    [
        "n00000011 it's\nn00000022 a, b\nn00000033 c",
        """{0: "it's", 1: 'a, b',\n 2: 'c'}""",
        r"""{0: 'it\'s', 1: "a, b", 2: 'c',}""",
        '{"0": ["n00000011", "it\'s"], "2": ["n00000033", "c"], "1": ["n00000022", "a, b"]}',
        '["it\'s", "a, b", "c"]',
    ],
)
def test_names_of_classes_come_in_the_forms_that_go_about(tmp_path, text):
    (tmp_path / "names.txt").write_text(text, encoding="utf-8-sig")
    found = read_classes(tmp_path / "names.txt")
    assert found.names == ("it's", "a, b", "c")
    assert found.ids == (("n00000011", "n00000022", "n00000033") if "n000" in text else ())


@pytest.mark.parametrize(
    "text, words",
    [
        ("{0: __import__('os')}", r"neither JSON nor names by their numbers \(at \"0: __import__"),
        ("{0: 'a' 1: 'b'}", "neither JSON nor names"),
        ("{0: 'a', 2: 'b'}", "numbers or names are missing among its 2 entries"),
        ("{0: 'a'", "neither JSON nor names"),
        ("[" * 100_000, "neither JSON nor names"),
        ("{0: '" + "\\" * 99_999, "neither JSON nor names"),
        ('{"0": 7}', "numbers or names are missing"),
        ("{}", "no names in it"),
    ],
)
def test_what_only_looks_like_names_of_classes(tmp_path, text, words):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(FileFormatError, match=words):
        read_classes(tmp_path / "names.txt")


def test_the_well_known_dictionary_says_the_same_as_the_words_of_the_synsets(data):
    labels = data / "models/labels"
    words, synsets = (read_classes(labels / f"{name}.txt") for name in FORMS)
    assert len(words.names) == len(synsets.ids) == 1000
    assert words.names[:2] == synsets.names[:2] and words.ids == ()
    assert sum(a == b for a, b in zip(words.names, synsets.names, strict=True)) > 990


FORMS = ("imagenet1000_clsidx_to_labels", "synset_words")


def test_evaluate_knows_folders_by_the_identifiers_of_wordnet(capsys, photos, tmp_path):
    ids = ("n02084071", "n01440764", "n01443537")
    weights.save(tmp_path / "net.h5", colours(), class_ids=ids)
    assert weights.Weights.open(tmp_path / "net.h5").class_ids == ids
    for photo, folder in zip(photos, ids, strict=True):
        (tmp_path / "set" / folder).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "set" / folder)
    out = said(capsys, "evaluate", tmp_path / "set", "--net", tmp_path / "net.h5")
    assert "3 photos of 3 classes" in out and "(0 of 3 wrong)" in out
    weights.save(tmp_path / "silent.h5", colours())
    err = said(capsys, "evaluate", tmp_path / "set", "--net", tmp_path / "silent.h5", code=2)
    assert "n01440764 is an identifier of WordNet, and the net's file has none; give --classes" in err
    (tmp_path / "names.txt").write_text("".join(f"{one} word\n" for one in ids))
    named = ["--net", tmp_path / "silent.h5", "--classes", tmp_path / "names.txt"]
    assert "(0 of 3 wrong)" in said(capsys, "evaluate", tmp_path / "set", *named)
    with pytest.raises(UsageError, match="1 class_ids for 3 names of classes"):
        weights.save(tmp_path / "net.h5", colours(), class_ids=["n02084071"])


def test_grey_photos_to_a_net_of_colours_both_ways(photos, tmp_path):
    net = colours(size=(6, 8))
    replicated = Classifier.of(net, "net", grey="replicate")
    folded = Classifier.of(net, "net", grey="fold")
    fitted = folded.fitted(photos[0])
    assert (replicated.fitted(photos[0]).shape[3], fitted.shape[3]) == (3, 1)
    np.testing.assert_allclose(
        folded.probabilities(fitted), replicated.probabilities(replicated.fitted(photos[0])), rtol=1e-4
    )


def test_a_net_of_grey_takes_photos_of_colours(photos):
    layers = {"conv": Conv(np.ones((1, 1, 1, 2), "f4"), np.array([0, 3], "f4"), Window.of(1)), "p": POOL}
    net = Net.chain(layers, input_shape=(6, 8, 1), preprocess=Preprocess("GRAY", size=(6, 8)))
    classifier = Classifier.of(net, "net")
    assert classifier.fitted(photos[0]).shape == (1, 6, 8, 1)
    assert classifier.probabilities(classifier.fitted(photos[0])).shape == (1, 2)


def test_nets_that_cannot_classify(capsys, tmp_path, photos):
    weights.save(tmp_path / "mute.h5", Net.chain({"conv": colours().node("conv").layer}))
    err = said(capsys, "classify", photos[0], "--net", tmp_path / "mute.h5", code=2)
    assert "says nothing of how pictures become what it sees; convert it again with --preprocessing" in err
    assert "no such file" in said(capsys, "classify", photos[0], "--net", tmp_path / "none.h5", code=3)
    assert "give at least 1" in said(capsys, "classify", photos[0], "--net", "x", "--top", 0, code=2)


def conv(k):
    return Conv(np.ones((1, 1, 3, k), "f4"), np.zeros(k, "f4"), Window.of(1))


@pytest.mark.parametrize(
    "nodes, words",
    [
        ([Node("map", conv(4), ("data",))], "'map' gives a map of 6x8, not names"),
        ([Node("c", conv(1), ("data",)), Node("p", POOL, ("c",))], "'p' gives one channel"),
        ([Node("a", conv(4), ("data",)), Node("b", conv(2), ("data",))], "has 2 ends, 'a', 'b'"),
    ],
)
def test_nets_that_do_something_else_say_so(nodes, words):
    net = Net(nodes, input_shape=(6, 8, 3), preprocess=Preprocess(size=(6, 8)))
    with pytest.raises(
        UsageError, match=f"net.h5: {words}.*; it does not classify; look at .* minidnn layers"
    ):
        Classifier.of(net, "net.h5")


def test_one_bad_photo_does_not_lose_the_answers_for_the_others(capsys, net, photos, tmp_path):
    photos[1].write_text("no picture")
    argv = [str(word) for word in ("classify", *photos, "--net", net)]
    assert main(argv) == 3
    out, err = capsys.readouterr()
    assert "red, crimson" in out and "blue sky" in out
    assert err.startswith(f"minidnn: {photos[1]}: ") and "Traceback" not in err
    assert main([*argv, "--json"]) == 3
    answers = json.loads(capsys.readouterr().out)
    assert [sorted(answer) for answer in answers] == [["file", "top"], ["error", "file"], ["file", "top"]]


def test_photos_of_one_name_are_numbered(capsys, net, photos, tmp_path):
    (tmp_path / "more").mkdir()
    shutil.copy(photos[0], tmp_path / "more")
    both = [photos[0], tmp_path / "more" / photos[0].name]
    said(capsys, "classify", *both, photos[1], "--net", net, "--input-picture", tmp_path / "seen.png")
    found = sorted(path.name for path in tmp_path.glob("seen*"))
    assert found == ["seen-green.png", "seen-red-1.png", "seen-red-2.png"]


# Errors over a folder


def test_evaluate_goes_on_behind_a_bad_photo(capsys, net, photos, tmp_path):
    (tmp_path / "set").mkdir()
    for number, photo in enumerate(photos):
        shutil.copy(photo, tmp_path / "set" / f"{number}_{photo.name}")
    (tmp_path / "set" / "2_blue.png").write_text("no picture")
    assert main(["evaluate", str(tmp_path / "set"), "--net", str(net)]) == 3
    out, err = capsys.readouterr()
    assert "(0 of 2 wrong)" in out and "1 photos could not be read and are not counted" in out
    assert "2_blue.png" in err
    for number in range(2):
        (tmp_path / "set" / f"{number}_{photos[number].name}").write_text("no picture")
    err = said(capsys, "evaluate", tmp_path / "set", "--net", net, code=3)
    assert "none of the 3 photos can be read; give others" in err


def test_evaluate_takes_sub_folders_by_name_or_number(capsys, net, photos, tmp_path):
    for photo, folder in zip(photos, ["red", "green", "2"], strict=True):
        (tmp_path / "set" / folder).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "set" / folder)
    shutil.copy(photos[0], tmp_path / "set" / "green" / "wrong.png")
    out = said(capsys, "evaluate", tmp_path / "set", "--net", net)
    assert "4 photos of 3 classes" in out
    assert "top-1 error 25.00%   (1 of 4 wrong)" in out and "top-5 error  0.00%" in out


def test_evaluate_takes_numbers_at_the_start_of_names_and_a_file_of_labels(capsys, net, photos, tmp_path):
    (tmp_path / "set").mkdir()
    for number, photo in enumerate(photos):
        shutil.copy(photo, tmp_path / "set" / f"000{(number + 1) % 3}_{photo.name}")
    found = json.loads(said(capsys, "evaluate", tmp_path / "set", "--net", net, "--json"))
    assert found == {"photos": 3, "top1_errors": 3, "top5_errors": 0, "unread": 0}
    (tmp_path / "labels.txt").write_text("red.png red\ngreen.png 1\nblue.png blue sky\n")
    found = json.loads(
        said(capsys, "evaluate", tmp_path, "--net", net, "--json", "--labels", tmp_path / "labels.txt")
    )
    assert found["top1_errors"] == 0


def test_evaluate_says_what_it_cannot_label(net, photos, tmp_path):
    with pytest.raises(UsageError, match=r"of which class\? Let its name begin with its class number"):
        evaluate.labelled(tmp_path, None, Classes(NAMES))
    (tmp_path / "set" / "bleu sky").mkdir(parents=True)
    shutil.copy(photos[0], tmp_path / "set" / "bleu sky")
    with pytest.raises(UsageError, match=r"no class 'bleu sky'; the net has .*; did you mean 'blue sky'\?"):
        evaluate.labelled(tmp_path / "set", None, Classes(NAMES))
    with pytest.raises(UsageError, match="the net has no names at all: use numbers"):
        evaluate.labelled(tmp_path / "set", None, Classes(()))
    with pytest.raises(FileFormatError, match="no such folder"):
        evaluate.labelled(tmp_path / "none", None, Classes(NAMES))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="no photos in it"):
        evaluate.labelled(tmp_path / "empty", None, Classes(NAMES))
    with pytest.raises(
        UsageError, match="class number 7 among the labels, and the net has 3; name another --net"
    ):
        evaluate.errors(Classifier.from_file(str(net)), {photos[0]: 7})


def test_names_that_do_not_fit_are_no_crash(photos):
    classifier = Classifier(colours(), colours().preprocess, ("one", "two"))
    with pytest.raises(MismatchError, match="2 names of classes for 3 answers"):
        classifier.probabilities(classifier.fitted(photos[0]))


# Real nets and real photos


def knows(data, out, files, top1, top5):
    """Convert it, and count what it knows of the 63 photos."""
    files = [data / "models/squeezenet" / file for file in files]
    convert(files, out, Options(classes=str(data / "models/labels/synset_words.txt")), in_process=True)
    classifier = Classifier.from_file(str(out))
    labels = evaluate.labelled(data / "datasets/imagenet_samples", None, Classes(classifier.names))
    found = evaluate.errors(classifier, labels)
    assert found["photos"] == 63
    assert 63 - found["top1_errors"] >= top1 and 63 - found["top5_errors"] >= top5
    return classifier


@pytest.mark.parametrize("version, top1, top5", [("1.0", 44, 52), ("1.1", 40, 56)])
def test_squeezenet_of_caffe_knows_the_photos(data, tmp_path, version, top1, top5):
    files = [f"squeezenet_v{version}.caffemodel", f"squeezenet_v{version}_deploy.prototxt"]
    classifier = knows(data, tmp_path / "net.h5", files, top1, top5)
    cat = classifier.fitted(data / "photos/cat_chelsea.png")
    best = classifier.top(classifier.probabilities(cat)[0], 3)
    assert {entry["index"] for entry in best} == {281, 282, 285}, "tabby, tiger cat, Egyptian cat"


def test_squeezenet_of_torchvision_knows_them_too(data, tmp_path):
    classifier = knows(data, tmp_path / "net.h5", ["squeezenet1_1_torchvision.pth"], 43, 57)
    assert classifier.preprocess == images.PRESETS["torchvision"]
