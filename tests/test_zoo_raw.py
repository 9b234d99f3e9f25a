"""Weights as a folder of raw files: all that may be wrong with one, and the real one of Inception v3."""

from __future__ import annotations

import csv
import errno
import hashlib
from pathlib import Path

import numpy as np
import pytest

from minidnn import images, zoo
from minidnn.errors import DamagedFileError, FileFormatError, MismatchError, UnsafeFileError
from minidnn.layers import Conv
from minidnn.net import Net
from minidnn.window import Window
from minidnn.zoo.raw import load_raw


@pytest.fixture
def net() -> Net:
    """Two convolutions without weights; the second has a slash in its name."""
    return Net.chain(
        {
            "conv": Conv.random(None, (2, 3), 4, 5),
            "mixed/conv_1": Conv(
                *(np.broadcast_to(np.float32(0), s) for s in [(1, 2, 5, 3), (3,)]), Window.of((1, 2))
            ),
        }
    )


@pytest.fixture
def folder(tmp_path, net):
    """A folder of raw files that fits it."""
    rng = np.random.default_rng(0)
    names = ["weights_conv.dat", "bias_conv.dat", "weights_mixed_conv_1.dat", "bias_mixed_conv_1.dat"]
    for name, array in zip(names, net.params.values(), strict=True):
        (tmp_path / name).write_bytes(rng.standard_normal(array.size).astype("<f4").tobytes())
    listed(tmp_path, *names)
    return tmp_path


def listed(folder, *names) -> None:
    """Write the list of these files as they are."""
    rows = [
        (name, len(data := (folder / name).read_bytes()), hashlib.sha256(data).hexdigest()) for name in names
    ]
    with (folder / "MANIFEST.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "bytes", "sha256"), *rows])


def rewritten(folder, old: str, new: str) -> None:
    manifest = folder / "MANIFEST.csv"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new, 1))


def test_filters_are_turned_into_our_order(net, folder):
    filled = load_raw(net, folder)
    theirs = np.frombuffer((folder / "weights_conv.dat").read_bytes(), "<f4").reshape(5, 2, 3, 4)
    assert filled.params["conv/w"][1, 2, 3, 4] == theirs[4, 1, 2, 3]
    assert filled.params["conv/w"].flags.c_contiguous and not filled.without_weights
    bias = (folder / "bias_mixed_conv_1.dat").read_bytes()
    assert filled.params["mixed/conv_1/b"].tobytes() == bias
    assert filled.source["format"] == "raw float32"


def test_the_list_of_files_stands_for_its_folder(net, folder):
    by_list = load_raw(net, folder / "MANIFEST.csv")
    assert np.array_equal(by_list.params["conv/w"], load_raw(net, folder).params["conv/w"])


def test_files_of_another_net_are_refused(net, folder):
    rewritten(folder, "bias_conv.dat", "bias_other.dat")
    with pytest.raises(MismatchError, match=r"MANIFEST\.csv: lists no bias_conv\.dat; is it that of another"):
        load_raw(net, folder)
    rewritten(folder, "bias_other.dat", "bias_conv.dat")
    rewritten(folder, "bias_conv.dat,20", "bias_conv.dat,24")
    with pytest.raises(
        MismatchError, match=r"bias_conv\.dat has 24 bytes, 'conv/b' as \(5,\) takes 20; is it"
    ):
        load_raw(net, folder)


def test_a_file_that_was_cut_or_changed_is_found_out(net, folder):
    path = folder / "weights_conv.dat"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(
        DamagedFileError, match=r"weights_conv\.dat: has 479 bytes, MANIFEST\.csv says 480; get"
    ):
        load_raw(net, folder)
    path.write_bytes(whole + b"more")
    with pytest.raises(DamagedFileError, match=r"weights_conv\.dat: has over 480 bytes"):
        load_raw(net, folder)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedFileError, match=r"weights_conv\.dat: its checksum is not that of MANIFEST"):
        load_raw(net, folder)


def test_numbers_that_are_none_are_found_out(net, folder):
    names = [path.name for path in folder.glob("*.dat")]
    (folder / "bias_conv.dat").write_bytes(np.array([1, 2, np.nan, 3, 4], "<f4").tobytes())
    listed(folder, *names)
    with pytest.raises(DamagedFileError, match=r"bias_conv\.dat: holds numbers that are not finite"):
        load_raw(net, folder)


@pytest.mark.parametrize("name", ["../bias_conv.dat", "/etc/passwd", ".hidden", "a/b.dat", "", "nul\\x"])
def test_a_list_may_name_plain_files_of_its_folder_only(net, folder, name):
    rewritten(folder, "bias_conv.dat", name)
    with pytest.raises(UnsafeFileError, match=r"line 3 names .*, not a plain file in its folder"):
        load_raw(net, folder)


