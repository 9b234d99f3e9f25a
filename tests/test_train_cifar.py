"""CIFAR-10's batches: as Python 2 pickled them, as plain bytes, in folders and tars; and no pickle runs."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from minidnn.errors import DamagedFileError, FileFormatError, TooLargeError, UnsafeFileError, UnsupportedError
from minidnn.train import cifar, pickled
from minidnn.train.opening import open_data

NAMES = list(cifar.CIFAR10)


def planes(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), np.uint8)


class Python2:
    """What Python 2's cPickle writes in protocol 2, byte by byte: strings are bytes, memos count from 1."""

    def __init__(self) -> None:
        self.memos = 0

    def put(self) -> bytes:
        self.memos += 1
        return b"q" + bytes([self.memos]) if self.memos < 256 else b"r" + struct.pack("<I", self.memos)

    def value(self, value) -> bytes:
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, str):
            data = value.encode("latin-1")
            short = b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))
            return short + data + self.put()
        if isinstance(value, int):
            form, code = ("B", b"K") if 0 <= value < 256 else ("<H", b"M") if value < 65536 else ("<i", b"J")
            return code + struct.pack(form, value)
        if isinstance(value, list):
            return b"]" + self.put() + b"(" + b"".join(map(self.value, value)) + b"e"
        pairs = b"}" + self.put() + b"("
        return pairs + b"".join(self.value(k) + self.value(v) for k, v in value.items()) + b"u"

    def array(self, rows) -> bytes:
        made = b"cnumpy.core.multiarray\n_reconstruct\n" + self.put() + b"cnumpy\nndarray\n" + self.put()
        made += b"K\x00\x85" + self.put() + self.value("b") + b"\x87" + self.put() + b"R" + self.put()
        shape = self.value(rows.shape[0]) + self.value(rows.shape[1]) + b"\x86" + self.put()
        kind = b"cnumpy\ndtype\n" + self.put() + self.value("u1") + b"K\x00K\x01\x87" + self.put()
        kind += (
            b"R" + self.put() + b"(K\x03" + self.value("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
        )
        data = self.value(rows.tobytes().decode("latin-1"))
        return made + b"(K\x01" + shape + kind + self.put() + b"b\x89" + data + b"t" + self.put() + b"b"

    @classmethod
    def dumps(cls, value) -> bytes:
        return b"\x80\x02" + cls().value(value) + b"."


def batch(labels, seed=0):
    names = [f"picture_{i:05}.png" for i in range(len(labels))]
    about = {"batch_label": "training batch 1 of 5", "labels": list(labels)}
    return about | {"data": planes(len(labels), seed), "filenames": names}


def as_bytes(value):
    """Keys and texts as bytes, as Python 3 has them when it read with encoding="bytes"."""
    if isinstance(value, dict):
        return {key.encode(): as_bytes(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_bytes(inner) for inner in value]
    return value.encode() if isinstance(value, str) else value


WRITERS = {
    "python 2": Python2.dumps,
    "protocol 2": lambda value: pickle.dumps(value, protocol=2),
    "bytes as keys": lambda value: pickle.dumps(as_bytes(value), protocol=2),
    "protocol 3": lambda value: pickle.dumps(value, protocol=3),
}


def test_the_writer_of_these_tests_writes_what_python_2_did():
    """The real batches.meta has 158 bytes, and torchvision knows their MD5."""
    meta = {"num_cases_per_batch": 10_000, "label_names": NAMES, "num_vis": 3072}
    written = Python2.dumps(meta)
    assert len(written) == 158
    assert hashlib.md5(written).hexdigest() == "5ff9c542aee3614f3951f8cda6e48888"


@pytest.fixture(params=WRITERS)
def folder(request, tmp_path):
    write = WRITERS[request.param]
    for name, labels, seed in (("data_batch_2", [4, 0, 0], 2), ("data_batch_1", [6, 9], 1)):
        (tmp_path / name).write_bytes(write(batch(labels, seed)))
    (tmp_path / "test_batch").write_bytes(write(batch([3], 3)))
    (tmp_path / "batches.meta").write_bytes(
        write({"label_names": ["aeroplane", *NAMES[1:]], "num_vis": 3072})
    )
    (tmp_path / "readme.html").write_text("about it")
    return tmp_path


def test_the_folder_around_them_will_do(folder):
    inner = folder / "around" / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    for path in folder.glob("*_batch*"):
        path.rename(inner / path.name)
    (inner.parent / ".DS_Store").touch()
    assert len(open_data(inner.parent)["train"]) == 5


def check_content(found, first="aeroplane"):
    train, test = found["train"], found["test"]
    assert train.labels.tolist() == [6, 9, 4, 0, 0] and test.labels.tolist() == [3]
    assert train.shape == (32, 32, 3) and train.classes == (first, *NAMES[1:])
    wanted = planes(3, seed=2)[1].reshape(3, 32, 32)
    assert np.array_equal(train.batch(np.array([3]))[0, 7, 20], wanted[:, 7, 20])


def test_batches_in_pickles_are_read_and_their_classes_named(folder):
    check_content(open_data(folder))


def test_a_tar_of_them_is_read_as_it_is(folder, tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("data_batch_2", "readme.html", "test_batch", "batches.meta", "data_batch_1"):
            tar.add(folder / name, f"cifar-10-batches-py/{name}")
    check_content(open_data(path))


def write_plain(path, labels, seed):
    rows = np.concatenate([np.array(labels, np.uint8)[:, None], planes(len(labels), seed)], axis=1)
    path.write_bytes(rows.tobytes())


def test_plain_batches_in_a_folder_and_in_a_tar(tmp_path):
    write_plain(tmp_path / "data_batch_1.bin", [6, 9], 1)
    write_plain(tmp_path / "data_batch_2.bin", [4, 0, 0], 2)
    write_plain(tmp_path / "test_batch.bin", [3], 3)
    check_content(open_data(tmp_path), "airplane")
    with tarfile.open(tmp_path / "cifar-10-binary.tar", "w") as tar:
        for name in ("data_batch_1", "data_batch_2", "test_batch"):
            tar.add(tmp_path / f"{name}.bin", f"cifar-10-batches-bin/{name}.bin")
    check_content(open_data(tmp_path / "cifar-10-binary.tar"), "airplane")


def test_plain_batches_that_are_wrong(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    write_plain(path, [3, 12], 0)
    with pytest.raises(DamagedFileError, match=r"data_batch_1.bin: picture 1 has label 12, there are 0 to 9"):
        open_data(tmp_path)
    path.write_bytes(b"x" * 3074)
    with pytest.raises(DamagedFileError, match=r"3,074 bytes, expected a multiple of 3,073"):
        open_data(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DamagedFileError, match="an empty file; fetch it again"):
        open_data(tmp_path)


def test_batches_that_are_missing_or_there_twice(tmp_path):
    write_plain(tmp_path / "data_batch_1.bin", [6, 9], 1)
    write_plain(tmp_path / "data_batch_3.bin", [6, 9], 1)
    with pytest.raises(FileFormatError, match="there is data_batch_3, and no data_batch_2; fetch"):
        open_data(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(Python2.dumps(batch([1])))
    with pytest.raises(FileFormatError, match="another data_batch_1 lies there too; keep one"):
        open_data(tmp_path)


def test_a_batch_that_is_too_large(tmp_path, monkeypatch):
    write_plain(tmp_path / "data_batch_1.bin", [6, 9], 1)
    monkeypatch.setattr(cifar, "MAX_BATCH", 5000)
    with pytest.raises(TooLargeError, match="6,146 bytes, the limit of a batch is 5,000"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": [1, 10]}, "picture 1 has label 10, there are 0 to 9"),
        ({"labels": [1, -1]}, "picture 1 has label -1"),
        ({"labels": [1]}, r"1 labels, and pixels \(2, 3072\), expected 3,072 for each"),
        ({"labels": [1, "cat"]}, "labels that are no numbers"),
        ({"labels": [1, True]}, "labels that are no numbers"),
        ({"labels": [1, 1 << 200]}, "labels that are no numbers"),
        ({"labels": "ab"}, "a batch has 'data' and 'labels'"),
        ({"data": "pixels"}, "a batch has 'data' and 'labels'"),
        ({"data": planes(2)[:, :100]}, r"2 labels, and pixels \(2, 100\)"),
        ({"data": planes(2).astype("u2")}, "an array that is not one of bytes in rows"),
        ({"data": planes(2)[0]}, "an array that is not one of bytes in rows"),
        ({"data": np.asfortranarray(planes(2))}, "an array that is not one of bytes in rows"),
    ],
    ids=str,
)
def test_batches_whose_content_is_wrong(tmp_path, change, words):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch([1, 2]) | change, protocol=2))
    error = (
        FileFormatError
        if "a batch has" in words
        else UnsupportedError
        if "array" in words
        else DamagedFileError
    )
    with pytest.raises(error, match=rf"data_batch_1: .*{words}"):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [(5, "no 'label_names'"), ([b"\xff" * 90], "no 'label_names'"), (["a"], "1 names of classes")],
)
def test_names_of_classes_that_are_none(tmp_path, names, words):
    write_plain(tmp_path / "data_batch_1.bin", [3, 2], 0)
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    with pytest.raises(DamagedFileError, match=words):
        open_data(tmp_path)


# Pickles that want more than to be read


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


def unpickle(data):
    return pickled.unpickled(data, "data_batch_1")


def test_nothing_runs_and_all_that_was_asked_for_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in (2, 3):
        data = pickle.dumps(batch([1, 2]) | {"more": [Runs(), print, io.BytesIO]}, protocol=protocol)
        words = r"asks for posix.system, \w+.print, _?io.BytesIO; pictures need none of it, nothing was run"
        with pytest.raises(UnsafeFileError, match=words):
            unpickle(data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02U\x02osU\x06system\x93.",  # a name made of texts
        b"\x80\x02(U\x02lsios\nsystem\n.",  # INST
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"\x80\x02U\x01aQ.",  # something outside
        b"\x80\x02\x82\x01.",  # the registry of extensions
        b"(dp0\nS'data'\np1\nI1\ns.",  # protocol 0
        b"\x80\x022.",  # DUP
    ],
)
def test_instructions_that_no_batch_has_are_refused(data):
    with pytest.raises(UnsafeFileError, match=r"asks for .*the instruction .*nothing was run"):
        unpickle(data)


