"""A dream as a job: told in JSON, done again bit for bit, laid down in a file and taken up again."""

from __future__ import annotations

import json
import zipfile
from contextlib import suppress
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from minidnn import images, weights
from minidnn.dream import Frame
from minidnn.errors import (
    DamagedFileError,
    FileFormatError,
    MinidnnError,
    MismatchError,
    TooLargeError,
    UsageError,
)
from minidnn.recipes import checkpoint
from minidnn.recipes.checkpoint import Checkpoint
from minidnn.recipes.deepdream import DeepDream
from minidnn.recipes.job import Job, mask_from, net_called, picture_digest
from tests.dreamers import SIZE, photo, quick, saved


def test_a_job_survives_json(tmp_path):
    job = replace(quick(layers=("conv1", 3), smooth=(), rate=0.7), photo=photo(tmp_path), start="noise")
    assert Job.from_json(json.loads(json.dumps(job.as_json()))) == job
    assert Job.from_json(json.loads(json.dumps(Job().as_json()))) == Job()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"phtoo": None}, "no setting 'phtoo'; did you mean 'photo'"),
        ({"settings": {"stpes": 3}}, "no setting 'stpes'; did you mean 'steps'"),
        ({"settings": []}, "settings are"),
        ({"settings": {"steps": "3"}}, "setting steps is '3'; it should be"),
        ({"settings": {"steps": True}}, "setting steps is True"),
        ({"settings": {"tv": "much"}}, "setting tv is 'much'"),
        ({"settings": {"layers": [["conv1"]]}}, "setting layers is"),
        ({"settings": {"window_share": [1]}}, "setting window_share is"),
        ({"settings": {"octaves": 10**6}}, "octaves 1000000; give"),
        ({"net": 5}, "setting net is 5"),
        ({"photo": ["a"]}, "setting photo is"),
        ({"size": [3, 4, 5]}, "setting size is"),
        ({"size": [0, 4]}, "give at least 1x1"),
        ({"start": "grey"}, "start 'grey'; there are photo and noise"),
    ],
    ids=str,
)
def test_what_a_stranger_tells_is_looked_at(told, words):
    with pytest.raises(UsageError, match=words):
        Job.from_json({"settings": {}} | told)


def test_more_pixels_or_steps_than_anybody_wants():
    with pytest.raises(TooLargeError, match="the limit is 64,000,000: dream a smaller picture"):
        Job(size=(10**6, 10**6))
    with pytest.raises(UsageError, match="a dream of 60,000 steps; give at most 50,000"):
        quick(steps=20_000).opened()


def test_where_it_begins(tmp_path):
    path = photo(tmp_path, size=(31, 47))
    assert Job(photo=path).opened().picture.shape == (1, 31, 47, 3)
    assert Job(photo=path, size=(20, 26)).opened().picture.shape == (1, 20, 26, 3)
    noise = Job(photo=path, start="noise").opened().picture
    assert noise.shape == (1, 31, 47, 3) and noise.dtype == np.float32 and 10 < noise.std() < 14
    other = Job(photo=path, start="noise", settings=DeepDream(seed=1)).opened().picture
    assert not np.array_equal(noise, other)


def test_no_such_photo(tmp_path):
    photo(tmp_path, "sky.png")
    with pytest.raises(FileFormatError, match=r"No such file or directory; did you mean 'sky.png'"):
        Job(photo=str(tmp_path / "skye.png")).opened()


def test_of_an_animation_the_first_frame(tmp_path):
    from minidnn.images import films

    first, second = (images.clouds_over_hills(20, 26, seed=seed) for seed in (1, 2))
    films.save(tmp_path / "film.gif", [first, second])
    picture = Job(photo=str(tmp_path / "film.gif")).opened().picture
    assert np.abs(picture - first).mean() < 8 < np.abs(picture - second).mean()


def test_a_mask_of_another_size_and_in_colour(tmp_path):
    white_left = np.zeros((1, 9, 12, 3), "float32")
    white_left[:, :, :6] = 255
    images.save(tmp_path / "mask.png", white_left)
    mask = mask_from(str(tmp_path / "mask.png"), SIZE)
    assert mask.shape == (1, *SIZE, 1) and mask.min() == 0 and mask.max() == 1
    opened = replace(quick(), mask=str(tmp_path / "mask.png")).opened()
    *_, last = opened.frames()
    moved = np.abs(last.picture - opened.picture).max(axis=(0, 1, 3))
    assert moved[:12].min() > 0 and moved[-12:].max() == 0, "white moves, black stays"


def test_nets_to_dream_with(tmp_path):
    assert net_called(saved(tmp_path)).classes[3] == "matchstick"
    with pytest.raises(UsageError, match="vgg16 knows nothing yet: give a file with its weights"):
        net_called("vgg16")
    with pytest.raises(UsageError, match="no net and no file 'gabro'; did you mean 'gabor'"):
        net_called("gabro")
    with pytest.raises(FileFormatError, match="no such file"):
        net_called(str(tmp_path / "none.h5"))


def test_a_photo_may_be_moved_while_it_is_dreamed(tmp_path):
    path = photo(tmp_path)
    opened = replace(quick(), photo=path).opened()
    (tmp_path / "photo.png").unlink()
    assert json.loads(opened.told(["abc"]))["files"].keys() == {"photo"}


def test_digests_tell_single_bits_apart():
    picture = images.clouds_over_hills(4, 5)
    other = picture.copy()
    other[0, 1, 2, 0] = np.nextafter(other[0, 1, 2, 0], np.float32(0))
    assert picture_digest(picture) == picture_digest(picture[:, :, ::-1][:, :, ::-1])
    assert picture_digest(picture) != picture_digest(other)


