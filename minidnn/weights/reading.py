"""Opening a file of ours. All is checked before a number is read, and only what is used is read then."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any, Self

import numpy as np

from minidnn.arrays import Array
from minidnn.errors import (
    DamagedFileError,
    FileFormatError,
    MinidnnError,
    MismatchError,
    TooLargeError,
    UnknownLayerError,
    UnsafeFileError,
    UnsupportedError,
    UsageError,
    did_you_mean,
)
from minidnn.graph import Handle
from minidnn.images import Preprocess
from minidnn.net import Net
from minidnn.params import mapped
from minidnn.weights.blueprint import Blueprint, Shape, restored
from minidnn.weights.guarded import Guarded
from minidnn.weights.index import NAME_RULE, Tensor, digest_of, is_allowed
from minidnn.weights.jsons import check_size, parsed
from minidnn.weights.stored import Known, StoredNet, check_finite
from minidnn.weights.typed import MAX_NUMBER, built, decoded

FORMAT, VERSION = "minidnn-weights", (1, 0)
MAX_TENSORS = 100_000
MAX_RANK = 5
SHA256 = re.compile("[0-9a-f]{64}")
CONVERT = "other formats: minidnn weights convert"


def load(
    path: str | os.PathLike,
    *,
    upto: Handle | Collection[Handle] | None = None,
    mmap: bool = True,
    dtype: str | None = None,
    device: str = "cpu",
    allow_nonfinite: bool = False,
) -> Net:
    """The net in the file, or the part of it that ends at `upto`.

    Weights in float32 stay in the file until a layer first runs, and processes that use the same file share
    them; without `mmap` they are read at once. Do not write into a file that is in use: replace it.
    """
    return Weights.open(path).net(
        upto=upto, mmap=mmap, dtype=dtype, device=device, allow_nonfinite=allow_nonfinite
    )


@dataclass(frozen=True)
class Weights:
    """What a file says of itself; its numbers are still on the disk."""

    path: str
    version: tuple[int, int]
    generator: str
    tensors: tuple[Tensor, ...]
    classes: tuple[str, ...]
    class_ids: tuple[str, ...]  # in WordNet, where they are known
    preprocess: Preprocess | None
    provenance: dict[str, Any]
    blueprint: Blueprint = field(repr=False)
    offsets: dict[str, int] = field(repr=False)
    bytes: np.ndarray = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Check the whole file but for its numbers."""
        with Guarded(path) as file:
            version, generator = _version(file)
            index = _index(file)
            shapes = {tensor.name: tensor.shape for tensor in index}
            blueprint = restored(_document(file, "architecture"), shapes, str(path))
            _warn_of_extras(file, index, blueprint)
            return cls(
                str(path),
                version,
                generator,
                index,
                _classes(file, "names"),
                _classes(file, "ids"),
                _preprocess(file),
                _fields(file, "provenance"),
                blueprint,
                {tensor.name: file.info(tensor.path).offset or 0 for tensor in index},
                file.mapped(),
            )

    @property
    def names(self) -> tuple[str, ...]:
        """As in net.params and net.buffers: "conv1_1/w", ..."""
        return tuple(tensor.name for tensor in self.tensors)

    @property
    def shapes(self) -> dict[str, Shape]:
        return {tensor.name: tensor.shape for tensor in self.tensors}

    @property
    def digest(self) -> str:
        """That of the net in the file: `weights.digest` gives the same."""
        return digest_of(tensor.fingerprint for tensor in self.tensors)

    def load(self, names: Iterable[str] | None = None, *, mmap: bool = True) -> dict[str, np.ndarray]:
        """The arrays of those names, or all, as float32; a NaN in them is an error."""
        tensors, arrays = {tensor.name: tensor for tensor in self.tensors}, {}
        for name in tensors if names is None else names:
            if name not in tensors:
                raise UnknownLayerError(f"{self.path}: no array {name!r}{did_you_mean(name, tensors)}")
            arrays[name] = self._array(tensors[name], mmap)
            check_finite(arrays[name], name, self.path)
        return arrays

    def net(
        self,
        *,
        upto: Handle | Collection[Handle] | None = None,
        mmap: bool = True,
        dtype: str | None = None,
        device: str = "cpu",
        allow_nonfinite: bool = False,
    ) -> Net:
        """As `load` of this module makes it."""
        graph, input_shape, placeholders = self.blueprint
        nodes = list(graph.nodes)
        if upto is not None:
            on_the_way = graph.ancestors(graph.names_of(upto))
            nodes = [node for node in nodes if node.name in on_the_way]
            if not nodes:
                raise UsageError(f"a net that ends at its input {graph.input!r} has no layers; name one")
        names = {id(array): name for name, array in placeholders.items()}
        tensors = {tensor.name: tensor for tensor in self.tensors}
        known: dict[int, Known] = {}

        def filled(placeholder: Array) -> Array:
            tensor = tensors[names[id(placeholder)]]
            array = self._array(tensor, mmap)
            known[id(array)] = Known(array, tensor.name, tensor.fingerprint.sha256)
            return array

        nodes = list(mapped(nodes, filled))
        kept = {graph.input, *(node.name for node in nodes)}
        net: Net = StoredNet(
            nodes,
            graph.input,
            input_shape=input_shape,
            preprocess=self.preprocess,
            classes=self.classes,
            aliases={alias: name for alias, name in graph.aliases.items() if name in kept},
            source={"path": self.path, "digest": self.digest},
            known=known,
            allow_nonfinite=allow_nonfinite,
        )
        if dtype is not None:
            net = net.astype(dtype)
        return net if device == "cpu" else net.to(device)

    def raw(self, tensor: Tensor) -> np.ndarray:
        """The numbers where they lie in the file."""
        start = self.offsets[tensor.name]
        return self.bytes[start : start + tensor.nbytes].view(tensor.dtype).reshape(tensor.shape)

    def _array(self, tensor: Tensor, mmap: bool) -> np.ndarray:
        raw = self.raw(tensor)
        ready = mmap and raw.dtype == np.float32 and raw.flags.aligned
        array = raw if ready else raw.astype(np.float32)
        array.flags.writeable = False
        return array


