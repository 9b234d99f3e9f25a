"""Weight files that lie: each is made of a sound one by changing one thing, and none is kept.

`CASES` maps what is wrong to a function that makes such a file of a sound one. Run as a module it writes them
all: `python -m tests.hostile_h5 FOLDER`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from minidnn import layers as L
from minidnn import weights
from minidnn.images import Preprocess
from minidnn.net import Net
from minidnn.window import Window

W, B = "params/conv1/w", "params/conv1/b"
CASES: dict[str, Callable[[Path], None]] = {}


def small(seed: int = 0) -> Net:
    """conv1 (3, 2, 3, 5), relu1, fc2 (4, 5, 5, 6): for images of 6x6x3."""
    rng = np.random.default_rng(seed)
    chain = {
        "conv1": L.Conv.random(rng, (3, 2), 3, 5),
        "relu1": L.ReLU(),
        "pool1": L.MaxPool(Window.of((1, 2), stride=1)),
        "fc2": L.FC.random(rng, (4, 4, 5), 6),
    }
    about = {"preprocess": Preprocess(mean=(1.0, 2.0, 3.0), size=(6, 7)), "classes": list("abcdef")}
    return Net.chain(chain, input_shape=(6, 6, 3), **about)


def sound(path: Path) -> Path:
    weights.save(path, small(), provenance={"source_file": "made up"})
    return path


def case(function: Callable[..., None]) -> Callable[..., None]:
    """A change to the open file; its name says what is wrong."""

    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            function(file)

    CASES[function.__name__] = change
    return function


def raw_case(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """A change to the bytes."""
    CASES[function.__name__] = function
    return function


def put(file: h5py.File, path: str, data: Any, **how: Any) -> None:
    """This dataset instead of the one that is there."""
    if path in file:
        del file[path]
    file.create_dataset(path, data=data, **how)


def document(file: h5py.File, name: str) -> Any:
    return json.loads(file[f"meta/{name}"][()].tobytes())


def put_text(file: h5py.File, name: str, text: str | bytes) -> None:
    raw = text.encode() if isinstance(text, str) else text
    put(file, f"meta/{name}", np.frombuffer(raw, np.uint8))


def edit(file: h5py.File, name: str, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON document."""
    told = document(file, name)
    put_text(file, name, json.dumps(change(told) or told))


def relist(file: h5py.File, path: str, data: np.ndarray) -> None:
    """Another array, and a list that agrees with it."""
    put(file, path, data)

    def change(index):
        for entry in index:
            if entry["path"] == path:
                entry |= {"shape": list(data.shape), "nbytes": data.nbytes, "dtype": data.dtype.str}

    edit(file, "tensors", change)


def claiming(file: h5py.File, path: str, shape: tuple[int, ...], dtype: Any) -> None:
    """A dataset that claims that shape and stores nothing."""
    del file[path]
    space, made = h5py.h5s.create_simple(shape), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(
        file[path.rpartition("/")[0] or "/"].id, path.rpartition("/")[2].encode(), kind, space, made
    )


# Cut short.


@raw_case
def cut_by_one_byte(path):
    path.write_bytes(path.read_bytes()[:-1])


@raw_case
def cut_to_100_bytes(path):
    path.write_bytes(path.read_bytes()[:100])


@raw_case
def cut_to_the_signature(path):
    path.write_bytes(path.read_bytes()[:8])


@raw_case
def empty(path):
    path.write_bytes(b"")


@raw_case
def torn_in_the_middle(path):
    raw = bytearray(path.read_bytes())
    raw[96:1500] = b"\xff" * 1404
    path.write_bytes(raw)


@raw_case
def a_web_page(path):
    path.write_text("<!doctype html><title>404</title>")


# Who it says it is.


@case
def no_format(file):
    del file.attrs["format"]


@case
def another_format(file):
    file.attrs["format"] = "keras"


@case
def version_2(file):
    file.attrs["format_version"] = np.array([2, 0], "<u2")
    file.attrs["generator"] = np.bytes_("minidnn 3.1.4")


@case
def version_as_words(file):
    file.attrs["format_version"] = "1.0"


