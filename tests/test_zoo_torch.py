"""Whole nets of the zoo against PyTorch, written there a second time; and real ones on real pictures."""

from __future__ import annotations

import numpy as np
import pytest

from minidnn import images, zoo
from minidnn.layers import LRN, PadChannels

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.oracle


def noise(net, n: int = 1) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, *net.input_shape)).astype("float32")


def chw(x: np.ndarray):
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def same(net, x: np.ndarray, layer: str, theirs) -> None:
    """Up to the layer, ours is theirs within 1e-4 of its largest number."""
    ours = net.forwardto(net.init_res(), layer, x, keep="needed")
    theirs = theirs.permute(0, 2, 3, 1).numpy() if theirs.ndim == 4 else theirs.numpy()[:, None, None]
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


class Theirs:
    """PyTorch's layers, with the arrays of a net of ours."""

    def __init__(self, net) -> None:
        self.arrays = {name: torch.tensor(array) for name, array in (net.params | net.buffers).items()}

    def conv(self, x, name, stride=1, pad=0, groups=1):
        w, b = self.arrays[f"{name}/w"], self.arrays.get(f"{name}/b")
        return F.conv2d(x, w.permute(3, 2, 0, 1), b, stride, pad, groups=groups)

    def norm(self, x, name):
        mean, var, gamma, beta = (self.arrays[f"{name}/{part}"] for part in ("mean", "var", "gamma", "beta"))
        return F.batch_norm(x, mean, var, gamma, beta)

    def fc(self, x, name):
        w = self.arrays[f"{name}/w"]
        return F.linear(x.flatten(1), w.permute(3, 2, 0, 1).flatten(1), self.arrays[f"{name}/b"])


def shaken(net):
    """The same net with statistics and scales as training leaves them: none is 0 or 1."""
    rng = np.random.default_rng(2)
    new = {
        name: (array + rng.uniform(0.1, 0.5, array.shape)).astype("float32")
        for name, array in (net.params | net.buffers).items()
        if name.rpartition("/")[2] in ("gamma", "beta", "mean", "var")
    }
    return net.replacing(new)


def test_caffenet_is_torchs():
    net = zoo.get("caffenet", seed=None)
    rng = np.random.default_rng(0)
    drawn = {
        n: rng.standard_normal(a.shape, "float32") / 20 for n, a in net.params.items() if n[:4] == "conv"
    }
    net = net.replacing(drawn)
    t, x = Theirs(net), noise(net)
    y = chw(x)
    for number, settings in enumerate([(4, 0, 1), (1, 2, 2)], start=1):
        y = F.max_pool2d(F.relu(t.conv(y, f"conv{number}", *settings)), 3, 2, ceil_mode=True)
        y = F.local_response_norm(y, 5, 1e-4, 0.75, 1.0)
    for number, groups in enumerate([1, 2, 2], start=3):
        y = F.relu(t.conv(y, f"conv{number}", 1, 1, groups))
    same(net, x, "pool5", F.max_pool2d(y, 3, 2, ceil_mode=True))


def test_the_normalisation_of_the_chatfield_nets_is_caffes():
    """Caffe's prototxt says k 2, alpha 0.0005 for a window of five."""
    norm = zoo.get("vgg-m", seed=None).node("norm1").layer
    assert isinstance(norm, LRN) and norm.size == 5
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 7)).astype("float32") * 50
    theirs = F.local_response_norm(chw(x), 5, 5e-4, 0.75, 2.0).permute(0, 2, 3, 1).numpy()
    assert np.allclose(norm.forward(x)[0], theirs, rtol=1e-5)


