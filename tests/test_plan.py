"""Memory told beforehand, beside memory measured in a process of its own; and the choice made by it."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from minidnn import images, zoo
from minidnn import layers as L
from minidnn.cli.main import main
from minidnn.dream import Way, dream, squared_norm
from minidnn.dream.loop import climb
from minidnn.errors import ShapeError, TooLargeError, UsageError
from minidnn.kernels.cpu.threads import CREW
from minidnn.net import Net, Node
from minidnn.plan import Plan, bytes_of, choose, forecast, whole
from minidnn.plan.choice import plans
from minidnn.plan.rehearsal import Rehearsal
from tests.nets import every_layer, forked, photo
from tests.test_tiles import known, local, picture

MEASURE = """
import resource
import numpy as np
from minidnn.kernels.cpu.threads import CREW
from minidnn.plan import choose, forecast
from tests.test_plan import step
from tests.test_tiles import known

def now(key):
    with open("/proc/self/status") as status:
        return 1024 * int(next(line for line in status if line.startswith(key)).split()[1])

net, shape = known({name!r}, {layer!r}).with_kernels({kernels!r}), {shape!r}
with CREW.alone():
    CREW.run([np.ones((500, 500), "float32").sum] * 9)
told, before = forecast(net, shape, {layer!r}, tile={tile!r}), now("VmRSS")
step(net, shape, {layer!r}, {tile!r})
print(told.step, now("VmHWM") - before)
"""


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """More threads take more memory, and so change what is told; here they are always two."""
    monkeypatch.setattr(CREW, "size", 2)


def step(net: Net, shape, layer: str, tile) -> None:
    """Two steps, as a dream makes them."""
    plan, res = Plan(net, (layer,), tile), net.init_res()
    for _ in range(2):
        plan.gradient(res, picture(shape, "float32"), squared_norm(layer))


def measured(**what) -> tuple[int, int]:
    """Bytes of two steps, (told, measured), in a process of its own."""
    code = MEASURE.format(**what)
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    told, found = map(int, done.stdout.split())
    return told, found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells a process's peak on Linux only")
@pytest.mark.parametrize(
    ("name", "layer", "size", "kernels", "tile"),
    [
        ("vgg16", "relu5_3", (224, 224), "auto", None),
        ("vgg16", "conv4_3", (512, 512), "auto", None),
        ("vgg16", "conv3_3", (512, 480), "chunked", None),
        ("vgg16", "conv3_3", (480, 512), "winograd2", (160, 128)),
        ("squeezenet1.1", "fire8/concat", (480, 640), "auto", None),
        ("googlenet", "inception_4c/output", (320, 352), "auto", None),
    ],
)
def test_a_step_takes_what_was_told_within_a_fifth(name, layer, size, kernels, tile):
    told, found = measured(name=name, layer=layer, shape=(1, *size, 3), kernels=kernels, tile=tile)
    assert abs(told / found - 1) < 0.2, f"told {told / 1e6:.0f} MB, measured {found / 1e6:.0f} MB"


@pytest.mark.parametrize("keep", ["needed", "all"])
@pytest.mark.parametrize("build", [forked, local, lambda: zoo.get("gabor")])
def test_what_a_rehearsal_keeps_is_what_a_run_keeps(build, keep):
    """x and aux after the way forward, byte by byte: when the engine changes, this says so."""
    net = build()
    last = net.nodes[-1].name
    image = np.random.default_rng(0).standard_normal((2, 31, 26, 3)).astype(net.dtype)
    played, res = Rehearsal(net, image.shape, [last], keep=keep), net.init_res()
    net.forwardto(res, last, image, keep=keep)
    played.step()
    for name, slot in res.items():
        kept = 0 if slot.x is None else slot.x.nbytes
        views = (L.Dropout, L.GradientReversal)
        if name == net.input or not isinstance(net.node(name).layer, views):
            assert (played.x[name].nbytes if name in played.x else 0) == kept, name
        aux = slot.aux.nbytes if isinstance(slot.aux, np.ndarray) else 0
        assert (played.aux[name].nbytes if name in played.aux else 0) == aux, name


def test_a_forecast_needs_no_weights_and_says_its_parts():
    net = zoo.get("vgg16", seed=None)
    told = forecast(net, (1, 224, 224, 3), "conv5_3", pictures=5)
    assert told.weights == 0 and told.pictures == 5 * 4 * 224 * 224 * 3
    assert told.prepared > 400e6 and told.total == sum(told)
    assert str(told).startswith("5") and "471 MB prepared" in str(told)
    assert forecast(net, (1, 224, 224, 3), "conv5_3", keep="all").x > 1.2 * told.x
    assert (
        forecast(net.astype("float64"), (1, 224, 224, 3), "conv2_2").x
        == 2 * forecast(net.with_kernels("im2col"), (1, 224, 224, 3), "conv2_2").x
    )


def test_pictures_between_two_steps_have_the_room_of_a_tile():
    net, shape = zoo.get("vgg16", seed=None), (1, 512, 512, 3)
    tiled = {n: forecast(net, shape, "conv3_1", tile=(128, 128), between=n).total for n in (0, 1, 999)}
    assert tiled[0] == tiled[1] < tiled[999]
    at_once = [forecast(net, shape, "conv3_1", between=n).total for n in (0, 1)]
    assert at_once[1] - at_once[0] == 4 * 512 * 512 * 3


def test_weights_in_a_file_count_as_far_as_they_are_read(tmp_path):
    from minidnn import weights

    weights.save(tmp_path / "net.h5", zoo.get("lenet"))
    net = weights.load(tmp_path / "net.h5")
    first, last = net.nodes[0], net.nodes[-1].name
    told = [forecast(net, (1, *net.input_shape), layer).weights for layer in (first.name, last)]
    assert told[0] == sum(a.nbytes for a in first.layer.params.values())
    assert told[1] == sum(a.nbytes for a in net.params.values())
    assert forecast(zoo.get("lenet"), (1, *net.input_shape), first.name).weights == told[1]


SHAPE, LAYER = (1, 768, 1024, 3), "conv4_3"


def test_with_room_enough_nothing_changes():
    net = zoo.get("vgg16", seed=None)
    plan = choose(net, SHAPE, LAYER, "3GB")
    assert plan.net is net and plan.tile is None
    assert str(plan).startswith("the whole picture at once: about 9") and str(plan).endswith("of 3.00 GB")
    assert choose(net, SHAPE, LAYER, None).tile is None


def test_with_less_the_work_grows_and_the_memory_does_not_pass_the_bound():
    net, before = zoo.get("vgg16", seed=None), None
    for limit in ("800MB", "600MB", "500MB"):
        plan = choose(net, SHAPE, LAYER, limit, pictures=3)
        assert plan.tile is not None and plan.expected.total < bytes_of(limit)
        assert before is None or plan.work > before
        before = plan.work
        assert "tiles of" in str(plan) and "where the whole takes 9" in str(plan)
    assert "by chunked for it prepares no filters" in str(choose(net, SHAPE, LAYER, "300MB"))


def test_smaller_filters_are_taken_where_they_are_enough():
    plan = choose(zoo.get("vgg16", seed=None), (1, 224, 224, 3), "relu5_3", "600MB")
    assert plan.tile is None and "by winograd2" in str(plan)
    assert plan.net.kernels()["conv5_3"] == "winograd2" and plan.net.kernels()["conv1_1"] == "chunked"


def test_of_smaller_filters_as_few_are_taken_as_are_enough():
    net = zoo.get("vgg16", seed=None)
    plan, tighter = (choose(net, SHAPE, LAYER, limit) for limit in ("930MB", "850MB"))
    assert "by winograd2 for its smaller filters from conv4_3 on" in str(plan)
    assert plan.net.kernels()["conv4_3"] == "winograd2" and plan.net.kernels()["conv4_2"] == "winograd4"
    assert "from conv4_1 on" in str(tighter) and 1 < plan.work < tighter.work < 1.2


def test_tiles_may_have_smaller_filters_however_few_layers_there_are():
    """Two convolutions by winograd4: as they are, all by winograd2, or by chunked."""
    conv = {f"conv{i}": L.Conv.random(None, 3, 32, 32, pad=1) for i in range(2)}
    ways = list(plans(Net.chain(conv, input_shape=(512, 512, 32)), (1, 512, 512, 32), ("conv1",)))
    assert {plan.kernels.removeprefix(", by ").split()[0] for plan in ways if plan.tile and plan.kernels} == {
        "winograd2",
        "chunked",
    }
    assert sum(plan.tile is None for plan in ways) == 4, "one of the two by winograd2, too"


def test_a_bare_process_leaves_more_to_the_step():
    net = zoo.get("vgg16", seed=None)
    full, bare = (choose(net, SHAPE, LAYER, "950MB", process=size) for size in (110_000_000, 72_000_000))
    assert full.work > bare.work == 1
    assert bare.need == bare.expected.total + 72_000_000


def test_kernels_that_were_asked_for_stay():
    net = zoo.get("vgg16", seed=None).with_kernels("winograd4")
    assert choose(net, SHAPE, LAYER, "1GB").net is net


def test_the_same_question_has_the_same_answer():
    net = zoo.get("googlenet", seed=None)
    plans = [choose(net, SHAPE, "inception_4c/output", "600MB") for _ in range(2)]
    assert plans[0].tile == plans[1].tile and str(plans[0]) == str(plans[1])


def test_where_nothing_fits_it_says_why():
    net = zoo.get("vgg16", seed=None)
    with pytest.raises(
        TooLargeError, match=r"least that a step of 1024x768 takes is about .*max_memory is 120 MB;"
    ):
        choose(net, SHAPE, LAYER, "120MB")
    with pytest.raises(
        TooLargeError, match=r"no tiles up to prob: 'pool10' \(GlobalAvgPool\).*; take a smaller picture"
    ):
        choose(zoo.get("squeezenet1.1", seed=None), SHAPE, "prob", "200MB")
    with pytest.raises(ShapeError, match="as_convolutional"):
        choose(net, SHAPE, "fc6", "1GB")


@pytest.mark.parametrize(
    ("words", "found"),
    [("2GB", 2 * 10**9), ("1.5 gb", 1_500_000_000), ("800M", None), ("800MB", 8 * 10**8), ("2GiB", 2**31),
     (123, 123), ("4096", 4096), ("0", None), ("-1GB", None), ("much", None), ("nanGB", None)],
)  # fmt: skip
def test_memory_in_words(words, found):
    if found is not None:
        assert bytes_of(words) == found
        return
    with pytest.raises(UsageError, match=r"max_memory '.*': give"):
        bytes_of(words)


def test_a_plan_makes_the_gradient_of_the_whole():
    net, image = local(), picture((1, 31, 26, 3))
    at_once, tiled = whole(net, ["max", "add"]), Plan(net, ("max", "add"), (11, 12))
    value, dzdx, ys = at_once.gradient(net.init_res(), image, squared_norm("max") + squared_norm("add"))
    found, tiled_dzdx, tiled_ys = tiled.gradient(
        net.init_res(), image, squared_norm("max") + squared_norm("add")
    )
    assert found == pytest.approx(value, rel=1e-12) and [*tiled_ys] == [*ys]
    np.testing.assert_allclose(tiled_dzdx, dzdx, atol=1e-12 * np.abs(dzdx).max())


def test_a_picture_no_larger_than_a_tile_goes_at_once(monkeypatch):
    net, image = local(), picture((1, 31, 26, 3))
    monkeypatch.setattr("minidnn.plan.choice.Tiling", lambda *_, **__: pytest.fail("tiles"))
    Plan(net, ("max",), (31, 26)).gradient(net.init_res(), image, squared_norm("max"))


def test_a_dream_in_tiles_is_the_dream():
    net, start = known("vgg16", "conv2_1").astype("float64"), np.abs(picture((1, 60, 75, 3)))

    def frames(**way):
        return [
            *islice(dream(net, start, squared_norm("conv2_1"), Way(**way), rng=np.random.default_rng(0)), 3)
        ]

    wanted, found = frames(), frames(plan=Plan(net, ("conv2_1",), (24, 30)))
    for a, b in zip(wanted, found, strict=True):
        assert b.value == pytest.approx(a.value, rel=1e-12)
        np.testing.assert_allclose(b.picture, a.picture, atol=1e-8)
    names = [*climb(net, net.init_res(), start, squared_norm(1))[2]]
    assert names == ["conv1_1"], "a layer by its number is told by its name"


def test_a_net_of_every_layer_can_be_priced():
    net = every_layer()
    assert forecast(net, photo(net).shape, "prob").total > 0
    assert forecast(net, photo(net).shape, 0).x == photo(net).nbytes


def test_joins_and_forks_are_priced():
    net = Net([Node("a", L.ReLU(), ("data",)), Node("b", L.Add(), ("a", "data"))])
    told, image = forecast(net, (1, 50, 60, 3), "b"), 4 * 50 * 60 * 3
    assert told.x == 2 * image and told.dzdx >= 2 * image and told.aux == image // 4 // 8


def test_a_dream_from_the_command_line_keeps_its_bound(capsys, tmp_path):
    def dreamed(*bound: str) -> np.ndarray:
        path = tmp_path / "dream.png"
        argv = ["dream", "--size", "288x300", "--steps", "1", "--octaves", "2", "-o", str(path), *bound]
        assert main([*argv, "--dry-run"]) == 0 == main(argv)
        return images.load(path)

    at_once = dreamed()
    assert "the whole picture at once\n" in capsys.readouterr().out
    tiled = dreamed("--max-memory", "150MB")
    out = capsys.readouterr().out
    assert "tiles of" in out and "of 150 MB, where the whole takes" in out
    assert (np.abs(tiled - at_once) > 1).mean() < 1e-3, "but for colours that lie between two"
    assert '"max_memory": "150MB"' in (images.note_in(tmp_path / "dream.png", "minidnn") or "")
    assert main(["replay", str(tmp_path / "dream.png")]) == 0
    assert "the same, bit for bit" in capsys.readouterr().out
    assert main(["dream", "--max-memory", "lots", "-o", str(tmp_path / "d.png")]) == 2
    assert "max_memory 'lots': give it as 2GB" in capsys.readouterr().err
