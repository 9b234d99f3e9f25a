"""--device of every command: the fake device does what the CPU does, and auto says what it took."""

import numpy as np
import pytest

from minidnn import images, weights, zoo
from minidnn.arrays import BACKENDS
from minidnn.cli.main import main
from minidnn.errors import DeviceError
from minidnn.images import Preprocess
from minidnn.layers import Conv, GlobalAvgPool, Softmax
from minidnn.net import Net
from tests import fakedevice


@pytest.fixture
def net(tmp_path):
    """A net that knows five classes, and a photo for it."""
    rng = np.random.default_rng(0)
    layers = {"conv": Conv.random(rng, 3, 3, 5), "gap": GlobalAvgPool(), "prob": Softmax()}
    about = {"input_shape": (20, 24, 3), "preprocess": Preprocess(scale=1 / 255, size=(20, 24))}
    weights.save(tmp_path / "net.h5", Net.chain(layers, **about, classes=list("abcde")))
    images.save(tmp_path / "photo.png", images.clouds_over_hills(30, 41))
    (tmp_path / "photos" / "c").mkdir(parents=True)
    images.save(tmp_path / "photos" / "c" / "1.png", images.clouds_over_hills(30, 41))
    return tmp_path


COMMANDS = {
    "dream": ["dream", "--size", "40x50", "--steps", "2", "--octaves", "2", "-o", "OUT/out.png"],
    "zoom": ["zoom", "--size", "40x50", "--frames", "2", "--steps", "1", "-o", "OUT/out.gif"],
    "imagine": ["imagine", "--net", "OUT/net.h5", "b", "--steps", "2", "-o", "OUT/out.png"],
    "ablation": ["imagine", "--net", "OUT/net.h5", "b", "--steps", "2", "--ablation", "-o", "OUT/out.png"],
    "experiment": ["experiment", "sizes", "--size", "24x30", "-o", "OUT/out"],
    "classify": ["classify", "OUT/photo.png", "--net", "OUT/net.h5"],
    "evaluate": ["evaluate", "OUT/photos", "--net", "OUT/net.h5"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_there_what_it_does_here(command, net, capsys):
    found = {}
    for device in ("cpu", "fake"):
        fakedevice.TRAFFIC.clear()
        argv = [word.replace("OUT", str(net)) for word in COMMANDS[command]]
        assert main([*argv, "--device", device]) == 0
        assert bool(fakedevice.TRAFFIC) == (device == "fake")
        said = capsys.readouterr().out
        pictures = [path for path in sorted(net.rglob("out*.*")) if path.suffix in (".png", ".gif")]
        found[device] = (
            said if command in ("classify", "evaluate") else "",
            list(map(images.load, pictures)),
        )
    (here, mine), (there, theirs) = found.values()
    assert here == there and len(mine) == len(theirs)
    assert all(np.abs(a - b).max() <= 2 for a, b in zip(mine, theirs, strict=True))


def test_auto_says_in_one_line_what_it_took_and_why(net, capsys, monkeypatch):
    def no_card():
        raise DeviceError("CuPy is not installed")

    argv = [word.replace("OUT", str(net)) for word in COMMANDS["classify"]]
    monkeypatch.setitem(BACKENDS, "cuda", no_card)
    assert main([*argv, "--device", "auto"]) == 0
    out, err = capsys.readouterr()
    assert err == "computing on cpu: no GPU can be used: CuPy is not installed\n"
    assert main([*argv, "--device", "cpu"]) == 0
    assert capsys.readouterr() == (out, "")
    assert main([*argv, "--device", "cuda"]) == DeviceError.exit_code
    assert capsys.readouterr().err == "minidnn: CuPy is not installed\n"


def test_weights_of_a_zoo_net_go_where_they_are_asked_to():
    moved = zoo.get("gabor").to("fake")
    assert all(isinstance(array, fakedevice.FakeArray) for array in moved.params.values())
