"""What a conversion proves before it says that it is done: random numbers, sent through in several ways."""

from __future__ import annotations

import numpy as np

from minidnn.errors import MismatchError, ShapeError, TooLargeError
from minidnn.layers import FC, Conv
from minidnn.net import Net
from minidnn.weights.index import pieces
from weights_tools.foreign import Foreign

SIZES = (32, 64, 96, 128, 224, 320)  # tried for a net that takes images of any size
TOLERANCE = 1e-3  # of the largest number: another order of summing, in single precision


def tested(net: Net, written: Net, foreign: Foreign, channels: int) -> list[str]:
    """What was tried and found, line by line; a MismatchError if the file is not the net."""
    lines = [_arrays_agree(net, written)]
    net, written = (
        net.with_kernels("im2col"),
        written.with_kernels("im2col"),
    )  # others keep larger filters too
    image = _image(net, channels)
    if image is None:
        return [*lines, "no image up to 320x320 gets through this net: nothing was computed"]
    try:
        lines.append(_outputs_agree(net, written, image))
        if first := _first_filters_agree(written, image):
            lines.append(first)
    except (MemoryError, TooLargeError):
        size = "x".join(map(str, image.shape[1:3]))
        lines.append(f"a {size} image takes more memory here than reading the file may: nothing was computed")
    if dense := _dense_agrees(written, foreign):
        lines.append(dense)
    return lines


def _arrays_agree(net: Net, written: Net) -> str:
    """Every array as it was, or rounded to half precision and nothing else."""
    before, after = net.params | net.buffers, written.params | written.buffers
    if before.keys() != after.keys():
        raise MismatchError("self-test: the written file has other arrays than the net; please report this")
    halves = 0
    for name, array in before.items():
        if _equal(array, after[name]):
            continue
        if not _equal(array, after[name], rounded=True):
            raise MismatchError(f"self-test: {name!r} came back from the file changed; please report this")
        halves += 1
    rounded = f", {halves} of them rounded to half precision" if halves else ", bit for bit"
    return f"{len(before)} arrays came back from the written file{rounded}"


def _equal(before: np.ndarray, after: np.ndarray, *, rounded: bool = False) -> bool:
    """Piece by piece, which takes no memory."""
    if before.shape != after.shape:
        return False
    kind = np.float16 if rounded else before.dtype
    both = zip(pieces(before), pieces(after), strict=True)
    return all(np.array_equal(one.astype(kind, copy=False), other) for one, other in both)


def _image(net: Net, channels: int) -> np.ndarray | None:
    """Random numbers in a size that gets through."""
    rng = np.random.default_rng(0)
    if net.input_shape is not None:
        return rng.standard_normal((1, *net.input_shape)).astype(np.float32) * 50
    for size in SIZES:
        try:
            net.shapes((1, size, size, channels))
        except ShapeError:
            continue
        return rng.standard_normal((1, size, size, channels)).astype(np.float32) * 50
    return None


def _outputs_agree(net: Net, written: Net, image: np.ndarray) -> str:
    """The net as read and the net as written say the same of one image."""
    ends = [name for name in net.names if not any(name in node.inputs for node in net.nodes)]
    wanted = net.forwardto(net.init_res(), ends, image, keep=())
    found = written.forwardto(written.init_res(), ends, image, keep=())
    worst = 0.0
    for name in ends:
        if not np.isfinite(wanted[name]).all():
            raise MismatchError(
                f"self-test: {name!r} has numbers that are not finite; are the weights damaged?"
            )
        scale = float(np.abs(wanted[name]).max()) or 1.0
        worst = max(worst, float(np.abs(wanted[name] - found[name]).max()) / scale)
    size = "x".join(map(str, image.shape[1:3]))
    outputs = ", ".join(map(repr, ends[:4]))
    if worst == 0:
        return f"{outputs} of a random {size} image: equal bit for bit before and after writing"
    return f"{outputs} of a random {size} image: differ by {worst:.2g} of the largest, as half precision does"


def _first_filters_agree(net: Net, image: np.ndarray) -> str | None:
    """The first convolution again, channels first and tap by tap, at a few places."""
    convs = [(n.name, n.layer) for n in net.nodes if isinstance(n.layer, Conv) and n.inputs == (net.input,)]
    if not convs or convs[0][1].groups > 1:
        return None
    name, layer = convs[0]
    window, found = layer.window, net.forwardto(net.init_res(), name, image)
    top, bottom, left, right = window.pad
    planes = np.pad(image[0].transpose(2, 0, 1), ((0, 0), (top, bottom), (left, right))).astype(np.float64)
    filters = np.asarray(layer.w, np.float64).transpose(3, 2, 0, 1)  # (K, C, kh, kw)
    bias = 0.0 if layer.b is None else np.asarray(layer.b, np.float64)
    (sy, sx), (dy, dx), (eh, ew) = window.stride, window.dilation, window.extent
    worst = 0.0
    for i, j in {
        (0, 0),
        (found.shape[1] // 2, found.shape[2] // 3),
        (found.shape[1] - 1, found.shape[2] - 1),
    }:
        patch = planes[:, i * sy : i * sy + eh : dy, j * sx : j * sx + ew : dx]
        wanted = (filters * patch).sum(axis=(1, 2, 3)) + bias
        worst = max(
            worst, float(np.abs(wanted - found[0, i, j]).max()) / (float(np.abs(wanted).max()) or 1.0)
        )
    if not worst < TOLERANCE:
        raise MismatchError(
            f"self-test: {name!r} differs by {worst:.2g} from plain loops; please report this"
        )
    return f"{name!r} channels first, by plain sums: differs by {worst:.1g} of the largest"


def _dense_agrees(net: Net, foreign: Foreign) -> str | None:
    """The first dense layer that reads a map, with the file's own matrix and its own order of numbers."""
    dense = [n for n in net.nodes if isinstance(n.layer, FC) and n.layer.w.shape[:2] != (1, 1)]
    matrix = next((a["w"] for a in foreign.layers.values() if "w" in a and np.ndim(a["w"]) == 2), None)
    if not dense or matrix is None:
        return None
    name, layer = dense[0].name, dense[0].layer
    if not isinstance(layer, FC) or matrix.shape != (layer.w[..., 0].size, layer.out_channels):
        return None
    x = np.random.default_rng(1).standard_normal((1, *layer.w.shape[:3])).astype(np.float32)
    vector = (x if foreign.flatten == "hwc" else x.transpose(0, 3, 1, 2)).reshape(1, -1)
    wanted = vector @ matrix + (0 if layer.b is None else layer.b)
    found = layer.forward(x)[0].reshape(wanted.shape)
    worst = float(np.abs(wanted - found).max()) / (float(np.abs(wanted).max()) or 1.0)
    if not worst < 10 * TOLERANCE:
        raise MismatchError(f"self-test: {name!r} reads its map in another order than the file; report this")
    return f"{name!r} with the file's own matrix ({foreign.flatten}): differs by {worst:.1g} of the largest"
