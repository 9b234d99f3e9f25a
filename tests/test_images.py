"""Pictures of every kind, whole and broken, in real files; and the way into a net and back."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minidnn import images
from minidnn.arrays import device_of, to_device, to_host
from minidnn.errors import (
    DamagedFileError,
    DivergedError,
    FileError,
    FileFormatError,
    OutputError,
    ShapeError,
    TooLargeError,
    UnsupportedError,
    UsageError,
)
from minidnn.images import VGG, Preprocess
from minidnn.layers import Conv, ReLU
from minidnn.net import Net
from tests.samples import distinct

LOSSLESS = [".png", ".bmp", ".tif", ".tiff"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pixels(rng):
    """A small colourful picture (5, 7, 3) of whole numbers."""
    return rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)


@pytest.fixture
def landscape():
    return images.clouds_over_hills(60, 80)


# Loading


@pytest.mark.parametrize("ending", LOSSLESS)
def test_a_colour_picture_comes_as_one_image_of_float32_rgb(tmp_path, pixels, ending):
    Image.fromarray(pixels).save(tmp_path / f"a{ending}")
    loaded = images.load(tmp_path / f"a{ending}")
    assert (loaded.shape, loaded.dtype, loaded.flags.c_contiguous) == ((1, 5, 7, 3), np.float32, True)
    np.testing.assert_array_equal(loaded[0], pixels)


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_formats_that_lose_detail_are_read_as_pillow_reads_them(tmp_path, landscape, ending):
    Image.fromarray(landscape[0].astype(np.uint8)).save(tmp_path / f"a{ending}")
    with Image.open(tmp_path / f"a{ending}") as picture:
        np.testing.assert_array_equal(images.load(tmp_path / f"a{ending}")[0], np.asarray(picture))


def test_without_colour_it_has_one_channel_of_brightness(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    grey = images.load(tmp_path / "a.png", colour=False)
    assert grey.shape == (1, 5, 7, 1)
    np.testing.assert_allclose(grey[0, :, :, 0], pixels @ np.array(images.LUMA), atol=0.51)


def test_a_grey_picture_comes_with_three_equal_channels(tmp_path, pixels):
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.load(tmp_path / "a.png")[0], np.repeat(pixels[:, :, :1], 3, axis=2))
    np.testing.assert_array_equal(images.load(tmp_path / "a.png", colour=False)[0], pixels[:, :, :1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_set_upright(tmp_path, orientation):
    # Red on top, green at the left, as the camera saw it, is stored turned in one of eight ways.
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:8] = 250, 0, 0
    upright[8:, :8] = 0, 250, 0
    undone = {2: "fliplr", 3: "rot180", 4: "flipud", 5: "transpose", 6: "rot90", 7: "anti", 8: "rot270"}
    turn = {
        "fliplr": np.fliplr,
        "flipud": np.flipud,
        "rot180": lambda a: np.rot90(a, 2),
        "transpose": lambda a: a.transpose(1, 0, 2),
        "anti": lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        "rot90": lambda a: np.rot90(a, 1),  # shown by a quarter turn clockwise, so stored the other way
        "rot270": lambda a: np.rot90(a, -1),
        None: lambda a: a,
    }[undone.get(orientation)]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ["a.png", "a.jpg"]:
        picture = Image.fromarray(np.ascontiguousarray(turn(upright)))
        picture.save(tmp_path / name, exif=exif)
        loaded = images.load(tmp_path / name)
        assert loaded.shape == (1, 32, 48, 3)
        np.testing.assert_allclose(loaded[0, 4, 24], [250, 0, 0], atol=30)
        np.testing.assert_allclose(loaded[0, 20, 4], [0, 250, 0], atol=30)
        np.testing.assert_allclose(loaded[0, 20, 24], [0, 0, 0], atol=30)


@pytest.mark.parametrize("colour", [True, False])
def test_what_is_transparent_is_white(tmp_path, colour):
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [100, 100, 100, 51]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba[:, :, [0, 3]]).convert("LA").save(tmp_path / "grey.png")
    loaded = images.load(tmp_path / "a.png", colour=colour)[0, 0]
    assert loaded[:, 0].tolist() == [200 if colour else 60, 255, 224]  # 100 * 51/255 + 255 * 204/255
    assert images.load(tmp_path / "grey.png", colour=colour)[0, 0, :2, 0].tolist() == [200, 255]


@pytest.mark.parametrize("kind", ["one index", "an alpha per index", "a colour", "a grey"])
def test_a_transparent_entry_of_a_palette_and_a_transparent_colour_are_white_too(tmp_path, kind):
    indexes = np.array([[0, 1, 2]], np.uint8)
    if kind in ("one index", "an alpha per index"):
        picture = Image.fromarray(indexes, mode=None)
        picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
        transparency = 1 if kind == "one index" else bytes([255, 0, 255])
        expected = [[10, 20, 30], [255, 255, 255], [70, 80, 90]]
    elif kind == "a colour":
        picture = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
        transparency, expected = (4, 5, 6), [[1, 2, 3], [255, 255, 255]]
    else:
        picture = Image.fromarray(indexes)
        transparency, expected = 2, [[0, 0, 0], [1, 1, 1], [255, 255, 255]]
    picture.save(tmp_path / "a.png", transparency=transparency)
    assert images.load(tmp_path / "a.png")[0, 0].tolist() == expected


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 257, 32768, 65535]], np.uint16)
    for name in ["a.png", "a.tif"]:
        Image.fromarray(deep).save(tmp_path / name)
        expected = [0, 1, 32768 / 257, 255]
        np.testing.assert_allclose(
            images.load(tmp_path / name, colour=False)[0, 0, :, 0], expected, rtol=1e-6
        )
        np.testing.assert_allclose(images.load(tmp_path / name)[0, 0, :, 2], expected, rtol=1e-6)


def test_black_and_white_is_0_and_255(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert images.load(tmp_path / "a.png")[0, 0].tolist() == [[255] * 3, [0] * 3]


def test_printers_colours_are_converted(tmp_path):
    for name in ["a.tif", "a.jpg"]:
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / name)
        np.testing.assert_allclose(images.load(tmp_path / name)[0, 8, 8], [255, 0, 0], atol=6)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    for name in ["a.gif", "a.webp", "a.png"]:
        lossless = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **lossless)
        assert images.load(tmp_path / name)[0, 1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_odd_sizes_are_fine(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert images.load(tmp_path / "a.png").shape == (1, size[1], size[0], 3)


@pytest.mark.parametrize("name", ["-rf.png", "two words.png", "new\nline.png", "猫🐈.png"])
def test_odd_names_are_fine(tmp_path, monkeypatch, landscape, name):
    monkeypatch.chdir(tmp_path)
    images.save(name, landscape)
    assert images.load(name).shape == landscape.shape


# Files that cannot be loaded


def test_too_many_pixels_are_refused_before_any_is_decoded(tmp_path, monkeypatch):
    Image.new("L", (300, 200)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(TooLargeError, match=r"a.png: 60,000 pixels, the limit is 59,999; .*max_pixels=60000"):
        images.load(tmp_path / "a.png", max_pixels=59_999)


def test_just_enough_pixels_are_fine(tmp_path):
    Image.new("L", (300, 200)).save(tmp_path / "a.png")
    assert images.load(tmp_path / "a.png", max_pixels=60_000).shape == (1, 200, 300, 3)


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_bomb_does_not_go_off(tmp_path, side):
    bomb = Image.new("L", (1, 1))
    bomb.save(tmp_path / "a.bmp")
    header = bytearray((tmp_path / "a.bmp").read_bytes())
    header[18:26] = side.to_bytes(4, "little") * 2  # a few bytes that claim to be 144 or 3,600 million pixels
    (tmp_path / "a.bmp").write_bytes(header)
    for action in ["error", "ignore"]:
        with warnings.catch_warnings():
            warnings.simplefilter(action, Image.DecompressionBombWarning)
            with pytest.raises(TooLargeError, match=r"144,?000,?000 pixels|3600000000 pixels"):
                images.load(tmp_path / "a.bmp")


def test_a_missing_file_is_missed_with_a_guess(tmp_path, landscape):
    images.save(tmp_path / "sunset.png", landscape)
    (tmp_path / "sunsets").mkdir()
    with pytest.raises(
        FileFormatError, match=r"sunsett.png: No such file or directory; did you mean 'sunset.png'"
    ):
        images.load(tmp_path / "sunsett.png")
    with pytest.raises(FileFormatError, match=r"No such file or directory$"):
        images.load(tmp_path / "nowhere" / "sunset.png")


def test_a_directory_is_no_picture(tmp_path):
    with pytest.raises(FileFormatError, match=r"Is a directory$"):
        images.load(tmp_path)


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch, landscape):
    images.save(tmp_path / "a.png", landscape)

    def refused(self, *_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(FileFormatError, match=r"a.png: Permission denied$"):
        images.load(tmp_path / "a.png")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!doctype html><title>404</title>",
        b"%PDF-1.4 " * 9,
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\x89PNG\r\n",
    ],
)
def test_something_else_is_no_picture(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    match = (
        f"a.png: no picture that we read in its {len(content)} bytes; fetch it again, or save it as PNG, JPEG"
    )
    with pytest.raises(FileFormatError, match=match):
        images.load(tmp_path / "a.png")


def test_formats_beyond_the_well_tested_few_are_not_even_tried(tmp_path, landscape):
    Image.fromarray(landscape[0].astype(np.uint8)).save(tmp_path / "a.ppm")
    with pytest.raises(FileFormatError, match=r"save it as PNG, JPEG, WEBP, GIF, BMP, TIFF"):
        images.load(tmp_path / "a.ppm")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"])
def test_a_picture_cut_short_at_any_place_is_an_error_or_a_picture(tmp_path, landscape, ending):
    whole = tmp_path / f"whole{ending}"
    Image.fromarray(landscape[0].astype(np.uint8)).save(whole)
    content = whole.read_bytes()
    for length in np.linspace(0, len(content) - 1, 25, dtype=int):
        cut = tmp_path / f"cut{ending}"
        cut.write_bytes(content[:length])
        with suppress(DamagedFileError, FileFormatError):  # a JPEG without its last two bytes is whole
            assert images.load(cut).shape == landscape.shape
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedFileError, match=rf"cut{ending}: damaged or cut short \(.*\); fetch it again"):
        images.load(cut)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".gif", ".tif"])
def test_flipped_bytes_make_an_error_of_the_family_or_a_picture(tmp_path, rng, ending):
    Image.fromarray(rng.integers(0, 256, (9, 11, 3)).astype(np.uint8)).save(tmp_path / f"a{ending}")
    content = (tmp_path / f"a{ending}").read_bytes()
    for _ in range(80):
        damaged = bytearray(content)
        for where in rng.integers(0, len(content), 3):
            damaged[where] = rng.integers(256)
        (tmp_path / f"b{ending}").write_bytes(damaged)
        with suppress(FileError):
            assert images.load(tmp_path / f"b{ending}", max_pixels=10**6).ndim == 4


def test_pixels_without_a_white_are_not_guessed_at(tmp_path):
    Image.fromarray(np.ones((3, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnsupportedError, match="pixels of kind 'F' have no fixed white; export 8 or 16 bit"):
        images.load(tmp_path / "a.tif")


# Saving


@pytest.mark.parametrize("ending", [*LOSSLESS, ".PNG"])
@pytest.mark.parametrize(
    "shape", [(1, 5, 7, 3), (5, 7, 3), (1, 5, 7, 1), (5, 7, 1), (5, 7), (1, 1, 3), (1, 1)]
)
def test_what_was_saved_is_loaded_again(tmp_path, rng, ending, shape):
    picture = rng.integers(0, 256, shape).astype(np.float32)
    images.save(tmp_path / f"a{ending}", picture)
    colour = picture.ndim > 2 and shape[-1] == 3
    loaded = images.load(tmp_path / f"a{ending}", colour=colour)
    np.testing.assert_array_equal(loaded.reshape(shape), picture)


def test_floats_are_clipped_and_rounded(tmp_path):
    images.save(tmp_path / "a.png", np.array([[-5.0, 1.4, 1.6, 254.7, 300.0]]))
    assert images.load(tmp_path / "a.png", colour=False).ravel().tolist() == [0, 1, 2, 255, 255]


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_come_near_and_nearer_with_quality(tmp_path, landscape, ending):
    def error(**settings):
        images.save(tmp_path / f"a{ending}", landscape, **settings)
        return float(np.abs(images.load(tmp_path / f"a{ending}") - landscape).mean())

    assert error() < 3 < error(quality=5)


def test_a_picture_on_any_device_can_be_saved(tmp_path, device, landscape):
    images.save(tmp_path / "a.png", to_device(landscape, device))
    np.testing.assert_allclose(images.load(tmp_path / "a.png"), landscape, atol=0.51)


@pytest.mark.parametrize("name", ["a.gif", "a.jpgg", "a", "a.h5"])
def test_an_ending_that_we_do_not_write_is_a_mistake_in_use(tmp_path, landscape, name):
    with pytest.raises(UsageError, match=r"cannot write .*; end in .png, .jpg, .jpeg, .webp, .bmp, .tif"):
        images.save(tmp_path / name, landscape)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_picture_that_is_no_longer_numbers_is_not_written(tmp_path, landscape, bad):
    landscape[0, 1, 2] = bad
    with pytest.raises(DivergedError, match=r"a.png: 3 of 14,400 numbers are not finite; try smaller steps"):
        images.save(tmp_path / "a.png", landscape)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (5, 7, 4), (5, 7, 2), (0, 7, 3), (1, 1, 5, 7, 3)])
def test_only_one_picture_of_one_or_three_channels_is_saved(tmp_path, shape):
    with pytest.raises(ShapeError, match=r"one picture wanted, grey or RGB, found shape"):
        images.save(tmp_path / "a.png", np.zeros(shape))


def test_a_format_too_small_for_the_picture_says_so(tmp_path):
    with pytest.raises(OutputError, match=r"a.webp: cannot hold shape \(1, 20000, 3\) \(.*\); end in .png"):
        images.save(tmp_path / "a.webp", np.zeros((1, 20_000, 3)))
    assert not any(tmp_path.iterdir())


def test_a_missing_folder_is_told(tmp_path, landscape):
    with pytest.raises(OutputError, match=r"a.png: No such file or directory; make the folder first"):
        images.save(tmp_path / "nowhere" / "a.png", landscape)


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path, landscape):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Not a directory; choose another place to write to"):
        images.save(tmp_path / "file" / "a.png", landscape)


def test_a_folder_in_the_place_of_the_picture_is_told_and_nothing_stays_behind(tmp_path, landscape):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match=r"a.png: Is a directory; add a name"):
        images.save(tmp_path / "a.png", landscape)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_name_that_is_too_long_is_told_and_nothing_stays_behind(tmp_path, landscape):
    with pytest.raises(OutputError, match=r"File name too long"):
        images.save(tmp_path / f"{'a' * 300}.png", landscape)
    assert not any(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_picture_and_no_rubbish(tmp_path, pixels):
    images.save(tmp_path / "a.png", pixels)
    before = (tmp_path / "a.png").read_bytes()
    program = (
        "import sys, signal, resource, numpy as np\n"
        "from minidnn import images\n"
        "from minidnn.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3))\n"
        "try:\n"
        "    images.save(sys.argv[1], noise)\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.png")], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip().endswith(
        "a.png: File too large; allow larger files (ulimit -f), or write to another disk"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_no_space_left_says_to_free_some(tmp_path, monkeypatch, landscape):
    def full(_):
        with open("/dev/full", "wb", buffering=0) as device:
            device.write(b"0")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a.png: No space left on device; free some space"):
        images.save(tmp_path / "a.png", landscape)
    assert not any(tmp_path.iterdir())


def test_ctrl_c_while_writing_leaves_nothing_behind(tmp_path, monkeypatch, landscape):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        images.save(tmp_path / "a.png", landscape)
    assert not any(tmp_path.iterdir())


def test_a_saved_picture_may_be_read_by_whom_the_umask_allows(tmp_path, landscape):
    (tmp_path / "plain").touch()
    images.save(tmp_path / "a.png", landscape)
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


# Resizing


@pytest.mark.parametrize("how", images.FILTERS)
@pytest.mark.parametrize("size", [(3, 4), (13, 5), (6, 9)])
def test_each_channel_is_resized_as_pillow_resizes_a_grey_picture(rng, how, size):
    x = distinct(rng, (2, 6, 9, 3))
    resized = images.resize(x, size, how=how)
    assert (resized.shape, resized.dtype) == ((2, *size, 3), np.float64)
    plane = Image.fromarray(x[1, :, :, 2].astype(np.float32))
    expected = plane.resize(size[::-1], getattr(Image.Resampling, how.upper()))
    np.testing.assert_array_equal(resized[1, :, :, 2], np.asarray(expected))


@pytest.mark.parametrize("how", images.FILTERS)
def test_a_flat_picture_stays_flat_and_the_same_size_stays_the_same(rng, how):
    np.testing.assert_allclose(images.resize(np.full((1, 5, 8, 2), 7.5), (3, 11), how=how), 7.5, rtol=1e-6)
    x = rng.random((1, 5, 8, 2)).astype(np.float32)
    np.testing.assert_array_equal(images.resize(x, (5, 8), how=how), x)


def test_shrinking_averages_what_it_drops():
    stripes = np.zeros((1, 4, 64, 1), np.float32)
    stripes[:, :, ::2] = 100
    np.testing.assert_allclose(images.resize(stripes, (4, 8), how="bilinear"), 50, atol=2)


def test_resizing_keeps_the_device_and_makes_floats_of_whole_numbers(device, landscape):
    whole = to_device(landscape.astype(np.uint8), device)
    resized = images.resize(whole, (7, 5))
    assert (device_of(resized), resized.dtype, resized.shape) == (device, np.float32, (1, 7, 5, 3))
    np.testing.assert_array_equal(to_host(resized), images.resize(to_host(whole), (7, 5)))


def test_resizing_to_nothing_is_refused():
    with pytest.raises(UsageError, match=r"resize to \(0, 3\) by 'bicubic'; wants \(h, w\) of 1 or more"):
        images.resize(np.zeros((1, 2, 2, 3)), (0, 3))
    with pytest.raises(UsageError, match=r"by 'nearest'; .*bilinear, bicubic, lanczos"):
        images.resize(np.zeros((1, 2, 2, 3)), (3, 3), how="nearest")
    with pytest.raises(
        ShapeError, match=r"images \(N, H, W, C\), found \(2, 2, 3\); add axes with x\[None\]"
    ):
        images.resize(np.zeros((2, 2, 3)), (3, 3))


# Into a net and back

number = st.floats(-300, 300, allow_nan=False)
above_0 = st.floats(0.01, 100)
preprocesses = st.sampled_from(["RGB", "BGR", "GRAY"]).flatmap(
    lambda order: st.builds(
        Preprocess,
        order=st.just(order),
        scale=st.floats(1e-3, 10),
        mean=st.tuples(*[number] * (1 if order == "GRAY" else 3)),
        std=st.one_of(st.tuples(above_0), st.tuples(*[above_0] * (1 if order == "GRAY" else 3))),
    )
)


@given(preprocesses, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_way_back_undoes_the_way_in(preprocess, seed):
    channels = preprocess.channels
    pixels = np.random.default_rng(seed).random((2, 3, 4, channels)) * 255
    x = preprocess.to_net(pixels)
    assert x.shape == pixels.shape and x.dtype == np.float64
    np.testing.assert_allclose(preprocess.to_pixels(x), pixels, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(preprocess.to_net(preprocess.to_pixels(x)), x, rtol=1e-8, atol=1e-6)


@given(preprocesses, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_gradient_by_the_pixels_is_that_by_the_input_through_the_chain_rule(preprocess, seed):
    rng = np.random.default_rng(seed)
    pixels, moved = rng.random((2, 2, 3, 4, preprocess.channels)) * 255
    dzdx = rng.standard_normal(pixels.shape)
    by_input = (dzdx * (preprocess.to_net(moved) - preprocess.to_net(pixels))).sum()
    by_pixels = (preprocess.gradient_to_pixels(dzdx) * (moved - pixels)).sum()
    size = np.abs(preprocess.gradient_to_pixels(dzdx)).sum() * 255
    assert by_pixels == pytest.approx(by_input, abs=1e-9 * size)


def test_vgg_sees_the_mean_colour_as_nothing():
    mean_colour = np.array([123.68, 116.779, 103.939], np.float32).reshape(1, 1, 1, 3)
    assert not VGG.to_net(mean_colour).any()
    assert VGG.size == (224, 224)


def test_the_formula_worked_by_hand_for_each_order():
    pixel = np.array([10.0, 20.0, 30.0]).reshape(1, 1, 1, 3)
    settings = {"scale": 0.5, "std": (2.0, 4.0, 8.0), "mean": (1.0, 2.0, 3.0)}
    assert Preprocess("RGB", **settings).to_net(pixel).ravel().tolist() == [4 / 2, 8 / 4, 12 / 8]
    assert Preprocess("BGR", **settings).to_net(pixel).ravel().tolist() == [14 / 2, 8 / 4, 2 / 8]
    grey = Preprocess("GRAY", scale=0.5, mean=(1.0,)).to_net(pixel)
    assert grey.shape == (1, 1, 1, 1)
    assert grey.item() == pytest.approx(0.5 * (0.299 * 10 + 0.587 * 20 + 0.114 * 30) - 1)


def test_caffe_and_matconvnet_prepare_the_same_picture_in_two_orders(landscape):
    caffe = Preprocess("BGR", mean=(103.939, 116.779, 123.68))
    np.testing.assert_array_equal(caffe.to_net(landscape), VGG.to_net(landscape)[..., ::-1])
    assert caffe.to_net(landscape).flags.c_contiguous
    assert caffe.to_pixels(landscape).flags.c_contiguous


def test_the_mean_can_be_a_whole_picture(rng, device):
    mean = rng.random((3, 4, 3)).astype(np.float32)
    preprocess = Preprocess(mean=mean, std=(2.0,))
    pixels = rng.random((2, 3, 4, 3)).astype(np.float32)
    x = preprocess.to_net(to_device(pixels, device))
    np.testing.assert_allclose(to_host(x), (pixels - mean) / 2, rtol=1e-6)
    np.testing.assert_allclose(to_host(preprocess.to_pixels(x)), pixels, rtol=1e-5)
    with pytest.raises(
        ShapeError, match=r"mean picture is \(3, 4\), images are \(5, 4\); resize them, or make"
    ):
        preprocess.to_net(np.zeros((1, 5, 4, 3), np.float32))
    per_channel = replace(preprocess, mean=tuple(mean.mean(axis=(0, 1))))
    assert per_channel.to_net(np.zeros((1, 5, 4, 3), np.float32)).shape == (1, 5, 4, 3)


@pytest.mark.parametrize("order", ["RGB", "BGR", "GRAY"])
def test_every_device_prepares_the_same(device, landscape, order):
    preprocess = Preprocess(order, scale=1 / 255, mean=(0.5,), std=(0.25,))
    x = preprocess.to_net(to_device(landscape, device))
    assert (device_of(x), x.dtype) == (device, np.float32)
    np.testing.assert_allclose(to_host(x), preprocess.to_net(landscape), rtol=1e-6)
    back, there = preprocess.to_pixels(x), preprocess.to_pixels(preprocess.to_net(landscape))
    np.testing.assert_allclose(to_host(back), there, rtol=1e-6)


def test_whole_numbers_become_float32_and_what_was_given_stays(pixels):
    pixels.flags.writeable = False
    assert VGG.to_net(pixels[None]).dtype == np.float32


def test_preparations_are_equal_if_all_their_settings_are(rng):
    mean = rng.random((3, 4, 3))
    assert replace(VGG) == VGG and replace(VGG, order="BGR") != VGG and VGG != "RGB"
    assert Preprocess(mean=mean) == Preprocess(mean=mean.copy()) != Preprocess(mean=mean + 1)
    assert Preprocess(mean=mean) != VGG


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="no channel order 'RGBA'; there are RGB, BGR and GRAY"):
        Preprocess("RGBA")
    with pytest.raises(UsageError, match=r"scale is 1.0 and std .*; all must be above 0"):
        Preprocess(std=(1.0, 0.0, 1.0))
    with pytest.raises(UsageError, match="scale is 0 and std"):
        Preprocess(scale=0)
    with pytest.raises(ShapeError, match="mean has 4 channels, RGB has 3"):
        Preprocess(mean=(1.0, 2.0, 3.0, 4.0))
    with pytest.raises(ShapeError, match="std has 3 channels, GRAY has 1"):
        Preprocess("GRAY", std=(1.0, 2.0, 3.0))


def test_a_grey_picture_for_a_colour_net_is_told_where_to_get_colour():
    match = (
        r"RGB wants images \(N, H, W, 3\), as images.load\(path, colour=True\) gives, found \(1, 2, 2, 1\)"
    )
    with pytest.raises(ShapeError, match=match):
        VGG.to_net(np.zeros((1, 2, 2, 1)))
    with pytest.raises(ShapeError, match=r"RGB wants images .* found \(2, 2, 3\)"):
        VGG.to_net(np.zeros((2, 2, 3)))


# The picture drawn by code


def test_the_landscape_is_a_picture():
    picture = images.clouds_over_hills()
    assert (picture.shape, picture.dtype) == ((1, 240, 320, 3), np.float32)
    assert picture.min() >= 0 and picture.max() <= 255
    assert picture.std() > 40  # neither grey nor flat


def test_a_seed_is_a_place():
    draw = images.clouds_over_hills
    np.testing.assert_array_equal(draw(30, 40, seed=3), draw(30, 40, seed=3))
    assert np.abs(draw(30, 40, seed=3) - draw(30, 40, seed=4)).mean() > 5


def test_a_larger_picture_shows_the_same_place():
    small, large = images.clouds_over_hills(60, 80), images.clouds_over_hills(240, 320)
    assert np.abs(images.resize(large, (60, 80), how="bilinear") - small).mean() < 6


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7)])
def test_a_landscape_has_any_size(size):
    assert np.isfinite(images.clouds_over_hills(*size)).all()


# Into the size and the numbers of published nets


def test_fit_makes_the_short_side_so_long_and_cuts_the_middle_out(landscape):
    fitted = Preprocess(size=(24, 20), resize=30).fit(landscape)  # 60x80 becomes 30x40
    np.testing.assert_array_equal(fitted, images.resize(landscape, (30, 40), how="bilinear")[:, 3:27, 10:30])
    tall = Preprocess(size=(24, 20), resize=30).fit(landscape.transpose(0, 2, 1, 3))
    assert tall.shape == (1, 24, 20, 3)


def test_fit_without_resize_squeezes_and_without_a_size_does_nothing(landscape):
    squeezed = Preprocess(size=(24, 20), interpolation="bicubic").fit(landscape)
    np.testing.assert_array_equal(squeezed, images.resize(landscape, (24, 20), how="bicubic"))
    assert Preprocess().fit(landscape) is landscape
    assert Preprocess(size=(60, 80)).fit(landscape) is landscape
    assert Preprocess(resize=30).fit(landscape).shape == (1, 30, 40, 3)


def test_fit_enlarges_what_is_too_small_and_covers_a_wide_size():
    tiny = np.zeros((2, 5, 7, 3), np.float32)
    assert Preprocess(size=(20, 24), resize=21).fit(tiny).shape == (2, 20, 24, 3)
    assert Preprocess(size=(20, 60), resize=21).fit(tiny).shape == (2, 20, 60, 3), "60 is wider than 21 * 7/5"


@settings(deadline=None, max_examples=60)
@given(*[st.integers(1, 90)] * 4, st.integers(0, 30))
def test_fit_gives_its_size_whatever_the_picture(h, w, crop_h, crop_w, more):
    preprocess = Preprocess(size=(crop_h, crop_w), resize=min(crop_h, crop_w) + more)
    assert preprocess.fit(np.zeros((1, h, w, 1), np.float32)).shape == (1, crop_h, crop_w, 1)


def test_a_cut_that_leaves_nothing_or_wants_more_than_there_is_is_refused():
    for wrong in ({"size": (24, 20), "resize": 19}, {"size": (0, 20)}, {"resize": 0}):
        with pytest.raises(UsageError, match="nothing, or more than is there"):
            Preprocess(**wrong)
    with pytest.raises(UsageError, match="no interpolation 'nearest'; there are bilinear, bicubic, lanczos"):
        Preprocess(interpolation="nearest")


def test_the_presets_are_the_formulas_of_those_who_trained_the_nets(rng):
    pixels = rng.integers(0, 256, (2, 4, 5, 3)).astype(np.float32)
    bgr, unit = pixels[..., ::-1], pixels / 255
    by_hand = {
        "caffe": bgr - np.array([104, 117, 123]),
        "vgg": bgr - np.array([103.939, 116.779, 123.68]),
        "vgg-rgb": pixels - np.array([123.68, 116.779, 103.939]),
        "torchvision": (unit - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
        "tf": pixels / 127.5 - 1,
        "unit": unit,
        "none": pixels,
    }
    assert list(images.PRESETS) == list(by_hand)
    for name, preprocess in images.PRESETS.items():
        np.testing.assert_allclose(preprocess.to_net(pixels), by_hand[name], rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(preprocess.to_pixels(by_hand[name]), pixels, atol=1e-3)


@pytest.mark.oracle
def test_fit_is_the_resize_and_the_crop_of_torchvision(landscape):
    torch = pytest.importorskip("torch")
    planes = torch.from_numpy(landscape.transpose(0, 3, 1, 2))
    size = [40, int(40 * 80 / 60)]
    resized = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True).numpy()
    wanted = resized.transpose(0, 2, 3, 1)[:, 2:38, 8:44]
    np.testing.assert_allclose(Preprocess(size=(36, 36), resize=40).fit(landscape), wanted, atol=0.02)


# Grey pictures and nets of colours


def first_layer(rng, *, pad=0, mean=(10.0, 20.0, 40.0), std=(2.0, 3.0, 5.0)):
    layers = {"conv": Conv.random(rng, (3, 2), 3, 4, pad=pad), "relu": ReLU()}
    return Net.chain(layers, preprocess=Preprocess("BGR", mean=mean, std=std, scale=0.5))


def answer(net, pixels):
    return net.forwardto(net.init_res(), "conv", net.preprocess.to_net(pixels))


def test_a_folded_net_says_of_a_grey_picture_what_the_first_said_of_three_equal_channels(rng):
    grey = rng.integers(0, 256, (2, 6, 7, 1)).astype(np.float32)
    net = first_layer(rng)
    folded = images.fold_grey(net)
    assert folded.node("conv").layer.w.shape == (3, 2, 1, 4)
    assert folded.preprocess.order == "GRAY"
    np.testing.assert_allclose(answer(folded, grey), answer(net, np.repeat(grey, 3, 3)), rtol=1e-4, atol=1e-3)


def test_an_average_of_the_filters_would_be_a_third_of_that(rng):
    grey = rng.integers(0, 256, (1, 6, 7, 1)).astype(np.float32)
    net = first_layer(rng, mean=(0.0,), std=(1.0,))
    layer = net.node("conv").layer
    averaged = replace(layer, w=layer.w.mean(axis=2, keepdims=True))
    three = answer(net, np.repeat(grey, 3, 3))
    np.testing.assert_allclose(3 * averaged.forward(grey * 0.5)[0], three, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(answer(images.fold_grey(net), grey), three, rtol=1e-4, atol=1e-3)


def test_at_a_padded_border_folding_is_exact_only_if_all_means_are_equal(rng):
    grey = rng.integers(0, 256, (1, 6, 7, 1)).astype(np.float32)
    equal, three_means = first_layer(rng, pad=1, mean=(30.0,)), first_layer(rng, pad=1)
    for net in (equal, three_means):
        found, wanted = answer(images.fold_grey(net), grey), answer(net, np.repeat(grey, 3, 3))
        np.testing.assert_allclose(found[:, 1:-1, 1:-1], wanted[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-3)
        assert np.allclose(found, wanted, rtol=1e-4, atol=1e-3) == (net is equal)


def test_only_a_plain_convolution_of_colours_can_be_folded(rng):
    with pytest.raises(UsageError, match="only a Conv of three channels can be folded"):
        images.fold_grey(Net.chain({"relu": ReLU()}))
    with pytest.raises(UsageError, match="only a Conv of three channels can be folded"):
        images.fold_grey(Net.chain({"conv": Conv.random(rng, 3, 1, 2)}))
    pictured = Net.chain(
        {"conv": Conv.random(rng, 3, 3, 2)}, preprocess=Preprocess(mean=rng.random((4, 5, 3)))
    )
    with pytest.raises(UsageError, match="a mean picture in colours cannot be folded"):
        images.fold_grey(pictured)
