"""The memory of a run: used again as soon as nobody holds it, and never while somebody does."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest

from minidnn.kernels.cpu.desk import Desk, Inward, Middle
from minidnn.kernels.cpu.threads import CREW
from minidnn.kernels.cpu.tiling import tiling
from minidnn.kernels.cpu.winograd import F4
from minidnn.kernels.memory import Arena, fresh
from minidnn.window import Window
from tests.nets import forked, photo

LIKE = np.zeros(1, "float32")


def address(array):
    return array.__array_interface__["data"][0]


def test_rooms_begin_at_cache_lines():
    arena, window = Arena(), Window.of(3, pad=1)
    assert {address(arena.empty((n, 7), LIKE)) % 64 for n in range(1, 30)} == {0}
    cut, desk = tiling((9, 9), 3, 5, 5, window, F4), Desk(LIKE.dtype)
    middle, inward = (desk.at(kind, cut, (1, 2, 2)) for kind in (Middle, Inward))
    assert {address(a) % 64 for a in (middle.points, middle.products, inward.ground, inward.half)} == {0}


def test_what_nobody_holds_is_lent_out_again():
    arena = Arena()
    first = arena.empty((100, 200), LIKE)
    where = address(first)
    del first
    assert address(arena.empty((200, 100), LIKE)) == where


def test_what_somebody_holds_is_not_be_it_by_a_view():
    arena = Arena()
    lent = arena.empty((100, 200), LIKE)
    view = lent[::2, 5:].T
    del lent
    view[...] = 7
    other = arena.empty((100, 200), LIKE)
    other[...] = 1
    assert (view == 7).all()
    assert arena.nbytes == 0
    del view
    assert arena.nbytes == 100 * 200 * 4


def test_lent_memory_is_aligned_and_of_any_dtype():
    arena = Arena()
    for shape, dtype in [
        ((3, 5), "float64"),
        ((7,), "uint8"),
        ((2, 3, 4), bool),
        ((), "float32"),
        ((0, 4), "float32"),
    ]:
        lent = arena.empty(shape, LIKE, dtype)
        assert lent.shape == shape and lent.dtype == dtype and lent.flags.c_contiguous
        assert lent.size == 0 or address(lent) % 64 == 0


def test_a_block_is_cut_and_grows_together_again():
    arena = Arena()
    first = address(arena.empty((10_000_000,), LIKE, "uint8"))
    parts = [arena.empty((size,), LIKE, "uint8") for size in (6_000_000, 3_000_000, 2_000_000)]
    assert [address(part) - first for part in parts[:2]] == [0, 6_000_000]
    assert arena.nbytes == 1_000_000, "for the last it had to ask"
    del parts[0], parts[0]
    assert address(arena.empty((9_500_000,), LIKE, "uint8")) == first


def test_a_block_far_too_large_is_not_cut():
    arena = Arena()
    address(arena.empty((10_000_000,), LIKE, "uint8"))
    arena.empty((1_000_000,), LIKE, "uint8")
    assert arena.nbytes == 11_000_000


def test_what_a_run_had_no_use_for_is_let_go_after_it():
    arena = Arena()
    arena.empty((1000, 1000), LIKE)
    arena.begin()
    assert arena.nbytes == 4_000_000, "the last run used it"
    arena.begin()
    assert arena.nbytes == 0


def test_threads_get_arrays_of_their_own():
    arena, wrong = Arena(), []

    def work(number):
        for _ in range(300):
            lent = arena.empty((50, 20), LIKE)
            lent[...] = number
            if not (lent == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_pieces_never_overlap():
    rng, arena, lent = np.random.default_rng(0), Arena(), {}
    for number in range(2000):
        if lent and rng.random() < 0.5:
            lent.pop(list(lent)[rng.integers(len(lent))])
        else:
            lent[number] = arena.empty((int(2 ** rng.uniform(0, 16)),), LIKE, "uint8")
            lent[number][...] = number % 251
        if number % 100 == 0:
            arena.begin()
    spans = sorted((address(array), address(array) + array.size) for array in lent.values())
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert all((array == number % 251).all() for number, array in lent.items())


def test_an_array_that_was_stopped_in_the_making_does_no_harm(monkeypatch):
    """Ctrl-C after the memory was taken, and before it was written down who has it."""
    arena = Arena()
    kept = arena.empty((100,), LIKE)
    kept[...] = 7
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(arena, "_lent", Stopping(arena._lent))
        arena.empty((200,), LIKE)
    arena.empty((300,), LIKE)[...] = 1
    assert (kept == 7).all()


class Stopping(dict):
    def __setitem__(self, key, value):
        raise KeyboardInterrupt


def test_without_a_run_memory_is_new():
    assert fresh((2, 3), LIKE, None).shape == (2, 3)
    assert fresh((2, 3), LIKE, None, bool).dtype == bool


def test_what_a_user_keeps_of_one_run_stays_in_the_next():
    net = forked().astype("float32")
    res = net.init_res()
    first = net.forwardto(res, "out", photo(net).astype("float32"))
    kept, pooled = first.copy(), res["pool1"].x
    pooled_before = pooled.copy()
    for seed in range(3):
        net.backwardfrom(res, {"out": net.forwardto(res, "out", photo(net, seed=seed).astype("float32"))})
    assert np.array_equal(first, kept)
    assert np.array_equal(pooled, pooled_before)


def test_later_runs_ask_the_system_for_nothing():
    net = forked().astype("float32")
    res = net.init_res()
    image = photo(net).astype("float32")
    before, held = CREW.size, []
    CREW.resize(1)  # how many tasks work at once is up to the moment, and so is their room
    for _ in range(6):
        net.backwardfrom(res, {"out": net.forwardto(res, "out", image)})
        held.append(res.nbytes)
    CREW.resize(before)
    assert held[3] == held[4] == held[5] <= held[1]
