"""What may be done behind the wall: look at files, compare two, check one of ours, convert, export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidnn import weights
from minidnn.errors import DamagedFileError, UsageError
from weights_tools import convert, detect, reading
from weights_tools.fitting import shaped
from weights_tools.foreign import Foreign
from weights_tools.report import layer_lines, told
from weights_tools.wiring import graph_text
from weights_tools.writers import matconvnet, npz, safetensors

Arrays = dict[str, np.ndarray]
WRITERS = {".mat": matconvnet.write, ".safetensors": safetensors.write, ".npz": npz.write}


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
    foreign = reading.read(paths, allow_external=job.get("allow_external", False))
    found = {"text": "\n".join([head, *_told(foreign)])}
    if job.get("graph"):
        if foreign.net is None:
            raise UsageError(f"{job['what']}: does not say how it is wired, so there is no --graph to write")
        found["graph"] = graph_text(foreign.net)
    return found


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
    return lines + [f"note: {words}" for words in (*foreign.warnings, foreign.asks) if words]


def _shapes(arrays: Mapping[str, np.ndarray]) -> str:
    return "  ".join(f"{name} {'x'.join(map(str, np.shape(array)))}" for name, array in arrays.items())


class Held(NamedTuple):
    """The arrays of a file, layer by layer in its order, and what else its layers are called."""

    layers: dict[str, Arrays]
    aliases: Mapping[str, str] = {}  # other name -> name
    flatten: str = "hwc"


def compare(job: dict[str, Any]) -> dict[str, Any]:
    """Layer with layer of the same name, by its other names too; what is left, in the order of the files."""
    allowed = job.get("allow_external", False)
    first, second = (_held(Path(path), allow_external=allowed) for path in job["inputs"])
    pairs = _pairs(first, second)
    width = max(map(len, ["layer", *(f"{mine}/{key}" for mine in pairs for key in first.layers[mine])]))
    lines = [f"{'layer':<{width}}  largest difference   of the largest number"]
    common, equal = 0, True
    for mine, other in pairs.items():
        for key in [key for key in first.layers[mine] if key in second.layers[other]]:
            told, same = _difference(first, mine, second, other, key)
            as_other = "" if mine == other else f"  ({other + '/' + key!r})"
            lines.append(f"{f'{mine}/{key}':<{width}}  {told}{as_other}")
            common, equal = common + 1, equal and same
    counts = [sum(map(len, held.layers.values())) - common for held in (first, second)]
    only = [f"{count} only in {which}" for count, which in zip(counts, "AB", strict=True) if count]
    equal = equal and common > 0
    verdict = "equal" if equal else "not equal"
    if only:
        verdict += f" in all {common} common arrays" if equal else ""
        verdict = "; ".join([verdict, *only])
    return {"text": "\n".join([*lines, verdict]), "equal": equal and not only}


def _pairs(first: Held, second: Held) -> dict[str, str]:
    """{layer of the first: layer of the second}."""
    others = {theirs: other for other, theirs in first.aliases.items() if other in second.layers}
    free = dict.fromkeys(second.layers)
    found: dict[str, str] = {}
    for name in first.layers:
        near = [name, second.aliases.get(name), others.get(name)]
        if (other := next((one for one in near if one in free), None)) is not None:
            found[name] = other
            del free[other]
    found |= zip([name for name in first.layers if name not in found], free, strict=False)
    return {name: found[name] for name in first.layers if name in found}


def _difference(first: Held, mine: str, second: Held, other: str, key: str) -> tuple[str, bool]:
    """How far two arrays are apart, in words, and whether they are equal."""
    one, two = np.asarray(first.layers[mine][key]), np.asarray(second.layers[other][key])
    if one.ndim == 4 and two.ndim == 2 and one.size == two.size:
        two = shaped(two, one.shape, second.flatten)
    elif one.ndim == 2 and two.ndim == 4 and one.size == two.size:
        one = shaped(one, two.shape, first.flatten)
    if one.shape != two.shape:
        return f"{'x'.join(map(str, one.shape))} and {'x'.join(map(str, two.shape))}: other shapes", False
    exact = np.result_type(one, two, np.float32)
    gap = np.abs(np.subtract(one, two, dtype=exact)).max(initial=0)
    share = gap / (np.abs(one.astype(exact, copy=False)).max(initial=0) or 1)
    return f"{gap:<19.3g}  {share:.3g}", bool(gap == 0)


def _held(path: Path, *, allow_external: bool) -> Held:
    """Every layer with arrays, what it learned and what it counted together."""
    foreign = reading.read([path], allow_external=allow_external)
    if foreign.net is None:
        return Held(foreign.layers, {}, foreign.flatten)
    held = {node.name: node.layer.params | node.layer.buffers for node in foreign.net.nodes}
    return Held({name: arrays for name, arrays in held.items() if arrays}, foreign.net.aliases)


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


def export(job: dict[str, Any]) -> dict[str, Any]:
    """A file of ours as another program's; the text says what had to be changed."""
    path, output = Path(job["inputs"][0]), Path(job["output"])
    if (kind := detect.kind_of(path)) != "minidnn":
        raise UsageError(
            f"{path}: {detect.NAMES[kind]}; export is for ours, minidnn weights convert makes one"
        )
    net = weights.load(path)
    remarks = WRITERS[output.suffix](output, net)
    return {"text": "\n".join(remarks), "layers": len(net.nodes)}


JOBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "convert": convert.made,
    "inspect": inspect,
    "compare": compare,
    "verify": verify,
    "export": export,
}
