"""How good a net is on pictures: its loss, its errors; and where it stops being numbers."""

from __future__ import annotations

import numpy as np

from minidnn import losses
from minidnn.arrays import Array, device_of, to_device, xp_of
from minidnn.errors import UsageError
from minidnn.images import Preprocess
from minidnn.layers import Softmax
from minidnn.net import Net
from minidnn.res import Res
from minidnn.train.data import DataSet, in_batches

LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "multiclass_hinge": losses.multiclass_hinge,
    "structured_hinge": losses.structured_hinge,
}
VALIDATED_AT_ONCE = 250


def evaluate(
    net: Net,
    data: DataSet,
    *,
    loss: str = "cross_entropy",
    batch: int = VALIDATED_AT_ONCE,
    res: Res | None = None,
) -> dict[str, float]:
    """The mean loss, and the shares of pictures whose class is not the first answer, or among the first five.

    Top-5 is kinder, and sometimes fairer: a picture may show several things, and names lie near each other.
    """
    preprocess, scores_layer = preprocess_of(net), scores_of(net)
    res = net.init_res() if res is None else res
    total = {"loss": 0.0, "top1": 0.0, "top5": 0.0}
    for images, labels in in_batches(data, batch):
        x = to_device(preprocess.to_net(images), net.device)
        scores = net.forwardto(res, scores_layer, x, keep=())
        labels = to_device(labels, device_of(scores))
        total["loss"] += LOSSES[loss](scores, labels)[0] * len(images)
        for k in (1, 5):
            share = losses.top_k_error(scores, labels, k=min(k, scores.shape[3]))
            total[f"top{k}"] += share * len(images)
    return {name: value / len(data) for name, value in total.items()}


def scores_of(net: Net) -> str:
    """The layer that the loss looks at: the last, or what its Softmax reads, as the loss has its own."""
    last = net.nodes[-1]
    return last.inputs[0] if isinstance(last.layer, Softmax) else last.name


def preprocess_of(net: Net) -> Preprocess:
    if not isinstance(net.preprocess, Preprocess):
        raise UsageError("the net says nothing of how pictures become what it sees; give it a preprocess")
    return net.preprocess


def first_non_finite(net: Net, x: Array) -> str | None:
    """The first layer whose weights, or whose answer to x, are not numbers."""
    for node in net.nodes:
        if not all(bool(xp_of(a).isfinite(a).all()) for a in node.layer.params.values()):
            return node.name
    res = net.init_res()
    with np.errstate(all="ignore"):
        net.forwardto(res, net.names[-1], x, mode="train", rng=np.random.default_rng(0))
    slots = ((node.name, res[node.name].x) for node in net.nodes)
    return next((name for name, y in slots if not bool(xp_of(y).isfinite(y).all())), None)