@case
def version_as_float(file):
    file.attrs["format_version"] = 1.0


@case
def version_of_five(file):
    file.attrs["format_version"] = np.arange(5, dtype="<u2")


@case
def no_version(file):
    del file.attrs["format_version"]


@case
def newer_minor(file):
    file.attrs["format_version"] = np.array([1, 7], "<u2")


# JSON.


@case
def architecture_not_json(file):
    put_text(file, "architecture", "conv, relu, and so on")


@case
def architecture_not_text(file):
    put_text(file, "architecture", b'"\xff\xfe"')


@case
def architecture_of_another_kind(file):
    put(file, "meta/architecture", np.zeros((3, 4), "<f4"))


@case
def architecture_missing(file):
    del file["meta/architecture"]


@case
def json_of_9_mib(file):
    put_text(file, "architecture", b" " * (9 << 20))


@case
def json_claims_a_tebibyte(file):
    claiming(file, "meta/architecture", (1 << 40,), "u1")


@case
def json_nested_10_000_deep(file):
    put_text(file, "architecture", "[" * 10_000 + "]" * 10_000)


@case
def json_of_quotes(file):
    put_text(file, "architecture", '"' + '\\"' * 400_000)


@case
def json_with_nan(file):
    put_text(file, "architecture", '{"inputs": NaN}')


@case
def json_with_a_huge_float(file):
    put_text(file, "architecture", '{"inputs": 1e999}')


@case
def json_with_a_huge_whole_number(file):
    put_text(file, "architecture", '{"inputs": ' + "9" * 5000 + "}")


@case
def json_with_a_key_twice(file):
    put_text(file, "architecture", '{"nodes": [], "inputs": [], "nodes": []}')


@case
def json_with_half_a_letter(file):
    put_text(file, "architecture", '{"nodes": "\\ud800"}')


@case
def classes_that_talk_to_the_terminal(file):
    put_text(file, "classes", json.dumps({"names": ["\x1b]0;you are mine\x07"]}))


@case
def architecture_a_list(file):
    put_text(file, "architecture", "[]")


@case
def classes_of_numbers(file):
    put_text(file, "classes", '{"names": [1, 2]}')


@case
def provenance_a_list(file):
    put_text(file, "provenance", "[1]")


# The graph.


def nodes(change: Callable[[list[dict]], Any]) -> Callable[[h5py.File], None]:
    def changed(told):
        change(told["nodes"])

    return lambda file: edit(file, "architecture", changed)


@case
def a_cycle(file):
    nodes(lambda n: n[0].update(inputs=["relu1"]))(file)


@case
def unknown_input(file):
    nodes(lambda n: n[1].update(inputs=["conv7"]))(file)


@case
def a_name_twice(file):
    nodes(lambda n: n[1].update(name="conv1"))(file)


@case
def unknown_ops(file):
    nodes(lambda n: (n[1].update(op="Swish"), n[2].update(op="os.system")))(file)


@case
def op_is_the_base(file):
    nodes(lambda n: n[1].update(op="Layer"))(file)


@case
def no_nodes(file):
    edit(file, "architecture", lambda told: told.update(nodes=[]))


@case
def two_inputs(file):
    edit(file, "architecture", lambda told: told.update(inputs=told["inputs"] * 2))


@case
def ten_thousand_and_one_nodes(file):
    relu = {"name": "r", "op": "ReLU", "inputs": ["data"], "attrs": {}, "params": {}, "buffers": {}}
    edit(
        file,
        "architecture",
        lambda told: told.update(nodes=[relu | {"name": f"r{i}"} for i in range(10_001)]),
    )


@case
def layer_name_climbs(file):
    nodes(lambda n: n[3].update(name="../../etc/passwd"))(file)


@case
def layer_name_from_the_root(file):
    nodes(lambda n: n[3].update(name="/fc2"))(file)


@case
def window_missing(file):
    nodes(lambda n: n[0]["attrs"].pop("window"))(file)


@case
def window_of_words(file):
    nodes(lambda n: n[0]["attrs"]["window"].update(stride=["a", "b"]))(file)


