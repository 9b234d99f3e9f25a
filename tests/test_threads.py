"""The crew of threads: as many as asked for, the same bits with any number, and all as before afterwards."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from minidnn import layers as L
from minidnn import zoo
from minidnn.errors import UsageError
from minidnn.kernels.cpu import threads
from minidnn.kernels.cpu.threads import CREW, Crew
from minidnn.net import Net
from tests.nets import forked, photo, wholly_by

NETS = {  # with a side of the image, and a layer to dream of
    "vgg16": (37, "relu3_3"),
    "squeezenet1.1": (67, "fire5/concat"),
    "googlenet": (65, "inception_3b/output"),
    "alexnet": (95, "relu5"),
}


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def drawn(name):
    """The net with random weights where the test needs them; the classifier stays a placeholder."""
    net, rng = zoo.get(name, seed=None), np.random.default_rng(0)
    fresh = {
        weight: rng.standard_normal(array.shape, "float32") / np.float32(np.sqrt(array[..., 0].size))
        for weight, array in net.params.items()
        if array.size < 2_000_000
    }
    return net.replacing(fresh)


@pytest.mark.parametrize("name", NETS)
def test_a_dream_step_has_the_same_bits_with_any_number_of_threads(name):
    (side, target), net = NETS[name], drawn(name)
    x = np.random.default_rng(1).standard_normal((1, side, side + 2, 3)).astype("float32")
    found = []
    for count in (1, 2, 3, 5):
        with threads.limit(count):
            res = net.init_res()
            y = net.forwardto(res, target, x, keep="needed").copy()
            found.append((y, net.backwardfrom(res, {target: y}).copy()))
    for y, dzdx in found[1:]:
        assert np.array_equal(y, found[0][0]) and np.array_equal(dzdx, found[0][1])
    assert np.isfinite(found[0][1]).all() and np.abs(found[0][1]).max() > 0


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((1, 41, 43, 120), lambda rng: L.Conv.random(rng, 3, 120, 96, pad=1)),
        ((1, 6, 6, 256), lambda rng: L.FC.random(rng, (6, 6, 256), 128)),
    ],
)
def test_the_plain_kernels_have_the_same_bits_too(shape, layer):
    """In float64; BLAS by itself adds these up in another order with another number of threads."""
    rng = np.random.default_rng(0)
    net, found = Net.chain({"layer": layer(rng)}).astype("float64"), []
    x = rng.standard_normal(shape)
    for count in (1, 2, 3, 5):
        with threads.limit(count):
            res = net.init_res()
            y = net.forwardto(res, "layer", x)
            found.append((y, net.backwardfrom(res, {"layer": y}, params=True), res["layer"].dzdw["w"]))
    assert all(np.array_equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


class Looking(L.ReLU):
    """A layer that notes how many threads BLAS has."""

    seen: ClassVar[list] = []

    def forward(self, x, **given):
        self.seen.append(set(blas_threads()))
        if x.max() > 1000:
            raise ZeroDivisionError("in the middle of a pass")
        return super().forward(x, **given)

    def backward(self, dzdy, *, aux, **_):
        self.seen.append(set(blas_threads()))
        return super().backward(dzdy, aux=aux)


@pytest.mark.parametrize("kernel", ["auto", "im2col"])
def test_a_pass_holds_blas_and_lets_it_go(kernel):
    net = Net.chain({"conv": L.Conv.random(np.random.default_rng(0), 3, 3, 4), "looking": Looking()})
    net, x, res = net.with_kernels(kernel), np.ones((1, 9, 9, 3), "float32"), net.init_res()
    Looking.seen.clear()
    with threads.limit(2):
        y = net.forwardto(res, "looking", x)
        assert Looking.seen == [{1}] and set(blas_threads()) == {2}
        net.backwardfrom(res, {"looking": y})
        assert Looking.seen == [{1}, {1}] and set(blas_threads()) == {2}
        with pytest.raises(ZeroDivisionError):
            net.forwardto(res, "looking", 1e9 * x)
        assert Looking.seen == [{1}] * 3 and set(blas_threads()) == {2}


def test_a_limit_holds_for_ours_and_for_blas_and_ends():
    before, size = blas_threads(), CREW.size
    with threads.limit(1):
        assert CREW.size == 1 and set(blas_threads()) == {1}
        with threads.limit(3):
            assert CREW.size == 3
        assert CREW.size == 1
    assert CREW.size == size and blas_threads() == before
    with threads.limit(None):
        assert CREW.size == size and blas_threads() == before


def test_blas_is_held_and_let_go_by_whichever_thread():
    """threadpoolctl by itself listens only to the thread that asked first."""
    before, seen, held = blas_threads(), [], CREW.alone()

    def run():
        with CREW.alone():
            seen.append(blas_threads())

    with CREW.alone():
        pass
    in_a_thread(run)
    assert set(seen[0]) == {1} and blas_threads() == before
    held.__enter__()
    assert set(blas_threads()) == {1}
    in_a_thread(partial(held.__exit__, None, None, None))
    assert blas_threads() == before


def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)


def test_a_limit_ends_with_an_error_too():
    before, size = blas_threads(), CREW.size
    with pytest.raises(ZeroDivisionError), threads.limit(1):
        raise ZeroDivisionError
    assert CREW.size == size and blas_threads() == before


@pytest.mark.parametrize("count", [0, -2])
def test_no_threads_are_refused(count):
    with (
        pytest.raises(UsageError, match=f"{count} threads cannot work; give at least 1"),
        threads.limit(count),
    ):
        pass


def test_with_one_thread_all_is_done_by_the_caller():
    crew, seen = Crew(1), set()
    crew.run([lambda: seen.add(threading.current_thread())] * 20)
    assert seen == {threading.current_thread()}


def test_threads_can_be_changed_while_others_work():
    crew, done, errors = Crew(2), [], []

    def work():
        try:
            for _ in range(50):
                crew.run([lambda: done.append(1)] * 10)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for count in [3, 1, 2, 4] * 10:
        crew.resize(count)
    for worker in workers:
        worker.join(timeout=60)
    assert errors == [] and len(done) == 3 * 50 * 10


def test_helpers_who_are_too_many_end():
    before, crew = set(threading.enumerate()), Crew(3)
    crew.run([lambda: time.sleep(0.001)] * 12)
    helpers = set(threading.enumerate()) - before
    assert len(helpers) == 2
    crew.resize(1)
    for thread in helpers:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in helpers)
    crew.run([lambda: None] * 12)
    assert set(threading.enumerate()) <= before


FORKED = """
import os
from minidnn.kernels.cpu.threads import CREW
CREW.resize(2)
done = []
CREW.run([lambda: done.append(1)] * 5)
if (child := os.fork()) == 0:
    CREW.run([lambda: done.append(1)] * 5)
    os._exit(len(done))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_child_that_was_forked_has_helpers_of_its_own():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "10", done.stderr


