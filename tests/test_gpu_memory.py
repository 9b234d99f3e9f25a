"""Memory on a card: what a step was told to take, beside what it takes of CuPy's pool on the fake card."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import zoo
from minidnn.arrays import to_device
from minidnn.cli.main import main
from minidnn.dream import squared_norm
from minidnn.errors import DeviceError, TooLargeError
from minidnn.kernels.cuda.blas import WORKSPACE
from minidnn.plan import Plan, choose, forecast
from minidnn.plan.card import Pool
from tests import fakepool
from tests.fakecard import COMPILER, put_in
from tests.fakepool import counting

SIZE = (1, 64, 72, 3)


@pytest.fixture
def card(monkeypatch):
    with put_in(monkeypatch) as there:
        yield there


def drawn(name):
    """A net with weights that keep numbers near 1, without drawing millions of them."""
    net = zoo.get(name, seed=None)
    rng = np.random.default_rng(0)
    some = rng.standard_normal(1 << 16).astype("float32")

    def filled(a):
        spread = np.sqrt(2 * a.shape[-1] / a.size) if a.ndim == 4 else 0.1
        return np.resize(some, a.shape) * np.float32(spread)

    return net.replacing({name: filled(a) for name, a in net.params.items() if a.nbytes < 10**7})


if COMPILER:

    @pytest.mark.parametrize(
        ("name", "layer", "tile", "kernels", "size"),
        [
            ("vgg16", "conv3_3", None, "auto", SIZE),
            ("vgg16", "conv2_2", (32, 40), "auto", SIZE),
            ("vgg16", "conv3_1", None, "im2col", SIZE),
            ("squeezenet1.1", "fire5/concat", None, "auto", SIZE),
            ("googlenet", "inception_3b/output", None, "auto", SIZE),
            ("googlenet", "inception_4e/output", None, "im2col", (1, 96, 104, 3)),
        ],
    )
    def test_a_step_takes_of_a_card_what_was_told_within_a_fifth(name, layer, tile, kernels, size, card):
        net = drawn(name).with_kernels(kernels).to("cuda")
        told = forecast(net, size, layer, tile=tile)
        with counting() as pool:
            picture = to_device(np.random.default_rng(0).standard_normal(size).astype("float32"), "cuda")
            plan, res = Plan(net, (layer,), tile), net.init_res()
            for _ in range(2):
                plan.gradient(res, picture, squared_norm(layer))
        found = pool.peak
        assert abs((told.step - WORKSPACE) / found - 1) < 0.2, f"{told} told, {found / 1e6:.1f} MB measured"


def test_a_card_is_filled_in_another_way_than_the_host(card):
    net = zoo.get("gabor")
    here, there = (forecast(n, SIZE, "relu2") for n in (net, net.to("cuda")))
    assert there.weights == here.weights
    assert there.workspace >= WORKSPACE and there.prepared == 0
    plan = choose(net.to("cuda"), SIZE, "relu2", "1GB")
    lost = plan.need - plan.expected.total
    assert 0 < lost <= plan.expected.step / 10, "gaps in its pool, but no Python and no libraries"
    assert choose(net, SIZE, "relu2", "1GB").need > plan.expected.total


def test_a_bound_is_one_for_the_card(card):
    net = zoo.get("gabor").to("cuda")
    shape = (1, 1024, 1000, 3)
    whole = forecast(net, shape, "relu2").total
    plan = choose(net, shape, "relu2", whole // 3)
    assert plan.tile is not None and plan.need <= whole // 3
    assert "tiles of" in str(plan)
    with pytest.raises(TooLargeError, match="max_memory is 10 MB"):
        choose(net, shape, "relu2", "10MB")


def test_a_dream_too_large_for_the_device_says_so_and_fits_in_tiles(tmp_path, capsys):
    out, limit = tmp_path / "dream.png", 14_000_000
    what = ["--net", "gabor", "--size", "160x200", "--steps", "1", "--octaves", "1", "--device", "fake"]
    argv = ["dream", *what, "-o", str(out)]
    with counting(limit) as pool:
        assert main(argv) == DeviceError.exit_code
        said = capsys.readouterr().err
        assert "the GPU has no room left (Out of memory allocating" in said
        assert "let --max-memory cut the work into tiles, or --device cpu" in said
        assert not out.exists()
    with counting(limit) as pool:
        assert main([*argv, "--max-memory", str(limit + WORKSPACE)]) == 0
    assert out.exists() and pool.peak <= limit


@pytest.mark.parametrize("seed", range(5))
def test_the_pool_of_the_plan_is_that_of_the_fake_card(seed):
    """Two people's words for the same rules, in a long quarrel over memory."""
    rng = np.random.default_rng(seed)
    planned, there, held = Pool(), fakepool.Pool(), []
    for _ in range(600):
        if held and rng.random() < 0.5:
            mine, theirs = held.pop(rng.integers(len(held)))
            planned.let_go(mine)
            there.give_back(theirs)
        else:
            nbytes = int(2 ** rng.uniform(3, 20))
            held.append((planned.take("x", nbytes), there.malloc(nbytes)))
        assert planned.nbytes % Pool.unit == 0
    assert planned.nbytes == pytest.approx(there.total, rel=0.15), "of two equal rooms they may take another"
    for mine, theirs in held:
        planned.let_go(mine)
        there.give_back(theirs)
    assert sum(room.nbytes for room in planned.rooms.free) == planned.nbytes and there.used == 0
    assert len(planned.rooms.free) == len(planned.rooms.blocks), "all that was cut has grown together again"
