"""Recorded passes: played again they say what the net says, of every image of that shape."""

import numpy as np
import pytest

from minidnn import zoo
from minidnn.arrays import to_device, to_host
from minidnn.dream import dream, squared_norm
from minidnn.dream.loop import Way
from minidnn.dream.recorded import Recorded, Tape
from minidnn.dream.transforms import Jitter
from minidnn.errors import UnsupportedError
from minidnn.kernels import product
from minidnn.net import Net
from tests import fakedevice, fakegraphs
from tests.fakecard import COMPILER, put_in
from tests.fakepool import POOLS, counting
from tests.nets import forked, photo

if COMPILER is None:  # the card's kernels are compiled as C++
    pytest.skip("no C++ compiler", allow_module_level=True)


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """The fake card, with CUDA graphs."""
    monkeypatch.setattr(fakegraphs.Graph, "launches", 0)
    with put_in(monkeypatch) as there, counting():
        yield there


def agree(a, b):
    """To within rounding: what is recorded multiplies by our own way to cuBLAS, all else by CuPy's."""
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def both_ways(net, res, image, layers=("a", "twin")):
    ys = net.forwardto(res, list(layers), image, keep="needed")
    dzdx = net.backwardfrom(res, {name: 2 * y for name, y in ys.items()})
    return [to_host(array) for array in (*ys.values(), dzdx)]


def test_played_again_it_says_what_the_net_says_of_every_image():
    net, there = forked(), forked().to("cuda")
    recorded = Recorded.of(there)
    res, shape = recorded.init_res(), photo(net).shape
    for seed in range(4):
        image = np.random.default_rng(seed).standard_normal(shape)
        on_host = both_ways(net, net.init_res(), image)
        image = to_device(image, "cuda")
        wanted, found = both_ways(there, there.init_res(), image), both_ways(recorded, res, image)
        assert all(map(agree, found, wanted)), seed
        assert all(np.allclose(a, b) for a, b in zip(found, on_host, strict=True)), seed
    assert fakegraphs.Graph.launches == 8, "one launch each way, whatever the net"


def test_another_shape_is_another_recording_and_both_stay_good():
    net = zoo.get("gabor").to("cuda")
    recorded, rng = Recorded.of(net), np.random.default_rng(0)
    layers, res = (recorded.names[-1],), recorded.init_res()
    images = [to_device(rng.random((1, h, w, 3), "float32"), "cuda") for h, w in ((20, 31), (27, 18)) * 2]
    for image in images:
        wanted, found = both_ways(net, net.init_res(), image, layers), both_ways(recorded, res, image, layers)
        assert all(map(agree, found, wanted))
    assert len(res.takes) == 2


def test_what_comes_out_lies_where_it_always_did():
    recorded = Recorded.of(forked().to("cuda"))
    res, image = recorded.init_res(), to_device(photo(forked()), "cuda")
    first, second = (recorded.forwardto(res, "out", image, keep="needed") for _ in range(2))
    assert first is second


def test_new_weights_are_recorded_anew():
    recorded = Recorded.of(forked().to("cuda"))
    res, image = recorded.init_res(), to_device(photo(forked()), "cuda")
    before = both_ways(recorded, res, image)
    with recorded.updating() as w:
        w["conv1/w"] *= 2
    after = both_ways(recorded, res, image)
    assert not np.array_equal(before[0], after[0])
    assert agree(after[0], to_host(Net.forwardto(recorded, Net.init_res(recorded), "a", image)))


def test_all_other_passes_go_the_usual_way():
    recorded = Recorded.of(forked().to("cuda"))
    res, image = recorded.init_res(), to_device(photo(forked()), "cuda")
    y = recorded.forwardto(res, "out", image)
    recorded.backwardfrom(res, {"out": y})
    assert recorded.init_res(sync=True).sync
    assert fakegraphs.Graph.launches == 0 and res["out"].dzdx is not None


def test_a_dream_by_recordings_is_the_dream():
    net, picture = zoo.get("gabor"), np.random.default_rng(0).random((1, 24, 33, 3), "float32") * 255
    objective, way = squared_norm(net.names[-1]), Way(transforms=(Jitter(5),))

    def frames(net):
        steps = dream(net, to_device(picture, "cuda"), objective, way, rng=np.random.default_rng(1))
        return [to_host(next(steps).picture) for _ in range(3)]

    there = net.to("cuda")
    plain, recorded = frames(there), frames(Recorded.of(there))
    assert all(map(agree, plain, recorded))
    assert fakegraphs.Graph.launches == 6


def test_recording_warms_up_first_in_memory_of_its_own():
    runs, outside = [], POOLS[-1]

    def work(x):
        runs.append((POOLS[-1] is not outside, len(fakedevice.TAPES)))
        return x + 1

    recording = Tape(fakegraphs.cuda).record(work, to_device(np.arange(3.0), "cuda"))
    assert runs == [(True, 0), (True, 0), (True, 1)]
    assert np.array_equal(to_host(recording(to_device(np.ones(3), "cuda"))), [2, 2, 2])
    assert len(runs) == 3 and POOLS[-1] is outside


def test_what_is_recorded_finds_its_memory_warmed_up():
    sizes = iter((5, 5, 6))  # the third time it wants more than there was before

    with pytest.raises(RuntimeError, match="cudaMalloc while the stream is capturing"):
        Tape(fakegraphs.cuda).record(
            lambda x: fakedevice.xp.zeros(1000 * next(sizes)), to_device(np.arange(3.0), "cuda")
        )


def test_work_that_looks_at_a_number_cannot_be_recorded():
    tape = Tape(fakegraphs.cuda)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        tape.record(lambda x: x * float(x.sum()), to_device(np.arange(3.0), "cuda"))
    with pytest.raises(RuntimeError, match="nobody can wait for a stream that records"):
        tape.record(
            lambda x: fakegraphs.cuda.get_current_stream().synchronize(), to_device(np.ones(3), "cuda")
        )
    assert not fakedevice.TAPES, "the stream has stopped recording"


def test_what_cupy_does_not_record_is_a_sentence():
    x = to_device(np.ones((2, 2)), "cuda")
    with pytest.raises(
        UnsupportedError, match=r"cannot record this \(calling cuBLAS .*take the net as it is"
    ):
        Tape(fakegraphs.cuda).record(lambda x: x @ x, x)
    assert np.array_equal(
        to_host(Tape(fakegraphs.cuda).record(lambda x: product(x, x), x)(x)), [[2, 2], [2, 2]]
    )


@pytest.mark.parametrize("name", ["gabor", "lenet", "squeezenet1.1", "googlenet", "resnet20"])
def test_nets_of_the_zoo_can_be_recorded(name):
    net = zoo.get(name, seed=0).to("cuda")
    h, w, c = net.input_shape if name in ("lenet", "resnet20") else (64, 72, 3)
    layer = {"squeezenet1.1": "fire3/concat", "googlenet": "inception_3a/output"}.get(name, net.names[-1])
    image = to_device(np.random.default_rng(0).standard_normal((1, h, w, c)).astype("float32"), "cuda")
    recorded = Recorded.of(net)
    found = both_ways(recorded, recorded.init_res(), image, [layer])
    wanted = both_ways(net, net.init_res(), image, [layer])
    assert all(map(agree, found, wanted))