def _version(file: Guarded) -> tuple[tuple[int, int], str]:
    """The format's version and who wrote it, if it is a version that we read."""
    about = file.attributes("/", only=["format", "format_version", "generator"])
    found = about.get("format")
    if not isinstance(found, bytes | str) or _text(found) != FORMAT:
        raise FileFormatError(f"{file.path}: HDF5, but not a weight file of minidnn; {CONVERT} {file.path}")
    version = np.asarray(about.get("format_version"))
    if version.dtype.kind not in "iu" or version.shape != (2,):
        raise DamagedFileError(f"{file.path}: its format_version is {str(version)[:60]!r}; fetch it again")
    major, minor = int(version[0]), int(version[1])
    generator = about.get("generator", b"")
    writer = _text(generator)[:60] if isinstance(generator, bytes | str) else ""
    writer = writer if writer.isprintable() else ""
    newer = f"{file.path}: format {major}.{minor}, and we read {VERSION[0]}.{VERSION[1]}"
    if major != VERSION[0]:
        needs = f"needs minidnn >= {writer.removeprefix('minidnn ')}" if writer else "needs a later minidnn"
        raise UnsupportedError(f"{newer}; {needs}: pip install --upgrade minidnn")
    if minor > VERSION[1]:
        warnings.warn(f"{newer}: what is new in it is left out; update minidnn", UserWarning, stacklevel=4)
    return (major, minor), writer


def _index(file: Guarded) -> tuple[Tensor, ...]:
    """The list of arrays, each held against the dataset that it tells of."""
    try:
        index = decoded(_document(file, "tensors"), tuple[Tensor, ...])
    except ValueError as error:
        raise DamagedFileError(
            f"{file.path}: its list of arrays is damaged: {error}; fetch it again"
        ) from None
    if len(index) > MAX_TENSORS:
        raise TooLargeError(
            f"{file.path}: lists {len(index):,} arrays, the limit is {MAX_TENSORS:,}; split it"
        )
    if len({tensor.path for tensor in index}) < len(index):
        raise DamagedFileError(f"{file.path}: lists an array twice; fetch it again")
    for tensor in index:
        _check_tensor(file, tensor)
    if (total := sum(tensor.nbytes for tensor in index)) > file.size:
        what = f"{file.path}: its arrays claim {total:,} bytes, the file has {file.size:,}"
        raise DamagedFileError(f"{what}; fetch it again")
    return index


