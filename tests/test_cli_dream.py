"""The commands that dream: what they write, what they say, and every way to get them wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidnn import images, weights, zoo
from minidnn.cli import dream as command
from minidnn.cli import outputs, replay
from minidnn.cli.main import main
from minidnn.cli.settings import changed, from_toml, from_words, size_of
from minidnn.errors import FileFormatError, OutputError, UsageError
from minidnn.images import films
from minidnn.recipes import forecast, memory
from minidnn.recipes.deepdream import DeepDream
from tests.dreamers import photo, saved

QUICK = ("--net", "gabor", "--steps", "1", "--octaves", "2", "--layer", "relu1", "--size", "28x34")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test writes into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys, *argv, code=0):
    """What a command says, to whichever side; the bar is left out."""
    assert main(list(argv)) == code, capsys.readouterr().err
    out, err = capsys.readouterr()
    return out if not code else out + "\n".join(line for line in err.splitlines() if "step/s" not in line)


def dreamed(capsys, *argv, code=0):
    return told(capsys, "dream", *QUICK, *argv, code=code)


# What is written.


def test_without_a_photo_a_landscape_is_drawn_and_dreamed(capsys):
    out = dreamed(capsys, "-o", "new/dream.png", "--steps", "3")
    assert re.fullmatch(
        r"wrote new/dream.png: 34x28 pixels, 6 steps in [\d.]+ s, at the last size z grew [\d.]+ times\n", out
    )
    picture = images.load("new/dream.png")
    assert picture.shape == (1, 28, 34, 3)
    assert 1 < np.abs(picture - images.clouds_over_hills(28, 34)).mean() < 30


def test_one_step_is_told_as_one(capsys):
    assert " 1 step in" in dreamed(capsys, "--octaves", "1")


def test_a_dream_tells_how_z_grew(capsys):
    out = dreamed(capsys, "--steps", "4", "--octaves", "1", "--set", "jitter=0")
    grew = float(re.search(r"z grew ([\d.]+) times", out)[1])
    net, start = zoo.get("gabor"), images.clouds_over_hills(28, 34)

    def z(picture):
        return float((net.forwardto(net.init_res(), "relu1", picture - 128) ** 2).sum())

    assert grew > 1 and z(images.load("dream.png")) > grew * z(start) * 0.9


@pytest.mark.parametrize("ending", [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif"])
def test_pictures_in_every_form(capsys, ending):
    dreamed(capsys, "-o", f"d{ending}")
    assert images.load(f"d{ending}").shape == (1, 28, 34, 3)


def test_the_same_seed_gives_the_same_pixels(capsys):
    for name, seed in [("a", "3"), ("b", "3"), ("c", "4")]:
        dreamed(capsys, photo(Path()), "-o", f"{name}.png", "--seed", seed)
    a, b, c = (images.load(f"{name}.png") for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_from_noise_with_a_mask_and_with_a_guide(capsys):
    white_below = np.zeros((9, 7), "float32")
    white_below[5:] = 255
    images.save("mask.png", white_below)
    photo(Path(), "other.png", (23, 51), seed=8)
    dreamed(capsys, photo(Path()), "--mask", "mask.png", "-o", "masked.png")
    moved = np.abs(images.load("masked.png") - np.rint(images.load("photo.png"))).max(axis=(0, 2, 3))
    assert moved[:12].max() == 0 < moved[-8:].min()
    for kind in ("guide", "match"):
        dreamed(capsys, "--guide", "other.png", "--objective", kind, "-o", f"{kind}.png")
    dreamed(capsys, "--from", "noise", "-o", "noise.png")
    assert 110 < images.load("noise.png").mean() < 145


def test_of_an_animation_the_first_frame(capsys):
    films.save("film.gif", [images.clouds_over_hills(28, 34, seed=seed) for seed in (1, 2)])
    dreamed(capsys, "film.gif", "-o", "d.png")


def test_preview_writes_on_the_way(capsys, monkeypatch):
    written = []
    save = images.save
    monkeypatch.setattr(
        images, "save", lambda path, *a, **k: (written.append(str(path)), save(path, *a, **k))
    )
    dreamed(capsys, "--steps", "3", "--preview", "2", "-o", "d.png")
    assert written == ["d.png"] * (3 + 1), "of six steps every second, and the last"


def test_a_plot_a_strip_and_a_report(capsys):
    pytest.importorskip("matplotlib")
    dreamed(capsys, "--plot", "p.svg", "--strip", "s.png", "--report", "r.html")
    assert Path("p.svg").read_text().startswith("<?xml")
    assert images.load("s.png").shape[2] > 400
    assert "<h1>A dream of relu1</h1>" in Path("r.html").read_text(encoding="utf-8")


def test_the_microscope_says_why(capsys):
    out = dreamed(capsys, "--microscope")
    assert "The channels of relu1 that rose most, in deviations of all of them: " in out
    assert "What rose most in relu1\n  channel  before" in out
    assert "Pixels at the end of their range" in out
    out = imagined(capsys, "2", "--microscope", "-o", "bee.png")
    assert "What gained most is " in out and "What the net takes it for" in out


def test_a_rule_that_goes_without_the_defaults_says_so(capsys):
    words = "rule lbfgs learns from how gradients change: without jitter, colours, smooth"
    for option in ([], ["--dry-run"]):
        assert words in dreamed(capsys, "--set", "rule=lbfgs", *option)
    assert "would take turn for curvature" in dreamed(
        capsys, "--set", "rule=lbfgs", "--set", "turn=3", code=2
    )


def test_a_dry_run_says_what_and_how_much_and_writes_nothing(capsys):
    out = dreamed(capsys, "--dry-run", "-o", "new/d.png", "--objective", "norm + channel:3(5)")
    assert "squared_norm(relu1) + channel 3(relu2) at relu1 (layer 2), relu2 (layer 5)" in out
    assert "1 steps at each of 24x20, 34x28 pixels: 2 in all" in out
    assert re.search(r"about \d+ s, \d\.\d\d GB at its largest", out)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("canvas", ["fourier", "cppn"])
def test_other_canvases_by_set(capsys, canvas):
    dreamed(capsys, "--set", f"canvas={canvas}")


# What is wrong, said before the work.


@pytest.mark.parametrize(
    ("argv", "words", "code"),
    [
        (["--steps", "0"], "steps 0; give 1 to", 2),
        (["--steps", "-2"], "steps -2; give 1 to", 2),
        (["--octaves", "0"], "octaves 0; give 1 to", 2),
        (["--set", "rate=nan"], "rate nan", 2),
        (["--set", "rate=-1"], "rate -1", 2),
        (["--seed", "-1"], "seed -1; give 0", 2),
        (["--set", "tv"], "--set tv: give it as name=value", 2),
        (["--set", "tvv=1"], "no setting 'tvv'; did you mean 'tv'", 2),
        (["--set", "flip=maybe"], "flip=maybe: give it like its default, flip=false", 2),
        (["--size", "3x"], "--size 3x: give it as 480x640, height first", 2),
        (["--size", "0"], "--size 0", 2),
        (["--size", "99999x99999"], "the limit is 64,000,000", 3),
        (["--layer", "relu3"], "no layer 'relu3'; did you mean 'relu", 3),
        (["--layer", "9"], "no layer 9: this net has 0 (data) to 5", 3),
        (["--objective", "nrm"], "no objective 'nrm'; there are norm, .*; did you mean 'norm'", 2),
        (["--objective", "channel:24"], "'relu1' has 24 channels, 0 to 23", 2),
        (
            ["--objective", "neuron:1@28,5"],
            "is a map of 28x34 for a picture of 28x34, it has no place 28,5",
            2,
        ),
        (["--objective", "class:bee"], "the net knows no names of classes", 2),
        (["--objective", "class:3"], None, 0),
        (["--objective", "probability:3"], "ends in 'relu2', which is no softmax", 2),
        (["--max-memory", "1KB"], "the least that a step of 34x28 takes is about", 3),
        (["--objective", "guide"], "wants a guide picture: --guide PHOTO", 2),
        (["--guide", "g.png"], "--guide says nothing to the objective norm", 2),
        (["--objective", "guide", "--guide", "g.png"], "g.png: No such file", 3),
        (["--mask", "m.png"], "m.png: No such file", 3),
        (["nowhere.png"], "nowhere.png: No such file", 3),
        (["--net", "vgg16"], "vgg16 knows nothing yet", 2),
        (["--net", "mine.h5"], "mine.h5: no such file", 3),
        (["--settings", "mine.toml"], "mine.toml: No such file", 3),
        (["--preview", "0"], "--preview 0: give at least 1", 2),
        (["--resume", "c.npz"], "leave out --net, --layer, --steps, --octaves, --size", 2),
        (["-o", "d.xyz"], "--output d.xyz: end the name in .png", 2),
        (["--plot", "p.png"], "--plot p.png: end the name in .svg", 2),
        (["--strip", "s.svg"], "--strip s.svg: end the name in .png", 2),
        (["--report", "r.pdf"], "--report r.pdf: end the name in .html", 2),
        (["-o", "a.png", "--strip", "./a.png"], "a.png is asked for twice", 2),
        (["-o", "file/d.png"], "file/d.png: file is a file; choose another", 6),
        (["-o", f"{'d' * 300}.png"], "File name too long", 6),
        (["-o", "folder.png"], "folder.png: is a directory", 6),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_the_work(capsys, monkeypatch, argv, words, code):
    Path("file").write_text("")
    Path("folder.png").mkdir()
    monkeypatch.setattr(command, "watch", lambda *_, **__: pytest.fail("the work began"))
    if words is None:
        with pytest.raises(pytest.fail.Exception):
            dreamed(capsys, *argv)
        return
    assert re.search(words.replace("(", r"\(").replace(")", r"\)"), dreamed(capsys, *argv, code=code))
    assert sorted(path.name for path in Path().iterdir()) == ["file", "folder.png"]


def test_nothing_is_written_over_what_is_read(capsys):
    photo(Path())
    before = Path("photo.png").read_bytes()
    for option, name in [([], "photo"), (["--mask", "photo.png"], "photo")]:
        out = dreamed(capsys, "photo.png", *option, "-o", "./photo.png", code=2)
        assert f"photo.png is the {name} itself: write the dream to another file" in out
    guided = ["--objective", "match", "--guide", "photo.png"]
    assert "is the guide itself" in dreamed(capsys, *guided, "--strip", "photo.png", code=2)
    net = saved(Path())
    out = told(capsys, "dream", "--net", net, "--size", "33x29", "--checkpoint", net, code=2)
    assert "is the net itself" in out
    assert Path("photo.png").read_bytes() == before


def test_plots_without_matplotlib_say_so(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for option in (["--plot", "p.svg"], ["--report", "r.html"]):
        assert "plots want matplotlib: pip install 'minidnn[plot]'" in dreamed(capsys, *option, code=2)


def test_a_gpu_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "CuPy" in dreamed(capsys, "--device", "cuda", code=5)


def test_too_big_for_the_memory(capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 1_000_000_000)
    monkeypatch.setattr(forecast, "forecast", lambda opened: forecast.Forecast(9, 1.6e9))
    monkeypatch.setattr(command, "watch", lambda *_, **__: pytest.fail("the work began"))
    out = dreamed(capsys, "--size", "600x700", code=3)
    assert "needs about 1.6 GB, 1.0 GB are free: dream it smaller, --size 427x498, or in tiles" in out
    assert out.rstrip().endswith("--max-memory 0.8GB")
    monkeypatch.setattr(memory, "free_memory", lambda: 50_000_000)
    monkeypatch.setattr(images, "clouds_over_hills", lambda *_, **__: pytest.fail("it was drawn"))
    out = dreamed(capsys, "--size", "600x700", code=3)
    assert "needs about 0.1 GB, 0.1 GB are free: dream it smaller, --size 4" in out and "tiles" not in out


def test_a_picture_smaller_than_the_net_needs(capsys):
    out = told(capsys, "dream", "--net", saved(Path()), "--size", "4x5", code=3)
    assert "the smallest square image that gets this far is" in out


# Divergence.


def test_too_large_steps_from_the_start_write_nothing(capsys):
    out = dreamed(capsys, "--set", "rate=1e10", code=7)
    assert "step 1 moved the pixels by" in out
    assert not Path("dream.png").exists()


def test_a_dream_that_diverges_later_keeps_its_last_good_picture(capsys, monkeypatch):
    from minidnn.dream import loop

    check, steps = loop.checked_move, []

    def diverges_at_the_third(move, number):
        steps.append(number)
        if len(steps) == 3:
            raise loop.DivergedError(f"step {number} was a leap")
        return check(move, number)

    monkeypatch.setattr(loop, "checked_move", diverges_at_the_third)
    out = dreamed(capsys, "--steps", "4", "--octaves", "1", "--checkpoint", "c.npz", code=7)
    assert "2 steps in" in out and "step 3 was a leap" in out
    assert len(replay.note_of("dream.png").steps) == 2


def test_an_even_grey_says_nothing_to_the_net(capsys):
    images.save("grey.png", np.full((30, 40, 3), 128.0))
    out = dreamed(capsys, "grey.png", code=7)
    assert "has no gradient on this picture" in out and not Path("dream.png").exists()


# Settings.


def listed(value):
    return value if isinstance(value, tuple) else (value,)


def test_every_setting_can_be_set_in_words():
    others = {"rule": "adam", "canvas": "fourier", "window": "random", "blur_border": "matlab"}
    others |= {"objective": "strongest:3", "layers": "3,conv1", "smooth": "1,2.5", "window_share": "0.1,0.2"}
    others |= {"steps": "7", "octaves": "2", "rate": "0.5", "jitter": "3", "seed": "9", "blur_every": "4"}
    others |= {"flip": "true", "slide": "True", "factor": "1.7", "tv_exponent": "2", "max_memory": "3GB"}
    for setting in fields(DeepDream):
        words = others.get(setting.name, "0.25")
        (found,) = from_words([f"{setting.name}={words}"]).items()
        value = getattr(changed(DeepDream(), dict([found])), setting.name)
        assert value != getattr(DeepDream(), setting.name)
        text = ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in listed(value))
        assert text.lower() == words.lower()


def test_settings_in_a_toml_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('layers = ["conv1", 2]\nsteps = 7\nsmooth = []\nflip = true\ntv = 3\nrate = 0.5\n')
    found = changed(DeepDream(), from_toml(str(path)))
    assert found == DeepDream(layers=("conv1", "2"), steps=7, smooth=(), flip=True, tv=3.0, rate=0.5)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("steps = inf", "steps=inf: give it like its default, steps=15"),
        ("steps = 2.5", "steps=2.5"),
        ("steps = true", "steps=True"),
        ("steps = [3]", "steps="),
        ("smooth = 1", "smooth=1"),
        ("flip = 1", "flip=1"),
        ("tv = 2026-01-01", "tv=2026"),
        ("rate = 'fast'", "rate=fast"),
        ("stepz = 3", "no setting 'stepz'; did you mean 'steps'"),
        ("[steps]\nn = 3", "steps="),
        ("window_share = [0.5]", "window_share"),
    ],
)
def test_settings_that_are_not_like_their_default(tmp_path, toml, words):
    path = tmp_path / "mine.toml"
    path.write_text(toml)
    with pytest.raises(UsageError, match=words):
        changed(DeepDream(), from_toml(str(path)))


def test_files_that_are_not_toml(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"steps : 3")
    with pytest.raises(FileFormatError, match=r"not TOML .*; a line is name = value"):
        from_toml(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FileFormatError, match="not TOML"):
        from_toml(str(tmp_path / "mine.toml"))
    with pytest.raises(FileFormatError, match="Is a directory"):
        from_toml(str(tmp_path))


def test_options_count_more_than_set_and_set_more_than_the_file(capsys):
    Path("mine.toml").write_text("steps = 9\njitter = 7\nturn = 2\n")
    asked = ["--settings", "mine.toml", "--set", "steps=8", "--set", "jitter=5", "--steps", "2"]
    dreamed(capsys, *asked)
    found = replay.note_of("dream.png").job.settings
    assert (found.steps, found.jitter, found.turn, found.octaves) == (2, 5, 2.0, 2)


def test_sizes_in_words():
    assert (size_of("480x640"), size_of("224"), size_of(None)) == ((480, 640), (224, 224), None)


# Folders.


def test_a_folder_of_photos(capsys):
    Path("in").mkdir()
    for seed, name in enumerate(["b.png", "a.jpg"]):
        photo(Path("in"), name, seed=seed)
    Path("in/notes.txt").write_text("")
    out = dreamed(capsys, "in", "-o", "out")
    assert out.splitlines() == ["wrote out/a.png (1 of 2)", "wrote out/b.png (2 of 2)"]
    alone = told(capsys, "dream", "in/b.png", *QUICK, "-o", "b.png")
    assert alone and not np.array_equal(images.load("b.png"), images.load("out/b.png")), "some of a is in b"
    dreamed(capsys, "in", "-o", "out", "--set", "blend=0")
    assert np.array_equal(images.load("b.png"), images.load("out/b.png"))


def test_a_broken_photo_in_a_folder_is_known_before_the_first_is_dreamed(capsys):
    Path("frames").mkdir()
    photo(Path("frames"), "a.png")
    Path("frames/b.png").write_bytes(b"no picture")
    assert "b.png: no picture that we read" in told(capsys, "dream", "frames", "-o", "out", code=3)
    assert not Path("out").exists()


def test_folders_that_cannot_be(capsys):
    Path("in").mkdir()
    assert "in: no photos in it; they end in" in dreamed(capsys, "in", "-o", "out", code=2)
    photo(Path("in"), "a.png")
    assert "need a folder of their own" in dreamed(capsys, "in", code=2)
    assert "need a folder of their own" in dreamed(capsys, "in", "-o", "./in", code=2)
    out = dreamed(capsys, "in", "-o", "out", "--dry-run", "--plot", "p.svg", code=2)
    assert "in is a folder, and --dry-run, --plot is for one picture" in out
    photo(Path("in"), "a.jpg")
    assert "several photos are called a" in dreamed(capsys, "in", "-o", "out", code=2)
    Path("in/a.jpg").unlink()
    Path("taken").write_text("")
    assert "cannot make the folder taken" in dreamed(capsys, "in", "-o", "taken", code=6)


# Stopping, and going on. These are processes of their own, with real signals.

SLOW = """
import sys, time
from minidnn.cli import dream, main
from minidnn.dream import octaves
dream.CHECKPOINT_SECONDS = 0.0
whole = octaves.dream
def slow(*args, **settings):
    for frame in whole(*args, **settings):
        print("step", flush=True)
        time.sleep(PAUSE)
        yield frame
