"""Films: as many pictures as were given, of their size, each as long as was asked for."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from minidnn.errors import OutputError, UsageError
from minidnn.images import clouds_over_hills, films


def some(count, h=21, w=26):
    return [clouds_over_hills(h, w, seed=seed) for seed in range(count)]


@pytest.mark.parametrize(("ending", "error"), [(".gif", 12), (".png", 0.6), (".webp", 12)])
def test_what_was_written_can_be_read_back(tmp_path, ending, error):
    path, pictures = tmp_path / f"film{ending}", some(5)
    films.save(path, pictures, rate=10)
    with Image.open(path) as film:
        assert (film.n_frames, film.size) == (5, (26, 21))
        assert film.info.get("loop") == 0
        durations = []
        for frame, picture in zip(ImageSequence.Iterator(film), pictures, strict=True):
            shown = np.asarray(frame.convert("RGB"), float)
            durations.append(frame.info["duration"])
            assert np.abs(shown - picture[0]).mean() < error
    assert durations == [100] * 5


def test_a_film_of_one_picture(tmp_path):
    for ending in films.KINDS:
        films.save(tmp_path / f"one{ending}", some(1))
        with Image.open(tmp_path / f"one{ending}") as film:
            assert film.size == (26, 21)


def test_colours_out_of_range_are_clipped(tmp_path):
    films.save(tmp_path / "f.png", [np.full((1, 4, 5, 3), -30.0), np.full((1, 4, 5, 3), 300.0)])
    with Image.open(tmp_path / "f.png") as film:
        extremes = [frame.convert("L").getextrema() for frame in ImageSequence.Iterator(film)]
    assert extremes == [(0, 0), (255, 255)]


def test_what_is_no_film(tmp_path):
    with pytest.raises(UsageError, match=r"no film ends in '\.avi'; end it in \.gif, \.png, \.webp, \.mp4"):
        films.save(tmp_path / "film.avi", some(2))
    for wrong in ([], [*some(1), *some(1, 20, 26)]):
        with pytest.raises(UsageError, match="a film wants pictures of one size, at least one"):
            films.save(tmp_path / "film.gif", wrong)
    for rate in (0, -3, 51):
        with pytest.raises(UsageError, match="pictures a second; give 1 to 50"):
            films.check(tmp_path / "film.gif", rate=rate)
    assert not list(tmp_path.iterdir())


def test_nowhere_to_write(tmp_path):
    with pytest.raises(OutputError, match="make the folder first"):
        films.save(tmp_path / "nowhere" / "film.gif", some(2))


def test_mp4_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio", None)
    with pytest.raises(UsageError, match=r"pip install 'minidnn\[video\]', or end the name in \.gif"):
        films.check(tmp_path / "film.mp4")


def test_mp4_where_ffmpeg_is(tmp_path):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "film.mp4"
    films.save(path, some(7, 65, 83), rate=5)
    with imageio.get_reader(path) as film:
        about = film.get_meta_data()
        assert film.count_frames() == 7
    assert about["size"] == (82, 64) and about["fps"] == 5
