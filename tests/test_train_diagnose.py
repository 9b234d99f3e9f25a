"""The doctor for networks: each sick patient is found out by the right check; a healthy one passes them."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from math import inf, log

import numpy as np
import pytest

from minidnn import layers as L
from minidnn import optim, weights
from minidnn.cli import diagnose as cli
from minidnn.cli import train
from minidnn.errors import MismatchError, OutputError, UsageError
from minidnn.images import Preprocess
from minidnn.net import Net, Node
from minidnn.train import checkpoint
from minidnn.train.checks import page, trials
from minidnn.train.checks.layers import directions
from minidnn.train.checks.patient import (
    DOUBTFUL,
    UNSEEN,
    WELL,
    WRONG,
    Finding,
    Notes,
    Patient,
    is_healthy,
    knows_something,
)
from minidnn.train.checks.pictures import guessed
from minidnn.train.data import Pictures, Splits, split
from minidnn.train.diagnose import CHECKS, Readout, diagnose, readout
from minidnn.train.fit import Way, fit
from minidnn.train.init import initialised
from minidnn.train.recipe import Recipe
from minidnn.train.schedules import Schedule
from minidnn.window import Window

BARS = Preprocess("GRAY", mean=(105.0,), std=(50.0,))
WAY = Way(epochs=6, batch=16, optimiser=optim.Nesterov(0.01))


def bars(n=400, seed=0, *, shuffled=False, colour=False) -> Splits:
    """Four classes: a bright bar in one of four places."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    images = rng.integers(40, 120, (n, 12, 10, 3 if colour else 1), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 3] += 100
    if shuffled:
        labels = rng.permutation(labels)
    return split({"all": Pictures(images, labels, ("top", "upper", "lower", "bottom"), "bars")}, seed=0)


def small(*, classes=4, hidden=24, last=None, preprocess=BARS, seed=0) -> Net:
    rng = np.random.default_rng(seed)
    layers = {
        "conv1": L.Conv.random(rng, 3, 1, 8, pad=1),
        "relu1": L.ReLU(),
        "pool1": L.MaxPool(Window.of(2, stride=2)),
        "fc2": L.FC.random(rng, (6, 5, 8), hidden),
        "relu2": L.ReLU(),
        "fc3": L.FC.random(rng, (1, 1, hidden), classes),
        **({} if last is None else {"last": last}),
        "prob": L.Softmax(),
    }
    return Net.chain(layers, input_shape=(12, 10, 1), preprocess=preprocess)


def deep(layers=40) -> Net:
    """A chain of sigmoids, as one should not build it."""
    rng = np.random.default_rng(0)
    chain = {"fc0": L.FC.random(rng, (12, 10, 1), 20)}
    for i in range(1, layers):
        chain |= {
            f"sigmoid{i}": L.Sigmoid(),
            f"fc{i}": L.FC.random(rng, (1, 1, 20), 20 if i + 1 < layers else 4),
        }
    return Net.chain(chain | {"prob": L.Softmax()}, input_shape=(12, 10, 1), preprocess=BARS)


def patient(net=None, data=None, way=WAY, **more) -> Patient:
    """One that has not been trained, unless it is said."""
    net = small() if net is None else net
    more = {"first": None if more.get("trained") else net, "quick": True} | more
    return Patient(net, bars() if data is None else data, way, **more)


def learned(data=None, **more) -> Net:
    net = small(**more)
    for _ in fit(net, bars() if data is None else data, replace(WAY, epochs=4)):
        pass
    return net


def check(name: str, ill: Patient) -> Finding:
    return next(one for one in CHECKS if one.name == name).look(ill)


def everything(ill: Patient) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnose(ill)}


def test_a_healthy_net_passes_all_checks_before_its_training_and_after():
    before = everything(patient())
    assert {f.verdict for f in before.values()} == {WELL, UNSEEN} and is_healthy(list(before.values()))
    assert [name for name, f in before.items() if f.verdict == UNSEEN] == ["regularisation"]
    first, net = small(), learned()
    after = everything(patient(net, first=first, trained=True))
    assert {f.verdict for f in after.values()} == {WELL}, {n: f.words for n, f in after.items()}