def test_a_link_is_not_followed(net, folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret"
    (folder / "bias_conv.dat").rename(elsewhere)
    (folder / "bias_conv.dat").symlink_to(elsewhere)
    with pytest.raises(UnsafeFileError, match="a link, which may lead anywhere; put the file itself there"):
        load_raw(net, folder)


def test_what_is_no_such_list_is_told_so(net, folder):
    manifest = folder / "MANIFEST.csv"
    good = manifest.read_text()
    for text, error, words in [
        (b"name,size\n", FileFormatError, "its first line is not file,bytes,sha256"),
        (b"", FileFormatError, "its first line is not file,bytes,sha256"),
        (b"\xff\xfe", FileFormatError, "not a table of text"),
        (b"x" * 2_000_000, FileFormatError, "over 1,048,576 bytes long"),
        (
            good.replace(",20,", ",-20,").encode(),
            DamagedFileError,
            "line 3 is not a name, a size and a check",
        ),
        (good.replace(",20,", ",٢٠,").encode(), DamagedFileError, "line 3 is not a name, a size and a check"),
        (good.encode() + b"bias_conv.dat,20,0\n", DamagedFileError, "names 'bias_conv.dat' twice"),
    ]:
        manifest.write_bytes(text)
        with pytest.raises(error, match=words):
            load_raw(net, folder)
    manifest.unlink()
    with pytest.raises(FileFormatError, match="no such file; give the folder that holds all of them"):
        load_raw(net, folder)


def test_a_disk_that_fails_is_told_in_words(net, folder, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(FileFormatError, match=r"MANIFEST\.csv: cannot be read: Input/output error"):
        load_raw(net, folder)


# The real one


@pytest.fixture(scope="module")
def inception(data) -> Net:
    return zoo.get("inception-v3-stem", weights=data / "models/inception_v3")


@pytest.fixture(scope="module")
def photo(data) -> np.ndarray:
    """A photo that is not square, as the net wants it."""
    picture = images.resize(images.load(next((data / "photos").glob("sky_clouds_1024*"))), (171, 203))
    return zoo.get("inception-v3-stem", seed=None).preprocess.to_net(picture)


def test_inceptions_first_map_spreads_as_it_was_measured(inception, data):
    cat = images.resize(images.load(data / "photos/cat_chelsea.png"), inception.preprocess.size)
    first = inception.forwardto(inception.init_res(), "conv/relu", inception.preprocess.to_net(cat))
    assert first.std() == pytest.approx(1.12, abs=0.02)


@pytest.mark.oracle
def test_the_stem_of_inception_is_torchs(inception, photo):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional

    def conv(x, name, stride=1, pad=0):
        w, b = (torch.tensor(inception.params[f"{name}/{part}"]) for part in "wb")
        return F.relu(F.conv2d(x, w.permute(3, 2, 0, 1), b, stride, pad))

    def mean(x):
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    x = torch.from_numpy(photo).permute(0, 3, 1, 2)
    x = conv(conv(conv(x, "conv", 2), "conv_1"), "conv_2", pad=1)
    x = conv(conv(F.max_pool2d(x, 3, 2), "conv_3"), "conv_4")
    x = F.max_pool2d(x, 3, 2)
    for at in ("mixed", "mixed_1", "mixed_2"):
        five = conv(conv(x, f"{at}/tower/conv"), f"{at}/tower/conv_1", pad=2)
        three = conv(conv(x, f"{at}/tower_1/conv"), f"{at}/tower_1/conv_1", pad=1)
        three = conv(three, f"{at}/tower_1/conv_2", pad=1)
        x = torch.cat([conv(x, f"{at}/conv"), five, three, conv(mean(x), f"{at}/tower_2/conv")], 1)
    three = conv(conv(x, "mixed_3/tower/conv"), "mixed_3/tower/conv_1", pad=1)
    three = conv(three, "mixed_3/tower/conv_2", 2)
    x = torch.cat([conv(x, "mixed_3/conv", 2), three, F.max_pool2d(x, 3, 2)], 1)
    wide, tall = (0, 3), (3, 0)
    once, twice = conv(x, "mixed_4/tower/conv"), conv(x, "mixed_4/tower_1/conv")
    for number, pad in enumerate([wide, tall], start=1):
        once = conv(once, f"mixed_4/tower/conv_{number}", pad=pad)
    for number, pad in enumerate([tall, wide, tall, wide], start=1):
        twice = conv(twice, f"mixed_4/tower_1/conv_{number}", pad=pad)
    x = torch.cat([conv(x, "mixed_4/conv"), once, twice, conv(mean(x), "mixed_4/tower_2/conv")], 1)
    theirs = x.permute(0, 2, 3, 1).numpy()

    ours = inception.forwardto(inception.init_res(), "mixed_4", photo)
    assert ours.shape == theirs.shape == (1, 9, 11, 768)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
