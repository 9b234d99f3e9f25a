"""The table of a net: MatConvNet's columns to the number, joins, memory, and its four forms."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from minidnn import layers as L
from minidnn import zoo
from minidnn.errors import UsageError
from minidnn.net import Net, Node
from minidnn.sizes import total_from_fc
from minidnn.summary import Field, parameter_counts, summarise
from minidnn.tables import as_csv, as_json, markdown, memory, text
from minidnn.window import Window
from tests.nets import every_layer, forked, photo


@pytest.fixture(scope="module")
def vgg():
    return summarise(zoo.get("vgg16", seed=None))


def by_name(summary):
    return {row.name: row for row in summary.rows}


def test_vgg16_has_its_37_rows_in_the_courses_order(vgg):
    assert [row.number for row in vgg.rows] == list(range(38))
    assert [vgg.rows[i].name for i in (3, 15, 27)] == ["conv1_2", "conv3_3", "conv5_2"]
    assert vgg.rows[37].type == "softmx"


def test_vgg16_has_the_receptive_fields_that_are_known(vgg):
    rows = by_name(vgg)
    assert rows["conv5_3"].rf_size == (196, 196)
    assert rows["pool5"].rf_size == (212, 212) and rows["pool5"].rf_stride == (32, 32)
    assert rows["conv1_2"].rf_offset == (1, 1) and rows["pool1"].rf_offset == (1.5, 1.5)


def test_the_counts_of_vgg16_are_exact(vgg):
    rows = by_name(vgg)
    assert [rows[name].params for name in ("fc6", "fc7", "fc8")] == [102_764_544, 16_781_312, 4_097_000]
    full = sum(row.params for row in vgg.rows if row.type == "fc")
    conv = sum(row.params for row in vgg.rows if row.type == "conv")
    assert (full, conv, vgg.params) == (123_642_856, 14_714_688, 138_357_544)
    assert round(100 * full / vgg.params) == 89
    # The lecture's rule of thumb, 85 % ± 5 of all parameters in the FC layers, brackets the true total.
    assert total_from_fc(full) == (137_380_951, 154_553_570)
    assert total_from_fc(full)[0] < vgg.params < total_from_fc(full)[1]


def test_memory_counts_maps_gradients_switches_and_workspace(vgg):
    rows = by_name(vgg)
    assert rows["conv1_1"].data_mem == 4 * 224 * 224 * 64
    assert rows["pool1"].back_mem == (4 + 1) * 112 * 112 * 64
    assert rows["conv1_2"].work_mem == 4 * 224 * 224 * 9 * 64
    assert vgg.totals["work_mem"] == rows["conv1_2"].work_mem
    assert vgg.totals["data_mem"] == sum(row.data_mem for row in vgg.rows)


@pytest.mark.parametrize("make", [forked, every_layer])
def test_the_memory_it_tells_is_the_memory_a_run_takes(make):
    net = make()
    res = net.init_res()
    ends = [name for name in net.names if not net.descendants([name])]
    outs = net.forwardto(res, ends, photo(net, n=3))
    net.backwardfrom(res, outs)
    rows = by_name(summarise(net, batch=3))
    for name, slot in res.items():
        assert rows[name].data_mem == slot.x.nbytes, name
        assert rows[name].data_mem + rows[name].back_mem == slot.nbytes, name
    assert res.mem.nbytes >= max(row.work_mem for row in rows.values())


def test_the_receptive_field_is_that_of_the_gradient():
    """What a pixel in the middle of the map depends on, found by sending one number back."""
    rng = np.random.default_rng(0)
    net = Net.chain(
        {
            "conv1": L.Conv(
                rng.random((3, 5, 1, 1)), None, Window.of((3, 5), stride=(2, 1), pad=(1, 0, 2, 1))
            ),
            "pool1": L.AvgPool(Window.of((2, 3), stride=(1, 2), pad=(0, 1, 1, 0))),
            "conv2": L.Conv(rng.random((2, 2, 1, 1)), None, Window.of(2, dilation=(3, 2))),
        }
    )
    row = summarise(net, (40, 50)).rows[-1]
    res = net.init_res()
    seed = np.zeros_like(net.forwardto(res, "conv2", np.ones((1, 40, 50, 1))))
    i, j = 5, 7
    seed[0, i, j] = 1
    seen = np.nonzero(net.backwardfrom(res, {"conv2": seed})[0, :, :, 0])
    for axis, at in ((0, i), (1, j)):
        first, last = seen[axis].min() + 1, seen[axis].max() + 1  # MatConvNet counts pixels from 1
        assert last - first + 1 == row.rf_size[axis]
        assert (first + last) / 2 == row.rf_offset[axis] + at * row.rf_stride[axis]


def pixels_seen(net, size):
    """Of each row of the map at the end, the first and last row of the image that it depends on, from 1."""
    res, last = net.init_res(), net.nodes[-1].name
    y = net.forwardto(res, last, np.random.default_rng(0).random((1, size, size, 1)) + 1)
    for i in range(y.shape[1]):
        seed = np.zeros_like(y)
        seed[0, i, y.shape[2] // 2] = 1
        rows = np.nonzero(net.backwardfrom(res, {last: seed}))[1] + 1
        yield i, rows.min(), rows.max()


def plain(kind, kernel, **geometry):
    """A layer without a zero in its filters."""
    w = np.random.default_rng(kernel).random((kernel, kernel, 1, 1)) + 1
    return kind(w, None, Window.of(kernel, **geometry))


@pytest.mark.parametrize(
    "layers",
    [
        [plain(L.ConvTranspose, 4, stride=2, pad=1)],
        [plain(L.ConvTranspose, 5, stride=3, pad=2)],
        [L.Upsample(2, "nearest")],
        [L.Upsample(2, "bilinear")],
        [L.Upsample(3, "bilinear")],
        [plain(L.Conv, 3, stride=3), plain(L.ConvTranspose, 5, stride=3, pad=2), plain(L.Conv, 2)],
        [L.LRNWithin(3, 1.0, 0.2, 0.75), plain(L.Conv, 3, pad=1)],
    ],
)
def test_behind_layers_that_enlarge_no_pixel_sees_more_than_the_field_and_some_see_all_of_it(layers):
    size = 24
    net = Net.chain({f"layer{i}": layer for i, layer in enumerate(layers)}, input_shape=(size, size, 1))
    row = summarise(net).rows[-1]
    spare = []
    for i, first, last in pixels_seen(net, size):
        middle, reach = row.rf_offset[0] + i * row.rf_stride[0], (row.rf_size[0] - 1) / 2
        if 6 < middle < size - 5:  # away from the border
            spare.append((first - (middle - reach), middle + reach - last))
    assert np.allclose(np.min(spare, axis=0), 0)


def test_an_upsampling_undoes_the_stride_of_a_pool():
    row = summarise(Net.chain({"pool": L.MaxPool(Window.of(2, stride=2)), "up": L.Upsample(2)}), (8, 8)).rows[
        2
    ]
    assert (row.rf_size, row.rf_offset, row.rf_stride) == ((3, 3), (1, 1), (1, 1))


def test_what_reads_the_whole_map_sees_all_that_the_map_sees():
    layers = {"conv": plain(L.Conv, 3, stride=2), "flat": L.Flatten()}
    flat = summarise(Net.chain(layers, input_shape=(11, 11, 1))).rows[-1]
    mean = summarise(Net.chain(layers | {"flat": L.GlobalAvgPool()}, input_shape=(11, 11, 1))).rows[-1]
    assert flat.rf_size == mean.rf_size == (11, 11)
    assert flat.rf_offset == mean.rf_offset == (6, 6)


def inception_like():
    """data → stem → (1x1, 3x3, 5x5, pool and 1x1) → cat → narrow → sum with the stem"""
    rng = np.random.default_rng(0)
    nodes = [
        Node("stem", L.Conv.random(rng, 7, 3, 8, stride=2, pad=3), ("data",)),
        Node("a/1x1", L.Conv.random(rng, 1, 8, 2), ("stem",)),
        Node("a/3x3", L.Conv.random(rng, 3, 8, 3, pad=1), ("stem",)),
        Node("a/5x5", L.Conv.random(rng, 5, 8, 4, pad=2), ("stem",)),
        Node("a/pool", L.MaxPool(Window.of(3, pad=1)), ("stem",)),
        Node("a/proj", L.Conv.random(rng, 1, 8, 5), ("a/pool",)),
        Node("cat", L.Concat(), ("a/1x1", "a/3x3", "a/5x5", "a/proj")),
        Node("narrow", L.Conv.random(rng, 3, 14, 8, pad=1), ("cat",)),
        Node("sum", L.Add(), ("narrow", "stem")),
    ]
    return Net(nodes, input_shape=(32, 40, 3))


def test_in_an_inception_with_a_residual_the_widest_path_decides():
    rows = by_name(summarise(inception_like()))
    assert rows["cat"].rf_size == rows["a/5x5"].rf_size == (15, 15)
    assert rows["sum"].rf_size == rows["narrow"].rf_size == (19, 19)
    assert {rows[name].rf_stride for name in ("cat", "sum")} == {(2, 2)}
    assert (rows["cat"].data_depth, rows["sum"].data_depth, rows["sum"].data_size) == (14, 8, (16, 20))


def test_parameters_are_counted_by_layer():
    net = inception_like()
    counts = parameter_counts(net)
    assert counts["stem"] == 7 * 7 * 3 * 8 + 8 and counts["a/5x5"] == 5 * 5 * 8 * 4 + 4 and counts["cat"] == 0
    assert list(counts) == [node.name for node in net.nodes]
    assert sum(counts.values()) == summarise(net).params


def test_where_paths_of_different_strides_join_there_is_no_field():
    nodes = [
        Node("fast", plain(L.Conv, 2, stride=2), ("data",)),
        Node("slow", plain(L.Conv, 5), ("data",)),
        Node("sum", L.Add(), ("fast", "slow")),
        Node("after", plain(L.Conv, 3), ("sum",)),
    ]
    rows = by_name(summarise(Net(nodes, input_shape=(8, 8, 1))))
    assert rows["sum"].rf_size is None and rows["after"].rf_stride is None


def test_the_union_of_fields_that_lie_apart_reaches_over_both():
    shifted = Field(3, 1, 1) | Field(3, 4, 1)
    assert (shifted.size, shifted.offset) == (6, 2.5)


def test_shared_weights_are_counted_once():
    net = forked()
    assert summarise(net).params == sum(array.size for array in net.params.values())
    assert parameter_counts(net)["a"] > 0 and parameter_counts(net)["twin"] == 0


def test_the_size_and_the_batch_may_be_chosen():
    summary = summarise(zoo.get("gabor"), (30, 40), batch=3)
    assert (summary.rows[0].data_size, summary.rows[0].data_num) == ((30, 40), 3)
    with pytest.raises(UsageError, match="say which: size="):
        summarise(zoo.get("gabor"))


def test_text_is_aligned_and_ends_in_totals(vgg):
    lines = text(vgg).splitlines()
    assert len({line.count("|") for line in lines[:1] + lines[2:40]}) == 1
    assert {tuple(i for i, c in enumerate(line) if c == "|") for line in lines[2:40]} == {
        tuple(i for i, c in enumerate(lines[0]) if c == "|")
    }
    assert "parameters  528MB (138,357,544 numbers, 89% of them in fc layers)" in lines
    assert "data        110MB for 1 of 224x224 (every x is kept)" in lines


def test_pairs_are_joined_with_x_and_dilation_shows_where_there_is_some():
    net = Net.chain({"conv": L.Conv.random(None, (3, 2), 3, 4, pad=(0, 1, 0, 1), dilation=2)})
    table = text(summarise(net, (9, 8)))
    assert "filt dilat" in table and "3x2" in table and "0x1x0x1" in table
    assert "filt dilat" not in text(summarise(zoo.get("vgg16", seed=None)))


def test_csv_and_json_say_the_same_in_bytes(vgg):
    rows = list(csv.DictReader(io.StringIO(as_csv(vgg))))
    data = json.loads(as_json(vgg))
    assert len(rows) == len(data["rows"]) == 38
    assert [int(row["data_mem"]) for row in rows] == [row["data_mem"] for row in data["rows"]]
    assert data["rows"][1]["support"] == [3, 3] and rows[1]["support"] == "3" and rows[2]["support"] == ""
    assert data["totals"]["params"] == 138_357_544


def test_markdown_is_a_table(vgg):
    lines = markdown(vgg).splitlines()
    head, rule, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[:40])
    assert {len(row) for row in [head, rule, *rows]} == {len(head)} and set(rule) == {"---", "--:"}
    row = dict(zip(head, rows[29], strict=True))
    assert (row["layer"], row["name"], row["rf size"], row["param mem"]) == ("29", "conv5_3", "196", "9MB")


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0B"), (1023, "1023B"), (1024, "1KB"), (3 * 1024**3, "3GB")]
)
def test_memory_is_in_the_largest_unit_of_which_there_is_one(count, words):
    assert memory(count) == words