def test_lenet_on_digits_is_healthy(data):
    recipe = Recipe(net="lenet", data=str(data / "datasets/mnist"))
    parts = recipe.splits()
    net = recipe.first_net(parts.train)
    found = everything(patient(net, parts, recipe.way()))
    assert {f.verdict for f in found.values()} == {WELL, UNSEEN}, {n: f.words for n, f in found.items()}


def test_all_eleven_of_the_list_are_there_and_two_more():
    assert [one.name for one in CHECKS] == [
        "data normalised",
        "results",
        "preprocessing",
        "regularisation",
        "batch size",
        "learning rate",
        "last activation",
        "gradients",
        "first weights",
        "depth",
        "hidden units",
        "dead ReLUs",
        "one batch by heart",
    ]


def test_nothing_is_changed_and_the_same_seed_finds_the_same():
    net, parts = learned(), bars()
    before, pixels = weights.digest(net), parts.train.batch(np.arange(40)).copy()
    first, again = (everything(patient(net, parts, trained=True)) for _ in range(2))
    assert first == again
    assert weights.digest(net) == before and np.array_equal(parts.train.batch(np.arange(40)), pixels)
    assert net.preprocess == BARS and net.version == learned().version


# The sick, by what ails them.


def test_pixels_that_are_not_normalised():
    found = check("data normalised", patient(small(preprocess=Preprocess("GRAY"))))
    assert found.verdict == WRONG and "mean 10" in found.words and "normalise = true" in found.advice[0]
    unit = check("data normalised", patient(small(preprocess=Preprocess("GRAY", scale=1 / 255))))
    assert unit.verdict == DOUBTFUL, "a deviation of 0.2 is small, and no illness"


def test_a_net_that_says_nothing_of_preprocessing():
    found = check("data normalised", patient(small(preprocess=None)))
    assert found.verdict == WRONG and "sees pixels 0 to 255" in str(found.evidence)


def test_a_rate_a_hundred_times_too_high_or_far_too_low():
    high = check("learning rate", patient(way=replace(WAY, optimiser=optim.Nesterov(1.0))))
    assert high.verdict == WRONG and "1 was chosen" in high.words and "a smaller rate" in high.advice[0]
    assert 0.001 < high.numbers["suggested"] < 0.1 and f"{high.numbers['suggested']:g}" in high.advice[0]
    low = check("learning rate", patient(way=replace(WAY, optimiser=optim.Nesterov(1e-7))))
    assert low.verdict == WRONG and "for ever" in low.advice[0]
    slow = check("learning rate", patient(way=replace(WAY, optimiser=optim.Nesterov(1e-3))))
    assert slow.verdict == DOUBTFUL and "slowly" in slow.advice[0]


def test_with_a_warm_up_a_higher_rate_is_fine():
    way = replace(WAY, optimiser=optim.Nesterov(0.05), schedule=Schedule(warm_up=2))
    assert check("learning rate", patient(way=way)).verdict == WELL
    way = replace(way, optimiser=optim.Nesterov(30.0))
    assert check("learning rate", patient(way=way)).verdict in (DOUBTFUL, WRONG)


def test_a_run_whose_loss_fell_proves_its_rate():
    rows = ({"loss": 1.2}, {"loss": 0.1})
    way = replace(WAY, optimiser=optim.Nesterov(1.0))
    found = check("learning rate", patient(way=way, trained=True, first=small(), history=rows))
    assert found.verdict == WELL and "from 1.20 to 0.1" in found.words


def test_first_weights_that_are_all_0():
    ill = patient(initialised(small(), "zeros", np.random.default_rng(0)))
    found = check("first weights", ill)
    assert found.verdict == WRONG and "all weights of 'conv1' are 0" in found.words
    assert check("gradients", ill).verdict == WRONG and check("one batch by heart", ill).verdict == WRONG


