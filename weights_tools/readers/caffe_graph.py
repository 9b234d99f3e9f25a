"""The records of a Caffe net as nodes: as it runs in tests, from one image to its outputs.

Blobs are variables that layers may write over; here every layer has an output of its own, under the layer's
name, and who reads a blob reads its last writer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

from minidnn.errors import MismatchError, UnsupportedError
from minidnn.graph import Node
from minidnn.layers import BatchNorm, Layer
from weights_tools.readers.caffe_flow import NEEDS_SIZE, Flow, Size, after
from weights_tools.readers.caffe_layers import WEIGHTED, Build, planned
from weights_tools.readers.caffe_records import Described, Record
from weights_tools.readers.caffe_schema import MAX_SIZE, Fields

NO_WORK = ("Accuracy", "Silence", "HDF5Output")  # and all whose name ends in Loss
NOT_NAMES = ("all", "needed")  # they mean something else to forwardto(keep=...)
MAX_INPUTS = 100


@dataclass
class Wiring:
    """What a Net is made of, and what was done to get there."""

    nodes: list[Node]
    input: str
    input_shape: tuple[int, int, int] | None
    channels: int | None  # of the image, also where its size is not known
    transform: Fields | None  # what the data layer did to its images
    aliases: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Read:
    """A record with who writes what it reads: the number of a record, -1 for the image."""

    record: Record
    sources: tuple[int, ...]


def wired(net: Described, *, bare: bool = False) -> Wiring:
    """The graph of a net whose records have their arrays with them; or, `bare`, of one without."""
    steps: list[str] = []
    records = [record for record in net.records if record.in_test_phase]
    data = [r for r in net.records if _gives_data(r)]
    left_out = [r for r in net.records if not r.in_test_phase and not _gives_data(r)]
    steps += [f"dropped layer {r.name!r} (not for tests)" for r in left_out]
    data.sort(key=lambda r: not r.in_test_phase)  # a snapshot of a training has no other data layers
    records = [r for r in records if not _gives_data(r)]
    records = _without_losses(records, steps)
    given = dict(net.inputs) | {top: () for r in reversed(data) for top in r.tops}
    image, records = _of_the_image(records, list(given), net.where, steps)
    plans = _plans(records, net.where, bare)
    transform = next(
        (r.fields.part("transform_param") for r in data if image in r.tops and _transforms(r)), None
    )
    size = _image_size(net, data, image, records, transform)
    if bare and None in size:
        raise MismatchError(f"{net.where}: {NEEDS_SIZE}")
    h, w, c = size
    shape = None if h is None or w is None or c is None else (h, w, c)
    wiring = Wiring([], image, shape, c, transform, steps=steps)
    _build(wiring, _reads(records, image), plans, Flow(image, h, w, c))
    if not wiring.nodes:
        raise MismatchError(f"{net.where}: no layer in it computes anything; fetch the file again")
    return wiring


# What is there in tests


def _gives_data(record: Record) -> bool:
    return not record.bottoms and (record.type in ("Input", "Python") or record.type.endswith("Data"))


def _transforms(record: Record) -> bool:
    return "transform_param" in record.fields


def _without_losses(records: Sequence[Record], steps: list[str]) -> list[Record]:
    """Losses are of no use without labels; but that of a classifier knows how scores become probabilities."""
    kept, losses = [], [r for r in records if r.type == "SoftmaxWithLoss" and r.bottoms]
    has_prob = any(r.type == "Softmax" or r.name == "prob" for r in records)
    for record in records:
        if record in losses and not has_prob:
            name = "prob" if len(losses) == 1 else record.name
            kept.append(replace(record, name=name, type="Softmax", bottoms=record.bottoms[:1], tops=(name,)))
            steps.append(f"made {name!r} of the loss {record.name!r}: the probabilities in it")
        elif record.type in NO_WORK or record.type.endswith("Loss"):
            steps.append(f"dropped layer {record.name!r} ({record.type})")
        else:
            kept.append(record)
    return kept


def _of_the_image(
    records: Sequence[Record], given: Sequence[str], where: str, steps: list[str]
) -> tuple[str, list[Record]]:
    """Which of the inputs is the image, and the layers behind it: others, like labels, lead to no weights."""
    if len(given) > MAX_INPUTS:
        raise UnsupportedError(f"{where}: {len(given):,} inputs; we run nets of one image")
    origins = {name: frozenset([name]) for name in given}
    behind, unwritten = [], dict[str, Record]()
    for record in records:
        for name in record.bottoms:
            if name not in origins:
                unwritten.setdefault(name, record)
        behind.append(frozenset().union(*(origins.get(name, frozenset()) for name in record.bottoms)))
        origins |= dict.fromkeys(record.tops, behind[-1])
    if unwritten:
        name, reader = next(iter(unwritten.items()))
        advice = (
            "give the deploy .prototxt"
            if not given
            else "is it of the training only? give the deploy .prototxt"
        )
        raise MismatchError(f"{reader.what}: reads {name!r}, which nothing writes; {advice}")
    weighted = [of for record, of in zip(records, behind, strict=True) if record.type in WEIGHTED]
    images = frozenset().union(*(weighted or behind))
    if len(images) != 1:
        found = " and ".join(map(repr, sorted(images)[:5])) or "no image"
        raise UnsupportedError(f"{where}: a net of {found}; we run nets of one image")
    kept = []
    for record, of in zip(records, behind, strict=True):
        if of & images or not record.bottoms:  # the latter to be told off
            kept.append(record)
        else:
            steps.append(f"dropped layer {record.name!r} ({record.type} of labels)")
    return next(iter(images)), kept


def _plans(records: Sequence[Record], where: str, bare: bool) -> list[Build]:
    """How to build each layer; whatever we lack is told at once."""
    plans, lacking = [], dict[str, list[str]]()
    for record in records:
        try:
            plans.append(planned(record, bare=bare))
        except UnsupportedError as error:
            lacking.setdefault(str(error), []).append(record.name)
    if lacking:
        parts = [f"{what} ({_some(names)})" for what, names in lacking.items()]
        raise UnsupportedError(
            f"{where}: layers that we do not have: {'; '.join(parts)}; such a net we cannot run"
        )
    return plans


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name[:60]) for name in names[:3]) + more


# The image


def _image_size(
    net: Described, data: Sequence[Record], image: str, records: Sequence[Record], transform: Fields | None
) -> Size:
    """(h, w, c) as declared, cropped, or as the first filters tell of the channels."""
    if dims := net.inputs.get(image):
        return _hwc(list(dims), net.where)
    for record in data:
        shapes = record.part("input_param").all("shape")
        if image in record.tops and shapes:
            number = record.tops.index(image)
            return _hwc(
                shapes[number if len(shapes) > 1 and number < len(shapes) else 0].all("dim"), record.what
            )
        memory = record.part("memory_data_param")
        if image in record.tops and "height" in memory:
            return memory.whole("height", 0), memory.whole("width", 0), memory.whole("channels", 0)
    crop, channels = None, None
    if transform is not None:
        crop = transform.whole("crop_size", 0, least=0) or None
        colours = (
            3 if transform.last("force_color", False) else 1 if transform.last("force_gray", False) else None
        )
        channels = 3 if len(transform.all("mean_value")) == 3 else colours
    first = next((r for r in records if r.type == "Convolution"), None)
    if first is not None and first.blobs and len(first.blobs[0].shape) == 4:
        channels = first.blobs[0].shape[1] * first.part("convolution_param").whole("group", 1)
    return crop, crop, channels


def _hwc(dims: Sequence[int], what: str) -> Size:
    if len(dims) not in (2, 4):
        raise UnsupportedError(f"{what}: an input of {len(dims)} axes; images have 4 (n, c, h, w), vectors 2")
    if not all(1 <= dim <= MAX_SIZE for dim in dims[1:]):
        found = " x ".join(map(str, dims))
        raise MismatchError(f"{what}: an input of {found}; expected sizes from 1 to {MAX_SIZE:,}")
    c, h, w = (*dims[1:], 1, 1)[:3]
    return h, w, c


# Nodes


def _reads(records: Sequence[Record], image: str) -> list[Read]:
    writers = {image: -1}
    reads = []
    for number, record in enumerate(records):
        sources = tuple(writers.get(name, -2) for name in record.bottoms)
        if -2 in sources:  # a label that a layer of the image reads too
            name = record.bottoms[sources.index(-2)]
            raise UnsupportedError(f"{record.what}: reads {name!r}, which does not come from the image")
        if record.type == "Split":
            writers |= dict.fromkeys(record.tops, sources[0])
        else:
            writers |= dict.fromkeys(record.tops, number)
        reads.append(Read(record, sources))
    return reads


def _build(wiring: Wiring, reads: Sequence[Read], plans: Sequence[Build], image: Flow) -> None:
    flows = {-1: image}
    readers = Counter(source for read in reads for source in read.sources if read.record.type != "Split")
    at: dict[str, int] = {}  # of a node by its name
    for number, (read, plan) in enumerate(zip(reads, plans, strict=True)):
        record = read.record
        inputs = [flows[source] for source in read.sources]
        layer = plan(inputs)
        if layer is None:
            flows[number] = inputs[0]
            continue
        source = read.sources[0]
        after_norm = source >= 0 and reads[source].record.type == "BatchNorm" and readers[source] == 1
        if record.type == "Scale" and after_norm:
            _fold(wiring, at[inputs[0].node], record, layer)
            flows[number] = inputs[0]
            continue
        name = _name(record, at, wiring)
        at[name] = len(wiring.nodes)
        wiring.nodes.append(Node(name, layer, tuple(flow.node for flow in inputs)))
        flows[number] = after(name, layer, inputs, record.what)


def _fold(wiring: Wiring, number: int, record: Record, scale: Layer) -> None:
    """Give a BatchNorm the scale and shift that only Caffe keeps in a layer of its own."""
    norm = wiring.nodes[number]
    if isinstance(norm.layer, BatchNorm) and isinstance(scale, BatchNorm):
        wiring.nodes[number] = norm._replace(layer=replace(norm.layer, gamma=scale.gamma, beta=scale.beta))
        wiring.aliases[record.name] = norm.name
        wiring.steps.append(f"folded {record.name!r} into {norm.name!r}")


def _name(record: Record, taken: Container[str], wiring: Wiring) -> str:
    """The layer's own name; Caffe does not mind two layers of one name, we do."""
    wanted = name = record.name or record.type.lower()
    number = len(wiring.nodes) + 1
    while name in taken or name in (wiring.input, *NOT_NAMES):
        name, number = f"{wanted}_{number}", number + 1
    if name != wanted:
        wiring.warnings.append(f"the name {wanted!r} is taken: the later layer is {name!r}")
    return name
