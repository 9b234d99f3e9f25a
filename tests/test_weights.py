"""Weight files: what was saved comes back, what lies is told off, and no crash loses the old one."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, fields, replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidnn import layers as L
from minidnn import weights, zoo
from minidnn.arrays import device_of, to_device, to_host
from minidnn.errors import (
    DamagedFileError,
    DivergedError,
    FileFormatError,
    MinidnnError,
    MismatchError,
    OutputError,
    TooLargeError,
    UnknownLayerError,
    UnsafeFileError,
    UnsupportedError,
    UsageError,
    WeightsError,
)
from minidnn.images import VGG, Preprocess
from minidnn.net import Net, Node
from minidnn.weights import blueprint, reading
from minidnn.weights.jsons import dumped, parsed
from minidnn.weights.sink import Sink
from minidnn.weights.typed import built, decoded, encoded
from minidnn.window import Window
from tests import hostile_h5
from tests.nets import every_layer, forked, photo


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.h5"


def saved(path, net, **how):
    weights.save(path, net, **how)
    return weights.load(path)


def same(one: Net, other: Net) -> bool:
    """Whether two nets are one in all that a file holds."""
    mine, theirs = one.params | one.buffers, other.params | other.buffers
    return (
        [(n.name, encoded_layer(n.layer), n.inputs) for n in one.nodes]
        == [(n.name, encoded_layer(n.layer), n.inputs) for n in other.nodes]
        and mine.keys() == theirs.keys()
        and all(np.array_equal(mine[name], theirs[name]) for name in mine)
        and (one.input, one.input_shape, one.preprocess, one.classes, one.aliases)
        == (other.input, other.input_shape, other.preprocess, other.classes, other.aliases)
    )


def encoded_layer(layer):
    return type(layer), encoded(layer, without=[f.name for f in fields(layer) if "role" in f.metadata])


# There and back.


def test_every_layer_comes_back_and_computes_the_same(path):
    net = every_layer().astype("float32")
    loaded, image = saved(path, net), photo(net).astype("float32")
    assert same(net, loaded)
    for end in ("prob", "gap"):
        y = net.forwardto(net.init_res(), end, image)
        assert np.array_equal(y, loaded.forwardto(loaded.init_res(), end, image))


def test_what_is_shared_is_stored_once_and_shared_again(path):
    loaded = saved(path, forked())
    assert loaded.node("a").layer.w is loaded.node("twin").layer.w
    with h5py.File(path) as file:
        assert sorted(file["params"]) == ["a", "b", "conv1"]


def test_what_a_net_is_known_by_comes_back(path):
    about = {"classes": ["cat", "dog"], "aliases": {"first": "relu"}, "input_shape": (4, 5, 3)}
    picture = np.random.default_rng(0).random((4, 5, 3), "float32")
    looks = [VGG, Preprocess("GRAY"), Preprocess("BGR", mean=picture, std=(2.0, 3.0, 4.0), scale=0.5), None]
    for look in looks:
        net = Net.chain({"relu": L.ReLU()}, **about, preprocess=look)
        loaded = saved(path, net)
        assert same(net, loaded) and loaded.name_of("first") == "relu"
    assert loaded.source == {"path": str(path), "digest": weights.digest(loaded)}


def test_names_with_slashes_as_googlenet_has_them(path):
    conv = L.Conv.random(np.random.default_rng(0), 1, 3, 4)
    net = Net.chain({"inception_3a/1x1": conv, "inception_3a/relu_1x1": L.ReLU()}, input_shape=(4, 5, 3))
    assert same(net, saved(path, net))


def test_a_dropout_frozen_and_a_filter_without_bias_come_back(path):
    rng = np.random.default_rng(0)
    mask = rng.random((1, 4, 5, 2), "float32")
    chain = {"conv": L.Conv.random(rng, 1, 3, 2, bias=False), "drop": L.Dropout(0.3, mask)}
    net = Net.chain(chain, input_shape=(4, 5, 3))
    loaded = saved(path, net)
    assert same(net, loaded) and loaded.node("conv").layer.b is None
    assert list(loaded.buffers) == ["drop/frozen"]


windows = st.builds(
    lambda kernel, stride, pad, ceil: Window.of(
        kernel, stride=stride, pad=[min(pad, k - 1) for k in kernel] * 2, ceil=ceil
    ),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.integers(0, 2),
    st.booleans(),
)
steps = st.one_of(
    st.tuples(st.just("conv"), windows, st.integers(1, 4), st.booleans()),
    st.tuples(
        st.sampled_from(["max", "avg"]), windows, st.sampled_from(["real", "padded", "all"]), st.just(0)
    ),
    st.tuples(st.just("leaky"), st.floats(0, 1), st.just(0), st.just(0)),
    st.tuples(st.just("norm"), st.floats(1e-6, 1), st.just(0), st.just(0)),
    st.tuples(st.just("lrn"), st.integers(1, 5), st.floats(0.1, 2), st.just(0)),
    st.tuples(st.just("add"), st.just(0), st.just(0), st.just(0)),
)


def grown(seed: int, plan: list, h: int, w: int) -> Net:
    """A net by that plan; each step that fits reads the one before, an "add" also the input of that."""
    rng, nodes, shape = np.random.default_rng(seed), [], (1, h, w, 3)
    last, before = "data", None
    for number, (kind, a, b, c) in enumerate(plan):
        channels, reads = shape[3], (last,)
        if kind == "conv":
            filters = rng.standard_normal((*a.kernel, channels, b), "float32")
            layer = L.Conv(filters, rng.standard_normal(b, "float32") if c else None, replace(a, ceil=False))
        elif kind in ("max", "avg"):
            layer = L.MaxPool(a) if kind == "max" else L.AvgPool(a, b)
        elif kind == "leaky":
            layer = L.LeakyReLU(a)
        elif kind == "norm":
            layer = L.BatchNorm(*rng.uniform(0.5, 1.5, (4, channels)).astype("float32"), eps=a)
        elif kind == "lrn":
            layer = L.LRN(a, b)
        else:
            layer, reads = L.Add(), (last, before or last)
        try:
            new_shape = layer.out_shape(*[shape] * len(reads)) if kind != "add" or before else shape
        except MinidnnError:
            continue
        if kind in ("conv", "max", "avg"):
            before = None
        name = f"{kind}{number}"
        nodes.append(Node(name, layer, reads))
        before, last, shape = (last if new_shape == shape else None), name, new_shape
    return Net(nodes or [Node("relu", L.ReLU(), ("data",))], input_shape=(h, w, 3))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 99), st.lists(steps, max_size=6), st.integers(5, 8), st.integers(9, 12))
def test_any_small_net_comes_back(tmp_path, seed, plan, h, w):
    net = grown(seed, plan, h, w)
    loaded = saved(tmp_path / "any.h5", net)
    assert same(net, loaded)
    assert weights.digest(net) == weights.digest(loaded) == loaded.source["digest"]
    image, end = photo(net).astype("float32"), net.names[-1]
    y = net.forwardto(net.init_res(), end, image)
    assert np.array_equal(y, loaded.forwardto(loaded.init_res(), end, image), equal_nan=True)


def test_the_same_net_makes_the_same_bytes(tmp_path):
    net = every_layer().astype("float32")
    for name in ("a.h5", "b.h5"):
        weights.save(tmp_path / name, net, provenance={"license": "MIT"})
        time.sleep(0.01)
    weights.save(tmp_path / "c.h5", weights.load(tmp_path / "a.h5"), provenance={"license": "MIT"})
    assert len({hashlib.sha256((tmp_path / n).read_bytes()).digest() for n in ("a.h5", "b.h5", "c.h5")}) == 1


def test_large_arrays_lie_on_whole_pages(path):
    weights.save(path, zoo.get("gabor"))
    opened = weights.Weights.open(path)
    assert [opened.offsets[n] % 4096 for n in ("conv1/w", "conv2/w")] == [0, 0]
    assert all(offset % 4 == 0 for offset in opened.offsets.values())


# Halves.


def test_float16_halves_filters_and_leaves_the_rest(path):
    net = every_layer().astype("float32")
    loaded = saved(path, net, dtype="float16")
    kinds = {tensor.name: tensor.dtype for tensor in weights.Weights.open(path).tensors}
    assert {name for name, kind in kinds.items() if kind == "<f2"} == {
        *("conv1/w", "grouped/w", "transposed/w", "fc/w")
    }
    assert loaded.dtype == np.float32
    for name, array in (net.params | net.buffers).items():
        found = (loaded.params | loaded.buffers)[name]
        wanted = array.astype("float16") if kinds[name] == "<f2" else array
        assert np.array_equal(found, wanted.astype("float32"))


def test_float16_refuses_what_it_cannot_hold(path):
    net = forked().astype("float32")
    with net.updating() as arrays:
        arrays["a/w"][0, 1, 2] = 65_505
    with pytest.raises(OutputError, match=r"'a/w' has 3 values beyond 65,504.*save it as float32"):
        weights.save(path, net, dtype="float16")
    assert not os.listdir(path.parent)
    with pytest.raises(UsageError, match="no dtype 'float64' to save in"):
        weights.save(path, net, dtype="float64")


# What cannot be saved.


def test_shapes_alone_are_not_saved(path):
    with pytest.raises(WeightsError, match=r"no weights yet in conv1/w, conv1/b; draw or load some"):
        weights.save(path, Net.chain({"conv1": L.Conv.random(None, 3, 3, 4)}))


def test_what_is_no_number_is_counted_and_named(path):
    net = forked()
    with net.updating() as arrays:
        arrays["b/w"][0, 1, 2] = [np.nan, np.inf]
    with pytest.raises(DivergedError, match="'b/w' has 2 of 24 values that are not finite"):
        weights.save(path, net)
    weights.save(path, net, allow_nonfinite=True)
    assert path.exists()
    huge = forked().replacing({"conv1/b": np.full(4, 1e39)})
    with pytest.raises(DivergedError, match="'conv1/b' has 4 of 4"):
        weights.save(path, huge)


@dataclass(frozen=True, eq=False)
class Mine(L.Layer):
    """A layer that minidnn does not know."""


@dataclass(frozen=True, eq=False)
class ReLU(L.ReLU):
    """A layer that only has the name of one that it knows."""


def test_layers_of_ones_own_are_all_named(path):
    with pytest.raises(
        UnsupportedError, match=r"cannot be saved: one \(Mine\), three \(ReLU\); only those of"
    ):
        weights.save(path, Net.chain({"one": Mine(), "two": L.ReLU(), "three": ReLU()}))


def test_names_that_a_file_cannot_hold_are_all_named(path):
    with pytest.raises(UsageError, match=r"cannot hold the names '\.\./b', 'a b'; allowed are up to 200 of"):
        weights.save(path, Net.chain({"a b": L.ReLU(), "../b": L.Tanh()}))
    one = L.PReLU(np.ones(1, "float32"))
    with pytest.raises(UsageError, match="cannot hold both 'a/slope' and 'a/slope/slope'; rename one"):
        weights.save(path, Net.chain({"a": one, "a/slope": L.PReLU(np.ones(1, "float32"))}))


def test_words_about_a_net_must_be_plain(path):
    net = Net.chain({"relu": L.ReLU()})
    with pytest.raises(UsageError, match="the provenance cannot be saved: object is nothing that JSON holds"):
        weights.save(path, net, provenance={"by": object()})
    with pytest.raises(UsageError, match="the provenance cannot be saved: Out of range float"):
        weights.save(path, net, provenance={"loss": np.nan})
    with pytest.raises(UsageError, match="preprocess is of type str"):
        weights.save(path, Net.chain({"relu": L.ReLU()}, preprocess="as is"))


def test_what_could_not_be_read_again_does_not_replace_the_old_file(path):
    weights.save(path, forked())
    before = path.read_bytes()
    wide = Net.chain({"pool": L.AvgPool(Window.of(2000))})
    with pytest.raises(OutputError, match=r"net.h5: cannot be read again: what was written: layer 'pool'"):
        weights.save(path, wide)
    assert path.read_bytes() == before


# Parts of a net, and where its numbers are.


def test_a_net_may_end_early(path):
    weights.save(path, every_layer())
    part = weights.load(path, upto=["relu1", "gap"])
    assert part.names[-1] == "gap" and "prob" not in part.names and "fc/w" not in part.params
    with pytest.raises(UnknownLayerError, match="did you mean 'relu1'"):
        weights.load(path, upto="rellu1")
    with pytest.raises(UsageError, match="has no layers; name one"):
        weights.load(path, upto=0)


def test_numbers_can_stay_in_the_file_or_leave_it(path):
    weights.save(path, forked())
    kept, own = weights.load(path), weights.load(path, mmap=False)
    assert not any(array.flags.writeable for array in [*kept.params.values(), *own.params.values()])
    assert not kept.params["a/w"].flags.owndata and own.params["a/w"].flags.owndata
    path.unlink()
    assert same(kept, own), "who has mapped a file still has it"
    weights.save(path, forked(1))
    assert not np.array_equal(weights.load(path).params["a/w"], kept.params["a/w"])


def test_a_net_can_come_in_another_dtype_and_to_another_device(path, device):
    net = forked()
    weights.save(path, net)
    image = photo(net)
    y = weights.load(path).forwardto(weights.load(path).init_res(), "out", image)
    double = weights.load(path, dtype="float64")
    assert double.dtype == np.float64 and np.allclose(
        double.forwardto(double.init_res(), "out", image), y, atol=1e-5
    )
    moved = weights.load(path, device=device)
    assert device_of(moved.params["a/w"]) == device
    there = moved.forwardto(moved.init_res(), "out", to_device(image.astype("float32"), device))
    assert np.allclose(to_host(there), y, atol=1e-5)


def test_updating_a_net_from_a_file_leaves_the_file(path):
    net = saved(path, forked())
    before = path.read_bytes()
    with net.updating() as arrays:
        arrays["a/w"] *= 2
    assert path.read_bytes() == before
    assert weights.digest(net) != net.source["digest"]


RESIDENT = """
import re, sys
import numpy as np
from minidnn import weights