def test_filters_that_are_all_the_same():
    net = small()
    w = np.repeat(net.params["fc2/w"][..., :1], 24, axis=3)
    found = check("first weights", patient(net.replacing({"fc2/w": w})))
    assert found.verdict == WRONG and "23 of the 24 filters of 'fc2' equal another one" in found.words


def test_first_weights_that_are_too_loud():
    net = small()
    found = check("first weights", patient(net.replacing({"fc2/w": 3000 * net.params["fc2/w"]})))
    assert found.verdict == WRONG and "outputs spread from" in found.words


def test_relus_that_died():
    net = small()
    ill = patient(net.replacing({"fc2/b": np.full(24, -100, "float32")}))
    found = check("dead ReLUs", ill)
    assert found.verdict == WRONG and "relu2 100%" in found.words and found.numbers["shares"]["relu1"] < 0.2
    back = check("gradients", ill)
    assert back.verdict == WRONG and "no gradient at all reaches conv1/w, fc2/w" in back.words


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (L.ReLU(), "scores come out of a ReLU"),
        (L.Sigmoid(), "no probability can pass 48%, and the loss cannot fall below 0.74"),
        (L.Tanh(), "no probability can pass 71%"),
        (L.Softmax(), "come out of a Softmax"),
    ],
)
def test_a_last_activation_that_ties_the_scores(layer, words):
    found = check("last activation", patient(small(last=layer)))
    assert found.verdict == WRONG and words in found.words and "leave 'last' out" in found.advice[0]


def test_answers_that_look_like_probabilities_and_are_none():
    net = small()
    net = net.with_nodes([*net.nodes, Node("half", L.AvgPool(Window.of(1)), ("prob",))])
    found = check("last activation", patient(net))
    assert found.verdict == DOUBTFUL and "a softmax within the net" in found.words
    net = small()
    fc3 = net.node("fc3").layer
    tiny = fc3.replacing(w=fc3.w * 0, b=np.full(4, 0.4, "float32"))
    nodes = [node._replace(layer=tiny) if node.name == "fc3" else node for node in net.nodes[:-1]]
    assert "sum to 1.60 to 1.60" in check("last activation", patient(net.with_nodes(nodes))).words


def test_the_wrong_number_of_classes():
    for classes in (3, 7):
        found = everything(patient(small(classes=classes)))
        assert f"{classes} answers for 4 classes" in found["last activation"].words
        assert found["last activation"].verdict == WRONG
        assert found["learning rate"].verdict == UNSEEN
        assert (
            f"wants one answer for each class: there are {classes}, and 4 classes" in found["results"].words
        )


def test_pictures_that_do_not_get_through():
    found = everything(patient(small(), bars(colour=True)))
    assert (
        found["preprocessing"].verdict == WRONG
        and "pictures of 12x10x3 do not get through" in found["preprocessing"].words
    )
    assert found["depth"].verdict == UNSEEN and "wants" in found["depth"].words


def test_labels_that_were_shuffled():
    found = check("results", patient(data=bars(shuffled=True)))
    assert found.verdict == WRONG and "shuffled" in found.advice[0] and "simple rule" in found.words
    by_heart = check("one batch by heart", patient(data=bars(shuffled=True)))
    assert by_heart.verdict == WELL, "what is shuffled can still be learned by heart"


def test_a_net_that_learned_shuffled_labels_by_heart():
    parts = bars(120, shuffled=True)
    net = small()
    for _ in fit(net, parts, replace(WAY, epochs=40)):
        pass
    ill = patient(net, parts, trained=True)
    assert check("results", ill).verdict == WRONG
    gap = check("regularisation", ill)
    assert gap.verdict == WRONG and "no weight penalty, dropout or augmentation" in gap.words
    assert Readout(0.0, ill.errors.train, ill.errors.held).larger == "variance"


def test_a_trained_net_that_is_no_better_than_one_answer():
    net = small()
    stubborn = {"fc3/w": 0 * net.params["fc3/w"], "fc3/b": np.array([0, 2, 0, 1], "float32")}
    found = check("results", patient(net.replacing(stubborn), trained=True))
    assert found.verdict == WRONG and "always saying" in found.words