FORKED_IN_A_PASS = """
import os
from threadpoolctl import threadpool_info
from minidnn.kernels.cpu import threads
def blas():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
for pool in threads.ThreadpoolController().select(user_api="blas").lib_controllers:
    threads._set_threads(pool, 2)
before = blas()
with threads.CREW.alone():
    if (child := os.fork()) == 0:
        os._exit(0 if blas() == before else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), before, blas())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_child_that_was_forked_in_a_pass_has_blas_as_it_was():
    done = subprocess.run(
        [sys.executable, "-c", FORKED_IN_A_PASS], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["0", "{2}", "{2}"], done.stderr


def test_runs_at_once_share_the_helpers():
    before, crew, most = set(threading.enumerate()), Crew(3), []

    def run():
        crew.run([lambda: time.sleep(0.002)] * 20)
        most.append(len(set(threading.enumerate()) - before))

    users = [threading.Thread(target=run) for _ in range(5)]
    for user in users:
        user.start()
    for user in users:
        user.join(timeout=60)
    assert len(most) == 5 and max(most) <= 5 + 2


def test_nobody_holds_on_to_what_a_job_was_about():
    crew, thing = Crew(3), np.zeros(9)
    held = sys.getrefcount(thing)
    crew.run([partial(np.sum, thing)] * 9)
    assert sys.getrefcount(thing) == held


def test_an_error_in_a_helper_is_raised_in_the_caller():
    crew, caller = Crew(2), threading.current_thread()

    def task():
        if threading.current_thread() is not caller:
            raise ZeroDivisionError("in a helper")
        time.sleep(0.002)

    with pytest.raises(ZeroDivisionError, match="in a helper"):
        crew.run([task] * 1000)


def test_who_fails_keeps_his_desk():
    desks = threads.Desks(object)
    with desks.one() as first:
        pass
    with pytest.raises(ZeroDivisionError), desks.one() as same:
        raise ZeroDivisionError
    with desks.one() as another:
        assert first is same and another is not same


def test_an_error_in_a_step_leaves_the_net_as_good_as_before(monkeypatch):
    net = wholly_by("winograd4", forked(3).astype("float32"))
    image = photo(net).astype("float32")
    res, before = net.init_res(), blas_threads()
    wanted = net.forwardto(res, "out", image).copy()
    calls, real = [], np.matmul

    def failing(*args, **named):
        calls.append(1)
        if len(calls) == 4:
            raise ArithmeticError("in the fourth product")
        return real(*args, **named)

    with monkeypatch.context() as patch, pytest.raises(ArithmeticError, match="fourth product"):
        patch.setattr(np, "matmul", failing)
        net.forwardto(res, "out", image)
    assert blas_threads() == before
    assert np.array_equal(net.forwardto(res, "out", image), wanted)


INTERRUPTED = """
import os, signal, threading, time
import numpy as np
from threadpoolctl import threadpool_info
from minidnn.kernels.cpu.threads import CREW
from minidnn import layers as L
from minidnn.net import Net

