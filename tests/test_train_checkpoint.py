"""A run in a file: gone on with, it is the uninterrupted run, bit for bit, whatever ended it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from minidnn import optim
from minidnn.errors import DamagedFileError, DivergedError, FileFormatError, MismatchError, OutputError
from minidnn.train import checkpoint
from minidnn.train.augment import Crop, Noise
from minidnn.train.fit import State, Way, fit
from minidnn.train.schedules import Cosine, Plateau
from tests.test_train_fit import data, small

WAY = Way(
    epochs=3,
    batch=16,
    optimiser=optim.Adam(0.01),
    schedule=Cosine(warm_up=1),
    augment=(Crop(1), Noise(5)),
    weight_penalty=1e-3,
    clip=1.0,
)


def same(one, other) -> bool:
    mine, theirs = one.params | one.buffers, other.params | other.buffers
    return all(np.array_equal(mine[name], theirs[name]) for name in mine)


def untimed(history):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in history]


@pytest.mark.parametrize("steps", [1, 4, 6, 11])
@pytest.mark.parametrize(
    "way", [WAY, replace(WAY, optimiser=optim.SlideMomentum(0.02), schedule=Plateau(patience=1))]
)
def test_a_run_that_is_resumed_is_the_uninterrupted_one(tmp_path, way, steps):
    whole, parts = small(drop=True), data()
    *_, last = fit(whole, parts, way)
    begun, path = small(drop=True), tmp_path / "run.npz"
    *_, record = islice(fit(begun, parts, way), steps)
    checkpoint.save(path, begun, record.state, {"recipe": {"net": "small"}})
    found = checkpoint.load(path)
    assert found.about == {"recipe": {"net": "small"}}
    other = found.into(small(seed=5, drop=True))
    *_, end = fit(other, parts, way, state=found.state)
    assert same(other, whole) and untimed(end.state.history) == untimed(last.state.history)


KILLED = """
import sys
from tests.test_train_checkpoint import WAY, checkpoint, data, fit, small
net = small(drop=True)
for record in fit(net, data(), WAY):
    checkpoint.save(sys.argv[1], net, record.state, {})
    print(record.epoch, record.batch, flush=True)
"""


def test_after_kill_9_a_run_goes_on_to_the_same_weights(tmp_path):
    path = tmp_path / "run.npz"
    run = [sys.executable, "-c", KILLED, str(path)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        for _ in range(5):
            process.stdout.readline()
        time.sleep(0.003)  # somewhere in a step, or in writing
        os.kill(process.pid, signal.SIGKILL)
    found = checkpoint.load(path)
    assert (found.state.epoch, found.state.batch) >= (1, 1) and process.returncode == -signal.SIGKILL
    whole, resumed = small(drop=True), found.into(small(drop=True))
    list(fit(whole, data(), WAY))
    list(fit(resumed, data(), WAY, state=found.state))
    assert same(resumed, whole)


def test_the_file_holds_copies_and_the_net_goes_on(tmp_path):
    net, path = small(), tmp_path / "run.npz"
    run = fit(net, data(), WAY)
    record = next(run)
    checkpoint.save(path, net, record.state, {})
    before = net.params["fc/w"].copy()
    next(run)
    assert np.array_equal(checkpoint.load(path).weights["fc/w"], before)
    assert not np.array_equal(net.params["fc/w"], before)


def test_the_checkpoint_of_another_net(tmp_path):
    checkpoint.save(tmp_path / "run.npz", small(), State(), {})
    with pytest.raises(
        MismatchError, match=r"of another net: 'fc/b' is \(3,\), expected \(4,\); resume with"
    ):
        checkpoint.load(tmp_path / "run.npz").into(small(classes=4))


def test_files_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(FileFormatError, match="no such file"):
        checkpoint.load(path)
    checkpoint.save(path, small(), State(), {})
    whole = path.read_bytes()
    for cut in (10, 1000, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedFileError, match=r"run.npz"):
            checkpoint.load(path)
    np.savez(path, weights=np.ones(3))
    with pytest.raises(DamagedFileError, match="no whole checkpoint"):
        checkpoint.load(path)
    told = np.frombuffer(b'{"kind": "minidnn-dream"}', np.uint8)
    np.savez(path, told=told)
    with pytest.raises(MismatchError, match="no checkpoint of a training run"):
        checkpoint.load(path)
    np.savez(path, told=np.frombuffer(b'{"kind": "minidnn-training", "version": 2}', np.uint8))
    with pytest.raises(FileFormatError, match="version 2, this minidnn reads 1; update it"):
        checkpoint.load(path)
    deep = (
        b'{"kind": "minidnn-training", "version": 1, "state": '
        + b'{"dict": {"a": ' * 40
        + b"1"
        + b"}}" * 40
        + b"}"
    )
    np.savez(path, told=np.frombuffer(deep, np.uint8))
    with pytest.raises(DamagedFileError, match="nested deeper than 20"):
        checkpoint.load(path)


def test_weights_that_are_not_finite_do_not_replace_a_good_checkpoint(tmp_path):
    net, path = small(), tmp_path / "run.npz"
    checkpoint.save(path, net, State(), {})
    before = path.read_bytes()
    with net.updating() as weights:
        weights["fc/w"][0, 0, 0, 0] = np.inf
    with pytest.raises(
        DivergedError, match="'fc/w' has values that are not finite; the checkpoint before stays"
    ):
        checkpoint.save(path, net, State(), {})
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    checkpoint.save(path, small(), State(), {})
    before = path.read_bytes()

    def full(*_args, **_arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        checkpoint.save(path, small(), State(epoch=1), {})
    assert path.read_bytes() == before