def test_a_first_loss_far_from_that_of_guessing():
    net = small()
    loud = net.replacing({"fc3/w": 100 * net.params["fc3/w"]})
    found = check("results", patient(loud))
    assert found.verdict == WRONG and f"log(4) = {log(4):.2f}" in found.words


def test_forty_sigmoids_in_a_chain():
    ill = patient(deep())
    found = check("depth", ill)
    assert found.verdict == WRONG and "40 layers with weights, no skips" in found.words
    assert (
        check("one batch by heart", ill).verdict == WRONG and check("depth", patient(deep(5))).verdict == WELL
    )


def test_one_hidden_unit():
    found = check("hidden units", patient(small(hidden=1)))
    assert found.verdict == WRONG and "'fc2', has 1 units, too few to tell 4 classes apart" in found.words


def test_a_batch_larger_than_the_set_or_most_of_it():
    assert check("batch size", patient(way=replace(WAY, batch=500))).verdict == WRONG
    found = check("batch size", patient(way=replace(WAY, batch=100)))
    assert (
        found.verdict == DOUBTFUL and "100 of 240 pictures: 3 steps an epoch, 18 in 6 epochs" in found.words
    )
    assert check("batch size", patient()).numbers["noise_scale"] > 0


def test_numbers_that_are_no_numbers():
    net = small()
    w = net.params["fc2/w"].copy()
    w[0, 0, 0, 0] = np.nan
    found = check("gradients", patient(net.replacing({"fc2/w": w}), trained=True))
    assert found.verdict == WRONG and "first in layer 'fc2'" in found.words
    everything(patient(net.replacing({"fc2/w": w})))  # and nobody else stumbles


def test_a_backward_that_is_wrong():
    class Forgetful(L.Tanh):
        def backward(self, dzdy, *, y, **_):
            return dzdy

    net = small()
    nodes = [n._replace(layer=Forgetful()) if n.name == "relu1" else n for n in net.nodes]
    found = check("gradients", patient(net.with_nodes(nodes)))
    assert found.verdict == WRONG and "by differences" in found.words


def test_a_net_that_was_trained_on_other_pictures_than_it_is_shown():
    net = learned()
    assert check("preprocessing", patient(net, trained=True)).verdict == WELL
    other = net.with_nodes(net.nodes, preprocess=Preprocess("GRAY", mean=(400.0,), std=(50.0,)))
    found = check("preprocessing", patient(other, trained=True))
    assert found.verdict == WRONG and "the mean and deviation of these pictures" in found.words
    pictures = bars().test
    dark = Pictures(255 - pictures.batch(np.arange(len(pictures))), pictures.labels, pictures.classes, "dark")
    found = check("preprocessing", patient(net, Splits(bars().train, dark, dark), trained=True))
    assert found.verdict == WRONG and "negatives" in found.words and "mean" in str(found.evidence)


def test_a_validation_loss_that_rises():
    rows = tuple({"loss": 0.1, "validation_loss": v} for v in (0.5, 0.3, 0.4, 0.6, 0.8))
    found = check("regularisation", patient(learned(), trained=True, history=rows))
    assert found.verdict == DOUBTFUL and "lowest, 0.300, after epoch 2 of 5, 0.800 at the end" in found.words


def test_a_loss_that_looks_at_one_class_only():
    found = check("last activation", patient(way=replace(WAY, loss="multiclass_hinge")))
    assert found.verdict == DOUBTFUL and "structured_hinge" in found.advice[0]


# The parts.


def test_the_example_of_the_course():
    found = Readout(human=0.01, train=0.10, test=0.104)
    assert found.bias == pytest.approx(0.09) and found.variance == pytest.approx(0.004)
    assert found.larger == "bias" and "larger net" in found.advice
    assert str(found) == (
        "human error 1.0%, train 10.0%, test 10.4%: avoidable bias 9.0 points, variance 0.4 points"
    )
    assert (
        Readout(0.01, 0.02, 0.12).larger == "variance" and Readout(0.01, 0.0102, 0.0105).larger == "neither"
    )
    assert Readout(0.01, 0.0, 0.002).larger == "neither", "it is better than people"