octaves.dream = slow
sys.exit(main.main(sys.argv[1:]))
"""
posix = pytest.mark.skipif(os.name != "posix", reason="signals of another kind")


def slowly(seconds, *argv):
    """A process that dreams, sleeping after each step; it has made the first one when this is back."""
    command = [sys.executable, "-c", SLOW.replace("PAUSE", str(seconds)), "dream", *QUICK, *argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "step\n"
    return process


@posix
def test_ctrl_c_finishes_the_step_and_keeps_the_picture():
    process = slowly(0.3, "--steps", "50", "-o", "d.png", "--checkpoint", "c.npz")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "wrote d.png" in out and "stopped early" in out
    assert "stopping after this step; Ctrl-C again stops at once" in err and "Traceback" not in err
    assert 1 <= len(replay.note_of("d.png").steps) < 50 and Path("c.npz").exists()


@posix
def test_ctrl_c_twice_stops_at_once():
    process = slowly(30, "--steps", "50", "-o", "d.png")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 15
    assert "minidnn: stopped" in err and "Traceback" not in err
    assert not Path("d.png").exists()


@posix
def test_after_a_kill_the_dream_goes_on_bit_for_bit(capsys):
    process = slowly(0.05, "--steps", "6", "-o", "d.png", "--checkpoint", "c.npz")
    for _ in range(4):
        process.stdout.readline()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not Path("d.png").exists()
    assert "12 steps in" in told(capsys, "dream", "--resume", "c.npz", "-o", "resumed.png")
    dreamed(capsys, "--steps", "6", "-o", "whole.png")
    assert replay.note_of("resumed.png").steps == replay.note_of("whole.png").steps
    assert np.array_equal(images.load("resumed.png"), images.load("whole.png"))
    assert told(capsys, "replay", "resumed.png") == "all 12 steps are the same, bit for bit\n"


def test_what_cannot_be_resumed(capsys):
    net = saved(Path())
    asked = ["--net", net, "--layer", "conv1", "--size", "33x29", "--steps", "1", "--octaves", "1"]
    told(capsys, "dream", *asked, "--checkpoint", "c.npz")
    told(capsys, "dream", "--resume", "c.npz", "-o", "again.png")
    Path(saved(Path(), seed=6)).replace(net)
    assert "began with other weights" in told(capsys, "dream", "--resume", "c.npz", code=3)
    assert "no such file; a dream writes one" in told(capsys, "dream", "--resume", "d.npz", code=3)
    Path("c.npz").write_bytes(Path("c.npz").read_bytes()[:-40])
    assert "no checkpoint of a dream, or damaged" in told(capsys, "dream", "--resume", "c.npz", code=3)
    assert "leave out photo, --from" in told(
        capsys, "dream", "x.png", "--from", "noise", "--resume", "c.npz", code=2
    )


# Replay.


@pytest.fixture
def written(capsys):
    dreamed(capsys, photo(Path()), "-o", "d.png", "--set", "window=random")
    return replay.note_of("d.png")


def noted(change, path="d.png"):
    """The same picture with another note."""
    note = json.loads(images.note_in(path, "minidnn"))
    change(note)
    images.save("changed.png", images.load(path), text={"minidnn": json.dumps(note)})


def test_a_picture_can_be_made_again(capsys, written):
    assert told(capsys, "replay", "d.png", "-o", "again.png") == "all 2 steps are the same, bit for bit\n"
    assert np.array_equal(images.load("again.png"), images.load("d.png"))
    assert "is the photo itself" in told(capsys, "replay", "d.png", "-o", "photo.png", code=2)


def test_the_first_step_that_differs_is_told(capsys, written):
    noted(lambda note: note["steps"].__setitem__(1, "0123456789ab"))
    out = told(capsys, "replay", "changed.png", code=1)
    assert f"step 2 of 2 is the first that differs ({written.steps[1]}, it was 0123456789ab)" in out
    assert f"made with minidnn {written.versions['minidnn']}, numpy {np.__version__}; this is" in out


def test_a_picture_that_was_painted_over(capsys, written):
    picture = images.load("d.png")
    picture[0, 3, 4] = 255 - picture[0, 3, 4]
    images.save("over.png", picture, text={"minidnn": images.note_in("d.png", "minidnn")})
    assert "its pixels were changed since" in told(capsys, "replay", "over.png", code=1)


def test_what_has_changed_or_moved_since(capsys, written):
    Path("photo.png").replace("moved.png")
    assert "the photo photo.png is not there: say where it lies now" in told(
        capsys, "replay", "d.png", code=3
    )
    assert "bit for bit" in told(capsys, "replay", "d.png", "--photo", "moved.png")
    photo(Path(), seed=2)
    assert "photo.png is another photo than it was" in told(capsys, "replay", "d.png", code=3)


def test_weights_that_have_changed_or_moved_since(capsys):
    net = saved(Path())
    told(capsys, "dream", "--net", net, "--size", "33x29", "--steps", "1", "--layer", "conv1", "-o", "d.png")
    Path(net).replace("elsewhere.h5")
    assert "the weights classy5.h5 are not there" in told(capsys, "replay", "d.png", code=3)
    assert "bit for bit" in told(capsys, "replay", "d.png", "--net", "elsewhere.h5")
    other = saved(Path(), seed=6)
    assert "has other weights than it had" in told(capsys, "replay", "d.png", "--net", other, code=3)


def test_pictures_that_say_nothing(capsys):
    photo(Path())
    assert "says nothing of a dream; only PNGs of" in told(capsys, "replay", "photo.png", code=3)
    photo(Path(), "photo.jpg")
    assert "not a PNG, and only these carry notes" in told(capsys, "replay", "photo.jpg", code=3)
    assert "No such file" in told(capsys, "replay", "none.png", code=3)
    assert "Is a directory" in told(capsys, "replay", ".", code=3)
    Path("cut.png").write_bytes(Path("photo.png").read_bytes()[:40])
    assert told(capsys, "replay", "cut.png", code=3)


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.pop("weights"),
        lambda note: note.update(extra=1),
        lambda note: note.update(steps="abc"),
        lambda note: note.update(steps=[]),
        lambda note: note.update(steps=[1, 2]),
        lambda note: note["steps"].extend(["a"] * 9),
        lambda note: note.update(files=[]),
        lambda note: note.update(files={}),
        lambda note: note["files"].update(net="abc"),
        lambda note: note["files"].update(settings="abc"),
        lambda note: note["files"].update(photo=3),
        lambda note: note.update(versions={"numpy": 2}),
        lambda note: note.update(job=7),
        lambda note: note["job"].update(photo=None),
        lambda note: note["job"].update(net=["a"]),
        lambda note: note["job"].update(size=[10**6, 10**6]),
        lambda note: note["job"]["settings"].update(octaves=10**9),
        lambda note: note["job"]["settings"].update(steps=10**12),
        lambda note: note["job"]["settings"].update(rate=float("nan")),
        lambda note: note["job"]["settings"].update(smooth=[1e12]),
    ],
)
def test_a_note_that_somebody_has_edited(capsys, written, change):
    noted(change)
    assert "its note is damaged" in told(capsys, "replay", "changed.png", code=3)


def test_hostile_notes(capsys):
    picture = images.clouds_over_hills(4, 5)
    for note in ("{", "[1]", '"' * 9, "[" * 400_000, '{"a":' * 50_000, "1" * 400_000, "null", "NaN"):
        images.save("note.png", picture, text={"minidnn": note})
        out = told(capsys, "replay", "note.png", code=3)
        assert "its note is damaged" in out and len(out) < 400
    with pytest.raises(UsageError, match="a note of 1,000,001 characters"):
        images.save("note.png", picture, text={"minidnn": "x" * 1_000_001})


def test_a_note_that_swells_when_it_is_unpacked(capsys):
    photo(Path(), "bomb.png")
    raw = Path("bomb.png").read_bytes()
    body = b"zTXt" + b"minidnn\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    Path("bomb.png").write_bytes(raw[:33] + chunk + raw[33:])
    assert "damaged or cut short (Decompressed data too large" in told(capsys, "replay", "bomb.png", code=3)


def test_a_note_in_a_picture_of_a_billion_pixels(capsys):
    photo(Path(), "vast.png")
    raw = bytearray(Path("vast.png").read_bytes())
    raw[16:24] = (60_000).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    Path("vast.png").write_bytes(raw)
    assert told(capsys, "replay", "vast.png", code=3)


# Classes, and flights.


def imagined(capsys, *argv, code=0):
    size = () if "--size" in argv else ("--size", "33x29")
    return told(capsys, "imagine", *argv, "--net", saved(Path()), "--steps", "3", *size, code=code)


def test_a_class_is_imagined_by_name(capsys):
    out = imagined(capsys, "bee eater (bird)+", "-o", "bee.png")
    assert "wrote bee.png: 29x33 pixels, 3 steps" in out
    job = replay.note_of("bee.png").job
    assert (job.settings.objective, job.start) == ("class:2", "noise")
    assert "bit for bit" in told(capsys, "replay", "bee.png")
    imagined(capsys, "2", "-o", "two.png")
    assert np.array_equal(images.load("bee.png"), images.load("two.png"))


def test_a_class_on_a_photo_behind_the_softmax_and_as_in_the_practical(capsys):
    imagined(capsys, "3", "--photo", photo(Path()), "--size", "35x41", "-o", "p.png")
    assert images.load("p.png").shape == (1, 35, 41, 3)
    imagined(capsys, "3", "--painted", "--after-softmax", "--seed", "4", "--set", "tv=0.1", "-o", "s.png")
    assert replay.note_of("s.png").job.settings.objective == "probability:3"
    assert replay.note_of("s.png").job.settings.canvas == "fourier"
    imagined(capsys, "3", "--rate", "4", "-o", "w.png")
    settings = replay.note_of("w.png").job.settings
    assert (settings.canvas, settings.rule, settings.blur, settings.blur_every) == ("pixels", "unit", 0.5, 10)
    assert settings.rate == pytest.approx(4 * 255 * 0.225)


def test_without_a_size_a_small_net_imagines_more_than_a_stamp(capsys):
    told(capsys, "imagine", "3", "--net", saved(Path()), "--steps", "1")
    assert images.load("imagined.png").shape == (1, 4 * 33, 4 * 29, 3)
    weights.save("lenet.h5", zoo.get("lenet"))
    told(capsys, "imagine", "3", "--net", "lenet.h5", "--steps", "1")
    assert images.load("imagined.png").shape == (1, 28, 28, 3), "its fc layers take no other"


def test_a_class_goes_on_after_a_pause(capsys):
    imagined(capsys, "3", "--checkpoint", "there.npz")
    assert "3 steps" in told(capsys, "dream", "--resume", "there.npz", "-o", "again.png")
    assert np.array_equal(images.load("imagined.png"), images.load("again.png"))
    assert "leave out --checkpoint" in imagined(capsys, "3", "--ablation", "--checkpoint", "c.npz", code=2)


def test_a_class_within_a_bound_of_memory(capsys):
    imagined(capsys, "3", "--max-memory", "2GB", "-o", "m.png")
    assert replay.note_of("m.png").job.settings.max_memory == "2GB"
    assert "max_memory 'lots': give it as 2GB" in imagined(capsys, "3", "--max-memory", "lots", code=2)
    assert "3 pictures" in imagined(capsys, "3", "--ablation", "--max-memory", "2GB", "-o", "three.png")


def test_the_ablation_shows_three(capsys):
    assert "3 pictures" in imagined(capsys, "matchstick", "--ablation", "-o", "three.png")
    assert images.load("three.png").shape[2] > 400
    out = imagined(capsys, "3", "--ablation", "--strip", "s.png", code=2)
    assert "leave out --strip" in out
    assert "leave out --microscope" in imagined(capsys, "3", "--ablation", "--microscope", code=2)


def test_an_ablation_that_diverges_is_told(capsys):
    assert "step 1 moved" in imagined(capsys, "3", "--ablation", "--rate", "1e6", code=7)
    assert not Path("imagined.png").exists()


@pytest.mark.parametrize(
    ("argv", "words", "code"),
    [
        (["crane"], "2 classes are called 'crane'", 2),
        (["matchstik"], "no class 'matchstik'; did you mean 'matchstick'", 2),
        (["4"], "'fc' has 4 channels", 2),
        (["3", "--rate", "0"], "rate 0.0", 2),
        (["3", "--rate", "nan"], "rate nan", 2),
        (["3", "--regularisation", "-1"], "decay -", 2),
        (["3", "--blur-every", "-1"], "blur 0.5 every -1", 2),
        (["3", "--painted", "--rate", "4", "--ablation"], "--rate, --ablation: nothing is held back", 2),
        (["3", "--photo", "none.png", "-o", "classy5.png"], "none.png: No such file", 3),
        (["3", "-o", "d.gif"], "--output d.gif", 2),
        (["3", "--size", "3x4"], "gets this far is", 3),
    ],
    ids=str,
)
def test_classes_imagined_in_vain(capsys, argv, words, code):
    assert words in imagined(capsys, *argv, code=code)
    assert not [path for path in Path().iterdir() if path.suffix != ".h5"]


def test_a_net_without_classes(capsys):
    words = told(capsys, "imagine", "bee eater", "--net", "gabor", code=2)
    assert "the net knows no names of classes" in words


FLIGHT = ("zoom", "--steps", "1", "--octaves", "1", "--layer", "relu1", "--size", "20x26", "--frames", "3")


@pytest.mark.parametrize("ending", [".gif", ".png", ".webp"])
def test_a_flight_is_a_film(capsys, ending):
    out = told(capsys, *FLIGHT, "--rate", "10", "-o", f"f{ending}")
    assert out == f"wrote f{ending}: 3 frames, 0.3 s\n"
    with Image.open(f"f{ending}") as film:
        assert (film.n_frames, film.size) == (3, (26, 20))


@pytest.mark.parametrize(
    ("argv", "words", "code"),
    [
        (["--zoom", "0"], "zoom by 0.0; give a share", 2),
        (["--zoom", "1"], "zoom by 1.0", 2),
        (["--frames", "0"], "--frames 0: give at least 1", 2),
        (["--rate", "0"], "0 pictures a second", 2),
        (["-o", "f.jpg"], "no film ends in '.jpg'", 2),
        (["photo.gif", "-o", "photo.gif"], "photo.gif is the photo itself", 2),
        (["-o", "photo.gif/f.gif"], "photo.gif/f.gif: photo.gif is a file", 6),
        (["--set", "rate=1e10"], "step 1 moved the pixels", 7),
    ],
    ids=str,
)
def test_flights_in_vain(capsys, argv, words, code):
    films.save("photo.gif", [images.clouds_over_hills(20, 26)])
    before = Path("photo.gif").read_bytes()
    assert words in told(capsys, *FLIGHT, *argv, code=code)
    assert [path.name for path in Path().iterdir()] == ["photo.gif"]
    assert Path("photo.gif").read_bytes() == before


def test_a_trial_leaves_nothing(tmp_path):
    outputs.try_out(tmp_path / "new" / "d.png")
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(OutputError, match="is a directory; choose another place"):
        outputs.try_out(tmp_path / "new")