def blas():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

rng, before = np.random.default_rng(0), blas()
beside, wrong, stop = [], [], threading.Event()
CREW.resize(3)
net = Net.chain({f"conv{i}": L.Conv.random(rng, 3, 32, 32, pad=1) for i in range(4)})
x = rng.standard_normal((1, 61, 47, 32)).astype("float32")
res = net.init_res()
wanted = net.forwardto(res, "conv3", x).copy()


def run_beside():
    other = net.init_res()
    while not stop.is_set():
        beside.append(1)
        if not np.array_equal(net.forwardto(other, "conv3", x), wanted):
            wrong.append(1)


thread = threading.Thread(target=run_beside if BESIDE else stop.wait)
thread.start()
caught = 0
for number in range(20):
    try:
        threading.Timer(0.005 + 0.002 * number, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            y = net.forwardto(res, "conv3", x)
            net.backwardfrom(res, {"conv3": y})
    except KeyboardInterrupt:
        caught += 1
assert np.array_equal(net.forwardto(res, "conv3", x), wanted)
stop.set()
thread.join()
assert not wrong and (len(beside) > 20 or not BESIDE), (wrong, len(beside))
assert blas() == before, (blas(), before)
print("caught", caught)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="a signal to ourselves")
@pytest.mark.parametrize("beside", [False, True])
def test_ctrl_c_in_the_middle_of_steps_stops_them_and_leaves_all_as_it_was(beside):
    """Also a run that another thread makes at the same time, of the same net: it goes on, with its bits."""
    code = f"BESIDE = {beside}{INTERRUPTED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "caught 20", done.stderr[-2000:]


def stopped_at_line(number, function, work):
    """Do the work, with Ctrl-C when the so-many-th line of that function begins; whether it came so far.

    A `with` has its line a second time when it ends, and there no signal can come: between the last of its
    body and the lock's release Python looks for none.
    """
    lines, (text, first) = iter(range(number + 1)), inspect.getsourcelines(function)

    def trace(frame, event, arg):
        if frame.f_code is not function.__code__ and event == "call":
            return None
        there = text[frame.f_lineno - first].strip() if event == "line" else "with"
        if not there.startswith("with") and next(lines, None) == number:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.parametrize("name", ["run", "_hire"])
def test_ctrl_c_at_any_line_loses_no_helper(name):
    crew, number = Crew(3), 0
    tasks = [partial(time.sleep, 0.0005)] * 6
    while stopped_at_line(number, getattr(Crew, name), lambda: crew.run(tasks)):
        number += 1
        crew.run(tasks)
        assert len(crew._free) == len(crew._staff) == 2, number
    assert number > 3


@pytest.mark.parametrize("name", ["_enter", "_hold", "_leave"])
def test_ctrl_c_at_any_line_leaves_blas_as_it_was(name):
    def work():
        with CREW.alone(), CREW.alone():
            pass

    before, number = blas_threads(), 0
    while stopped_at_line(number, getattr(Crew, name), work):
        number += 1
        assert blas_threads() == before and not CREW._inside, number
    assert number > 3


def test_a_limit_and_a_run_may_end_in_any_order():
    before, run = blas_threads(), CREW.alone()
    run.__enter__()
    with threads.limit(2):
        assert set(blas_threads()) == {1}, "the run goes on"
        run.__exit__(None, None, None)
        assert set(blas_threads()) == {2}
        run = CREW.alone()
        run.__enter__()
    run.__exit__(None, None, None)
    assert blas_threads() == before


def test_nothing_is_started_at_import():
    code = "import threading, minidnn; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