def test_a_readout_takes_the_test_error_of_the_run_where_there_is_one():
    assert readout(patient(), 0.01) is None
    ill = patient(learned(), trained=True, test_error=0.3)
    assert readout(ill, 0.01).test == 0.3 and readout(ill, 0.01).train == ill.errors.train


def test_a_finding_is_as_bad_as_the_worst_that_was_seen():
    notes = Notes("gradients")
    notes.add(WELL, "fine")
    notes.add(WRONG, "bad", "mend it")
    notes.add(WRONG, "worse")
    assert notes.finding().verdict == WRONG and notes.finding().words == "bad; worse"


def test_simple_rules_learn_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    features = rng.standard_normal((200, 5)) + 4 * np.eye(5)[labels]
    assert guessed(features, labels, 3)[0] < 0.1 and guessed(features, rng.permutation(labels), 3)[0] > 0.4


def test_directions_are_counted():
    rng = np.random.default_rng(0)
    answers = rng.standard_normal((30, 1)) * np.array([[3.0, 1.0, 0.0]]) + 5
    assert directions(answers) == (1, 1) and directions(np.full((7, 4), 2.0)) == (0, 4)


def test_who_knows_something():
    assert knows_something(learned(), bars()) and not knows_something(small(seed=5), bars())
    assert not knows_something(small(classes=3), bars())


def test_one_batch_has_as_many_of_each_class_as_can_be():
    part = trials.several_classes(patient(), 10)
    assert sorted(np.bincount(part.labels)) == [2, 2, 3, 3]


def test_numbers_for_other_programs_are_finite():
    finding = Finding("depth", ((WRONG, "<b>"),), ("<i>",), {"losses": (1.0, inf), "n": {"a": np.float64(2)}})
    told = page.as_json("a net", [finding], None)
    assert json.loads(json.dumps(told, allow_nan=False))["checks"][0]["numbers"]["losses"] == [1.0, None]
    assert not told["healthy"] and "&lt;b&gt;" in page.as_html("a net", [finding], "", None)


