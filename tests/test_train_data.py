"""Data sets of every kind: what is in them comes out, and what is wrong with them is said, by name."""

from __future__ import annotations

import gzip
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from minidnn.errors import (
    DamagedFileError,
    FileFormatError,
    OutputError,
    ShapeError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedError,
    UsageError,
)
from minidnn.images import LUMA, Preprocess
from minidnn.train import pictures, readers
from minidnn.train.data import Pictures, Splits, brought, check, fingerprint, preprocess_for, split
from minidnn.train.opening import open_data

ALL = slice(None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDNN_CACHE", str(tmp_path / "cache"))


def pixels(n=4, h=5, w=7, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), np.uint8)


def labelled(n=10, classes=3, **shape):
    return Pictures(pixels(n, **shape), np.arange(n) % classes, tuple("abc"[:classes]), "a set")


# MNIST


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
        file.write(head + array.tobytes())


@pytest.fixture(params=["", ".gz"])
def digits(request, tmp_path):
    for part, n in (("train", 6), ("t10k", 4)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{request.param}", pixels(n, c=1)[..., 0])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{request.param}", np.arange(n, dtype=np.uint8))
    return tmp_path


def test_idx_files_packed_or_not(digits):
    found = open_data(digits)
    assert found["train"].shape == (5, 7, 1) and len(found["test"]) == 4
    assert np.array_equal(found["train"].batch(np.array([4, 1])), pixels(6, c=1)[[4, 1]])
    assert found["train"].labels.tolist() == list(range(6)) and found["train"].classes[9] == "9"


def test_the_real_mnist(data):
    found = open_data(data / "datasets" / "mnist")
    assert len(found["train"]) == 60_000 and found["test"].labels[:4].tolist() == [7, 2, 1, 0]


