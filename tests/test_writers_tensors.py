"""A net's arrays as safetensors and as .npz: read again they are the same, and no half file is ever seen."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minidnn import zoo
from minidnn.errors import OutputError, WeightsError
from tests.nets import every_layer, forked
from weights_tools.readers import npz, safetensors
from weights_tools.writers import npz as npz_writer
from weights_tools.writers import safetensors as safetensors_writer

BOTH = pytest.mark.parametrize(
    ("writer", "reader", "ending"),
    [(safetensors_writer, safetensors, ".safetensors"), (npz_writer, npz, ".npz")],
    ids=["safetensors", "npz"],
)


@BOTH
@pytest.mark.parametrize("net", [forked(), every_layer().astype("float32")], ids=["forked", "every layer"])
def test_what_was_written_is_read_again(tmp_path, writer, reader, ending, net):
    path = tmp_path / f"net{ending}"
    writer.write(path, net)
    held = net.params | net.buffers
    found = {
        f"{layer}/{name}": a for layer, own in reader.read(path).layers.items() for name, a in own.items()
    }
    assert found.keys() == held.keys()
    for name, array in held.items():
        np.testing.assert_array_equal(found[name], array.astype("float32"))


@BOTH
def test_written_twice_it_is_the_same_file(tmp_path, writer, reader, ending):
    for name in ("a", "b"):
        writer.write(tmp_path / f"{name}{ending}", forked())
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_numpy_opens_the_archive_and_the_list_is_aligned(tmp_path):
    net = forked()
    npz_writer.write(tmp_path / "net.npz", net)
    with np.load(tmp_path / "net.npz", allow_pickle=False) as held:
        assert held.files == list(net.params)
        np.testing.assert_array_equal(held["conv1/w"], net.params["conv1/w"])
        assert held["conv1/w"].dtype == np.float64
    safetensors_writer.write(tmp_path / "net.safetensors", net)
    data = (tmp_path / "net.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    listed = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert listed.pop("__metadata__") == {"format": "minidnn", "axes": "kh,kw,in,out"}
    assert list(listed) == list(net.params), "what is shared is written once"
    assert listed["conv1/w"] == {"dtype": "F64", "shape": [3, 3, 3, 4], "data_offsets": [0, 864]}


@BOTH
def test_a_net_without_weights_is_not_written(tmp_path, writer, reader, ending):
    with pytest.raises(WeightsError, match=r"net\..*: no weights yet in conv1.*; load some first"):
        writer.write(tmp_path / f"net{ending}", zoo.get("lenet", seed=None))
    assert not list(tmp_path.iterdir())


@BOTH
def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path, writer, reader, ending):
    with pytest.raises(OutputError, match="make the folder first"):
        writer.write(tmp_path / "nowhere" / f"net{ending}", forked())
    path = tmp_path / f"net{ending}"
    path.write_bytes(b"old")

    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", broken)
        with pytest.raises(OutputError, match="No space left on device; free some space"):
            writer.write(path, forked())
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
