"""PyTorch's files, genuine ones and some put together byte by byte, without PyTorch."""

from __future__ import annotations

import random
import struct
import zipfile

import numpy as np
import pytest

from minidnn.errors import (
    DamagedFileError,
    FileError,
    FileFormatError,
    MismatchError,
    TooLargeError,
    UnsafeFileError,
    UnsupportedError,
)
from tests.samples import distinct
from weights_tools.detect import LEGACY_TORCH
from weights_tools.readers import pytorch

LEGACY = [f"pytorch/vgg19_small16x_e{i}_base.pth" for i in range(1, 6)]
LEGACY += ["pytorch/lenet_mnist_cnn.pt", "pytorch/resnet20-12fca82f.th"]
ZIPPED = ["squeezenet/squeezenet1_1_torchvision.pth"]
KINDS = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "BFloat16": "<u2"}


# A pickle as torch writes it, instruction by instruction.


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def number(n: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", n)


def row(numbers) -> bytes:
    return b"(" + b"".join(map(number, numbers)) + b"t"


def named(entries: dict[str, bytes]) -> bytes:
    return b"ccollections\nOrderedDict\n)R(" + b"".join(text(k) + v for k, v in entries.items()) + b"u"


def tensor(key, count, shape, stride=None, offset=0, kind="Float", tail=b"") -> bytes:
    if stride is None:
        stride = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    storage = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu")
    storage += number(count) + tail + b"tQ"
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number(offset)
        + row(shape)
        + row(stride)
        + hooks
        + b"tR"
    )


def zipped(path, saved: bytes, storages: dict[str, bytes], order=b"little", **extra: bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + saved + b".")
        if order is not None:
            archive.writestr("net/byteorder", order)
        for key, data in storages.items():
            archive.writestr(f"net/data/{key}", data)
        for name, data in extra.items():
            archive.writestr(f"net/{name}", data)
    return path