def test_idx_files_that_are_not_what_they_say(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, pixels(2, c=1)[..., 0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(
        DamagedFileError, match=r"train-images.*not the size that it tells of: 83, expected 86"
    ):
        readers.idx_array(path, rank=3)
    path.write_bytes(whole + b"x")
    with pytest.raises(DamagedFileError, match="more than 86 bytes"):
        readers.idx_array(path, rank=3)
    path.write_bytes(b"\0\0\x0d\x03" + whole[4:])
    with pytest.raises(FileFormatError, match=r"begins with 00 00 0d 03, expected 00 00 08 03"):
        readers.idx_array(path, rank=3)
    path.write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(TooLargeError, match="tells of 79,228,162,458,924,105,385,300,197,375 bytes"):
        readers.idx_array(path, rank=3)
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(whole)[:-9])
    with pytest.raises(DamagedFileError, match="damaged or cut short"):
        readers.idx_array(packed, rank=3)


def test_idx_files_that_do_not_belong_together(digits):
    images = next(digits.glob("train-images*"))
    labels = next(digits.glob("train-labels*"))
    write_idx(labels, np.arange(5, dtype=np.uint8))
    with pytest.raises(DamagedFileError, match="5 labels for the 6 pictures of train-images"):
        open_data(digits)
    write_idx(labels, np.full(6, 11, np.uint8))
    with pytest.raises(DamagedFileError, match=r"train-labels.*picture 0 has label 11.*0 to 9 \(6 such"):
        open_data(digits)
    images.unlink()
    with pytest.raises(FileFormatError, match=r"there is train-labels.*no file of its images"):
        open_data(digits)


# USPS


def test_usps(tmp_path, data):
    path = tmp_path / "zip.train"
    path.write_text("3.0 " + " ".join(["-1"] * 255 + ["1"]) + "\n")
    found = open_data(path)["all"]
    assert found.labels.tolist() == [3] and found.shape == (16, 16, 1)
    assert found.batch(np.array([0])).reshape(-1)[[0, 254, 255]].tolist() == [0, 0, 255]
    real = open_data(data / "datasets" / "usps")["all"]
    assert set(real.labels) == {0, 1} and real.images.max() == 255


@pytest.mark.parametrize(
    ("line", "words"),
    [("3 1 1", "line 1: 3 numbers, expected a label and 16x16 pixels"), ("3 x", "line 1: could not convert")]
    + [(f"{label} " + "0 " * 255 + last, "line 1: a label that is no digit, or a pixel") for label, last in
       [("3.5", "0"), ("3", "2"), ("12", "0"), ("1", "nan")]],
)  # fmt: skip
def test_usps_lines_that_are_wrong(tmp_path, line, words):
    (tmp_path / "usps.txt").write_text(line)
    with pytest.raises(DamagedFileError, match=words):
        open_data(tmp_path / "usps.txt")


# .npz


def test_npz(tmp_path):
    path = tmp_path / "some.npz"
    np.savez_compressed(path, images=pixels(4)[..., 0], labels=np.array([0, 1, 1, 0]), classes=["cat", "dog"])
    found = open_data(path)["all"]
    assert found.shape == (5, 7, 1) and found.classes == ("cat", "dog")
    np.savez(path, x_train=pixels(4), y_train=np.arange(4)[:, None], x_test=pixels(2), y_test=np.arange(2))
    found = open_data(path)
    assert len(found["train"]) == 4 and found["test"].classes == ("0", "1", "2", "3")


def test_npz_files_that_are_wrong(tmp_path):
    path = tmp_path / "some.npz"
    for arrays, error, words in [
        ({"x": pixels()}, FileFormatError, "arrays x; wants x_train, y_train"),
        ({"images": pixels(), "labels": np.ones(4)}, UnsupportedError, "labels are whole numbers"),
        ({"images": pixels() * 2.0, "labels": np.arange(4)}, UnsupportedError, "not from 0 to 255; scale"),
        ({"images": pixels()[0, 0], "labels": np.arange(4)}, UnsupportedError, r"'images' is \(7, 3\)"),
        ({"images": pixels(), "labels": np.arange(3)}, DamagedFileError, r"labels \(3,\).*for 4 pictures"),
        ({"images": pixels(), "labels": np.arange(4) - 1}, DamagedFileError, "picture 0 has label -1"),
        ({"images": pixels(c=2), "labels": np.arange(4)}, ShapeError, r"give \(N, H, W, 1 or 3\)"),
    ]:
        np.savez(path, **arrays)
        with pytest.raises(error, match=words):
            open_data(path)


# Folders and tars of pictures


def save_pictures(folder, classes=("cat", "dog"), n=3, size=(6, 5), mode="RGB"):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            image = Image.new(mode, size, (40 * number, 10 * i, 90) if mode == "RGB" else 40 * number + i)
            image.save(folder / name / f"{i}.png")


def test_a_folder_of_class_folders(tmp_path):
    folder = tmp_path / "pets"
    save_pictures(folder)
    (folder / ".DS_Store").touch()
    found = open_data(folder)["all"]
    assert found.classes == ("cat", "dog") and found.shape == (5, 6, 3)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.batch(np.array([5]))[0, 2, 3].tolist() == [40, 20, 90]


def test_pictures_are_decoded_once_and_anew_when_they_change(tmp_path, monkeypatch):
    folder = tmp_path / "pets"
    save_pictures(folder)
    open_data(folder)
    cached = list((tmp_path / "cache").glob("*/pixels"))
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "_decoded", None)
        found = open_data(folder)["all"]
    assert isinstance(found.images.base if found.images.base is not None else found.images, np.memmap)
    assert len(cached) == 1
    cached[0].write_bytes(cached[0].read_bytes()[:200])
    assert len(open_data(folder)["all"]) == 6, "a cache that is not whole is made again"
    save_pictures(folder, n=4)
    assert len(open_data(folder)["all"]) == 8


def test_train_and_test_folders_and_a_tar_of_them(tmp_path):
    folder = tmp_path / "pets"
    save_pictures(folder / "train")
    save_pictures(folder / "test", n=2)
    with tarfile.open(tmp_path / "pets.tar.xz", "w:xz") as tar:
        tar.add(folder, "pets")
    for path in (folder, tmp_path / "pets.tar.xz"):
        found = open_data(path, grey=True)
        assert len(found["train"]) == 6 and len(found["test"]) == 4
        assert found["test"].shape == (5, 6, 1)


def test_the_real_cifar10_in_a_tar_has_its_ten_classes(data):
    source = pictures._Tar(data / "datasets" / "cifar10" / "cifar10_jpg_all.tar.xz")
    first = next(source.found())
    assert (first.part, first.label) == ("test", "airplane")


