"""A foreign file into one of ours: read, match, say how pictures are prepared, write, read back, compare.

`convert` is the parent's side, `made` what happens behind the wall.
"""

from __future__ import annotations

import secrets
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minidnn import images, weights
from minidnn.errors import DamagedFileError, MinidnnError, MismatchError, OutputError, UsageError
from minidnn.files import replacing
from minidnn.images import Preprocess
from minidnn.layers import Conv
from minidnn.net import Net
from minidnn.weights.classes import class_names
from weights_tools import conventions, isolation, reading
from weights_tools.detect import opened
from weights_tools.foreign import Foreign
from weights_tools.match import matched
from weights_tools.naming import storable
from weights_tools.report import Report, layer_lines, sources, told
from weights_tools.selftest import tested

NEAR = 1.15  # how far apart the sizes may be that a net is trained in: 227 and 224
ASKS_FOR_MEAN = "give the mean"  # a reader's warning, which `conventions` has an answer to


@dataclass(frozen=True)
class Options:
    """What the user may say beside the names of the files."""

    arch: str | None = None
    classes: str | None = None
    preprocessing: str | None = None
    mean: str | None = None
    input_size: tuple[int, int] | None = None
    dtype: str = "float32"
    to_rgb: bool = False
    grey: bool = False


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
    for path in [*inputs, *(Path(extra) for extra in (options.mean, options.classes) if extra is not None)]:
        opened(path)
        for goal in (output, report):
            if is_there(goal) and goal.samefile(path):
                raise UsageError(f"{goal}: would overwrite what it is made from; name another output")
    if output.suffix.lower() not in (".h5", ".hdf5") or report.resolve() == output.resolve():
        raise UsageError(f"{output}: weights of ours end in .h5, and reports do not; name the output so")
    with _beside(output) as folder:
        needed, free = sum(path.stat().st_size for path in inputs), shutil.disk_usage(folder).free
        if free < needed:
            raise OutputError(
                f"{output}: {free:,} bytes are free, about {needed:,} are needed; free some space"
            )
        made_there = folder / "net.h5"
        job = {
            "do": "convert",
            "what": ", ".join(map(str, inputs)),
            "inputs": [str(path.resolve()) for path in inputs],
            "output": str(made_there),
            "options": _absolute(options),
        }
        try:
            done = made(job) if in_process else isolation.run_job(job, folder, isolation.limits_for(inputs))
        except OutputError as error:
            words = str(error).replace(str(made_there), str(output)).replace(str(folder), str(output))
            raise OutputError(words) from error
        if findings := weights.verify(made_there).findings:
            raise DamagedFileError(
                f"{output}: was not written as it should be: {findings[0]}; is the disk sound?"
            )
        with replacing(report) as partial:
            partial.write_text(done["report"], encoding="utf-8", newline="\n")
        with replacing(output) as partial:
            made_there.replace(partial)
    return str(done["report"])


def is_there(path: Path) -> bool:
    """Whether there is anything of that name, if there can be."""
    try:
        return path.exists()
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; choose another name") from None


def _absolute(options: Options) -> dict[str, Any]:
    """The other process has another folder to look from."""
    said = asdict(options)
    for name in ("classes", "mean", "preprocessing"):
        if said[name] is not None and Path(said[name]).exists() and said[name] not in images.PRESETS:
            said[name] = str(Path(said[name]).resolve())
    return said


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A private folder on the same disk, gone in the end; what a kill leaves is swept as `replacing` does."""
    folder = output.resolve().parent / f".{secrets.token_hex(8)}.part"
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        advice = "make the folder first" if isinstance(error, FileNotFoundError) else "choose another place"
        raise OutputError(f"{output}: {error.strerror}; {advice}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
            foreign = reading.read(paths, input_size=options.input_size)
        foreign.warnings += [str(one.message) for one in heard if one.category is UserWarning]
        net, report = assembled(foreign, options)
        report.sources = sources(paths)
        weights.save(output, net, dtype=options.dtype, provenance=report.provenance())
        report.tests = tested(net, weights.load(output), foreign, conventions.channels_of(net) or 3)
    except MinidnnError as error:
        raise isolation.with_its_file(error, job["what"]) from None
    return {"report": report.text()}


def assembled(foreign: Foreign, options: Options) -> tuple[Net, Report]:
    """The net as it will be written, and what there is to say of it."""
    report = Report(format=foreign.format, steps=list(foreign.steps))
    report.warnings = [words for words in foreign.warnings if not words.endswith(ASKS_FOR_MEAN)]
    match = matched(foreign, options.arch)
    report.steps += match.steps
    report.arch = match.arch
    if foreign.net is None:
        between = f"activations, pools and pads are those of {match.arch}"
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
    net = net.with_nodes(net.nodes, preprocess=preprocess, classes=_classes(foreign, net, options))
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
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
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


def _classes(foreign: Foreign, net: Net, options: Options) -> tuple[str, ...]:
    """The names, as many as the net has answers."""
    found = foreign.classes if options.classes is None else class_names(Path(options.classes))
    if not found:
        return ()
    count = conventions.answers_of(net)
    if count is not None and count != len(found):
        raise MismatchError(
            f"{len(found)} names of classes, and the net has {count} answers; give its own --classes, or none"
        )
    return found