@case
def window_of_a_million(file):
    nodes(lambda n: n[2]["attrs"]["window"].update(kernel=[1_000_000] * 2, pad=[999_999] * 4))(file)


@case
def stride_of_zero(file):
    nodes(lambda n: n[0]["attrs"]["window"].update(stride=[0, 1]))(file)


@case
def groups_do_not_divide(file):
    nodes(lambda n: n[0]["attrs"].update(groups=3))(file)


@case
def image_of_a_billion(file):
    edit(file, "architecture", lambda told: told["inputs"][0].update(shape=[10**9, 10**9, 3]))


@case
def image_without_pixels(file):
    edit(file, "architecture", lambda told: told["inputs"][0].update(shape=[0, 6, 3]))


@case
def image_of_other_channels(file):
    edit(file, "architecture", lambda told: told["inputs"][0].update(shape=[6, 6, 4]))


@case
def many_large_maps(file):
    relu = {"op": "ReLU", "inputs": ["data"], "attrs": {}, "params": {}, "buffers": {}}
    edit(
        file,
        "architecture",
        lambda told: told.update(
            inputs=[{"name": "data", "shape": [4096, 4096, 3]}],
            nodes=[relu | {"name": f"r{i}"} for i in range(9)],
        ),
    )


# The arrays.


@case
def array_missing(file):
    del file[W]


@case
def array_unlisted(file):
    edit(file, "tensors", lambda index: [entry for entry in index if entry["path"] != W])


@case
def array_unnamed(file):
    nodes(lambda n: n[0]["params"].pop("w"))(file)


@case
def array_of_a_name_unknown_to_the_layer(file):
    nodes(lambda n: n[0]["params"].update(v="conv1/b"))(file)


@case
def array_to_spare(file):
    put(file, "params/conv9/w", np.ones((2, 3), "<f4"))


@case
def array_listed_twice(file):
    edit(file, "tensors", lambda index: index + index[:1])


@case
def array_of_another_shape(file):
    put(file, W, np.ones((5, 5, 3, 64), "<f4"))


@case
def filters_that_the_window_does_not_fit(file):
    relist(file, W, np.ones((4, 2, 3, 5), "<f4"))


@case
def bias_of_another_length(file):
    relist(file, B, np.ones(4, "<f4"))


@case
def channels_that_do_not_meet(file):
    relist(file, "params/fc2/w", np.ones((4, 4, 6, 6), "<f4"))


@case
def int8(file):
    relist(file, W, np.ones((3, 2, 3, 5), "i1"))


@case
def big_endian(file):
    relist(file, W, np.ones((3, 2, 3, 5), ">f4"))


@case
def float64(file):
    relist(file, W, np.ones((3, 2, 3, 5), "<f8"))


@case
def complex_numbers(file):
    relist(file, W, np.ones((3, 2, 3, 5), "<c8"))


@case
def compound(file):
    put(file, W, np.zeros((3, 2, 3, 5), [("a", "<f4"), ("b", "<i4")]))


@case
def objects(file):
    put(file, W, np.array(["x"] * 90, object).reshape(3, 2, 3, 5), dtype=h5py.string_dtype())


@case
def object_references(file):
    put(file, W, np.full((3, 2, 3, 5), file["params"].ref, object), dtype=h5py.ref_dtype)


@case
def a_tebibyte_of_nothing(file):
    claiming(file, W, (1 << 40,), "<f4")


@case
def stored_less_than_claimed(file):
    claiming(file, W, (3, 2, 3, 5), "<f4")


@case
def compressed_zeros(file):
    put(file, W, np.zeros(1 << 20, "<f4"), compression="gzip", chunks=(1 << 20,))


@case
def unknown_filter(file):
    packed(file, W, np.zeros((3, 2, 3, 5), "<f4"), 32_015)


def packed(file: h5py.File, path: str, data: np.ndarray, code: int) -> None:
    """Data that say they are packed by a filter that HDF5 would look for among its plugins."""
    del file[path]
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk(data.shape)
    made.set_filter(code, h5py.h5z.FLAG_OPTIONAL)
    space, kind = h5py.h5s.create_simple(data.shape), h5py.h5t.py_create(data.dtype, logical=True)
    group, name = path.rpartition("/")[0], path.rpartition("/")[2]
    found = h5py.h5d.create(file[group].id, name.encode(), kind, space, made)
    found.write_direct_chunk((0,) * data.ndim, data.tobytes())


