"""Foreign files into ours, with real files: names, numbers, preprocessing, and what is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from minidnn import images, weights, zoo
from minidnn.cli.classify import Classifier
from minidnn.errors import (
    DamagedFileError,
    FileFormatError,
    MinidnnError,
    MismatchError,
    OutputError,
    ShapeError,
    UsageError,
)
from minidnn.graph import Node
from minidnn.images import PRESETS, Preprocess
from minidnn.layers import FC, Conv, ReLU
from minidnn.net import Net
from tests.caffewriter import blob
from weights_tools import conventions, reading, selftest
from weights_tools.convert import Options, assembled, convert, in_rgb
from weights_tools.foreign import Foreign


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def models(data):
    return data / "models"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "net.h5"


def converted(inputs, out, **options):
    """In this process: the wall has tests of its own."""
    convert([inputs] if not isinstance(inputs, list) else inputs, out, Options(**options), in_process=True)
    return weights.load(out)


def lenet_files(models):
    return [models / "caffe/lenet_mnist.caffemodel", models / "caffe/lenet_mnist_deploy.prototxt"]


@pytest.fixture
def toml(tmp_path):
    """What the digits were trained on: x / 256."""
    path = tmp_path / "digits.toml"
    path.write_text('order = "GRAY"\nscale = 0.00390625\nsize = [28, 28]\n')
    return str(path)


def squeezenet_files(models):
    return [models / f"squeezenet/squeezenet_v1.1{end}" for end in (".caffemodel", "_deploy.prototxt")]


# Whole files


def test_caffe_files_come_in_any_order_and_give_the_same_file(models, tmp_path):
    files, classes = squeezenet_files(models), str(models / "labels/synset_words.txt")
    net = converted(files, tmp_path / "a.h5", classes=classes)
    converted(files[::-1], tmp_path / "b.h5", classes=classes)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    assert set(net.names) - set(zoo.get("squeezenet1.1", seed=None).names) == {"drop9"}
    assert net.preprocess == replace(PRESETS["caffe"], size=(227, 227))
    assert (net.classes[0], len(net.classes)) == ("tench, Tinca tinca", 1000)


def test_the_report_says_where_it_came_from_what_was_done_and_what_was_proved(models, out):
    converted(squeezenet_files(models), out)
    report = out.with_suffix(".report.txt").read_text(encoding="utf-8")
    for words in [
        "sha256 4f0d7460cf7f058fbd9c2a4e0d24ef0b3486ee3edcdd506ad33a95f7b22ba7f2",
        "squeezenet1.1: 66 layers, 1,235,496 parameters",
        "the convolutions are those of squeezenet1.1",
        "its first filters are those of SqueezeNet 1.1 of its authors",
        "52 arrays came back from the written file, bit for bit",
        "'prob' of a random 227x227 image: equal bit for bit before and after writing",
        "'conv1' channels first, by plain sums: differs by",
        "no names of classes: answers will be numbers",
        "licence\n  unknown",
        "4 fire2/squeeze1x1       Conv          w 1x1x64x16  b 16",
    ]:
        assert words in report
    assert weights.Weights.open(out).provenance["source_format"] == "Caffe"


def test_vgg16_from_onnx_has_the_names_of_the_papers_and_its_first_filters_are_known(models, out):
    net = converted(models / "vgg16/vgg16_conv_imagenet_head_mri.onnx", out)
    convs = [node.name for node in net.nodes if isinstance(node.layer, Conv)]
    assert convs == [n.name for n in zoo.get("vgg16", seed=None).nodes if isinstance(n.layer, Conv)]
    assert net.names[:6] == ("data", "conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1")
    assert net.name_of("functional_1/block5_conv3_1/BiasAdd") == "conv5_3"
    assert net.preprocess == replace(PRESETS["vgg"], size=(240, 240))
    np.testing.assert_allclose(
        net.params["conv1_1/w"][0, :, 0, 0], [0.42947057, 0.373467, -0.06136011], rtol=1e-6
    )


def test_lenet_knows_its_digits_and_says_itself_what_they_look_like(data, models, out):
    net = converted(lenet_files(models), out)
    assert net.preprocess == Preprocess("GRAY", scale=1 / 256, size=(28, 28))

    def idx(name, header):
        return np.frombuffer(
            gzip.decompress((data / "datasets/mnist" / name).read_bytes()), np.uint8, offset=header
        )

    pixels = idx("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)[:2000]
    labels = idx("t10k-labels-idx1-ubyte.gz", 8)[:2000]
    answers = net.forwardto(net.init_res(), "prob", net.preprocess.to_net(pixels), keep=())
    assert (answers[:, 0, 0].argmax(axis=1) == labels).mean() >= 0.985


def test_half_precision_halves_the_file_and_the_self_test_says_so(models, out, toml):
    whole = converted(lenet_files(models), out, preprocessing=toml)
    size = out.stat().st_size
    half = converted(lenet_files(models), out, preprocessing=toml, dtype="float16")
    assert 0.5 * size < out.stat().st_size < 0.52 * size
    assert "4 of them rounded to half precision" in out.with_suffix(".report.txt").read_text(encoding="utf-8")
    np.testing.assert_allclose(half.params["fc3/w"], whole.params["fc3/w"], atol=2e-4)


def test_one_of_ours_can_be_written_anew(models, out, tmp_path, toml):
    first = converted(squeezenet_files(models), out)
    again = converted(out, tmp_path / "rgb.h5", to_rgb=True)
    assert (first.preprocess.order, again.preprocess.order) == ("BGR", "RGB")
    assert again.names == first.names
    pixels = images.clouds_over_hills(227, 227)
    answers = [net.forwardto(net.init_res(), "prob", net.preprocess.to_net(pixels)) for net in (first, again)]
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-4)
    with pytest.raises(UsageError, match="--to-rgb: the net wants RGB, not BGR"):
        converted(tmp_path / "rgb.h5", out, to_rgb=True)


def test_a_net_for_grey_pictures(models, out):
    net = converted(squeezenet_files(models), out, grey=True)
    assert net.node("conv1").layer.w.shape == (3, 3, 1, 64)
    assert (net.input_shape, net.preprocess.order) == ((227, 227, 1), "GRAY")


def test_another_size_of_images(models, out):
    net = converted(squeezenet_files(models), out, input_size=(160, 192))
    assert (net.input_shape, net.preprocess.size) == ((160, 192, 3), (160, 192))
    assert net.preprocess.resize is None, "256 would cut more than an eighth away"


# What is refused


def test_no_guess_what_an_unknown_net_wants_to_see(models, out):
    words = r"(?s)mnist_cntk.onnx: this ONNX file does not say .*--preprocessing unit .*--preprocessing FILE"
    with pytest.raises(UsageError, match=words):
        converted(models / "onnx/mnist_cntk.onnx", out)
    assert not list(out.parent.iterdir()), "and nothing is left behind"


def test_lasagne_is_asked_which_way_its_filters_lie(tmp_path, out):
    net, path = zoo.get("cifar-quick", seed=1), tmp_path / "quick.npz"
    row = []
    for node in net.nodes:
        for key, array in node.layer.params.items():
            w = array if array.ndim == 1 else array.transpose(3, 2, 0, 1)
            row.append(w.reshape(len(w), -1).T if key == "w" and isinstance(node.layer, FC) else w)
    np.savez(path, *row)
    with pytest.raises(UsageError, match=r"(?s)do not say which; say --set flip_filters=true .*=false"):
        converted(path, out, preprocessing="none")
    upright = converted(path, out, preprocessing="none", settings={"flip_filters": "false"})
    for name, array in net.params.items():
        np.testing.assert_array_equal(upright.params[name], array)
    turned = converted(path, out, preprocessing="none", settings={"flip_filters": "true"})
    np.testing.assert_array_equal(turned.params["conv1/w"], net.params["conv1/w"][::-1, ::-1])
    np.testing.assert_array_equal(turned.params["ip1/w"], net.params["ip1/w"])
    with pytest.raises(UsageError, match="--set flip_filters=no: true or false is wanted"):
        converted(path, out, settings={"flip_filters": "no"})
    np.savez(path, **{"conv1/w": row[0]})
    with pytest.raises(UsageError, match="not Lasagne's; leave --set flip_filters out"):
        converted(path, out, settings={"flip_filters": "true"})


def test_only_lasagnes_filters_have_two_ways(models, out):
    with pytest.raises(UsageError, match="ONNX model; --set flip_filters is for Lasagne's, leave it out"):
        converted(models / "onnx/mnist_cntk.onnx", out, settings={"flip_filters": "true"})


def test_outputs_that_cannot_be(models, out, tmp_path, toml):
    with pytest.raises(UsageError, match=r"weights of ours end in \.h5"):
        converted(lenet_files(models), tmp_path / "net.mat", preprocessing=toml)
    with pytest.raises(OutputError, match="No such file or directory; make the folder first"):
        converted(lenet_files(models), tmp_path / "nowhere" / "net.h5", preprocessing=toml)
    with pytest.raises(OutputError, match="File name too long; choose another name"):
        converted(lenet_files(models), tmp_path / f"{'n' * 300}.h5", preprocessing=toml)
    converted(lenet_files(models), out, preprocessing=toml)
    with pytest.raises(UsageError, match="would overwrite what it is made from"):
        converted(out, out)
    with pytest.raises(UsageError, match=r"weights of ours end in \.h5, and reports do not"):
        convert(lenet_files(models), out, Options(), report=out)
    with pytest.raises(UsageError, match=r"labels.txt: would overwrite what it is made from"):
        labels = tmp_path / "labels.txt"
        labels.write_text("0\n")
        convert(lenet_files(models), out, Options(classes=str(labels)), report=labels)


def test_a_full_disk_is_noticed_before_the_work(models, out, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1001))
    with pytest.raises(OutputError, match=r"1,001 bytes are free, about 1,7\d\d,\d{3} are needed"):
        converted(lenet_files(models), out)
    assert not list(out.parent.iterdir())


def test_two_files_that_do_not_belong_together(models, out):
    deploy, onnx = models / "caffe/lenet_mnist_deploy.prototxt", models / "onnx/mnist_cntk.onnx"
    with pytest.raises(UsageError, match=r"for Caffe only, .* mnist_cntk.onnx: ONNX model"):
        converted([deploy, onnx], out)
    with pytest.raises(UsageError, match=r"a net without its weights; name the \.caffemodel too"):
        converted(deploy, out)
    with pytest.raises(MismatchError, match="wrong pair"):
        converted([deploy, models / "squeezenet/squeezenet_v1.1.caffemodel"], out)


def test_classes_must_be_as_many_as_the_answers(models, out, toml, tmp_path):
    labels = str(models / "labels/synset_words.txt")
    with pytest.raises(MismatchError, match="1000 names of classes, and the net has 10 answers"):
        converted(lenet_files(models), out, preprocessing=toml, classes=labels)
    with pytest.raises(FileFormatError, match="no such file"):
        converted(lenet_files(models), out, preprocessing=toml, classes=str(tmp_path / "labels.txt"))


def chain(rng, **about):
    layers = {"conv": Conv.random(rng, (3, 2), 3, 4), "relu": ReLU()}
    return Net.chain(layers, input_shape=(7, 6, 3), **about)


def headed(rng, answers):
    layers = {"conv": Conv.random(rng, (3, 2), 3, 4), "fc": FC.random(rng, (5, 5, 4), answers)}
    return Net.chain(layers, input_shape=(7, 6, 3))


def test_numbers_that_are_none_are_found(rng):
    net = chain(rng)
    broken = net.params["conv/w"].copy()
    broken[0, 1, 2, 3] = np.nan
    with pytest.raises(DamagedFileError, match="1 of 72 numbers of 'conv/w' are not finite"):
        assembled(Foreign("ONNX", net=net.replacing({"conv/w": broken})), Options(preprocessing="none"))


# What pictures become


def test_what_the_file_says_is_taken_and_what_the_user_says_comes_first(rng):
    own = Preprocess(mean=(1.0, 2.0, 3.0), size=(7, 6))
    foreign = Foreign("MatConvNet", net=chain(rng), preprocess=own, channel_order="RGB")
    net, report = assembled(foreign, Options())
    assert net.preprocess == own and "the MatConvNet file says so" in report.preprocessing
    net, report = assembled(foreign, Options(preprocessing="vgg"))
    assert net.preprocess.order == "BGR"
    assert "the file says RGB, --preprocessing says BGR: this was taken" in report.warnings


@pytest.mark.parametrize("turned", [False, True])
def test_the_published_filters_of_vgg_are_known_by_sight_also_in_rgb_and_in_half_precision(turned):
    conv = Conv(
        np.zeros((3, 3, 3, 64), "f4"), np.zeros(64, "f4"), zoo.get("vgg16", seed=None).nodes[0].layer.window
    )
    conv.w[0, 0, :, 0] = [0.42947057, 0.55037945, 0.4800154]
    conv.b[:3] = [0.73429835, 0.09340367, 0.06775674]
    w = conv.w[:, :, ::-1] if turned else conv.w
    net = Net.chain({"c": Conv(w.astype("f2").astype("f4"), conv.b.astype("f2").astype("f4"), conv.window)})
    found, whose = conventions.by_sight(net)
    assert (found, "VGG-16" in whose) == ("vgg-rgb" if turned else "vgg", True)


@pytest.mark.parametrize(
    "format, arch, preset",
    [
        ("Caffe", "vgg19", "vgg"),
        ("Caffe", "googlenet", "caffe"),
        ("Keras weights", "vgg16", "vgg"),
        ("PyTorch state dict", "vgg16", "torchvision"),
        ("PyTorch state dict", "vgg19", None),
        ("Caffe", "zfnet", None),
        ("ONNX", "vgg16", None),
        ("PyTorch state dict", "resnet20", None),
    ],
)
def test_the_net_decides_only_where_all_its_files_agree(rng, format, arch, preset):
    foreign = Foreign(format, net=headed(rng, 1000))
    if preset is None:
        with pytest.raises(UsageError, match="say what it was trained on"):
            conventions.chosen(foreign, foreign.net, arch, None)
    else:
        found, why, _ = conventions.chosen(foreign, foreign.net, arch, None)
        assert np.array_equal(found.mean, PRESETS[preset].mean) and why.startswith(
            f"{preset}: so all published {arch}"
        )


@pytest.mark.parametrize("format, arch", [("Caffe", "googlenet"), ("PyTorch state dict", "resnet18")])
def test_a_net_with_another_number_of_answers_may_have_been_trained_on_anything(rng, format, arch):
    foreign = Foreign(format, net=headed(rng, 365))
    with pytest.raises(UsageError, match="say what it was trained on"):
        conventions.chosen(foreign, foreign.net, arch, None)


def test_what_a_file_does_not_say_is_not_said_in_its_name(rng):
    own = Preprocess("BGR", mean=(1.0, 2.0, 3.0), size=(227, 224))
    found, why, _ = conventions.chosen(Foreign("Caffe", preprocess=own), chain(rng), None, None)
    assert found.resize == 256
    assert why.endswith("says so, but for the order of its channels and the short side of 256: Caffe's habit")
    _, why, _ = conventions.chosen(Foreign("minidnn file", preprocess=own), chain(rng), None, None)
    assert why == "as it stood in the file of ours"


def test_a_preset_takes_the_size_of_the_net_and_a_grey_net_takes_only_what_fits(rng):
    assert conventions.sized(PRESETS["caffe"], chain(rng)).size == (7, 6)
    grey = Net.chain({"conv": Conv.random(rng, 3, 1, 2)}, input_shape=(9, 8, 1))
    assert conventions.sized(PRESETS["none"], grey) == Preprocess("GRAY", size=(9, 8))
    assert conventions.sized(PRESETS["tf"], grey).order == "GRAY"
    with pytest.raises(UsageError, match="BGR has 3 channels, the net reads 1"):
        conventions.sized(PRESETS["vgg"], grey)


def test_preprocessing_from_files(tmp_path, rng):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"order": "BGR", "mean": [1, 2, 3], "std": 2, "size": [9, 8], "resize": 10}))
    wanted = Preprocess("BGR", mean=(1, 2, 3), std=(2,), size=(9, 8), resize=10)
    assert conventions.read_said(str(path)) == wanted
    weights.save(tmp_path / "own.h5", chain(rng, preprocess=wanted))
    assert conventions.read_said(str(tmp_path / "own.h5")) == wanted


@pytest.mark.parametrize(
    "text, words",
    [
        ("meen = 3", r"no setting 'meen'; there are order, .*; did you mean 'mean'\?"),
        ("mean = [1, 2]", "mean has 2 channels, RGB has 3"),
        ('scale = "big"', "scale of Preprocess: found 'big', expected float; mend it"),
        ('mean = ["a", "b", "c"]', "mean of Preprocess: found .*'a', .*expected"),
        ("mean = [", "mend it"),
        ("resize = 3.5", r"resize of Preprocess: found 3\.5, expected int"),
    ],
)
def test_settings_that_are_none(tmp_path, text, words):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises((UsageError, ShapeError, DamagedFileError), match=words):
        conventions.read_said(str(path))


def test_a_preset_that_there_is_not_brings_a_near_one_to_mind(rng, tmp_path):
    with pytest.raises(UsageError, match=r"no such file, and no preset; .* did you mean 'torchvision'\?"):
        conventions.read_said("torchvison")
    weights.save(tmp_path / "silent.h5", chain(rng))
    with pytest.raises(UsageError, match="says nothing of its preprocessing"):
        conventions.read_said(str(tmp_path / "silent.h5"))


def test_the_mean_image_of_caffe_says_what_is_subtracted(models, out, tmp_path, rng):
    picture = rng.uniform(90, 150, (3, 32, 32)).astype("f4")  # channel by channel, as Caffe keeps it
    (tmp_path / "mean.binaryproto").write_bytes(blob(picture[None], style="legacy"))
    files = [models / f"caffe/cifar10_quick_{end}" for end in ("iter_5000.caffemodel.h5", "deploy.prototxt")]
    with pytest.raises(UsageError, match=r"not in which order .* --preprocessing none for RGB, or a FILE"):
        converted(files, out, mean=str(tmp_path / "mean.binaryproto"))
    net = converted(files, out, mean=str(tmp_path / "mean.binaryproto"), preprocessing="none")
    np.testing.assert_array_equal(net.preprocess.mean, picture.transpose(1, 2, 0))
    assert (net.preprocess.order, net.preprocess.size) == ("RGB", (32, 32))
    with pytest.raises(
        UsageError, match=r"--mean .*: Caffe net \(prototxt\); a .binaryproto of Caffe is wanted"
    ):
        converted(files, out, mean=str(files[1]))


def test_a_mean_picture_is_cut_to_what_the_net_sees(rng):
    picture = rng.random((12, 10, 3)).astype("f4")
    preprocess = conventions.with_mean_picture(Preprocess("BGR", size=(8, 6)), picture)
    np.testing.assert_array_equal(preprocess.mean, picture[2:10, 2:8])
    assert preprocess.resize == 10
    scaled = conventions.with_mean_picture(Preprocess("BGR", scale=0.25, size=(8, 6)), picture)
    np.testing.assert_array_equal(scaled.mean, picture[2:10, 2:8] / 4, "Caffe subtracts first")
    with pytest.raises(ShapeError, match="the net sees"):
        conventions.with_mean_picture(Preprocess(size=(14, 6)), picture)
    with pytest.raises(ShapeError, match=r"wanted \(h, w, 1\)"):
        conventions.with_mean_picture(Preprocess("GRAY"), picture)


def test_to_rgb_turns_the_filters_and_the_mean_and_only_a_plain_convolution(rng):
    net = chain(rng, preprocess=Preprocess("BGR", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)))
    pixels = rng.integers(0, 256, (1, 7, 6, 3)).astype("f4")
    turned = in_rgb(net)
    assert (turned.preprocess.mean, turned.preprocess.std) == ((3.0, 2.0, 1.0), (6.0, 5.0, 4.0))
    found, wanted = (n.forwardto(n.init_res(), "relu", n.preprocess.to_net(pixels)) for n in (turned, net))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
    relu = Net([Node("relu", ReLU(), ("data",))], preprocess=Preprocess("BGR"))
    with pytest.raises(UsageError, match="'relu' reads the picture and is no plain Conv"):
        in_rgb(relu)


# The self-test can fail


def test_the_self_test_finds_what_is_not_the_net(rng):
    net, foreign = chain(rng), Foreign("ONNX")
    assert "bit for bit" in selftest.tested(net, net, foreign, 3)[0]
    other = net.replacing({"conv/b": net.params["conv/b"] + np.float32(0.01)})
    with pytest.raises(MismatchError, match="'conv/b' came back from the file changed"):
        selftest.tested(net, other, foreign, 3)


def test_the_self_test_finds_a_map_read_in_another_order(rng):
    matrix = rng.standard_normal((2 * 3 * 5, 7)).astype("f4")
    net = Net.chain({"fc": FC(matrix.reshape(2, 3, 5, 7), None)}, input_shape=(2, 3, 5))
    layers = {"dense": {"w": matrix}}
    assert "own matrix (hwc)" in selftest.tested(net, net, Foreign("Keras", layers=layers), 5)[-1]
    with pytest.raises(MismatchError, match="'fc' reads its map in another order than the file"):
        selftest.tested(net, net, Foreign("PyTorch", layers=layers, flatten="chw"), 5)


# Bare arrays of real files


def test_the_encoders_of_a_narrow_vgg19_are_built_from_their_own_widths(models, out):
    net = converted(models / "pytorch/vgg19_small16x_e5_base.pth", out, arch="vgg19", preprocessing="unit")
    convs = [node.name for node in net.nodes if isinstance(node.layer, Conv)]
    like = [n.name for n in zoo.get("vgg19", seed=None).nodes if isinstance(n.layer, Conv)]
    assert convs == ["conv0", *like[: like.index("conv5_1") + 1]]
    assert net.names[-1] == "relu5_1"
    assert "reflected borders" in out.with_suffix(".report.txt").read_text(encoding="utf-8")
    assert net.node("conv4_1").layer.w.shape == (3, 3, 64, 128)


def test_keras_without_its_top_is_the_first_part_of_the_same_net_of_caffe(models, out, tmp_path):
    keras = models / "squeezenet/squeezenet_v1.1_keras_notop.h5"
    first = converted(keras, out, arch="squeezenet1.1")
    whole = converted(squeezenet_files(models), tmp_path / "caffe.h5")
    assert first.names[-1] == "fire9/concat"
    for name, array in first.params.items():
        np.testing.assert_array_equal(array, whole.params[name])
    assert first.preprocess == whole.preprocess


def test_resnet20_of_pytorch_knows_twenty_pictures_of_cifar(data, models, out):
    net = converted(models / "pytorch/resnet20-12fca82f.th", out, preprocessing="torchvision")
    assert net.input_shape == (32, 32, 3), "the convention is of larger pictures, the net is not"
    photos = sorted((data / "datasets/small_samples").glob("cifar10_*.png"))
    classifier = Classifier.from_file(str(out))
    answers = classifier.probabilities(np.concatenate([classifier.fitted(photo) for photo in photos]))
    labels = [int(photo.stem.rpartition("_")[2]) for photo in photos]
    assert answers.argmax(axis=1).tolist() == labels and len(labels) == 20


# Whatever a file holds, there is a sentence


@pytest.mark.parametrize(
    "name",
    [
        "caffe/mtcnn_det1.caffemodel",
        "caffe/cifar10_quick_iter_5000.caffemodel.h5",
        "onnx/mnist_cntk.onnx",
        "pytorch/vgg19_small16x_e1_base.pth",
        "safetensors/mnist_denograd.safetensors",
    ],
)
def test_a_damaged_file_is_converted_or_refused_in_words(models, tmp_path, name):
    rng, whole = np.random.default_rng(0), (models / name).read_bytes()
    path, options = tmp_path / "damaged", Options(preprocessing="none")
    for number in range(60):
        damaged = bytearray(whole[: rng.integers(len(whole)) if number % 5 == 0 else None])
        for place in rng.integers(0, len(damaged) if number % 2 else min(len(damaged), 3000), 5):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assembled(reading.read([path]), options)
        except MinidnnError as error:
            assert str(error)
