"""On a GPU against PyTorch there: VGG-16 forward and dream steps, and a training step of ResNet-20.

Both sides in float32 first, then both with TF32. `--device cpu` rehearses it all without a card.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.card import facts
from benchmarks.race import ratio, record
from benchmarks.train import MOMENTUM, RATE
from benchmarks.train import ours as trained
from minidnn import zoo
from minidnn.arrays import Array, chosen_device, to_device, to_host
from minidnn.dream.recorded import Recorded
from minidnn.errors import DeviceError
from minidnn.kernels import conv, product
from minidnn.kernels.cuda.blas import WORKSPACE
from minidnn.layers import FC, Add, BatchNorm, Conv, GlobalAvgPool, MaxPool, PadChannels, ReLU, Softmax
from minidnn.net import Net
from minidnn.plan import forecast

WORKS = ("dream", "training", "layers", "memory")
Run = Callable[[], Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal (cuda)")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS, help="what to race (all)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 1024], help="sides (224 1024)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="images at once (1 32)")
    parser.add_argument("--training", type=int, default=128, help="images in a training step (128)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the race (15)")


def run(args: argparse.Namespace) -> None:
    device, why = chosen_device(args.device)  # before PyTorch: without a card it would be loaded for nothing
    import torch

    results: dict[str, Any] = {"card": facts(device), "torch": torch.__version__, "races": []}
    print(f"on {results['card']['name']} ({why})")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("this PyTorch finds no GPU: install one made for CUDA, see pytorch.org")
    for tf32 in (False, True) if device == "cuda" else (False,):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        for size in args.sizes if "dream" in args.works else ():
            for batch in args.batches:
                if size >= 1024 and batch > 1:
                    continue  # PyTorch alone would keep more than 60 GB
                results["races"] += dreaming(torch, device, size, batch, tf32, args.rounds)
        if "training" in args.works:
            results["races"].append(training(torch, device, args.training, tf32, args.rounds))
        if "layers" in args.works:
            results[f"layers, tf32 {tf32}"] = by_layer(device, args.sizes[0], tf32)
    if device == "cuda" and "memory" in args.works:
        results["memory"] = [memory(size) for size in args.sizes]
    if device == "cuda":
        print("kept in", record("gpu", results).name)


def instead(args: argparse.Namespace, *works: str) -> bool:
    """Whether another race was asked for on a GPU; then that is run here, in its place."""
    if args.device == "cpu":
        return False
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    asked = parser.parse_args(["--device", args.device, "--works", *works])
    for name in vars(asked).keys() & vars(args).keys():
        setattr(asked, name, getattr(args, name))
    run(asked)
    return True


def kernels(tf32: bool) -> str:
    return "tf32" if tf32 else "auto"


def dreaming(torch: Any, device: str, size: int, batch: int, tf32: bool, rounds: int) -> list[dict[str, Any]]:
    """Forward, and a dream step: forward, z = |y|², and the gradient by the image."""
    net = peers.vgg()
    x = peers.picture(size, batch=batch)
    there, image = net.with_kernels(kernels(tf32)).to(device), to_device(x, device)
    ways = {"ours": there} | ({"ours, recorded": Recorded.of(there)} if device == "cuda" else {})
    runners = {name: passes(way, image) for name, way in ways.items()}
    for layout in peers.LAYOUTS:
        runners[f"torch {layout}"] = torch_passes(torch, net, x, layout, device)
    check({name: step for name, (_, step) in runners.items()}, 0.97 if tf32 else 0.998)
    rows = []
    for work, which in (("forward", 0), ("dream step", 1)):
        times = race({name: pair[which] for name, pair in runners.items()}, device, rounds)
        rows.append(row(f"{work} {size}² x {batch}", tf32, times))
    return rows


def passes(net: Net, image: Array) -> tuple[Run, Run]:
    res = net.init_res()

    def forward() -> Array:
        return net.forwardto(res, peers.TARGET, image, keep="needed")

    def step() -> Array:
        return net.backwardfrom(res, {peers.TARGET: 2 * forward()})

    return forward, step


def torch_passes(torch: Any, net: Net, x: np.ndarray, layout: str, device: str) -> tuple[Run, Run]:
    memory_format = getattr(torch, layout)
    model = TorchNet(torch, net, peers.TARGET, memory_format, device, train=False)
    image = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).to(device, memory_format=memory_format)

    def forward() -> Any:
        with torch.inference_mode():
            return model(image)

    def step() -> Any:
        unknown = image.clone().requires_grad_(True)
        (model(unknown) ** 2).sum().backward()
        return unknown.grad.permute(0, 2, 3, 1)

    return forward, step


def training(torch: Any, device: str, batch: int, tf32: bool, rounds: int) -> dict[str, Any]:
    """ResNet-20: forward, loss, all gradients, momentum."""
    rng = np.random.default_rng(0)
    net = zoo.get("resnet20", seed=0)
    x, labels = rng.standard_normal((batch, 32, 32, 3), "float32"), rng.integers(0, 10, batch)
    runners = {
        "ours": trained(
            net.with_kernels(kernels(tf32)).to(device), to_device(x, device), to_device(labels, device)
        )
    }
    for layout in peers.LAYOUTS:
        runners[f"torch {layout}"] = torch_train_step(torch, net, x, labels, layout, device)
    found = {name: [step() for _ in range(3)] for name, step in runners.items()}
    print("check     losses", {name: [round(loss, 4) for loss in three] for name, three in found.items()})
    if not all(np.allclose(three, found["ours"], rtol=1e-2) for three in found.values()):
        raise SystemExit("the sides do not learn the same; no use timing them")
    return row(f"training step resnet20 x {batch}", tf32, race(runners, device, rounds))


def torch_train_step(
    torch: Any, net: Net, x: np.ndarray, labels: np.ndarray, layout: str, device: str
) -> Callable[[], float]:
    memory_format = getattr(torch, layout)
    model = TorchNet(torch, net, "linear", memory_format, device, train=True)
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).to(device, memory_format=memory_format)
    goals = torch.from_numpy(labels).to(device)
    rule = torch.optim.SGD(model.trained, RATE, MOMENTUM)

    def step() -> float:
        rule.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images).flatten(1), goals)
        loss.backward()
        rule.step()
        return float(loss.detach())

    return step


class TorchNet:
    """The same net by PyTorch's functions, with the same weights."""

    def __init__(
        self, torch: Any, net: Net, target: str, memory_format: Any, device: str, *, train: bool
    ) -> None:
        self.torch, self.net, self.target, self.train = torch, net, target, train
        asked = net.ancestors([target])
        self.nodes = [node for node in net.nodes if node.name in asked]
        self.arrays: dict[int, Any] = {}
        for node in self.nodes:
            for array in (node.layer.params | node.layer.buffers).values():
                turned = torch.from_numpy(
                    array.transpose(3, 2, 0, 1).copy() if array.ndim == 4 else array.copy()
                )
                if array.ndim == 4:
                    turned = turned.contiguous(memory_format=memory_format)
                self.arrays[id(array)] = turned.to(device)
        own = {id(array) for node in self.nodes for array in node.layer.params.values()}
        self.trained = [tensor.requires_grad_(train) for at, tensor in self.arrays.items() if at in own]

    def __call__(self, x: Any) -> Any:
        values = {self.net.input: x}
        for node in self.nodes:
            values[node.name] = self._apply(node.layer, [values[name] for name in node.inputs])
        return values[self.target]

    def _apply(self, layer: Any, xs: list[Any]) -> Any:
        F, x = self.torch.nn.functional, xs[0]
        own = {name: self.arrays[id(array)] for name, array in (layer.params | layer.buffers).items()}
        if isinstance(layer, Conv):
            return F.conv2d(x, own["w"], own.get("b"), layer.window.stride, peers.both_pads(layer.window))
        if isinstance(layer, FC):
            return F.linear(x.flatten(1), own["w"].flatten(1), own.get("b"))[:, :, None, None]
        if isinstance(layer, BatchNorm):
            moments = (own["mean"], own["var"])
            return F.batch_norm(x, *moments, own["gamma"], own["beta"], self.train, eps=layer.eps)
        if isinstance(layer, MaxPool):
            window = layer.window
            return F.max_pool2d(
                x, window.kernel, window.stride, peers.both_pads(window), ceil_mode=window.ceil
            )
        if isinstance(layer, PadChannels):
            return F.pad(x, (0, 0, 0, 0, layer.before, layer.after))
        plain: dict[type, Callable[..., Any]] = {
            ReLU: self.torch.relu_ if not self.train else self.torch.relu,
            Add: lambda *both: both[0] + both[1],
            GlobalAvgPool: lambda x: x.mean((2, 3), keepdim=True),
            Softmax: lambda x: self.torch.softmax(x, 1),
        }
        return plain[type(layer)](*xs)


