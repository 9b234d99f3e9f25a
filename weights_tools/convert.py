"""A foreign file into one of ours: read, match, say how pictures are prepared, write, read back, compare.

`convert` is the parent's side, `made` what happens behind the wall.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from minidnn import images, weights, zoo
from minidnn.errors import DamagedFileError, MinidnnError, MismatchError, UsageError
from minidnn.files import replacing
from minidnn.images import Preprocess
from minidnn.layers import Conv
from minidnn.net import Net
from minidnn.weights.classes import Classes, read_classes
from minidnn.weights.index import non_finite
from weights_tools import conventions, isolation, reading
from weights_tools.foreign import Foreign
from weights_tools.match import matched
from weights_tools.naming import storable
from weights_tools.placing import check_output, done_in, folder_beside
from weights_tools.report import Report, layer_lines, sources, told
from weights_tools.selftest import tested

NEAR = 1.15  # how far apart the sizes may be that a net is trained in: 227 and 224
ASKS_FOR_MEAN = "give the mean"  # a reader's warning, which `conventions` has an answer to


@dataclass(frozen=True)
class Options:
    """What the user may say beside the names of the files."""

    arch: str | None = None  # of the zoo, or a file with its wiring
    settings: Mapping[str, str] = field(default_factory=dict)  # of the zoo's net
    classes: str | None = None
    preprocessing: str | None = None
    mean: str | None = None
    input_size: tuple[int, int] | None = None
    dtype: str = "float32"
    to_rgb: bool = False
    grey: bool = False
    allow_external: bool = False  # large tensors of ONNX in other files of the same folder


# The parent's side.


def convert(
    inputs: Sequence[Path],
    output: Path,
    options: Options,
    *,
    in_process: bool = False,
    report: Path | None = None,
) -> str:
    """Write `output` and its report; the report comes back as text."""
    report = report or output.with_suffix(".report.txt")
    wiring = options.arch if _is_wiring(options.arch) and Path(options.arch).exists() else None
    read = [*inputs, *(Path(extra) for extra in (options.mean, options.classes, wiring) if extra)]
    for goal in (output, report):
        check_output(goal, read)
    if output.suffix.lower() not in (".h5", ".hdf5") or report.resolve() == output.resolve():
        raise UsageError(f"{output}: weights of ours end in .h5, and reports do not; name the output so")
    with folder_beside(output, inputs) as folder:
        made_there = folder / "net.h5"
        job = {
            "do": "convert",
            "what": ", ".join(map(str, inputs)),
            "inputs": [str(path.resolve()) for path in inputs],
            "output": str(made_there),
            "options": _absolute(options),
        }
        limits = isolation.limits_for(inputs, and_beside=options.allow_external)
        done = done_in(folder, job, output, None if in_process else limits)
        if findings := weights.verify(made_there).findings:
            raise DamagedFileError(
                f"{output}: was not written as it should be: {findings[0]}; is the disk sound?"
            )
        with replacing(report) as partial:
            partial.write_text(done["report"], encoding="utf-8", newline="\n")
        with replacing(output) as partial:
            made_there.replace(partial)
    return str(done["report"])


def _absolute(options: Options) -> dict[str, Any]:
    """The other process has another folder to look from."""
    said = asdict(options)
    names: dict[str, Collection[str]] = {"arch": zoo.NETS, "preprocessing": images.PRESETS}
    names |= {"classes": (), "mean": ()}
    for name, known in names.items():
        if said[name] is not None and said[name] not in known and Path(said[name]).exists():
            said[name] = str(Path(said[name]).resolve())
    return said


# Behind the wall.


def made(job: dict[str, Any]) -> dict[str, Any]:
    """Convert and write, and prove it."""
    said = dict(job["options"])
    if said.get("input_size") is not None:
        said["input_size"] = tuple(said["input_size"])
    paths, options = [Path(path) for path in job["inputs"]], Options(**said)
    output = Path(job["output"])
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always", UserWarning)
            flip, options = _flip_filters(options)
            foreign = reading.read(
                paths, input_size=options.input_size, allow_external=options.allow_external, flip_filters=flip
            )
        foreign.warnings += [str(one.message) for one in heard if one.category is UserWarning]
        net, report = assembled(foreign, options)
        report.sources = sources(paths)
        ids = _classes(foreign, net, options).ids
        weights.save(output, net, class_ids=ids, dtype=options.dtype, provenance=report.provenance())
        report.tests = tested(net, weights.load(output), foreign, conventions.channels_of(net) or 3)
    except MinidnnError as error:
        raise isolation.with_its_file(error, job["what"]) from None
    return {"report": report.text()}


def _flip_filters(options: Options) -> tuple[bool | None, Options]:
    """What --set says of Lasagne's filters, and the other options."""
    settings = dict(options.settings)
    said = settings.pop("flip_filters", None)
    if said not in ("true", "false", None):
        raise UsageError(f"--set flip_filters={said}: true or false is wanted")
    return None if said is None else said == "true", replace(options, settings=settings)