def test_the_machine_makes_only_what_arrays_are_made_of():
    for made in (
        b"cnumpy\nndarray\n)R.",  # calls what is not to be called
        b"U\x01a)R.",
        b"]K\x01b.",  # a state for a list
        b"}K\x01K\x02s.",  # a number as a key
        b"}](K\x01e]s.",
        b"K\x01K\x02a.",  # adds to a number
        b"](K\x01u.",
        b"h\x05.",
        b"\x87.",
        b"e.",
        b"K\x01q\x01",  # never stops
        b"T\xff\xff\xff\x7fab.",  # claims 2 GB
        b"B\xff\xff\xff\x7fab.",
        b"c_codecs\nencode\nX\x03\x00\x00\x00\xe2\x82\xacU\x06latin1\x86R.",  # no byte
        b"cnumpy.core.multiarray\n_reconstruct\n)RK\x01b.",  # a state that is none
        b"K\x01.",
    ):
        with pytest.raises(DamagedFileError, match=r"data_batch_1: .*fetch cifar-10-python.tar.gz again"):
            unpickle(b"\x80\x02" + made)
    with pytest.raises(
        UnsupportedError, match="a pickle of protocol 4, CIFAR-10's batches are of protocol 2"
    ):
        unpickle(pickle.dumps({}, protocol=4))