# On the command line.


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The bars as a file, and a Python file that makes the net."""
    monkeypatch.chdir(tmp_path)
    parts, everyone = bars(), np.arange(240)
    np.savez("bars.npz", images=parts.train.batch(everyone), labels=parts.train.labels)
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 80, (120, 32, 32), np.uint8), np.arange(120) % 10
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 2 : 2 * label + 8] += 120
    np.savez("digits.npz", images=images, labels=labels)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom minidnn import layers as L\nfrom minidnn.net import Net\n"
        "from minidnn.images import Preprocess\nrng = np.random.default_rng(0)\n"
        "net = Net.chain({'fc1': L.FC.random(rng, (12, 10, 1), 30), 'relu1': L.ReLU(),\n"
        "    'fc2': L.FC.random(rng, (1, 1, 30), 4), 'out': L.ReLU()}, input_shape=(12, 10, 1),\n"
        "    preprocess=Preprocess('GRAY', mean=(105.0,), std=(50.0,)))\n"
    )
    return tmp_path


def call(command, *argv) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(map(str, argv))))


def trained_on_digits(rate: float) -> None:
    """One epoch of LeNet-5, in the folder `run`."""
    what = ("--data", "digits.npz", "-o", "run", "--net", "lenet5", "--epochs", 1, "--batch", 12)
    call(train, *what, "--rate", rate)


def test_a_net_in_a_python_file(files, capsys):
    assert call(cli, "mine.py", "--data", "bars.npz", "--quick", "--batch", 16, "-o", "found.html") == cli.ILL
    said = capsys.readouterr().out
    assert "mine.py, 3,754 parameters, not trained yet, on bars.npz: 12x10x1, 4 classes" in said
    assert "✗ last activation" in said and "what to mend\n  last activation: leave 'out' out" in said
    text = (files / "found.html").read_text(encoding="utf-8")
    assert "mine.py" in text and "dead ReLUs" in text and "<script" not in text
    assert said.count("\n✓") > 5 and "2 wrong, 1 doubtful" in said and "✗ one batch by heart" in said


def test_a_run_its_report_and_its_plots(files, capsys):
    settings = ["--set", "optimiser=adam", "--rate", 0.001, "--batch", 12, "--epochs", 8, "--net", "lenet5"]
    call(train, "--data", "digits.npz", "-o", "run", *settings)
    kept = {path: path.read_bytes() for path in (files / "run").iterdir()}
    outputs = ["-o", "found.json"]
    if has_plots():
        outputs += ["--plot", "found.svg"]
    capsys.readouterr()
    code = call(cli, "run", "--quick", "--human-error", 0.01, *outputs)
    assert {path: path.read_bytes() for path in (files / "run").iterdir()} == kept
    said = capsys.readouterr().out
    assert "run, 61,706 parameters, trained, on digits.npz" in said and "avoidable bias" in said
    found = json.loads((files / "found.json").read_text())
    assert len(found["checks"]) == len(CHECKS) and code == (0 if found["healthy"] else cli.ILL)
    assert found["bias and variance"]["human"] == 0.01
    test = json.loads((files / "run/log.json").read_text())["test"]["top1"]
    assert found["bias and variance"]["test"] == test
    rate = next(one for one in found["checks"] if one["check"] == "learning rate")
    assert rate["numbers"]["chosen"] == 0.001, "the recipe of the run is judged"


def test_weights_say_by_which_recipe_they_were_trained(files):
    trained_on_digits(rate=0.002)
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    found = cli.case_for(parser.parse_args(["run/weights.h5"])).patient
    assert found.trained and found.way.optimiser.rate == 0.002 and found.way.batch == 12
    weights.save("odd.h5", found.net, provenance={"recipe": {"rate": [], "net": {}}})
    assert cli._recipe_in(files / "odd.h5") is None, "and what is no recipe is none"
    assert weights.digest(found.first) == weights.digest(
        Recipe(net="lenet5", data="digits.npz").first_net(found.data.train)
    )


def has_plots() -> bool:
    try:
        page.curves.check_plots()
    except UsageError:
        return False
    return True


def test_what_the_command_line_can_get_wrong(files):
    (files / "empty").mkdir()
    for arguments, words in [
        (["lenett", "--data", "bars.npz"], "no net, recipe, file or folder 'lenett'; .*did you mean 'lenet'"),
        (["lenet"], "no data to train on; give --data PATH"),
        (["empty"], "empty: no training run .*checkpoint.npz is missing.*; name its --output folder"),
        (["lenet", "--human-error", 5], "--human-error 5.0: give a share"),
        (["lenet", "-o", "found.pdf"], "a report is written as .html or .json"),
        (["lenet", "--plot", "found.png"], "plots are written as .svg"),
        (["mine.py", "--data", "bars.npz", "--seed", -1], "--seed -1: give 0 or more"),
        (["lenet", "--data", "bars.npz", "--set", "epoch=3"], "no setting 'epoch'; did you mean 'epochs'"),
    ]:
        with pytest.raises(UsageError, match=words):
            call(cli, *arguments)
    with pytest.raises(OutputError):
        call(cli, "mine.py", "--data", "bars.npz", "-o", "mine.py/found.json")


def test_a_run_on_other_data_is_refused(files):
    trained_on_digits(rate=0.001)
    arrays = dict(np.load("digits.npz"))
    np.savez("other.npz", images=arrays["images"], labels=arrays["labels"][::-1])
    with pytest.raises(MismatchError, match="began with other data than these; give the same --data"):
        call(cli, "run", "--data", "other.npz")
    assert checkpoint.load("run/checkpoint.npz").state.epoch == 1