# Checkpoints.


def there(job, steps):
    """A checkpoint after so many steps."""
    opened = job.opened()
    frames = list(islice(opened.frames(), steps))
    history = [{name: getattr(frame, name) for name in checkpoint.MEASURED} for frame in frames]
    for row, frame in zip(history, frames, strict=True):
        row["digest"] = picture_digest(frame.picture)
    return Checkpoint(opened.job, weights.digest(opened.net), opened.files, frames[-1], history)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rule": "adam", "rate": 2.0, "window": "random"},
        {"rule": "lbfgs", "rate": 0.3, "smooth": (), "colours": 0.0, "jitter": 0},
        {"canvas": "fourier", "turn": 4.0},
        {"canvas": "cppn"},
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_dream_goes_on_bit_for_bit(tmp_path, settings, steps):
    job = quick(octaves=2, **settings)
    whole = [picture_digest(frame.picture) for frame in job.opened().frames()]
    checkpoint.save(tmp_path / "there.npz", there(job, steps))
    found = checkpoint.load(tmp_path / "there.npz")
    assert [row["digest"] for row in found.history] == whole[:steps]
    rest = [picture_digest(frame.picture) for frame in found.job.opened().frames(found.frame)]
    assert rest == whole[steps:]


def test_a_dream_goes_on_on_every_device(tmp_path, device):
    checkpoint.save(tmp_path / "there.npz", there(quick(rule="adam", octaves=2), 1))
    found = checkpoint.load(tmp_path / "there.npz", device)
    assert len(list(found.job.opened(device).frames(found.frame))) == 3


def test_a_dream_that_was_done_has_no_more_frames(tmp_path):
    checkpoint.save(tmp_path / "there.npz", there(quick(octaves=1), 2))
    found = checkpoint.load(tmp_path / "there.npz")
    assert list(found.job.opened().frames(found.frame)) == []


def test_other_weights_or_pictures_than_it_began_with(tmp_path):
    job = replace(quick(layers=("conv1",)), net=saved(tmp_path), photo=photo(tmp_path))
    found, opened = there(job, 1), job.opened()
    digest = weights.digest(opened.net)
    checkpoint.check("c.npz", found, opened, digest)
    other = replace(job, net=saved(tmp_path, seed=6)).opened()
    with pytest.raises(
        MismatchError, match=r"c\.npz: began with other weights than those in .*classy6.h5 now"
    ):
        checkpoint.check("c.npz", found, other, weights.digest(other.net))
    photo(tmp_path, seed=3)
    with pytest.raises(MismatchError, match=r"photo\.png is another photo now than it began with"):
        checkpoint.check("c.npz", found, job.opened(), digest)
    far = found._replace(frame=replace(found.frame, octave=7))
    with pytest.raises(MismatchError, match="is not one of this dream"):
        checkpoint.check("c.npz", far, opened, digest)


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(FileFormatError, match="no such file; a dream writes one with --checkpoint"):
        checkpoint.load(tmp_path / "none.npz")
    path = tmp_path / "other.npz"
    for write in (
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"\x93NUMPY" + bytes(90)),
        lambda: path.write_bytes(b"PK\x03\x04" + bytes(60)),
        lambda: np.savez(path, told=np.zeros(3)),
        lambda: np.savez(path, told=np.frombuffer(b"[" * 100_000, np.uint8)),
        lambda: np.savez(path, told=np.array([{"a": 1}], dtype=object), allow_pickle=True),
    ):
        write()
        with pytest.raises(
            DamagedFileError, match=r"no checkpoint of a dream, or damaged .*begin the dream anew"
        ):
            checkpoint.load(path)


def test_a_file_that_claims_to_hold_more_than_it_has(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("told.npy", bytes(10_000_000))
    assert path.stat().st_size < 20_000
    with pytest.raises(DamagedFileError, match="claims to hold more than it has"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.pop("files"),
        lambda told: told["frame"].pop("number"),
        lambda told: told["frame"].update(extra=1),
        lambda told: told["state"]["dict"].pop("rng"),
        lambda told: told["state"]["dict"].update(rng={"dict": {"bit_generator": "PCG64"}}),
        lambda told: told["state"]["dict"].update(start={"array": "array99"}),
        lambda told: told["state"]["dict"].update(start=3),
        lambda told: told["history"].append({}),
        lambda told: told["history"].append(5),
        lambda told: told["history"][0].update(value="large"),
        lambda told: told["job"].update(net=["a"]),
        lambda told: told["job"]["settings"].update(steps=-1),
    ],
)
def test_a_checkpoint_that_somebody_has_edited(tmp_path, change):
    path = tmp_path / "there.npz"
    checkpoint.save(path, there(quick(octaves=1), 1))
    with np.load(path) as file:
        arrays = dict(file)
    told = json.loads(arrays["told"].tobytes())
    change(told)
    arrays["told"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(MinidnnError, match=r"there\.npz|setting|steps"):
        checkpoint.load(path)


def test_any_damage_is_told_in_words(tmp_path):
    path, rng = tmp_path / "there.npz", np.random.default_rng(0)
    checkpoint.save(path, there(Job(size=(12, 15), settings=DeepDream(steps=1, octaves=1)), 1))
    whole = path.read_bytes()
    for _ in range(60):
        hurt = bytearray(whole)
        hurt[rng.integers(len(hurt))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(hurt) if rng.random() < 0.7 else whole[: rng.integers(len(whole))])
        with suppress(MinidnnError):
            assert isinstance(checkpoint.load(path).frame, Frame)
