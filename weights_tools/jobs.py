"""What may be done behind the wall: look at a foreign file, compare two, check one of ours, convert."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidnn import weights
from minidnn.errors import DamagedFileError, UsageError
from weights_tools import convert, detect, reading
from weights_tools.foreign import Foreign
from weights_tools.report import layer_lines, told

Arrays = dict[str, np.ndarray]


def do(job: dict[str, Any]) -> dict[str, Any]:
    """The job's result, ready for JSON."""
    return JOBS[job["do"]](job)


def inspect(job: dict[str, Any]) -> dict[str, Any]:
    paths = [Path(path) for path in job["inputs"]]
    kinds = [detect.kind_of(path) for path in paths]
    sizes = sum(path.stat().st_size for path in paths)
    head = f"{' and '.join(detect.NAMES[kind] for kind in kinds)}, {sizes:,} bytes"
    if kinds == ["prototxt"]:
        return {"text": f"{head}\nthe weights are in another file: name the .caffemodel too"}
    if kinds == ["binaryproto"]:
        picture = reading.mean_picture(paths[0])
        means = ", ".join(f"{mean:.3f}" for mean in picture.mean(axis=(0, 1)))
        return {"text": f"{head}\n{'x'.join(map(str, picture.shape))}, mean of each channel {means}"}
    return {"text": "\n".join([head, *_told(reading.read(paths))])}


def _told(foreign: Foreign) -> list[str]:
    lines = [foreign.format]
    if foreign.net is not None:
        net = foreign.net
        lines.append(f"{len(net.nodes)} layers, {sum(a.size for a in net.params.values()):,} parameters")
        if net.input_shape:
            lines.append(f"images of {'x'.join(map(str, net.input_shape))}")
        lines += layer_lines(net)
    else:
        count = sum(np.size(array) for arrays in foreign.layers.values() for array in arrays.values())
        lines.append(
            f"{len(foreign.layers)} layers with weights, {count:,} numbers; how they are wired is not said"
        )
        width = max(map(len, foreign.layers), default=0)
        lines += [f"  {name:<{width}}  {_shapes(arrays)}" for name, arrays in foreign.layers.items()]
    if foreign.preprocess is not None:
        lines.append(f"preprocessing: {told(foreign.preprocess)}")
    if foreign.classes:
        lines.append(f"{len(foreign.classes)} classes: {', '.join(foreign.classes[:3])} …")
    lines += [f"{name}: {value}" for name, value in foreign.hints.items()]
    return lines + [f"note: {warning}" for warning in foreign.warnings]


def _shapes(arrays: Mapping[str, np.ndarray]) -> str:
    return "  ".join(f"{name} {'x'.join(map(str, np.shape(array)))}" for name, array in arrays.items())


def compare(job: dict[str, Any]) -> dict[str, Any]:
    """Layer by layer in their order, whatever they are called."""
    first, second = (_held(Path(path)) for path in job["inputs"])
    lines, equal = [], len(first) == len(second)
    width = max(map(len, [*first, "layer"]))
    lines.append(f"{'layer':<{width}}  largest difference   of the largest number")
    for (name, mine), (other, theirs) in zip(first.items(), second.items(), strict=False):
        if mine.size != theirs.size:
            shapes = f"{'x'.join(map(str, mine.shape))} and {'x'.join(map(str, theirs.shape))}"
            lines.append(f"{name:<{width}}  {shapes}: other sizes ({other!r})")
            equal = False
            continue
        gap = np.abs(mine.reshape(-1) - theirs.reshape(-1)).max(initial=0)
        share = gap / (np.abs(mine).max(initial=0) or 1)
        as_other = "" if name == other else f"  ({other!r})"
        lines.append(f"{name:<{width}}  {gap:<19.3g}  {share:.3g}{as_other}")
        equal = equal and not gap > 0
    if len(first) != len(second):
        lines.append(f"{len(first)} arrays and {len(second)}: the rest has nothing to be compared with")
    lines.append("equal" if equal else "not equal")
    return {"text": "\n".join(lines), "equal": bool(equal)}


def _held(path: Path) -> Arrays:
    """Every array of a file by name, in the file's order."""
    foreign = reading.read([path])
    if foreign.net is not None:
        return foreign.net.params | foreign.net.buffers
    return {
        f"{name}/{key}": array for name, arrays in foreign.layers.items() for key, array in arrays.items()
    }


def verify(job: dict[str, Any]) -> dict[str, Any]:
    path = Path(job["inputs"][0])
    if (kind := detect.kind_of(path)) != "minidnn":
        raise UsageError(
            f"{path}: {detect.NAMES[kind]}; verify is for ours, minidnn weights convert makes one"
        )
    found = weights.verify(path)
    if not found.is_sound:
        more = f", and {len(found.findings) - 1} more" if len(found.findings) > 1 else ""
        raise DamagedFileError(f"{path}: {found.findings[0]}{more}; fetch or convert it again")
    size = f"{found.tensors} arrays of {found.nbytes:,} bytes, digest {found.digest}"
    return {"text": f"{path.name}: whole and unchanged, {size}"}


JOBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "convert": convert.made,
    "inspect": inspect,
    "compare": compare,
    "verify": verify,
}