def test_pictures_of_different_sizes_are_named_or_brought_to_one(tmp_path):
    folder = tmp_path / "pets"
    save_pictures(folder)
    Image.new("RGB", (9, 7)).save(folder / "dog" / "1.png")
    with pytest.raises(ShapeError, match=r"'dog/1.png' has 7x9 pixels, and the first picture 5x6; give"):
        open_data(folder)
    assert open_data(folder, size=(3, 4))["all"].shape == (3, 4, 3)


def test_folders_that_are_wrong(tmp_path):
    def raises(error, words):
        with pytest.raises(error, match=words):
            open_data(folder)

    folder = tmp_path / "pets"
    folder.mkdir()
    raises(FileFormatError, "no pictures in it")
    save_pictures(folder)
    (folder / "eel").mkdir()
    raises(FileFormatError, "an empty folder; put the pictures of 'eel' in")
    (folder / "eel").rmdir()
    (folder / "notes.txt").touch()
    raises(FileFormatError, "'notes.txt' is no picture")
    (folder / "notes.txt").unlink()
    (folder / "dog" / "2.png").write_bytes((folder / "dog" / "2.png").read_bytes()[:40])
    raises(DamagedFileError, "'dog/2.png' is damaged, cut short or no picture")
    Image.new("RGBA", (6, 5)).save(folder / "dog" / "2.png")
    raises(UnsupportedError, r"'dog/2.png' is transparent, or deeper")
    Image.new("RGB", (6, 5)).save(folder / "dog" / "2.png")
    Image.new("RGB", (6, 5)).save(folder / "2.png")
    raises(FileFormatError, "'2.png' lies in no folder that names its class")
    (folder / "2.png").unlink()
    save_pictures(folder / "train")
    raises(FileFormatError, "'cat/0.png' is in none of all, train; move it|is in none of")
    for name in ("cat", "dog"):
        (folder / name).rename(folder / "train" / f"big {name}")
    raises(FileFormatError, "there is train, and to train takes train/ and test/")
    save_pictures(folder / "test")
    raises(FileFormatError, "no pictures of 'big cat', 'big dog' in test")


def test_a_folder_that_vanishes_while_it_is_read(tmp_path, monkeypatch):
    folder, check = tmp_path / "pets", pictures._check
    save_pictures(folder)

    def vanishing(path, found):
        check(path, found)
        (folder / "dog" / "1.png").unlink()

    monkeypatch.setattr(pictures, "_check", vanishing)
    with pytest.raises(FileFormatError, match=r"dog/1.png: No such file or directory; was it just deleted"):
        open_data(folder)
    assert not list((tmp_path / "cache").glob("*/index.json")), "and what was read so far does not count"


def test_a_tar_with_links_is_refused(tmp_path):
    path = tmp_path / "pets.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("train/cat/0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UnsafeFileError, match=r"'train/cat/0.png' is a link or a device"):
        open_data(path)
    path.write_bytes(b"no tar at all")
    with pytest.raises(DamagedFileError, match="damaged, or no tar"):
        open_data(path)


def test_too_many_pixels_and_too_little_disk(tmp_path, monkeypatch):
    folder = tmp_path / "pets"
    save_pictures(folder)
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "MAX_PIXELS", 29)
        with pytest.raises(TooLargeError, match="30 pixels, the limit is 29"):
            open_data(folder)
    free = type("Usage", (), {"free": 100})
    monkeypatch.setattr(pictures.shutil, "disk_usage", lambda _: free)
    with pytest.raises(OutputError, match=r"take 540 bytes, 100 are free; set MINIDNN_CACHE"):
        open_data(folder)


def test_what_is_not_there_or_not_known(tmp_path):
    with pytest.raises(FileFormatError, match="no such file or folder"):
        open_data(tmp_path / "nothing")
    (tmp_path / "some.csv").touch()
    with pytest.raises(FileFormatError, match="no data set that we know; give MNIST's idx files"):
        open_data(tmp_path / "some.csv")


