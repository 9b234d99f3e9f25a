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
from minidnn.summary import Field, summarise
from minidnn.tables import as_csv, as_json, markdown, memory, text
from minidnn.window import Window
from tests.nets import every_layer, forked, photo


@pytest.fixture(scope="module")
def vgg():
    return summarise(zoo.get("vgg16"))


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
    assert (int(full / 0.9), int(full / 0.8) + 0) == (137_380_951, 154_553_570)
    assert full / 0.9 < vgg.params < full / 0.8


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
    assert res.mem.nbytes == max(row.work_mem for row in rows.values())


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


def test_where_paths_join_the_field_is_their_union():
    rng = np.random.default_rng(0)
    nodes = [
        Node("a", L.Conv.random(rng, 5, 3, 2, pad=2), ("data",)),
        Node("b", L.Conv.random(rng, 3, 3, 2, pad=1), ("data",)),
        Node("cat", L.Concat(), ("a", "b")),
        Node("fast", L.Conv.random(rng, 3, 4, 4, stride=2, pad=1), ("cat",)),
        Node("slow", L.Upsample(2), ("fast",)),
        Node("sum", L.Add(), ("slow", "cat")),
    ]
    rows = by_name(summarise(Net(nodes), (8, 8)))
    assert rows["cat"].rf_size == (5, 5)
    assert rows["fast"].rf_size == (7, 7) and rows["fast"].rf_stride == (2, 2)
    assert rows["sum"].rf_size is None
    shifted = Field(3, 1, 1) | Field(3, 4, 1)
    assert (shifted.size, shifted.offset) == (6, 2.5)


def test_shared_weights_are_counted_once():
    net = forked()
    assert summarise(net).params == sum(array.size for array in net.params.values())


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
    assert "filt dilat" not in text(summarise(zoo.get("vgg16")))


def test_csv_and_json_say_the_same_in_bytes(vgg):
    rows = list(csv.DictReader(io.StringIO(as_csv(vgg))))
    data = json.loads(as_json(vgg))
    assert len(rows) == len(data["rows"]) == 38
    assert [int(row["data_mem"]) for row in rows] == [row["data_mem"] for row in data["rows"]]
    assert data["rows"][1]["support"] == [3, 3] and rows[1]["support"] == "3" and rows[2]["support"] == ""
    assert data["totals"]["params"] == 138_357_544


def test_markdown_is_a_table(vgg):
    lines = markdown(vgg).splitlines()
    assert len({line.count("|") for line in lines[:40]}) == 1


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0B"), (1023, "1023B"), (1024, "1KB"), (3 * 1024**3, "3GB")]
)
def test_memory_is_in_the_largest_unit_of_which_there_is_one(count, words):
    assert memory(count) == words