def resident():
    "KiB of the file that this process has looked at."
    told = open("/proc/self/smaps").read()
    found = re.findall(re.escape(sys.argv[1]) + r"\\n(?:.*\\n)*?Rss: +(\\d+) kB", told)
    return sum(map(int, found))

net = weights.load(sys.argv[1])
opened = resident()
net.forwardto(net.init_res(), "relu1", np.ones((1, 8, 8, 3), "float32"))
ran = resident()
net.params["fc/w"].sum()
print(opened, ran, resident())
"""


def test_what_no_run_needs_is_never_read(path):
    rng = np.random.default_rng(0)
    chain = {
        "conv1": L.Conv.random(rng, 3, 3, 4),
        "relu1": L.ReLU(),
        "fc": L.FC.random(rng, (6, 6, 4), 40_000),
    }
    weights.save(path, Net.chain(chain, input_shape=(8, 8, 3)))
    done = subprocess.run([sys.executable, "-c", RESIDENT, str(path)], capture_output=True, text=True)
    opened, ran, all_of_it = map(int, done.stdout.split())
    assert all_of_it > 22_000, "fc takes 23 MB"
    assert opened <= ran < 1000


# Numbers that are none.


def test_a_nan_is_found_when_a_run_comes_to_it_and_not_before(path):
    hostile_h5.CASES["nan_in_the_weights"](hostile_h5.sound(path))
    net, image = weights.load(path), np.ones((1, 6, 6, 3), "float32")
    words = (
        r"net.h5: 2 non-finite values in 'conv1/w'; fetch it again, or take it as it is: .*allow_nonfinite"
    )
    for made in (net, net.with_kernels("im2col"), net.astype("float64"), weights.load(path, mmap=False)):
        with pytest.raises(DamagedFileError, match=words):
            made.forwardto(made.init_res(), "conv1", image)
    taken = weights.load(path, allow_nonfinite=True)
    with np.errstate(invalid="ignore"):
        assert np.isnan(taken.forwardto(taken.init_res(), "conv1", image)).any()
    mended = net.replacing({"conv1/w": np.ones((3, 2, 3, 5), "float32")})
    assert mended.forwardto(mended.init_res(), "fc2", image).shape == (1, 1, 1, 6)


def test_a_nan_behind_the_run_does_not_disturb_it(path):
    hostile_h5.sound(path)
    with h5py.File(path, "r+") as file:
        file["params/fc2/b"][3] = np.inf
    net, image = weights.load(path), np.ones((1, 6, 6, 3), "float32")
    res = net.init_res()
    net.forwardto(res, "pool1", image)
    with pytest.raises(DamagedFileError, match="1 non-finite values in 'fc2/b'"):
        net.forwardto(res, "fc2")


def test_infinite_halves_are_found_too(path):
    hostile_h5.CASES["infinite_halves"](hostile_h5.sound(path))
    net = weights.load(path)
    with pytest.raises(DamagedFileError, match="90 non-finite values in 'conv1/w'"):
        net.forwardto(net.init_res(), "conv1", np.ones((1, 6, 6, 3), "float32"))


# Digests.


def test_a_digest_is_that_of_the_numbers_however_they_came(path):
    net = every_layer().astype("float32")
    loaded = saved(path, net)
    digest = weights.digest(net)
    assert (
        digest == weights.digest(loaded) == weights.Weights.open(path).digest == weights.verify(path).digest
    )
    assert digest == weights.digest(loaded.with_kernels("im2col")) == weights.digest(Net(loaded.nodes))
    half = saved(path, net, dtype="float16")
    assert weights.digest(half) == weights.digest(Net(half.nodes)) != digest
    assert weights.digest(half) == half.source["digest"]


def test_a_digest_tells_numbers_names_and_shapes_apart():
    one = {"a": L.PReLU(np.array([1, 2], "float32"))}
    digests = {
        weights.digest(Net.chain(chain))
        for chain in (
            one,
            {"b": one["a"]},
            {"a": L.PReLU(np.array([2, 1], "float32"))},
            {"a": L.PReLU(np.array([1, 2], "float64"))},
            {"a": L.Conv(np.array([1, 2], "float32").reshape(1, 1, 1, 2), None, Window.of(1))},
            {"a": L.Conv(np.array([1, 2], "float32").reshape(1, 1, 2, 1), None, Window.of(1))},
        )
    }
    assert len(digests) == 6


def test_a_digest_up_to_a_layer_knows_only_what_that_needs(path):
    net = forked().astype("float32")
    loaded = saved(path, net)
    part = weights.load(path, upto="twin")
    assert weights.digest(net, upto="twin") == weights.digest(part) == weights.digest(loaded, upto="twin")
    assert part.source["digest"] == weights.digest(net), "the source is the whole file"


def test_a_digest_of_a_net_in_a_file_reads_no_numbers(path, monkeypatch):
    loaded = saved(path, forked())
    monkeypatch.setattr(weights.stored, "sha256_of", lambda array: pytest.fail("read"))
    assert weights.digest(loaded) == loaded.source["digest"]


# A file without its net.


def test_a_file_can_be_looked_at_without_its_numbers(path):
    net = hostile_h5.small()
    weights.save(path, net, provenance={"license": "MIT", "steps": ["made up"]})
    opened = weights.Weights.open(path)
    assert opened.names == ("conv1/b", "conv1/w", "fc2/b", "fc2/w") and opened.shapes["fc2/w"] == (4, 4, 5, 6)
    assert opened.classes == tuple("abcdef") and opened.provenance["license"] == "MIT"
    assert opened.preprocess == net.preprocess and "Blueprint" not in repr(opened)
    found = opened.load(["fc2/b", "conv1/w"])
    assert list(found) == ["fc2/b", "conv1/w"] and np.array_equal(found["conv1/w"], net.params["conv1/w"])
    assert opened.load().keys() == set(opened.names)
    with pytest.raises(UnknownLayerError, match=r"no array 'conv1/v'; did you mean 'conv1/[bw]'"):
        opened.load(["conv1/v"])


def test_describe_says_all_in_words_that_json_has(path):
    weights.save(path, hostile_h5.small(), provenance={"license": "MIT"}, dtype="float16")
    told = json.loads(json.dumps(weights.describe(path)))
    assert told["format"] == "minidnn-weights 1.0" and told["generator"].startswith("minidnn ")
    assert told["net"] | {"aliases": 0} == {
        "layers": 4,
        "input": "data",
        "input_shape": [6, 6, 3],
        "ends": "fc2",
        "aliases": 0,
        "parameters": 3 * 2 * 3 * 5 + 5 + 4 * 4 * 5 * 6 + 6,
    }
    assert told["tensors"][1] == {"name": "conv1/w", "dtype": "<f2", "shape": [3, 2, 3, 5], "nbytes": 180}
    assert told["preprocessing"]["mean"] == [1, 2, 3] and told["preprocessing"]["size"] == [6, 7]
    assert told["bytes"] == path.stat().st_size and told["provenance"] == {"license": "MIT"}
    picture = Preprocess(mean=np.ones((6, 7, 3), "float32"))
    weights.save(path, Net.chain({"relu": L.ReLU()}, preprocess=picture))
    assert weights.describe(path)["preprocessing"]["mean"] == "a picture (6, 7, 3)"


def test_verify_finds_what_has_changed(path):
    report = weights.verify(hostile_h5.sound(path))
    assert report.is_sound and report.tensors == 4 and report.nbytes == 4 * (90 + 5 + 480 + 6)
    with h5py.File(path, "r+") as file:
        file["params/conv1/w"][0, 1, 2, 3] = np.nan
        file["params/fc2/b"][2] += 1
    first, second, third = weights.verify(path).findings
    assert "'conv1/w' has changed: sha256 " in first and "expected" in first
    assert second == "'conv1/w' has 1 of 90 values that are not finite"
    assert "'fc2/b' has changed" in third


def test_verify_holds_halves_against_both_sums(path):
    weights.save(path, hostile_h5.small(), dtype="float16")
    assert weights.verify(path).is_sound
    with h5py.File(path, "r+") as file:
        hostile_h5.edit(file, "tensors", lambda index: index[1].update(sha256_as_float32="0" * 64))
    assert ["'conv1/w' has another sha256 as float32" in f for f in weights.verify(path).findings] == [True]


# Files that lie.

WORDS = {
    "cut_by_one_byte": (DamagedFileError, r"truncated: [\d,]+ of [\d,]+ bytes; fetch it again"),
    "cut_to_100_bytes": (DamagedFileError, r"truncated: 100 of [\d,]+ bytes; fetch it again"),
    "cut_to_the_signature": (DamagedFileError, "truncated: 8 of at least 48 bytes"),
    "empty": (DamagedFileError, "0 bytes; fetch it again"),
    "torn_in_the_middle": (DamagedFileError, "damaged HDF5 file"),
    "a_web_page": (FileFormatError, "looks like a web page: the download failed"),
    "no_format": (FileFormatError, "not a weight file of minidnn; other formats: minidnn weights convert"),
    "another_format": (FileFormatError, "not a weight file of minidnn; other formats"),
    "version_2": (UnsupportedError, r"format 2\.0, and we read 1\.0; needs minidnn >= 3\.1\.4"),
    "version_as_words": (DamagedFileError, "its format_version is 'None'"),
    "version_as_float": (DamagedFileError, "its format_version is '1.0'"),
    "version_of_five": (DamagedFileError, r"its format_version is '\[0 1 2 3 4\]'"),
    "no_version": (DamagedFileError, "its format_version is 'None'"),
    "architecture_not_json": (DamagedFileError, "'meta/architecture' is not JSON as we write it"),
    "architecture_not_text": (DamagedFileError, "is not JSON as we write it .*decode byte 0xff"),
    "architecture_of_another_kind": (DamagedFileError, r"is float32 \(3, 4\), expected bytes in a row"),
    "architecture_missing": (MismatchError, "'meta/architecture' is missing"),
    "json_of_9_mib": (TooLargeError, "has 9,437,184 bytes, the limit is 8,388,608; nothing was read"),
    "json_claims_a_tebibyte": (TooLargeError, "claims 1,099,511,627,776 bytes"),
    "json_nested_10_000_deep": (DamagedFileError, "is nested 10,000 deep, the limit is 32"),
    "json_of_quotes": (DamagedFileError, "Unterminated string"),
    "json_with_nan": (DamagedFileError, "NaN is no number"),
    "json_with_a_huge_float": (DamagedFileError, "1e999 is no number"),
    "json_with_a_huge_whole_number": (DamagedFileError, "Exceeds the limit"),
    "json_with_a_key_twice": (DamagedFileError, "'nodes' is there twice"),
    "json_with_half_a_letter": (DamagedFileError, "surrogates not allowed"),
    "classes_that_talk_to_the_terminal": (DamagedFileError, r"control character '.*u001b'"),
    "architecture_a_list": (DamagedFileError, r"found \[\], expected Architecture"),
    "classes_of_numbers": (DamagedFileError, "'meta/classes' is damaged: found 1, expected str"),
    "provenance_a_list": (DamagedFileError, "'meta/provenance' holds no fields by name"),
    "a_cycle": (DamagedFileError, "'conv1' reads 'relu1', which is not made before it: a cycle"),
    "unknown_input": (DamagedFileError, "reads 'conv7', and there is no such layer; did you mean 'conv1'"),
    "a_name_twice": (DamagedFileError, "two layers are called 'conv1'"),
    "unknown_ops": (UnsupportedError, "layers of a kind we lack: Swish, os.system; get the minidnn"),
    "op_is_the_base": (UnsupportedError, "layers of a kind we lack: Layer"),
    "no_nodes": (DamagedFileError, "a net without layers"),
    "two_inputs": (UnsupportedError, "has 2 inputs, we run nets of one"),
    "ten_thousand_and_one_nodes": (TooLargeError, "has 10,001 layers, the limit is 10,000"),
    "layer_name_climbs": (UnsafeFileError, "calls a layer '../../etc/passwd'; allowed are"),
    "layer_name_from_the_root": (UnsafeFileError, "calls a layer '/fc2'; allowed are"),
    "window_missing": (DamagedFileError, r"layer 'conv1' \(Conv\) is damaged: Conv has no window"),
    "window_of_words": (DamagedFileError, "found 'a', expected int"),
    "window_of_a_million": (DamagedFileError, "found 1000000, expected a whole number up to 1,024"),
    "stride_of_zero": (DamagedFileError, r"stride of a window is \(0, 1\)"),
    "groups_do_not_divide": (MismatchError, "cannot share 5 filters among 3 groups"),
    "image_of_a_billion": (TooLargeError, "'data' makes maps of 1000000000x1000000000 pixels, the limit is"),
    "image_without_pixels": (DamagedFileError, "'data' makes maps of 0x6x3"),
    "image_of_other_channels": (
        MismatchError,
        "layer 'conv1' cannot read 'data': .*wants 3 channels, x has 4",
    ),
    "many_large_maps": (TooLargeError, "'r7' makes maps of 4096x4096 pixels, the limit is"),
    "array_missing": (MismatchError, "'params/conv1/w' is missing"),
    "array_unlisted": (MismatchError, "'conv1/w': its net wants it and the file lacks it"),
    "array_unnamed": (MismatchError, "'conv1/w': its net wants it and the file lacks it"),
    "array_of_a_name_unknown_to_the_layer": (MismatchError, r"layer 'conv1' \(Conv\) has no array 'v'"),
    "array_listed_twice": (DamagedFileError, "lists an array twice"),
    "array_of_another_shape": (MismatchError, r"found \(5, 5, 3, 64\), expected \(3, 2, 3, 5\)"),
    "filters_that_the_window_does_not_fit": (MismatchError, r"filters of 4x2 and a window of \(3, 2\)"),
    "bias_of_another_length": (MismatchError, r"wants a bias of shape \(5,\), found \(4,\)"),
    "channels_that_do_not_meet": (MismatchError, r"layer 'fc2' cannot read 'pool1': .*x has \(4, 4, 5\)"),
    "int8": (UnsupportedError, "is int8, expected <f4 or <f2; save it as float32"),
    "big_endian": (UnsupportedError, "is >f4, expected <f4 or <f2"),
    "float64": (UnsupportedError, "is float64, expected <f4 or <f2"),
    "complex_numbers": (UnsupportedError, "is complex64, expected <f4 or <f2"),
    "compound": (UnsupportedError, r"is \[\('a', '<f4'\).*expected <f4 or <f2"),
    "objects": (UnsupportedError, "holds things of no fixed length, not numbers"),
    "object_references": (UnsupportedError, "is object, expected <f4 or <f2"),
    "a_tebibyte_of_nothing": (
        TooLargeError,
        "claims 4,398,046,511,104 bytes, the limit is .*nothing was read",
    ),
    "stored_less_than_claimed": (DamagedFileError, "claims 360 bytes and stores 0"),
    "compressed_zeros": (UnsafeFileError, "is compressed; filters are not allowed in weights"),
    "unknown_filter": (UnsafeFileError, "is compressed; filters are not allowed in weights"),
    "in_chunks": (UnsupportedError, "does not lie in one piece; write it contiguous"),
    "a_link_to_another_file": (UnsafeFileError, r"only leads elsewhere \(ExternalLink\); links are not"),
    "a_link_within_the_file": (UnsafeFileError, r"only leads elsewhere \(SoftLink\)"),
    "a_group_that_is_a_link": (UnsafeFileError, r"only leads elsewhere \(ExternalLink\)"),
    "virtual": (UnsafeFileError, "keeps its data in other files, which are not read"),
    "kept_in_another_file": (UnsafeFileError, "keeps its data in other files, which are not read"),
    "a_group_within_itself": (UnsafeFileError, "groups within groups without end"),
    "a_group_where_an_array_should_be": (MismatchError, "'params/conv1/w' is no dataset"),
    "array_path_climbs": (UnsafeFileError, "'params/../meta/classes' is no place for an array"),
    "array_path_from_the_root": (UnsafeFileError, "'/params/conv1/b' is no place for an array"),
    "array_from_elsewhere": (UnsafeFileError, "'meta/classes' is no place for an array"),
    "rank_6": (DamagedFileError, r"has the shape \(1, 2, 3, 2, 2, 3\), expected up to 5 axes"),
    "an_empty_axis": (DamagedFileError, r"has the shape \(3, 2, 0, 5\), expected .* none of them empty"),
    "a_scalar": (MismatchError, r"wants filters \(kh, kw, in, out\), found an array of shape \(\)"),
    "sha256_of_words": (DamagedFileError, "listed with a sha256 that is none"),
    "list_of_arrays_a_number": (DamagedFileError, "its list of arrays is damaged: found 7"),
    "arrays_on_top_of_each_other": (DamagedFileError, "its arrays claim 192,404 bytes, the file has"),
    "std_of_zero": (
        DamagedFileError,
        r"'meta/preprocessing' is damaged: .*std \(0\.0, 1\.0, 1\.0\); all must",
    ),
    "crop_below_nothing": (DamagedFileError, r"'meta/preprocessing' is damaged: .*\(-6, 7\)"),
    "mean_of_words": (DamagedFileError, "mean of Preprocess: found 'red', expected float"),
    "mean_of_two_channels": (DamagedFileError, "mean has 2 channels, RGB has 3"),
    "mean_image_of_bytes": (DamagedFileError, r"'meta/mean_image' is uint8 \(6, 7, 3\), expected <f4"),
    "mean_image_of_nan": (DamagedFileError, "126 non-finite values in 'mean_image'"),
}
OPENED = {"newer_minor", "array_to_spare", "nan_in_the_weights", "infinite_halves", "one_number_changed"}


@pytest.mark.parametrize("name", WORDS)
def test_a_file_that_lies_is_told_off_with_its_name_the_reason_and_what_to_do(path, name):
    hostile_h5.sound(path)
    secret = path.parent / "secret.txt"
    secret.write_text("secret!!" * 45)
    with h5py.File(path.parent / "secret.h5", "w") as file:
        file["secret"] = np.ones((3, 2, 3, 5), "<f4")
    hostile_h5.CASES[name](path)
    kind, words = WORDS[name]
    began = time.perf_counter()
    with pytest.raises(kind, match=words) as told:
        weights.load(path)
    assert type(told.value) is kind
    assert str(told.value).startswith(f"{path}: ") and ";" in str(told.value)
    assert "secret!!" not in str(told.value)
    assert time.perf_counter() - began < 5


def test_every_case_is_tested():
    assert set(hostile_h5.CASES) == WORDS.keys() | OPENED


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("newer_minor", r"format 1\.7, and we read 1\.0: what is new in it is left out; update minidnn"),
        ("array_to_spare", "no layer uses params/conv9/w; it is left out"),
    ],
)
def test_what_does_no_harm_is_a_warning(path, name, words):
    hostile_h5.CASES[name](hostile_h5.sound(path))
    with pytest.warns(UserWarning, match=words):
        net = weights.load(path)
    assert same(net, hostile_h5.small())


def test_one_number_that_changed_is_found_by_verify_alone(path):
    hostile_h5.CASES["one_number_changed"](hostile_h5.sound(path))
    weights.load(path)
    assert not weights.verify(path).is_sound


def test_a_claim_takes_no_memory(path):
    hostile_h5.CASES["a_tebibyte_of_nothing"](hostile_h5.sound(path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooLargeError):
        weights.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_more_arrays_than_any_net_has_are_refused(path, monkeypatch):
    hostile_h5.sound(path)
    monkeypatch.setattr(reading, "MAX_TENSORS", 3)
    with pytest.raises(TooLargeError, match="lists 4 arrays, the limit is 3"):
        weights.load(path)


def test_a_file_of_ours_changed_anywhere_ends_in_a_word_of_ours(path):
    """Some 300 bytes, one after the other; no crash, no hang, no error that is not ours."""
    whole = hostile_h5.sound(path).read_bytes()
    rng = np.random.default_rng(0)
    told = 0
    for place in [*range(96), *rng.integers(96, len(whole), 200)]:
        torn = bytearray(whole)
        torn[place] ^= int(rng.integers(1, 256))
        path.write_bytes(torn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                weights.verify(path)
            except MinidnnError:
                told += 1
    assert told > 50


def test_every_layer_has_its_place_in_a_file():
    kinds = [kind for name, kind in vars(L).items() if isinstance(kind, type) and name in L.__all__]
    assert set(blueprint.OPS.values()) == {kind for kind in kinds if kind is not L.Layer}


# JSON and types.

WORDS_ALONE = st.text(st.characters(exclude_categories=["Cc", "Cs"]))  # no control characters, whole letters


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats(allow_nan=False, allow_infinity=False)
        | WORDS_ALONE,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS_ALONE, inner, max_size=3),
        max_leaves=9,
    )
)
def test_json_comes_back(value):
    assert parsed(dumped(value), "it") == value


def test_brackets_in_words_do_not_count_as_depth():
    assert parsed(np.frombuffer(b'["[[[\\"[[[", "' + b"[" * 99 + b'"]', np.uint8), "it")[1] == "[" * 99
    deep = b"[" * 32 + b"]" * 32
    assert parsed(np.frombuffer(deep, np.uint8), "it") and dumped("é").tobytes() == '"é"'.encode()
    with pytest.raises(DamagedFileError, match="nested 33 deep"):
        parsed(np.frombuffer(b"[" + deep + b"]", np.uint8), "it")


def test_values_are_held_against_their_types():
    assert decoded([1, 2], tuple[float, ...]) == (1.0, 2.0)
    assert decoded(None, int | None) is None and decoded({"a": "b"}, dict[str, str]) == {"a": "b"}
    for value, hint in [
        (True, int),
        (1, bool),
        (1.0, int),
        ("1", float),
        ([1], tuple[int, int]),
        (1 << 54, int),
        ({"a": 1}, dict[str, str]),
        ([], Window),
        (None, str | int),
    ]:
        with pytest.raises(ValueError, match="found"):
            decoded(value, hint)
    assert built(L.LRN, {"size": 3, "invented_later": 1}).size == 3


# Crashes.

WRITER = """
import itertools, sys
from minidnn import weights
from tests.hostile_h5 import small
nets = [small(0), small(1)]
print("ready", flush=True)
for net in itertools.cycle(nets):
    weights.save(sys.argv[1], net)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(path):
    nets = [hostile_h5.small(0), hostile_h5.small(1)]
    digests = {weights.digest(net) for net in nets}
    weights.save(path, nets[0])
    rng = np.random.default_rng()
    for _ in range(10):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        with writer:
            writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            writer.kill()
        report = weights.verify(path)
        assert report.is_sound and report.digest in digests
    for left in path.parent.glob(".*.part"):
        os.utime(left, (time.time() - 90_000,) * 2)
    weights.save(path, nets[0])
    assert os.listdir(path.parent) == ["net.h5"], "what the dead left is swept away a day later"