def by_layer(device: str, size: int, tf32: bool) -> list[dict[str, Any]]:
    """Each convolution of VGG-16: its time, and its share of what a large product and a copy reach."""
    net, x = peers.vgg().with_kernels(kernels(tf32)).to(device), to_device(peers.picture(size), device)
    side = 8192 if device == "cuda" else 512
    square = to_device(np.random.default_rng(0).standard_normal((side, side), "float32"), device)
    out = square.copy()
    factors = "tf32" if tf32 else ""
    multiply = lambda: product(square, square, out, factors=factors)  # noqa: E731
    matrix = 2e-9 * side**3 / fastest(multiply, device)  # TFLOP/s
    copy = 2e-9 * square.nbytes / fastest(square.copy, device)  # TB/s
    print(f"ceilings  {matrix:.1f} TFLOP/s, {copy:.2f} TB/s")
    res, rows = net.init_res(), []
    net.forwardto(res, peers.TARGET, x)
    for node in net.nodes[: net.number_of(peers.TARGET)]:
        if isinstance(node.layer, Conv):
            layer, below, how = node.layer, res[node.inputs[0]].x, net.prepared[node.name]
            y = res[node.name].x
            ms = fastest(lambda: conv(below, layer.w, layer.b, layer.window, how=how, mem=res.mem), device)  # noqa: B023
            flops = 2 * y.size * layer.w.size // layer.w.shape[3]
            nbytes = below.nbytes + y.nbytes + layer.w.nbytes
            rows.append(
                {
                    "layer": node.name,
                    "tf32": tf32,
                    "ms": ms,
                    "of the matrix ceiling": 1e-9 * flops / ms / matrix,
                    "of the memory ceiling": 1e-9 * nbytes / ms / copy,
                }
            )
            print(
                "layer    ",
                " ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in rows[-1].items()),
            )
    return rows


