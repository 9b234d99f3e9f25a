"""PyTorch's files, without PyTorch: a pickle that says what is where, and storages of bare numbers.

Since 1.6 they lie in a zip archive (name/data.pkl, name/data/0 …); before, in one file behind five pickles.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from mmap import mmap
from pathlib import Path
from typing import Any

from minidnn.errors import DamagedFileError, FileFormatError, MismatchError, UnsupportedError
from weights_tools.detect import LEGACY_TORCH, held, opened
from weights_tools.foreign import Foreign
from weights_tools.pickles import load
from weights_tools.readers.by_name import foreign_of
from weights_tools.readers.torch_pickle import ALLOWED, Storage, Tensor, cut, refused, storage_of
from weights_tools.zipped import Archive

PROTOCOL = 1001
MAX_PICKLE = 64 << 20  # bytes; that of a net with a thousand tensors has 100,000
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, of compile, of Lightning
MAX_WRAPPED = 4
SHOWN = 6


def read(path: str | os.PathLike) -> Foreign:
    """A state dict, by itself or in a checkpoint."""
    path = Path(path)
    head = opened(path)
    if head.startswith(b"PK"):
        saved, storages, stored = _archive(path)
    elif head.startswith(LEGACY_TORCH):
        saved, storages, stored = _legacy(path)
    elif head[257:262] == b"ustar":
        raise UnsupportedError(f"{path}: a tar archive, as torch saved before 0.1.10; load and save it again")
    else:
        raise FileFormatError(f"{path}: not a file of torch.save; minidnn weights inspect tells what it is")
    steps: list[str] = []
    tensors = _named_alike(_state_dict(saved, str(path), steps), steps)
    for name, tensor in tensors.items():
        if isinstance(tensor.storage, Storage) and storages.get(tensor.storage.key) != tensor.storage:
            raise DamagedFileError(f"{path}: {name!r} has a storage of two kinds; fetch it again")
    foreign = foreign_of(cut(tensors, stored, str(path)), "PyTorch state dict", str(path))
    foreign.steps[:0] = steps
    return foreign


# The two containers: each hands over what was saved, its storages, and their bytes, by key.

Bytes = bytes | memoryview
Content = tuple[Any, dict[str, Storage], dict[str, Bytes]]


def _archive(path: Path) -> Content:
    with Archive(path) as archive:
        root = _root(archive)
        if f"{root}byteorder" in archive.names and archive.read(f"{root}byteorder", 16) != b"little":
            raise UnsupportedError(f"{path}: saved on a big-endian machine; load and save it on another")
        storages: dict[str, Storage] = {}
        saved, _ = _unpickled(archive.read(f"{root}data.pkl", MAX_PICKLE), str(path), 0, storages)
        stored = {}
        for key, storage in storages.items():
            name = f"{root}data/{key}"
            stored[key] = _sized(archive.read(name, archive.size(name)), storage, path)
    return saved, storages, stored


def _root(archive: Archive) -> str:
    """The folder that all of it lies in."""
    pickles = [name for name in archive.names if name == "data.pkl" or name.endswith("/data.pkl")]
    inside = {name.rpartition("/")[2] for name in archive.names}
    if "constants.pkl" in inside or any("/code/" in f"/{name}" for name in archive.names):
        advice = "save model.state_dict() instead"
        raise UnsupportedError(f"{archive.path}: a TorchScript program; {advice}")
    if inside & {"archive_format", "archive_version", "serialized_exported_program.json"}:
        raise UnsupportedError(f"{archive.path}: an exported program (.pt2); save model.state_dict() instead")
    if len(pickles) != 1:
        held = ", ".join(map(repr, archive.names[:SHOWN])) or "nothing"
        raise FileFormatError(f"{archive.path}: a zip archive, but not of torch.save (it holds {held})")
    return pickles[0].removesuffix("data.pkl")


def _legacy(path: Path) -> Content:
    data, at, what = held(path), len(LEGACY_TORCH), str(path)
    storages: dict[str, Storage] = {}
    protocol, at = load(data, {}, what, at=at)
    system, at = load(data, {}, what, at=at)
    if protocol != PROTOCOL:
        found = protocol if isinstance(protocol, int) else f"a {type(protocol).__name__}"
        raise UnsupportedError(f"{path}: torch's protocol is {found}, we know {PROTOCOL}")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnsupportedError(f"{path}: saved on a big-endian machine; load and save it on another")
    saved, at = _unpickled(data, what, at, storages)
    keys, at = load(data, {}, what, at=at)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise DamagedFileError(f"{path}: no list of storages; fetch it again")
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        raise DamagedFileError(f"{path}: lists other storages than its tensors have; fetch it again")
    stored = {}
    for key in keys:
        if len(data) - at < 8:
            raise DamagedFileError(f"{path}: ends before storage {key[:20]!r}; cut short? fetch it again")
        (count,) = struct.unpack_from("<q", data, at)
        size = storages[key].nbytes
        if count != storages[key].numel:
            found = f"has {count:,} numbers, expected {storages[key].numel:,}"
            raise DamagedFileError(f"{path}: storage {key[:20]!r} {found}; fetch it again")
        stored[key] = _sized(memoryview(data)[at + 8 : at + 8 + size], storages[key], path)
        at += 8 + size
    if at != len(data):
        raise DamagedFileError(f"{path}: {len(data) - at:,} bytes behind the last storage; fetch it again")
    return saved, storages, stored


def _unpickled(data: bytes | mmap, what: str, at: int, storages: dict[str, Storage]) -> tuple[Any, int]:
    """The pickle of what was saved; `storages` gets those that it points to."""

    def persistent(key: Any) -> Storage:
        storage = storage_of(what, key)
        if storages.setdefault(storage.key, storage) != storage:
            raise DamagedFileError(f"{what}: storage {storage.key[:20]!r} is of two kinds; fetch it again")
        return storage

    return load(data, ALLOWED, what, at=at, persistent=persistent, refuse=refused)


def _sized(data: Bytes, storage: Storage, path: Path) -> Bytes:
    if len(data) != storage.nbytes:
        found = f"has {len(data):,} bytes, expected {storage.nbytes:,}"
        raise DamagedFileError(f"{path}: storage {storage.key[:20]!r} {found}; cut short? fetch it again")
    return data


# The state dict in what was saved.


def _state_dict(saved: Any, what: str, steps: list[str]) -> dict[str, Tensor]:
    """{name: tensor}; what lies around it is told and left out."""
    for _ in range(MAX_WRAPPED):
        if isinstance(saved, Tensor):
            raise MismatchError(f"{what}: a single tensor, not a net; save a state_dict()")
        if not isinstance(saved, dict):
            raise MismatchError(
                f"{what}: a {type(saved).__name__}, not a state dict; save model.state_dict()"
            )
        tensors = {name: value for name, value in saved.items() if isinstance(value, Tensor)}
        if tensors and all(isinstance(name, str) for name in tensors):
            _tell_left_out(saved, tensors, steps)
            return tensors
        inner = [key for key, value in saved.items() if isinstance(key, str) and isinstance(value, dict)]
        chosen = next((key for key in WRAPPERS if key in inner), inner[0] if len(inner) == 1 else None)
        if chosen is None:
            break
        steps.append(f"took {chosen[:60]!r} of what was saved")
        _tell_left_out(saved, [chosen], steps)
        saved = saved[chosen]
    held = ", ".join(repr(str(key)[:60]) for key in list(saved)[:SHOWN]) or "nothing"
    raise MismatchError(f"{what}: no state dict in it (it holds {held}); save model.state_dict()")


def _tell_left_out(saved: Mapping[Any, Any], taken: Any, steps: list[str]) -> None:
    if left := [str(key)[:60] for key in saved if key not in taken]:
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        steps.append(f"left out {', '.join(map(repr, left[:SHOWN]))}{more}")


def _named_alike(tensors: dict[str, Tensor], steps: list[str]) -> dict[str, Tensor]:
    """Without a prefix that all names have."""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        steps.append(f"took the prefix {prefix!r} off all names")
    return tensors
