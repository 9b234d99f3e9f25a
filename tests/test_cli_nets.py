"""`minidnn nets`: what it lists, for people and for programs."""

from __future__ import annotations

import argparse
import json

from minidnn import zoo
from minidnn.cli import nets


def said(capsys, *argv) -> str:
    parser = argparse.ArgumentParser()
    nets.add_arguments(parser)
    nets.run(parser.parse_args(argv))
    return capsys.readouterr().out


def test_a_line_for_every_net_says_how_large_it_is_and_whose(capsys):
    out = said(capsys)
    lines = [line for line in out.splitlines() if not line.startswith(" ")]
    assert lines[0].split() == ["name", "paper", "input", "layers", "parameters", "MB"]
    assert [line.split()[0] for line in lines[1:]] == list(zoo.NETS)
    assert max(map(len, out.splitlines())) <= 100, "it fits into a window of 100 columns"
    assert "    MatConvNet imagenet-vgg-verydeep-16.mat; Caffe VGG_ILSVRC_16_layers.caffemodel" in out
    [vgg16] = [line for line in lines if line.startswith("vgg16 ")]
    for word in ["Simonyan & Zisserman 2015", "224x224x3", " 37 ", " 138,357,544 ", " 553.4"]:
        assert word in vgg16
    assert " any " in lines[1], "gabor takes images of any size"


def test_programs_get_the_same_as_json(capsys):
    found = {net["name"]: net for net in json.loads(said(capsys, "--json"))}
    assert list(found) == list(zoo.NETS)
    assert found["resnet20"] == {
        "name": "resnet20",
        "paper": "He et al. 2016, section 4.2",
        "words": "CIFAR-10, 20 deep",
        "input": [32, 32, 3],
        "layers": 73,
        "parameters": 269_722,
        "bytes": 4 * (269_722 + 1_376),
        "weights": "PyTorch resnet20-12fca82f.th",
    }
    assert found["gabor"]["input"] is None