LIMITED = """
import resource, sys
from minidnn import weights
from tests.hostile_h5 import small
net = small(1)
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        weights.save(sys.argv[1], net)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_disk_that_fills_up_leaves_the_old_file(path):
    weights.save(path, hostile_h5.small(0))
    before, size = path.read_bytes(), path.stat().st_size
    limits = [str(limit) for limit in (0, 100, 2000, 5000, 9000, size - 1)]
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path), *limits], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), "HDF5 itself would end the process here"
    told = done.stdout.splitlines()
    assert len(told) == len(limits)
    for line in told:
        assert line.startswith(f"OutputError {path}: File too large; allow larger files")
    assert path.read_bytes() == before and os.listdir(path.parent) == ["net.h5"]


def test_hdf5_never_hears_of_a_full_disk():
    full = pytest.raises(OSError, match="No space left on device")
    with full, Sink("/dev/full") as sink, h5py.File(sink, "w") as file:
        file["a"] = np.arange(5000)


# Time.


def test_loading_costs_little_more_than_reading_the_bytes(tmp_path):
    """The small twin of `python -m benchmarks weights`: 40 MB, warm, the best of several rounds each."""
    net = Net.chain({"fc": L.FC.random(np.random.default_rng(0), (7, 7, 512), 400)}, input_shape=(7, 7, 512))
    path, raw = tmp_path / "net.h5", tmp_path / "net.raw"
    weights.save(path, net)
    net.params["fc/w"].tofile(raw)

    def best(run):
        seconds = []
        for _ in range(7):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    ours = best(lambda: weights.load(path).params["fc/w"].sum())
    plain = best(lambda: np.fromfile(raw, "float32").sum())
    assert ours < 2 * plain + 0.02, "1.3 is promised where the machine is quiet"
