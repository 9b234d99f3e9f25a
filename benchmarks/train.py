"""A training step of the built-in net against PyTorch: forward, loss, both gradients, momentum."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.race import race, ratio, record
from minidnn import losses
from minidnn.arrays import Array
from minidnn.kernels.cpu.threads import CREW
from minidnn.layers import BatchNorm, Conv, GlobalAvgPool, MaxPool, ReLU
from minidnn.net import Net
from minidnn.optim import Momentum
from minidnn.train.judging import scores_of
from minidnn.zoo.tiny import tiny

LAYOUTS = ["channels_last", "contiguous_format"]
RATE, MOMENTUM, CHECKED_STEPS = 0.01, 0.9, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batches", type=int, nargs="+", default=[128], help="images in a step (128)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the race (7)")
    parser.add_argument("--device", default="cpu", help="cuda: the same on a GPU, by the race gpu (cpu)")


def run(args: argparse.Namespace) -> None:
    from benchmarks import gpu  # which builds on this one

    if gpu.instead(args, "training"):
        return
    results = []
    for batch in args.batches:
        rng = np.random.default_rng(1)
        x = rng.standard_normal((batch, 32, 32, 3), "float32")
        labels = rng.integers(0, 10, batch)
        runners = {f"torch {layout}": torchs(drawn(), x, labels, layout) for layout in LAYOUTS}
        ours_by = drawn()
        runners["ours"] = ours(ours_by, x, labels)
        check(runners)
        times = race(runners, rounds=args.rounds)
        medians = {name: statistics.median(ms) for name, ms in times.items()}
        faster = ratio(times, "ours", [f"torch {layout}" for layout in LAYOUTS])
        results.append({"batch": batch, "ms": medians, "times as fast": faster})
        speeds = ", ".join(
            f"{name} {ms:.0f} ms ({1e3 * batch / ms:.0f} images/s)" for name, ms in medians.items()
        )
        print(f"batch {batch}: {speeds}: {faster:.2f} times as fast", flush=True)
        results[-1]["layers ms"] = by_layer(ours_by, x, labels)
    print("kept in", record("train", results).name)


def drawn() -> Net:
    return tiny(np.random.default_rng(0), batch_norms=True)


def ours(net: Net, x: Array, labels: Array) -> Callable[[], float]:
    """A step each time it is called, on the device of net and images; it gives the loss from before."""
    res, optimiser, memory = net.init_res(), Momentum(RATE, MOMENTUM), dict[str, Any]()
    last = scores_of(net)

    def step() -> float:
        with CREW.alone():  # as train.fit does it
            return one()

    def one() -> float:
        scores = net.forwardto(res, last, x, mode="train", keep="needed")
        loss, seed = losses.cross_entropy(scores, labels)
        net.backwardfrom(res, {last: seed}, params=True, to=None)
        with net.updating() as weights:
            for name, dzdw in net.gradients(res).items():
                move, memory[name] = optimiser.step(dzdw, memory.get(name))
                weights[name] += move
        return loss

    return step


def by_layer(net: Net, x: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Of our last step the milliseconds of each layer, forward and back."""
    res = net.init_res()
    for _ in range(2):
        scores = net.forwardto(res, "scores", x, mode="train", keep="needed")
        net.backwardfrom(res, {"scores": losses.cross_entropy(scores, labels)[1]}, params=True, to=None)
    return {name: [1e3 * slot.seconds, 1e3 * slot.backward_seconds] for name, slot in res.items()}


def torchs(net: Net, x: np.ndarray, labels: np.ndarray, layout: str) -> Callable[[], float]:
    """The same by PyTorch; layout is "channels_last" or "contiguous_format"."""
    import torch

    torch.set_num_threads(CREW.size)
    memory_format = getattr(torch, layout)
    modules: list[Any] = []
    for node in net.nodes[:-1]:
        layer = node.layer
        if isinstance(layer, Conv):
            kh, _, c, k = layer.w.shape
            module = torch.nn.Conv2d(c, k, kh, padding=layer.window.pad[0], bias=layer.b is not None)
            module.weight.data = torch.from_numpy(layer.w.transpose(3, 2, 0, 1).copy())
            if layer.b is not None:
                module.bias.data = torch.from_numpy(layer.b.copy())
            modules.append(module)
        elif isinstance(layer, BatchNorm):
            modules.append(torch.nn.BatchNorm2d(len(layer.gamma)))
        elif isinstance(layer, ReLU):
            modules.append(torch.nn.ReLU(inplace=True))
        elif isinstance(layer, MaxPool):
            modules.append(torch.nn.MaxPool2d(2, 2))
        elif isinstance(layer, GlobalAvgPool):
            modules.append(torch.nn.AdaptiveAvgPool2d(1))
    model = torch.nn.Sequential(*modules, torch.nn.Flatten()).to(memory_format=memory_format).train()
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=memory_format)
    targets = torch.from_numpy(labels)
    optimiser = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)

    def step() -> float:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def check(runners: dict[str, Callable[[], float]]) -> None:
    """The same losses step after step, before any clock runs."""
    found = {name: [step() for _ in range(CHECKED_STEPS)] for name, step in runners.items()}
    wanted = found[f"torch {LAYOUTS[0]}"]
    for name, values in found.items():
        print(f"check     {name:24} losses {', '.join(f'{value:.5f}' for value in values)}")
        if not np.allclose(values, wanted, rtol=2e-3):
            raise SystemExit(f"{name} does not learn what PyTorch learns; no use timing it")