@case
def in_chunks(file):
    put(file, W, np.ones((3, 2, 3, 5), "<f4"), chunks=(3, 2, 3, 5))


@case
def a_link_to_another_file(file):
    del file[W]
    file[W] = h5py.ExternalLink("secret.h5", "/secret")


@case
def a_link_within_the_file(file):
    del file[W]
    file[W] = h5py.SoftLink("/params/fc2/w")


@case
def a_group_that_is_a_link(file):
    del file["params/conv1"]
    file["params/conv1"] = h5py.ExternalLink("secret.h5", "/")


@case
def virtual(file):
    del file[W]
    layout = h5py.VirtualLayout((3, 2, 3, 5), "<f4")
    layout[...] = h5py.VirtualSource("secret.h5", "secret", (3, 2, 3, 5))
    file.create_virtual_dataset(W, layout)


@case
def kept_in_another_file(file):
    del file[W]
    file.create_dataset(W, (3, 2, 3, 5), "<f4", external=[("secret.txt", 0, 360)])


@case
def a_group_within_itself(file):
    file["params/conv1/again"] = file["params"]


@case
def a_group_where_an_array_should_be(file):
    del file[W]
    file.create_group(W)


@case
def array_path_climbs(file):
    edit(file, "tensors", lambda index: index[0].update(path="params/../meta/classes"))


@case
def array_path_from_the_root(file):
    edit(file, "tensors", lambda index: index[0].update(path="/params/conv1/b"))


@case
def array_from_elsewhere(file):
    edit(file, "tensors", lambda index: index[0].update(path="meta/classes"))


@case
def rank_6(file):
    relist(file, W, np.ones((1, 2, 3, 2, 2, 3), "<f4"))


@case
def an_empty_axis(file):
    relist(file, W, np.ones((3, 2, 0, 5), "<f4"))


@case
def a_scalar(file):
    relist(file, W, np.float32(3))


@case
def sha256_of_words(file):
    edit(file, "tensors", lambda index: index[0].update(sha256="trust me"))


@case
def list_of_arrays_a_number(file):
    put_text(file, "tensors", "7")


@case
def arrays_on_top_of_each_other(file):
    """Two names for the same bytes: more claimed than the file has."""
    index = document(file, "tensors")
    entry = next(entry for entry in index if entry["path"] == "params/fc2/w")
    for number in range(99):
        file[f"params/fc2/w{number}"] = file["params/fc2/w"]
        index.append(entry | {"path": f"params/fc2/w{number}"})
    put_text(file, "tensors", json.dumps(index))


# Numbers.


@case
def nan_in_the_weights(file):
    file[W][0, 1, 2, 3:] = np.nan


@case
def infinite_halves(file):
    relist(file, W, np.full((3, 2, 3, 5), np.inf, "<f2"))


@case
def one_number_changed(file):
    file[W][0, 1, 2, 3] += 1


# The pictures.


@case
def std_of_zero(file):
    edit(file, "preprocessing", lambda told: told.update(std=[0.0, 1.0, 1.0]))


@case
def crop_below_nothing(file):
    edit(file, "preprocessing", lambda told: told.update(size=[-6, 7]))


@case
def mean_of_words(file):
    edit(file, "preprocessing", lambda told: told.update(mean=["red", "green", "blue"]))


@case
def mean_of_two_channels(file):
    edit(file, "preprocessing", lambda told: told.update(mean=[1.0, 2.0]))


@case
def mean_image_of_bytes(file):
    put(file, "meta/mean_image", np.zeros((6, 7, 3), "u1"))


@case
def mean_image_of_nan(file):
    put(file, "meta/mean_image", np.full((6, 7, 3), np.nan, "<f4"))


def main(folder: str) -> None:
    for name, change in CASES.items():
        change(sound(Path(folder) / f"{name}.h5"))
        print(name)


if __name__ == "__main__":
    main(sys.argv[1])