def test_a_widening_without_weights_is_torchs_padding():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype("float32")
    theirs = F.pad(chw(x), (0, 0, 0, 0, 2, 1)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(PadChannels(2, 1).forward(x)[0], theirs)


def test_googlenet_is_torchs():
    net = zoo.get("googlenet")
    t, x = Theirs(net), noise(net)

    def relu(y, name, stride=1, pad=0):
        return F.relu(t.conv(y, name, stride, pad))

    def pool(y):
        return F.max_pool2d(y, 3, 2, ceil_mode=True)

    def lrn(y):
        return F.local_response_norm(y, 5, 1e-4, 0.75, 1.0)

    y = lrn(pool(relu(chw(x), "conv1/7x7_s2", 2, 3)))
    y = pool(lrn(relu(relu(y, "conv2/3x3_reduce"), "conv2/3x3", 1, 1)))
    for module in ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]:
        at = f"inception_{module}"
        ways = [relu(y, f"{at}/1x1")]
        ways += [relu(relu(y, f"{at}/{s}x{s}_reduce"), f"{at}/{s}x{s}", 1, s // 2) for s in (3, 5)]
        y = torch.cat([*ways, relu(F.max_pool2d(y, 3, 1, 1), f"{at}/pool_proj")], 1)
        if module == "4c":
            same(net, x, "inception_4c/output", y)
        y = pool(y) if module in ("3b", "4e") else y
    same(net, x, "prob", F.softmax(t.fc(F.avg_pool2d(y, 7), "loss3/classifier"), 1))


def test_squeezenet_1_0_is_torchs():
    net = zoo.get("squeezenet1.0")
    t, x = Theirs(net), noise(net)

    def relu(y, name, stride=1, pad=0):
        return F.relu(t.conv(y, name, stride, pad))

    y = F.max_pool2d(relu(chw(x), "conv1", 2), 3, 2, ceil_mode=True)
    for number in range(2, 10):
        narrow = relu(y, f"fire{number}/squeeze1x1")
        ways = [relu(narrow, f"fire{number}/expand1x1"), relu(narrow, f"fire{number}/expand3x3", 1, 1)]
        y = torch.cat(ways, 1)
        y = F.max_pool2d(y, 3, 2, ceil_mode=True) if number in (4, 8) else y
    same(net, x, "prob", F.softmax(relu(y, "conv10", 1, 1).mean((2, 3)), 1))


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", [2, 2, 2, 2]), ("resnet50", [3, 4, 6, 3])])
def test_a_resnet_is_torchs(name, blocks):
    net = shaken(zoo.get(name))
    t, x = Theirs(net), noise(net)
    y = F.max_pool2d(F.relu(t.norm(t.conv(chw(x), "conv1", 2, 3), "bn1")), 3, 2, 1)
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            at, stride = f"layer{stage}/{block}", 2 if stage > 1 and block == 0 else 1
            way, short = y, y
            if name == "resnet18":
                way = F.relu(t.norm(t.conv(way, f"{at}/conv1", stride, 1), f"{at}/bn1"))
                way = t.norm(t.conv(way, f"{at}/conv2", 1, 1), f"{at}/bn2")
            else:
                way = F.relu(t.norm(t.conv(way, f"{at}/conv1"), f"{at}/bn1"))
                way = F.relu(t.norm(t.conv(way, f"{at}/conv2", stride, 1), f"{at}/bn2"))
                way = t.norm(t.conv(way, f"{at}/conv3"), f"{at}/bn3")
            if f"{at}/downsample/0/w" in net.params:
                short = t.norm(t.conv(short, f"{at}/downsample/0", stride), f"{at}/downsample/1")
            y = F.relu(way + short)
    same(net, x, "fc", t.fc(y.mean((2, 3)), "fc"))


def in_sequence(net, state):
    """The net with the arrays of a PyTorch state dict, one after the other as they stand in both."""
    names = [
        f"{node.name}/{part}"
        for node in net.nodes
        for part in ("w", "b", "gamma", "beta", "mean", "var")
        if part in node.layer.params | node.layer.buffers
    ]
    arrays = [array.numpy() for name, array in state.items() if "num_batches" not in name]
    turned = [
        array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T[None, None] if array.ndim == 2 else array
        for array in arrays
    ]
    return net.replacing(dict(zip(names, turned, strict=True)))


def test_resnet20_knows_all_twenty_pictures(data):
    saved = torch.load(data / "models/pytorch/resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    net = in_sequence(zoo.get("resnet20", seed=None), saved["state_dict"])
    paths = sorted((data / "datasets/small_samples").glob("cifar10_*.png"))
    pictures = np.concatenate([images.load(path) for path in paths])
    scores = net.forwardto(net.init_res(), "prob", net.preprocess.to_net(pictures), keep="needed")
    assert len(paths) == 20
    assert scores[:, 0, 0].argmax(axis=1).tolist() == [int(path.stem[-1]) for path in paths]


def test_squeezenet_1_1_knows_photos_of_imagenet(data):
    """All 63 give 44 right and 58 among the first five, as PyTorch does; here are the first dozen."""
    saved = torch.load(
        data / "models/squeezenet/squeezenet1_1_torchvision.pth", map_location="cpu", weights_only=True
    )
    ordered = sorted(saved.items(), key=lambda item: item[0].startswith("classifier"))  # which they put first
    net = in_sequence(zoo.get("squeezenet1.1", seed=None), dict(ordered))
    prepare = images.PRESETS["torchvision"]
    right = 0
    for path in sorted((data / "datasets/imagenet_samples").glob("*.JPEG"))[:12]:
        x = prepare.to_net(prepare.fit(images.load(path)))
        scores = net.forwardto(net.init_res(), "prob", x, keep="needed")
        right += int(path.name[:4]) in scores.ravel().argsort()[-5:]
    assert right >= 10