def test_pixels_that_are_none_or_have_another_shape(tmp_path):
    good = Python2.dumps(batch([1, 2]))
    shape = b"K\x02M\x00\x0c\x86"
    assert good.count(shape) == 1
    for other in (b"K\x03M\x00\x0c\x86", b"J\xff\xff\xff\xffM\x00\x0c\x86", b"NM\x00\x0c\x86"):
        (tmp_path / "data_batch_1").write_bytes(good.replace(shape, other))
        with pytest.raises(DamagedFileError, match=r"6,144 pixels, and their shape \("):
            open_data(tmp_path)


def test_bombs_stay_small(monkeypatch):
    floors = (b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(200))  # each a pair of the one below
    tower = b"\x80\x02)q\x00" + b"".join(floors) + b"."
    with pytest.raises(DamagedFileError, match="holds no mapping"):
        unpickle(tower)
    again = b"c_codecs\nencode\nh\x01U\x06latin1\x86R"
    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000 + b"q\x01"
    with pytest.raises(DamagedFileError, match="makes more bytes than it has"):
        unpickle(b"\x80\x02" + text + again * 200 + b".")
    monkeypatch.setattr(pickled, "MAX_INSTRUCTIONS", 100)
    with pytest.raises(TooLargeError, match="100 instructions or more; a batch has few"):
        unpickle(tower)


def test_any_damage_is_told_in_words(tmp_path):
    good, rng = Python2.dumps(batch([1, 2, 0])), np.random.default_rng(0)
    head = 200  # where the instructions are; behind it are mostly pixels
    path = tmp_path / "data_batch_1"
    for _ in range(300):
        hurt = bytearray(good)
        hurt[rng.integers(head) if rng.random() < 0.7 else -1 - rng.integers(head)] = rng.integers(256)
        path.write_bytes(bytes(hurt) if rng.random() < 0.8 else good[: rng.integers(1, len(good))])
        try:
            assert len(open_data(tmp_path)["train"]) == 3
        except (DamagedFileError, FileFormatError, UnsafeFileError, UnsupportedError) as error:
            assert "data_batch_1" in str(error)
