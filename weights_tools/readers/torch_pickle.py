"""What torch's pickles may name, and what stands in for it: storages, and tensors that are views of them.

No other name is known, so nothing but numbers can come out. Tensors are cut from their storages afterwards,
once these are read, with every bound checked.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from minidnn.errors import DamagedFileError, FileError, TooLargeError, UnsafeFileError, UnsupportedError
from weights_tools.pickled_arrays import NUMPY, checked_shape
from weights_tools.pickles import Allowed, Name, listed, ordered, refusal

DTYPES = {
    "Float": "<f4",
    "Double": "<f8",
    "Half": "<f2",
    "BFloat16": "bfloat16",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "|i1",
    "Byte": "|u1",
    "Bool": "|b1",
}
STORAGES = {
    f"{module}.{name}Storage": dtype for module in ("torch", "torch.cuda") for name, dtype in DTYPES.items()
}
MAX_EXPANDED = 4  # how many times the bytes of all storages the tensors may have
WHOLE = "torch.nn.modules."  # what a pickled model names
OLD_BUILTINS = {"__builtin__", "exceptions", "commands", "copy_reg"}  # of Python 2


@dataclass(frozen=True)
class Storage:
    """A row of numbers that lies elsewhere in the file, under a key."""

    key: str
    dtype: str  # NumPy's code for it, or "bfloat16"
    numel: int

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        return self.numel * self.itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, in numbers, not bytes; none of this is checked yet."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    return Tensor(storage, offset, shape, stride)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _listed(values: Any = ()) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else []


ALLOWED: Allowed = {
    **NUMPY,
    **dict.fromkeys(STORAGES),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "collections.OrderedDict": ordered,
    "torch.Size": _listed,
    "builtins.set": _listed,
    "__builtin__.set": _listed,
}


def storage_of(what: str, key: Any) -> Storage:
    """What a persistent id ('storage', type, key, place, count) points to."""
    fits = isinstance(key, tuple) and len(key) in (5, 6) and key[0] == "storage" and isinstance(key[1], Name)
    if not fits or not isinstance(key[2], str) or type(key[4]) is not int:
        raise DamagedFileError(f"{what}: points to what is no storage; fetch it again")
    if len(key) == 6 and key[5] is not None:
        raise UnsupportedError(f"{what}: storages within storages; load it and save its state_dict() again")
    if key[1].name not in STORAGES:
        raise UnsupportedError(f"{what}: a storage of type {key[1].name[:60]!r}; save floats")
    if not 0 <= key[4] < 1 << 48:
        raise DamagedFileError(f"{what}: a storage below 0 or beyond all measure; fetch it again")
    return Storage(key[2], STORAGES[key[1].name], key[4])


def refused(what: str, names: list[str]) -> FileError:
    """Whole models and new inventions of torch are no attack, only not for us."""
    roots = {name.partition(".")[0] for name in names}
    is_code = bool(roots & (sys.stdlib_module_names | OLD_BUILTINS))
    if any(name.startswith(WHOLE) for name in names) and not is_code:
        advice = "load it where it was made and save model.state_dict()"
        return UnsupportedError(
            f"{what}: a whole pickled model, a program (asks for {listed(names)}); {advice}"
        )
    if roots == {"torch"}:
        advice = "save a state_dict() of plain tensors"
        return UnsupportedError(f"{what}: asks for {listed(names)}, which we have not; {advice}")
    return refusal(what, names)


def cut(
    tensors: Mapping[str, Tensor], stored: Mapping[str, bytes | memoryview], what: str
) -> dict[str, np.ndarray]:
    """The tensors as views of the bytes of their storages."""
    limit = MAX_EXPANDED * sum(map(len, stored.values()))
    total = 0
    for name, tensor in tensors.items():
        shape = checked_shape(tensor.shape, f"{what}: {name!r}")
        if not isinstance(tensor.storage, Storage):
            raise DamagedFileError(f"{what}: {name!r} has no storage; fetch it again")
        total += prod(shape) * tensor.storage.itemsize
        if total > limit:
            raise TooLargeError(
                f"{what}: {name!r} {shape} repeats few numbers often; the tensors claim more than "
                f"{MAX_EXPANDED} times the {limit // MAX_EXPANDED:,} bytes stored"
            )
    return {name: _view(tensor, stored, f"{what}: {name!r}") for name, tensor in tensors.items()}


def _view(tensor: Tensor, stored: Mapping[str, bytes | memoryview], what: str) -> np.ndarray:
    storage, shape = tensor.storage, tuple(tensor.shape)
    stride, offset = tensor.stride, tensor.offset
    known = isinstance(stride, tuple | list) and len(stride) == len(shape) and type(offset) is int
    if not known or not all(type(s) is int for s in stride):
        raise DamagedFileError(f"{what} has no strides that fit its shape {shape}; fetch it again")
    if offset < 0 or any(s < 0 for s in stride):
        raise UnsafeFileError(f"{what} begins or steps before its storage; fetch it again")
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if 0 not in shape and last >= storage.numel:
        raise UnsafeFileError(
            f"{what} reaches to number {last:,} of a storage of {storage.numel:,}; fetch it again"
        )
    dtype = np.dtype("<u2" if storage.dtype == "bfloat16" else storage.dtype)
    if 0 in shape:
        return np.zeros(shape, np.float32 if storage.dtype == "bfloat16" else dtype)
    steps = tuple(s * dtype.itemsize for s in stride)
    view: np.ndarray = np.ndarray(shape, dtype, stored[storage.key], offset * dtype.itemsize, steps)
    if storage.dtype == "bfloat16":  # the upper half of a float32
        return (view.astype("<u4") << 16).view("<f4")
    return view