@pytest.mark.parametrize("size", ["32x", "0", "32x0", "x", "-3", "3.5"])
def test_sizes_that_are_none(size):
    with pytest.raises(UsageError, match="give it as 32x48, height first"):
        pictures.size_of(size)


# Splits and statistics


def test_a_set_in_one_piece_is_split_60_20_20_by_the_seed():
    whole = labelled(50)
    parts = split({"all": whole}, seed=0)
    assert [len(part) for part in parts] == [30, 10, 10]
    assert sorted(np.concatenate([part.which for part in parts])) == list(range(50)), "and shares none"
    assert np.array_equal(split({"all": whole}, seed=0).test.which, parts.test.which)
    assert not np.array_equal(split({"all": whole}, seed=1).test.which, parts.test.which)
    assert np.array_equal(parts.test.batch(np.array([3])), whole.images[parts.test.which[[3]]])


def test_a_test_set_is_kept_as_it_came():
    parts = split({"train": labelled(20), "test": labelled(7)}, seed=0, validation=0.25)
    assert [len(part) for part in parts] == [15, 5, 7]
    assert len(split({"train": labelled(20), "test": labelled(7)}, seed=0, validation=0).validation) == 0
    given = {"train": labelled(20), "validation": labelled(3), "test": labelled(7)}
    assert [len(part) for part in split(given, seed=0)] == [20, 3, 7]
    with pytest.raises(UsageError, match="give the share to set aside"):
        split(given, seed=0, validation=1)


def test_any_set_can_be_brought_to_a_size_and_to_grey():
    whole = labelled()
    assert brought(whole) is whole and brought(whole, (5, 7)) is whole, "nothing to do"
    grey = brought(whole, grey=True)
    assert grey.shape == (5, 7, 1) and len(grey) == 10 and grey.name == "a set"
    which = np.array([3, 1])
    np.testing.assert_allclose(grey.batch(which)[..., 0], whole.images[which] @ np.array(LUMA), rtol=1e-5)
    flat = Pictures(np.full((2, 5, 7, 3), 90, np.uint8), np.arange(2), ("a", "b"), "flat")
    larger = brought(flat, (11, 13))
    np.testing.assert_allclose(larger.batch(np.arange(2)), np.full((2, 11, 13, 3), 90.0), rtol=1e-5)
    assert fingerprint(larger) != fingerprint(flat), "a run for one size is not gone on with in another"


def test_to_be_brought_to_another_shape_the_middle_is_cut_out():
    whole = labelled()
    which = np.arange(4)
    assert np.array_equal(brought(whole, (5, 3)).batch(which), whole.images[:4, :, 2:5])
    assert np.array_equal(brought(whole, (3, 7)).batch(which), whole.images[:4, 1:4])
    assert brought(whole, (2, 9)).batch(which).shape == (4, 2, 9, 3)


def test_nothing_to_learn():
    one = Pictures(pixels(4), np.zeros(4, int), ("a", "b"), "a set")
    with pytest.raises(UsageError, match="all pictures are of one class, 'a'; there is nothing to learn"):
        check(Splits(one, one, one))
    with pytest.raises(ShapeError, match=r"pictures of \(5, 6, 3\), those to learn from \(5, 7, 3\)"):
        check(Splits(labelled(), labelled(), labelled(w=6)))
    with pytest.raises(UsageError, match="no pictures for test"):
        check(split({"all": labelled(2)}, seed=0))


def test_the_preprocess_makes_mean_0_and_deviation_1_in_the_order_of_the_net():
    whole = labelled(300)
    found = preprocess_for(whole, Preprocess("BGR", mean=(1, 2, 3), size=(9, 9), resize=12))
    x = found.to_net(whole.images)
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, atol=1e-4)
    assert found.order == "BGR" and found.size == (5, 7)
    black = Pictures(np.zeros((3, 2, 4, 1), np.uint8), np.arange(3), tuple("abc"), "black")
    with pytest.raises(UsageError, match="black: a channel has the same value in all pictures"):
        preprocess_for(black)


def test_a_fingerprint_changes_with_labels_and_pictures():
    found = {fingerprint(labelled()), fingerprint(labelled(seed=1)), fingerprint(labelled(classes=2))}
    assert len(found) == 3 and fingerprint(labelled()) in found