def _check_tensor(file: Guarded, tensor: Tensor) -> None:
    what = f"{file.path}: {tensor.path[:200]!r}"
    if not tensor.path.startswith("params/") or not is_allowed(tensor.path):
        raise UnsafeFileError(f"{what} is no place for an array; allowed are params/ and {NAME_RULE}")
    info = file.info(tensor.path)
    if info.dtype.str not in ("<f4", "<f2"):
        raise UnsupportedError(f"{what} is {info.dtype}, expected <f4 or <f2; save it as float32")
    if len(info.shape) > MAX_RANK or 0 in info.shape:
        wanted = f"up to {MAX_RANK} axes, none of them empty"
        raise DamagedFileError(f"{what} has the shape {info.shape}, expected {wanted}; fetch it again")
    if info.offset is None:
        raise UnsupportedError(f"{what} does not lie in one piece; write it contiguous")
    if info.shape != tensor.shape:
        raise MismatchError(
            f"{what} is listed wrongly: found {info.shape}, expected {tensor.shape}; fetch it again"
        )
    if not all(map(SHA256.fullmatch, filter(None, [tensor.sha256, tensor.sha256_as_float32]))):
        raise DamagedFileError(f"{what} is listed with a sha256 that is none; fetch it again")
    if (info.dtype.str, info.nbytes) != (tensor.dtype, tensor.nbytes):
        listed = f"{tensor.nbytes:,} bytes of {tensor.dtype[:20]!r}"
        found = f"found {info.nbytes:,} bytes of {info.dtype.str!r}, expected {listed}"
        raise MismatchError(f"{what} is listed wrongly: {found}; fetch it again")


def _document(file: Guarded, name: str) -> Any:
    """What a JSON dataset of /meta says."""
    what = f"{file.path}: 'meta/{name}'"
    info = file.info(f"meta/{name}")
    if info.dtype != np.uint8 or len(info.shape) != 1:
        raise DamagedFileError(
            f"{what} is {info.dtype} {info.shape}, expected bytes in a row; fetch it again"
        )
    check_size(info.nbytes, what)
    return parsed(file.read(f"meta/{name}"), what)


def _fields(file: Guarded, name: str) -> dict[str, Any]:
    """The same, of a dataset that may be missing and holds fields by name."""
    found = _document(file, name) if f"meta/{name}" in file else {}
    if not isinstance(found, dict):
        raise DamagedFileError(f"{file.path}: 'meta/{name}' holds no fields by name; fetch it again")
    return found


def _classes(file: Guarded, what: str) -> tuple[str, ...]:
    try:
        return decoded(_fields(file, "classes").get(what, []), tuple[str, ...])
    except ValueError as error:
        raise DamagedFileError(f"{file.path}: 'meta/classes' is damaged: {error}; fetch it again") from None


def _preprocess(file: Guarded) -> Preprocess | None:
    told = _fields(file, "preprocessing")
    if not told:
        return None
    given = {"mean": _mean_image(file)} if "meta/mean_image" in file else {}
    try:
        return built(Preprocess, told, limit=MAX_NUMBER, **given)
    except (MinidnnError, ValueError, TypeError) as error:
        what = f"{file.path}: 'meta/preprocessing' is damaged"
        raise DamagedFileError(f"{what}: {error}; fetch it again") from None


def _mean_image(file: Guarded) -> np.ndarray:
    info = file.info("meta/mean_image")
    if info.dtype.str != "<f4" or len(info.shape) != 3 or not prod(info.shape):
        found = f"{info.dtype} {info.shape}, expected <f4 (h, w, c)"
        raise DamagedFileError(f"{file.path}: 'meta/mean_image' is {found}; fetch it again")
    image = file.read("meta/mean_image")
    check_finite(image, "mean_image", str(file.path))
    return image


def _warn_of_extras(file: Guarded, index: tuple[Tensor, ...], blueprint: Blueprint) -> None:
    listed = {tensor.path for tensor in index}
    used = {f"params/{name}" for name in blueprint.arrays}
    stored = set(file.walk("params")) if "params" in file else set()
    if extras := sorted((listed | stored) - used):
        more = f" and {len(extras) - 3} more" if len(extras) > 3 else ""
        named = ", ".join(extra[:100] for extra in extras[:3])
        words = f"{file.path}: no layer uses {named}{more}; it is left out"
        warnings.warn(words, UserWarning, stacklevel=4)


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