def legacy(
    path, saved: bytes, storages: dict[str, bytes], sizes: dict[str, int] | None = None, little=b"\x88"
):
    data = LEGACY_TORCH + b"\x80\x02M\xe9\x03." + b"\x80\x02}" + text("little_endian") + little + b"s."
    data += b"\x80\x02" + saved + b"." + b"\x80\x02](" + b"".join(map(text, storages)) + b"e."
    for key, numbers in storages.items():
        data += struct.pack("<q", (sizes or {}).get(key, len(numbers) // 4)) + numbers
    path.write_bytes(data)
    return path


@pytest.fixture
def bank(rng):
    return distinct(rng, (4, 3, 2, 5)).astype("<f4")  # K, C, kh, kw


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


# What comes out.


@pytest.mark.oracle
@pytest.mark.parametrize("name", LEGACY + ZIPPED)
def test_a_genuine_file_has_the_numbers_that_torch_reads(data, name):
    torch = pytest.importorskip("torch")
    wanted = torch.load(data / "models" / name, weights_only=True, map_location="cpu")
    wanted = {n.removeprefix("module."): v.numpy() for n, v in wanted.get("state_dict", wanted).items()}
    foreign = pytorch.read(data / "models" / name)
    layers = {n.rpartition(".")[0] for n in wanted}
    assert (foreign.format, foreign.flatten, set(foreign.layers)) == ("PyTorch state dict", "chw", layers)
    for name, array in wanted.items():
        layer, _, ending = name.rpartition(".")
        own, is_norm = foreign.layers[layer], f"{layer}.running_mean" in wanted
        role = {"weight": "gamma" if is_norm else "w", "bias": "beta" if is_norm else "b"}.get(ending)
        role = role or ending.removeprefix("running_")
        turned = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        np.testing.assert_array_equal(own[role], turned)
        assert own[role].dtype == np.float32


def test_a_checkpoint_is_unwrapped_and_that_is_told(data):
    foreign = pytorch.read(data / "models/pytorch/resnet20-12fca82f.th")
    assert foreign.steps == [
        "took 'state_dict' of what was saved",
        "left out 'best_prec1'",
        "took the prefix 'module.' off all names",
    ]
    assert list(foreign.layers)[:3] == ["conv1", "bn1", "layer1.0.conv1"]


@pytest.mark.parametrize("write", [zipped, legacy])
def test_filters_and_dense_weights_are_turned_into_our_axes(path, bank, rng, write):
    dense = distinct(rng, (6, 7)).astype("<f4")
    entries = {
        "conv.weight": tensor("0", 120, bank.shape),
        "conv.bias": tensor("1", 4, (4,)),
        "act.weight": tensor("2", 1, (1,)),
        "fc.weight": tensor("3", 42, dense.shape),
    }
    bias, slope = np.arange(4, dtype="<f4"), np.array([0.25], "<f4")
    stored = {"0": bank.tobytes(), "1": bias.tobytes(), "2": slope.tobytes(), "3": dense.tobytes()}
    foreign = pytorch.read(write(path, named(entries), stored))
    assert list(foreign.layers) == ["conv", "act", "fc"]
    np.testing.assert_array_equal(foreign.layers["conv"]["w"], bank.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(foreign.layers["conv"]["b"], bias)
    np.testing.assert_array_equal(foreign.layers["act"]["slope"], slope)
    np.testing.assert_array_equal(foreign.layers["fc"]["w"], dense.T)


def test_a_norm_is_told_from_a_slope_by_its_statistics(path):
    numbers = np.arange(1, 16, dtype="<f4")
    endings = ["weight", "bias", "running_mean", "running_var"]
    entries = {f"bn.{end}": tensor("0", 15, (3,), offset=3 * i) for i, end in enumerate(endings)}
    entries |= {f"plain.{end}": tensor("0", 15, (3,), offset=12) for end in endings[2:]}
    entries["bn.num_batches_tracked"] = tensor("1", 1, (), kind="Long")
    foreign = pytorch.read(zipped(path, named(entries), {"0": numbers.tobytes(), "1": bytes(8)}))
    assert [a.tolist() for a in foreign.layers["bn"].values()] == [
        [1, 2, 3],
        [4, 5, 6],
        [7, 8, 9],
        [10, 11, 12],
    ]
    assert foreign.layers["plain"]["gamma"].tolist() == [1, 1, 1]
    assert foreign.layers["plain"]["beta"].tolist() == [0, 0, 0]
    assert foreign.steps == ["dropped 1 counters of batches seen (num_batches_tracked)"]


@pytest.mark.parametrize("kind", ["Double", "Half", "BFloat16"])
def test_other_floats_become_float32(path, kind):
    numbers = np.array([[1.5, -2.0, 0.25], [3.0, -4.5, 6.0]], "<f4")
    raw = (numbers.view("<u4") >> 16).astype("<u2") if kind == "BFloat16" else numbers.astype(KINDS[kind])
    entries = {"fc.weight": tensor("0", 6, (2, 3), kind=kind)}
    found = pytorch.read(zipped(path, named(entries), {"0": raw.tobytes()})).layers["fc"]["w"]
    np.testing.assert_array_equal(found, numbers.T)
    assert found.dtype == np.float32


def test_tensors_may_share_a_storage_and_step_through_it(path):
    numbers = np.arange(12, dtype="<f4")
    entries = {
        "a.weight": tensor("0", 12, (3, 2), (1, 3)),
        "b.weight": tensor("0", 12, (2, 2), (2, 1), offset=6),
    }
    layers = pytorch.read(zipped(path, named(entries), {"0": numbers.tobytes()})).layers
    assert layers["a"]["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert layers["b"]["w"].tolist() == [[6, 8], [7, 9]]


def test_an_optimiser_around_the_weights_is_left_out(path):
    model = named({"module.fc.weight": tensor("0", 6, (2, 3))})
    saved = b"}(" + text("epoch") + b"K\x05" + text("optimizer") + b"}" + text("model") + model + b"u"
    foreign = pytorch.read(zipped(path, saved, {"0": bytes(24)}))
    assert foreign.steps == [
        "took 'model' of what was saved",
        "left out 'epoch', 'optimizer'",
        "took the prefix 'module.' off all names",
    ]
    assert list(foreign.layers) == ["fc"]


# What is refused.


def refused(path, entries, stored=None, **about):
    return pytorch.read(zipped(path, named(entries), {"0": bytes(24)} if stored is None else stored, **about))


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "error", "words"),
    [
        ((2, 3), (3, 1), 1, UnsafeFileError, "reaches to number 6 of a storage of 6"),
        ((2, 3), (4, 1), 0, UnsafeFileError, "reaches to number 6 of a storage of 6"),
        ((2, 3), (-3, 1), 3, UnsafeFileError, "begins or steps before its storage"),
        ((2, 3), (3, 1), -1, UnsafeFileError, "begins or steps before its storage"),
        ((5, 5), (0, 1), 0, TooLargeError, r"repeats few numbers often.*more than 4 times the 24 bytes"),
        ((1 << 20, 1 << 20), (0, 0), 0, TooLargeError, "repeats few numbers often"),
        ((1 << 60, 3), (0, 0), 0, DamagedFileError, "beyond all measure"),
        ((-2, 3), (3, 1), 0, DamagedFileError, "a side below 0"),
        ((2, 3), (3,), 0, DamagedFileError, "no strides that fit its shape"),
        ((1,) * 9, (1,) * 9, 0, UnsupportedError, "9 axes"),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(path, shape, stride, offset, error, words):
    with pytest.raises(error, match=rf"net\.pth: 'fc\.weight'.*{words}"):
        refused(path, {"fc.weight": tensor("0", 6, shape, stride, offset)})


def test_a_storage_must_have_just_its_bytes(path):
    entries = {"fc.weight": tensor("0", 6, (2, 3))}
    for size in (20, 28):
        with pytest.raises(DamagedFileError, match=f"storage '0' has {size} bytes, expected 24"):
            refused(path, entries, {"0": bytes(size)})
    with pytest.raises(DamagedFileError, match="'net/data/0' is missing"):
        refused(path, entries, {})
    with pytest.raises(DamagedFileError, match="storage '0' is of two kinds"):
        refused(path, entries | {"a.weight": tensor("0", 3, (3,), kind="Double")})
    with pytest.raises(UnsupportedError, match="storages within storages"):
        refused(path, {"fc.weight": tensor("0", 6, (2, 3), tail=b"(K\x01t")})
    with pytest.raises(DamagedFileError, match="a storage below 0"):
        refused(path, {"fc.weight": tensor("0", -6, (2, 3))})


def test_code_in_a_checkpoint_is_named_and_not_run(path, tmp_path):
    trap = b"cposix\nsystem\n(" + text(f"touch {tmp_path}/canary") + b"tR"
    for write in (zipped, legacy):
        with pytest.raises(UnsafeFileError, match=r"asks for posix\.system, and arrays need none of it"):
            pytorch.read(
                write(path, named({"fc.weight": tensor("0", 6, (2, 3)), "x": trap}), {"0": bytes(24)})
            )
    assert not (tmp_path / "canary").exists()


def test_a_whole_model_is_a_program(path):
    model = b"ctorch.nn.modules.container\nSequential\n)\x81}" + text("training") + b"\x88sb"
    with pytest.raises(
        UnsupportedError, match=r"a whole pickled model.*Sequential.*save model\.state_dict\(\)"
    ):
        pytorch.read(zipped(path, model, {}))
    with pytest.raises(UnsafeFileError, match=r"Sequential, posix\.system"):
        pytorch.read(zipped(path, model + b"0cposix\nsystem\n", {}))
    with pytest.raises(UnsupportedError, match=r"asks for torch\.QInt8Storage, which we have not"):
        refused(path, {"fc.weight": tensor("0", 6, (2, 3), kind="QInt8")})


def test_programs_and_other_machines_are_not_supported(path, tmp_path):
    entries = {"fc.weight": tensor("0", 6, (2, 3))}
    with pytest.raises(UnsupportedError, match="saved on a big-endian machine"):
        refused(path, entries, order=b"big")
    with pytest.raises(UnsupportedError, match="saved on a big-endian machine"):
        pytorch.read(legacy(path, named(entries), {"0": bytes(24)}, little=b"\x89"))
    with pytest.raises(UnsupportedError, match="a TorchScript program"):
        refused(path, entries, **{"constants.pkl": b"", "code/net.py": b""})
    with pytest.raises(UnsupportedError, match="an exported program"):
        refused(path, entries, archive_format=b"pt2")
    path.write_bytes(bytes(257) + b"ustar" + bytes(250))
    with pytest.raises(UnsupportedError, match="a tar archive, as torch saved before"):
        pytorch.read(path)
    path.write_bytes(b"\x80\x02N.")
    with pytest.raises(FileFormatError, match=r"not a file of torch\.save"):
        pytorch.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "dear")
    with pytest.raises(FileFormatError, match=r"not of torch\.save \(it holds 'letter\.txt'\)"):
        pytorch.read(path)


def test_what_holds_no_state_dict_is_told(path):
    for saved, words in [
        (tensor("0", 6, (2, 3)), "a single tensor, not a net"),
        (b"]", "a list, not a state dict"),
        (b"}(" + text("epoch") + b"K\x05u", r"no state dict in it \(it holds 'epoch'\)"),
        (b"}", r"no state dict in it \(it holds nothing\)"),
    ]:
        with pytest.raises(MismatchError, match=words):
            pytorch.read(zipped(path, saved, {"0": bytes(24)}))


def test_all_layers_that_are_not_understood_are_told_at_once(path):
    entries = {
        "a.weight": tensor("0", 6, (1, 2, 3)),
        "b.weight_g": tensor("0", 6, (6,)),
        "c.bias": tensor("0", 6, (6,)),
        "d.weight": tensor("0", 6, (3,)),
        "d.bias": tensor("0", 6, (3,)),
    }
    with pytest.raises(UnsupportedError) as found:
        refused(path, entries)
    for words in [
        "'a' holds w (1, 2, 3)",
        "'b' has 'weight_g', of which we know nothing",
        "'c' holds b (6,)",
        "'d' is a norm without running statistics",
    ]:
        assert words in str(found.value)
    with pytest.raises(UnsupportedError, match=r"'a' holds int64, not floats"):
        refused(path, {"a.weight": tensor("0", 3, (1, 3), kind="Long")})


def test_a_damaged_legacy_file_is_told(path):
    entries, stored = named({"fc.weight": tensor("0", 6, (2, 3))}), {"0": bytes(24)}
    whole = legacy(path, entries, stored).read_bytes()
    for data, words in [
        (whole[:-1], "has 23 bytes, expected 24"),
        (whole[:-25], "ends before storage '0'"),
        (whole + b"x", "1 bytes behind the last storage"),
    ]:
        path.write_bytes(data)
        with pytest.raises(DamagedFileError, match=words):
            pytorch.read(path)
    path.write_bytes(whole.replace(b"M\xe9\x03.", b"M\xea\x03."))
    with pytest.raises(UnsupportedError, match="torch's protocol is 1002, we know 1001"):
        pytorch.read(path)
    path.write_bytes(LEGACY_TORCH + b"\x80\x02)" + b"2\x86" * 60 + b"." + b"\x80\x02}.")
    with pytest.raises(UnsupportedError, match="torch's protocol is a tuple"):
        pytorch.read(path)
    with pytest.raises(DamagedFileError, match="has 5 numbers, expected 6"):
        pytorch.read(legacy(path, entries, stored, {"0": 5}))
    with pytest.raises(DamagedFileError, match="lists other storages"):
        pytorch.read(legacy(path, entries, stored | {"1": bytes(4)}))


@pytest.mark.parametrize("write", [zipped, legacy])
def test_300_mutations_end_in_arrays_or_in_words(path, bank, write, tmp_path):
    rng = random.Random(0)
    entries = {"c.weight": tensor("0", 120, bank.shape), "c.bias": tensor("1", 4, (4,))}
    whole = write(path, named(entries), {"0": bank.tobytes(), "1": bytes(16)}).read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randint(len(data) // 2, 3 * len(data))])
        try:
            foreign = pytorch.read(path)
            assert all(a.nbytes <= 4 * len(whole) for own in foreign.layers.values() for a in own.values())
        except FileError as error:
            assert str(error).startswith(str(path))