def assembled(foreign: Foreign, options: Options) -> tuple[Net, Report]:
    """The net as it will be written, and what there is to say of it."""
    if foreign.asks:
        raise UsageError(foreign.asks)
    report = Report(format=foreign.format, steps=list(foreign.steps))
    report.warnings = [words for words in foreign.warnings if not words.endswith(ASKS_FOR_MEAN)]
    match = matched(foreign, options.arch, options.settings)
    report.steps += match.steps
    report.arch = match.arch
    if foreign.net is None:
        between = f"activations, pools and pads are those of {_whose(options, match.arch)}"
        report.warnings.append(f"the file holds arrays only: {between}; see that it answers as you know it")
    report.warnings += match.warnings
    net = _for_images_of(storable(match.net), options.input_size)
    _check_finite(net)
    picture = None if options.mean is None else reading.mean_picture(Path(options.mean))
    preprocess, why, usual_size = conventions.chosen(
        foreign, net, match.arch, options.preprocessing, has_mean_picture=picture is not None
    )
    if foreign.net is None and options.input_size is None and preprocess.size and net.input_shape:
        net, preprocess = _in_the_size_of(net, usual_size, preprocess)
    if picture is not None:
        preprocess, why = conventions.with_mean_picture(preprocess, picture), f"{why}; mean of {options.mean}"
    net = net.with_nodes(net.nodes, preprocess=preprocess, classes=_classes(foreign, net, options).names)
    if options.to_rgb:
        net = in_rgb(net)
        report.steps.append("to RGB: the channels of the first filters and of the mean were turned round")
    if options.grey:
        net = images.fold_grey(net)
        report.steps.append("to grey: the first filters were summed over their colours")
    order = foreign.channel_order
    if order is not None and order != preprocess.order and options.preprocessing is not None:
        report.warnings.append(
            f"the file says {order}, --preprocessing says {preprocess.order}: this was taken"
        )
    report.preprocessing = f"{told(net.preprocess)} ({why})"
    report.layers = layer_lines(net)
    report.count = sum(array.size for array in net.params.values())
    if not net.classes:
        report.warnings.append(
            "no names of classes: answers will be numbers; --classes FILE gives them names"
        )
    source = {"format": foreign.format, "arch": match.arch or "", **net.source}
    return net.with_nodes(net.nodes, source=source), report


def _whose(options: Options, arch: str | None) -> str:
    """Whose wiring it is."""
    return Path(options.arch).name if _is_wiring(options.arch) else str(arch)


def _is_wiring(arch: str | None) -> TypeGuard[str]:
    """Whether --arch names a file, no net of the zoo."""
    return arch is not None and arch not in zoo.NETS


def _for_images_of(net: Net, size: tuple[int, int] | None) -> Net:
    if size is None:
        return net
    channels = conventions.channels_of(net)
    if channels is None:
        raise UsageError(
            "--input-size: the first layer does not say how many channels an image has; leave it out"
        )
    return net.with_nodes(net.nodes, input_shape=(*size, channels))


def _in_the_size_of(net: Net, size: tuple[int, int] | None, preprocess: Preprocess) -> tuple[Net, Preprocess]:
    """The size of the convention it was trained by, if that is near: 224 for 227, but never for 32."""
    if size is None or net.input_shape is None or size == net.input_shape[:2]:
        return net, preprocess
    if any(max(pair) > NEAR * min(pair) for pair in zip(size, net.input_shape[:2], strict=True)):
        return net, preprocess
    try:
        resized = _for_images_of(net, size)
    except ValueError:
        return net, preprocess
    return resized, conventions.sized(preprocess, resized)


def _check_finite(net: Net) -> None:
    for name, array in (net.params | net.buffers).items():
        if bad := non_finite(array):
            raise DamagedFileError(
                f"{bad:,} of {array.size:,} numbers of {name!r} are not finite; fetch the file again"
            )


def in_rgb(net: Net) -> Net:
    """A net of BGR as one of RGB that says the same: its first filters and its mean turned round."""
    preprocess = net.preprocess
    if not isinstance(preprocess, Preprocess) or preprocess.order != "BGR":
        found = preprocess.order if isinstance(preprocess, Preprocess) else "an unknown order"
        raise UsageError(f"--to-rgb: the net wants {found}, not BGR; leave --to-rgb out")
    nodes = []
    for node in net.nodes:
        layer = node.layer
        if net.input in node.inputs:
            if not isinstance(layer, Conv) or layer.groups != 1:
                raise UsageError(
                    f"--to-rgb: {node.name!r} reads the picture and is no plain Conv; leave it out"
                )
            layer = replace(layer, w=np.ascontiguousarray(layer.w[:, :, ::-1]))
        nodes.append(node._replace(layer=layer))
    mean = preprocess.mean[..., ::-1] if isinstance(preprocess.mean, np.ndarray) else preprocess.mean[::-1]
    turned = replace(preprocess, order="RGB", mean=mean, std=preprocess.std[::-1])
    return net.with_nodes(nodes, preprocess=turned)


def _classes(foreign: Foreign, net: Net, options: Options) -> Classes:
    """The names, as many as the net has answers."""
    found = Classes(foreign.classes, foreign.class_ids)
    if options.classes is not None:
        found = read_classes(Path(options.classes))
    count = conventions.answers_of(net)
    if found.names and count is not None and count != len(found.names):
        counts = f"{len(found.names)} names of classes, and the net has {count} answers"
        raise MismatchError(f"{counts}; give its own --classes, or none")
    return found