def race(runners: dict[str, Run], device: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each in each round, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    clock = timed(device)
    for number in range(rounds + 3):
        for name, step in runners.items():
            ms = clock(step)
            if number >= 3:
                times[name].append(ms)
    return times


def fastest(step: Run, device: str) -> float:
    clock = timed(device)
    return min(clock(step) for _ in range(10))


def timed(device: str) -> Callable[[Run], float]:
    """Milliseconds by the card's own clock: both sides work on its default stream."""
    if device != "cuda":

        def by_host(step: Run) -> float:
            began = perf_counter()
            step()
            return 1e3 * (perf_counter() - began)

        return by_host
    import cupy

    def by_events(step: Run) -> float:
        began, ended = cupy.cuda.Event(), cupy.cuda.Event()
        cupy.cuda.Device().synchronize()
        began.record()
        step()
        ended.record()
        ended.synchronize()
        return cupy.cuda.get_elapsed_time(began, ended)

    return by_events


def memory(size: int) -> dict[str, Any]:
    """What two dream steps take of CuPy's pool, beside what was told."""
    import cupy

    net, pool = peers.vgg().to("cuda"), cupy.get_default_memory_pool()
    told = forecast(net, (1, size, size, 3), peers.TARGET).step - WORKSPACE
    pool.free_all_blocks()
    before = pool.total_bytes()
    _, step = passes(net, to_device(peers.picture(size), "cuda"))
    step(), step()
    found = pool.total_bytes() - before
    print(
        f"memory    {size}²: {found / 1e6:.0f} MB of the pool, told {told / 1e6:.0f} MB: {told / found:.2f}"
    )
    return {"size": size, "pool MB": found / 1e6, "told MB": told / 1e6, "told of it": told / found}


def check(steps: dict[str, Run], least: float) -> None:
    """The same gradients, before any clock runs."""
    found = {}
    for name, step in steps.items():
        gradient = step()
        found[name] = (gradient.cpu().numpy() if hasattr(gradient, "cpu") else to_host(gradient)).astype(
            "float64"
        )
    wanted = found[f"torch {peers.LAYOUTS[0]}"]
    for name, g in found.items():
        cosine = (g * wanted).sum() / np.sqrt((g**2).sum() * (wanted**2).sum())
        print(f"check     {name:24} gradients at cosine {cosine:.5f}")
        if cosine < least:
            raise SystemExit(f"{name} does not compute what PyTorch computes; no use timing it")


def row(work: str, tf32: bool, times: dict[str, list[float]]) -> dict[str, Any]:
    ours = [name for name in times if name.startswith("ours")]
    theirs = [name for name in times if name.startswith("torch")]
    best = min(ours, key=lambda name: statistics.median(times[name]))
    medians = {name: statistics.median(values) for name, values in times.items()}
    found = {"work": work, "tf32": tf32, "ms": medians, "times as fast": ratio(times, best, theirs)}
    words = ", ".join(f"{name} {ms:.2f} ms" for name, ms in medians.items())
    print(f"{work:28} tf32 {tf32!s:5} {words}: {found['times as fast']:.2f} times as fast", flush=True)
    return found
