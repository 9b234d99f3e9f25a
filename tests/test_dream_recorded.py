"""Recorded passes: played again they say what the net says, of every image of that shape."""

import numpy as np
import pytest

from minidnn import zoo
from minidnn.arrays import to_device, to_host
from minidnn.dream import dream, squared_norm
from minidnn.dream.loop import Way
from minidnn.dream.recorded import Recorded, Tape
from minidnn.dream.transforms import Jitter
from minidnn.net import Net
from tests import fakedevice, fakegraphs
from tests.nets import forked, photo


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """The fake device with CUDA graphs."""
    monkeypatch.setattr(fakedevice.FakeLibrary, "cuda", fakegraphs.cuda, raising=False)
    monkeypatch.setattr(fakegraphs.Graph, "launches", 0)


def both_ways(net, res, image, layers=("a", "twin")):
    ys = net.forwardto(res, list(layers), image, keep="needed")
    dzdx = net.backwardfrom(res, {name: 2 * y for name, y in ys.items()})
    return [to_host(array) for array in (*ys.values(), dzdx)]


def test_played_again_it_says_what_the_net_says_of_every_image():
    net = forked()
    recorded = Recorded.of(net.to("fake"))
    res, shape = recorded.init_res(), photo(net).shape
    for seed in range(4):
        image = np.random.default_rng(seed).standard_normal(shape)
        wanted = both_ways(net, net.init_res(), image)
        found = both_ways(recorded, res, to_device(image, "fake"))
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)), seed
    assert fakegraphs.Graph.launches == 8, "one launch each way, whatever the net"


def test_another_shape_is_another_recording_and_both_stay_good():
    net = zoo.get("gabor").to("fake")
    recorded, rng = Recorded.of(net), np.random.default_rng(0)
    layers, res = (recorded.names[-1],), recorded.init_res()
    images = [to_device(rng.random((1, h, w, 3), "float32"), "fake") for h, w in ((20, 31), (27, 18)) * 2]
    for image in images:
        wanted, found = both_ways(net, net.init_res(), image, layers), both_ways(recorded, res, image, layers)
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert len(res.takes) == 2


def test_what_comes_out_lies_where_it_always_did():
    recorded = Recorded.of(forked().to("fake"))
    res, image = recorded.init_res(), to_device(photo(forked()), "fake")
    first, second = (recorded.forwardto(res, "out", image, keep="needed") for _ in range(2))
    assert first is second


def test_new_weights_are_recorded_anew():
    recorded = Recorded.of(forked().to("fake"))
    res, image = recorded.init_res(), to_device(photo(forked()), "fake")
    before = both_ways(recorded, res, image)
    with recorded.updating() as w:
        w["conv1/w"] *= 2
    after = both_ways(recorded, res, image)
    assert not np.array_equal(before[0], after[0])
    assert np.array_equal(after[0], to_host(Net.forwardto(recorded, Net.init_res(recorded), "a", image)))


def test_all_other_passes_go_the_usual_way():
    recorded = Recorded.of(forked().to("fake"))
    res, image = recorded.init_res(), to_device(photo(forked()), "fake")
    y = recorded.forwardto(res, "out", image)
    recorded.backwardfrom(res, {"out": y})
    assert recorded.init_res(sync=True).sync
    assert fakegraphs.Graph.launches == 0 and res["out"].dzdx is not None


def test_a_dream_by_recordings_is_the_dream():
    net, picture = zoo.get("gabor"), np.random.default_rng(0).random((1, 24, 33, 3), "float32") * 255
    objective, way = squared_norm(net.names[-1]), Way(transforms=(Jitter(5),))

    def frames(net):
        steps = dream(net, to_device(picture, "fake"), objective, way, rng=np.random.default_rng(1))
        return [to_host(next(steps).picture) for _ in range(3)]

    there = net.to("fake")
    plain, recorded = frames(there), frames(Recorded.of(there))
    assert all(np.array_equal(a, b) for a, b in zip(plain, recorded, strict=True))
    assert fakegraphs.Graph.launches == 6


def test_recording_warms_up_first_in_memory_of_its_own():
    runs = []

    def work(x):
        runs.append((list(fakegraphs.ALLOCATORS), len(fakedevice.TAPES)))
        return x + 1

    tape = Tape(fakegraphs.cuda)
    recording = tape.record(work, to_device(np.arange(3.0), "fake"))
    own = [fakegraphs.Pool.malloc]
    assert runs == [(own, 0), (own, 0), (own, 1)]
    assert np.array_equal(to_host(recording(to_device(np.ones(3), "fake"))), [2, 2, 2])
    assert len(runs) == 3 and not fakegraphs.ALLOCATORS


def test_work_that_looks_at_a_number_cannot_be_recorded():
    tape = Tape(fakegraphs.cuda)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        tape.record(lambda x: x * float(x.sum()), to_device(np.arange(3.0), "fake"))
    assert not fakedevice.TAPES, "the stream has stopped recording"
