"""Ways to damage a file: blind ones for all, others that know what HDF5, zip, pickle, protobuf… are made of.

Each takes the bytes of a sound file and a random.Random, and gives other bytes; the same seed gives the same.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

import h5py
import numpy as np

Mutation = Callable[[bytes, Random], bytes]
ELSEWHERE = "../canary/secret"  # what no reader may look at: with .txt and .h5 behind it
NASTY = [0, 1, 2, 7, 8, 15, 19, 127, 128, 255, 256, 32_768, 65_535, 70_000, 1 << 31, (1 << 31) - 1]
NASTY += [(1 << 32) - 1, 1 << 40, (1 << 62) + 1, (1 << 63) - 1, (1 << 64) - 1]
TEXTS = [b"", b"\x00", b"\xff\xfe", b"\x1b[31m", b"..", b"/etc/passwd", ELSEWHERE.encode(), b"x" * 70_000]
TEXTS += ["ü\u202e\ud7ff".encode(), b"9" * 5000, b"[" * 3000]


# Blind.


def place(data: bytes, rng: Random) -> int:
    """A position: half of the time near an end, where heads and directories are."""
    if rng.random() < 0.5:
        near = rng.randrange(min(len(data), 2000))
        return near if rng.random() < 0.6 else len(data) - 1 - near
    return rng.randrange(len(data))


def flipped(data: bytes, rng: Random) -> bytes:
    copy = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 40])):
        copy[place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(copy)


def overwritten(data: bytes, rng: Random) -> bytes:
    """A byte or word set to something nasty, in either order."""
    copy = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        width = rng.choice([1, 2, 4, 8])
        at = place(data, rng)
        word = (rng.choice(NASTY) % (1 << 8 * width)).to_bytes(width, rng.choice(["little", "big"]))
        copy[at : at + width] = word
    return bytes(copy)


def cut(data: bytes, rng: Random) -> bytes:
    return data[: place(data, rng)]


def grown(data: bytes, rng: Random) -> bytes:
    at = rng.choice([place(data, rng), len(data)])
    new = rng.choice([rng.randbytes(rng.randint(1, 64)), bytes(rng.randint(1, 4096)), rng.choice(TEXTS)])
    return data[:at] + new + data[at:]


def shortened(data: bytes, rng: Random) -> bytes:
    at = place(data, rng)
    return data[:at] + data[at + rng.choice([1, 4, 8, rng.randint(1, 4096)]) :]


def doubled(data: bytes, rng: Random) -> bytes:
    at, length = place(data, rng), rng.choice([1, 4, 16, rng.randint(1, 4096)])
    return data[: at + length] + data[at:]


def swapped(data: bytes, rng: Random) -> bytes:
    """A piece of the file where another was."""
    a, b, length = place(data, rng), place(data, rng), rng.randint(1, 512)
    copy = bytearray(data)
    copy[a : a + length] = data[b : b + length]
    return bytes(copy)


def blanked(data: bytes, rng: Random) -> bytes:
    at, length = place(data, rng), rng.choice([8, 64, 4096])
    copy = bytearray(data)
    copy[at : at + length] = bytes([rng.choice([0, 255])]) * length
    return bytes(copy[: len(data)])


def numbers_spoilt(data: bytes, rng: Random) -> bytes:
    """NaN, infinity and the largest float where numbers may be."""
    copy = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) // 4 * 4
        copy[at : at + 4] = rng.choice([b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0"])
    return bytes(copy[: len(data)])


BLIND: list[Mutation] = [flipped, flipped, overwritten, overwritten, cut, grown, shortened, doubled]
BLIND += [swapped, blanked, numbers_spoilt]


def blind(data: bytes, rng: Random) -> bytes:
    return rng.choice(BLIND)(data, rng) if data else rng.choice(TEXTS)


# JSON and text.


def nasty_value(rng: Random) -> Any:
    text = rng.choice(TEXTS).decode("utf-8", "replace")
    return rng.choice([None, True, -1, -(1 << 70), 0.5, 1e308, float("nan"), text, [], {}, [[]], *NASTY])


def in_json(data: bytes, rng: Random) -> bytes:
    """One value replaced, left out, renamed or doubled, wherever it is."""
    try:
        whole = json.loads(data)
    except ValueError:
        return blind(data, rng)
    at: Any = whole
    while isinstance(at, dict | list) and at:
        key = rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if not isinstance(at[key], dict | list) or not at[key] or rng.random() < 0.15:
            how = rng.randrange(4)
            if how == 0:
                del at[key]
            elif how == 1 and isinstance(at, list):
                at.insert(rng.randrange(len(at)), at[key])
            elif how == 1 and isinstance(at, dict):
                at[rng.choice([*at, "new", ELSEWHERE])] = at[key]
            elif how == 2 and isinstance(at[key], int | float):
                at[key] = rng.choice([at[key] + 1, at[key] - 1, -at[key], at[key] * 1000])
            else:
                at[key] = nasty_value(rng)
            break
        at = at[key]
    return json.dumps(whole).encode()


def in_text(data: bytes, rng: Random) -> bytes:
    """Words of a text (a prototxt) changed, left out, moved."""
    words = re.split(rb"(\s+|[{}:\"])", data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(words))
        how = rng.randrange(4)
        if how == 0:
            words[at] = rng.choice(
                [b"", b"{", b"}", b'"', b"#", str(rng.choice(NASTY)).encode(), b"-1", b"nan"]
            )
        elif how == 1:
            words[at] = rng.choice(words)
        elif how == 2:
            words[at:at] = words[at : at + rng.randint(1, 60)]
        else:
            words[at] = rng.choice(TEXTS)
    return b"".join(words)


def in_safetensors(data: bytes, rng: Random) -> bytes:
    """Its list changed, and the length before it put right."""
    length = int.from_bytes(data[:8], "little")
    listed = in_json(data[8 : 8 + length], rng)
    return len(listed).to_bytes(8, "little") + listed + data[8 + length :]


# HDF5.


def in_hdf5(data: bytes, rng: Random) -> bytes:
    """By the library itself: attributes and arrays that lie, links that lead out or round."""
    held = io.BytesIO(data)
    with warnings.catch_warnings(), h5py.File(held, "r+") as file:
        warnings.simplefilter("ignore")
        for _ in range(rng.choice([1, 1, 2])):
            rng.choice(HDF5)(file, rng)
    return held.getvalue()


def _things(file: h5py.File, kind: type = h5py.HLObject) -> list[Any]:
    found: list[Any] = []
    file.visititems(lambda name, thing: found.append(thing) if isinstance(thing, kind) else None)
    return found if kind is h5py.Dataset else [file, *found]


def _attribute(file: h5py.File, rng: Random) -> None:
    owner = rng.choice([thing for thing in _things(file) if len(thing.attrs)] or [file])
    name = rng.choice([*owner.attrs, "MATLAB_class", "layer_names", "weight_names", "format"])
    old, how = owner.attrs.get(name), rng.randrange(5)
    if how == 0 and name in owner.attrs:
        del owner.attrs[name]
        return
    if how == 1 and isinstance(old, str | bytes):
        new: Any = in_json(old.encode() if isinstance(old, str) else old, rng).decode("utf-8", "replace")
    elif how == 2 and isinstance(old, np.ndarray) and old.size:
        new = old.copy()
        new.flat[rng.randrange(old.size)] = rng.choice(list(old.flat))
    elif how == 3 and isinstance(old, np.ndarray):
        new = np.concatenate([old.reshape(-1)] * rng.randint(0, 3) or [np.zeros(0)])
    else:
        new = rng.choice(
            [-1, 1 << 40, 0.5, "", "struct", "cell", "x" * 4000, ELSEWHERE, [1, 2, 3], ["a", "b"]]
        )
        new = rng.choice([new, np.zeros((2, 3)), h5py.Empty("f4"), np.bytes_(b"\xff\xfe")])
    owner.attrs[name] = new.replace("\0", "") if isinstance(new, str) else new


def _array(file: h5py.File, rng: Random) -> None:
    data = rng.choice(_things(file, h5py.Dataset))
    name, old, about = data.name, data[()], dict(data.attrs)
    del file[name]
    size, how = getattr(old, "size", 1), rng.randrange(12)
    if how == 0:
        return
    if how == 1:
        file[name] = h5py.ExternalLink(f"{ELSEWHERE}.h5", "/secret")
    elif how == 2:
        file[name] = h5py.SoftLink(rng.choice(["/", ".", name, "/nothing"]))
    elif how == 3:
        file.create_dataset(name, (size,), "u1", external=[(f"{ELSEWHERE}.txt", 0, size)])
    elif how == 4:
        layout = h5py.VirtualLayout(np.shape(old), "f4")
        layout[...] = h5py.VirtualSource(f"{ELSEWHERE}.h5", "secret", np.shape(old))
        file.create_virtual_dataset(name, layout)
    elif how == 5:
        file.create_dataset(name, (rng.choice([1 << 20, 1 << 40, 3]),) * rng.randint(1, 3), "f4", chunks=True)
    elif how == 6:
        zeros = np.zeros(rng.choice([1 << 12, 1 << 21]), "f4")
        file.create_dataset(name, data=zeros, compression="gzip")
    elif how == 7:
        file.create_dataset(name, data=np.asarray(old).reshape(-1))
    elif how == 8:
        file.create_dataset(name, data=np.asarray(old).T)
    elif how == 9:
        kind = rng.choice(["i1", "f8", ">f4", "f2", "c8", "u2", "S7", "u8"])
        file.create_dataset(name, (3, 2), kind)
    elif how == 10:
        file[name] = file[name.rpartition("/")[0] or "/"]  # a group that holds itself
        return
    else:
        shape = [rng.choice([0, 1, 2, 3, 5]) for _ in range(rng.randint(0, 6))]
        file.create_dataset(name, data=np.ones(shape, "f4"))
    if isinstance(file.get(name, getlink=True), h5py.HardLink):
        for attribute, value in about.items():
            file[name].attrs[attribute] = value


def _values(file: h5py.File, rng: Random) -> None:
    """Numbers changed where they lie; a document of JSON as such."""
    data = rng.choice(_things(file, h5py.Dataset))
    old = data[()]
    if not isinstance(old, np.ndarray) or not old.size:
        return
    if old.dtype == object or old.dtype.kind in "OSV":
        chosen = rng.choice(list(old.flat))
        old.flat[rng.randrange(old.size)] = chosen
        data[...] = old
    elif old.dtype == np.uint8 and old.ndim == 1 and old[0] in b"{[":
        name, text = data.name, in_json(old.tobytes(), rng)
        del file[name]
        file.create_dataset(name, data=np.frombuffer(text, np.uint8))
    else:
        with np.errstate(all="ignore"):
            old.flat[rng.randrange(old.size)] = rng.choice([0, 1, 255, np.float32(np.nan), 3e38, -1])
        data[...] = old


def _links(file: h5py.File, rng: Random) -> None:
    """A thing under another name, or in another's place."""
    things = _things(file)[1:]
    one, other = rng.choice(things).name, rng.choice(things).name
    if other.startswith(one) or one.startswith(other):
        return
    del file[other]
    file[rng.choice([other, f"{one}_2", other + "\u202e"])] = file[one]


HDF5: list[Callable[[h5py.File, Random], None]] = [_attribute, _attribute, _array, _array, _values, _links]


# Zip.


def in_zip(data: bytes, rng: Random) -> bytes:
    """Written anew with sound sums around a member that is not; or a field of its headers changed."""
    if rng.random() < 0.35:
        return _zip_header(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members)) if rng.random() < 0.5 else 0
    name, held = members[at]
    how = rng.randrange(8)
    if how <= 3:
        members[at] = (name, _inner(name)(held, rng))
    elif how == 4:
        del members[at]
    elif how == 5:
        members.append((name, blind(held, rng)))
    elif how == 6:
        members[at] = (
            rng.choice([f"../{name}", f"/{name}", "a\\b", "x" * 300, name.upper(), "data.pkl"]),
            held,
        )
    else:
        members[at] = (name, rng.choice([b"", bytes(1 << 23), held * 2, held[:-1]]))
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", rng.choice([0, 0, 8])) as archive:
        warnings.simplefilter("ignore")
        for name, held in members:
            archive.writestr(zipfile.ZipInfo(name), held, archive.compression)
    return out.getvalue()


def _inner(name: str) -> Mutation:
    """How a member of that name is damaged."""
    return {"pkl": in_pickle, "json": in_json, "h5": in_hdf5, "npy": in_head}.get(
        name.rpartition(".")[2], blind
    )


def _zip_header(data: bytes, rng: Random) -> bytes:
    starts = [
        found.start() for found in re.finditer(rb"PK(\x03\x04|\x01\x02|\x05\x06|\x06\x06|\x06\x07)", data)
    ]
    at = rng.choice(starts) + rng.randrange(46)
    width = rng.choice([1, 2, 4])
    word = (rng.choice(NASTY) % (1 << 8 * width)).to_bytes(width, "little")
    return data[:at] + word + data[at + width :]


def in_head(data: bytes, rng: Random) -> bytes:
    """Only the first bytes, where a .npy says what it is; its sizes by digits."""
    head, rest = data[:128], data[128:]
    if rng.random() < 0.5:
        digits = [found.start() for found in re.finditer(rb"\d", head)]
        at = rng.choice(digits or [0])
        return head[:at] + rng.choice([b"0", b"9", b"-1", b"9" * 20, b"x"]) + head[at + 1 :] + rest
    return blind(head, rng) + rest


# Pickles.

TRAPS = [
    b"cposix\nsystem\n(S'cat " + ELSEWHERE.encode() + b".txt > caught'\ntR",
    b"cbuiltins\neval\n(S'1'\ntR",
]
TRAPS += [
    b"cnumpy\nload\n(S'" + ELSEWHERE.encode() + b".txt'\ntR",
    b"(S'x'\nios\nsystem\n",
    b"ctorch\nload\n",
]
OTHERS = [
    b"0",
    b"2",
    b"(",
    b"t",
    b"}",
    b"]",
    b")",
    b"b",
    b"R",
    b"Q",
    b"u",
    b"s",
    b"e",
    b"a",
    b".",
    b"\x85",
    b"\x81",
]
OTHERS += [
    b"r\xff\xff\xff\x7f",
    b"j\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff",
    b"B\xff\xff\xff\x7f",
    b"J\xff\xff\xff\xff",
]
OTHERS += [
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"\x8b\x00\x00\x00\x7f",
    b"N",
    b"\x88",
    b"K\x07",
    b"G\x7f\xf8" + bytes(6),
]
OTHERS += [b"\x95" + b"\xff" * 8, b"\x80\x09", b"\x93", b"\x94", b"h\x00", b"2" * 50 + b"\x86" * 50]


@lru_cache(maxsize=8)
def instructions(data: bytes) -> tuple[tuple[int, int], ...]:
    """Where the instructions of the pickles at the start of these bytes begin and end; nothing is run."""
    places: list[int] = []
    at = 0
    try:
        while at < len(data):
            for _, _, where in pickletools.genops(data[at:]):
                places.append(at + (where or 0))
            at = places[-1] + 1
    except Exception:  # what is behind the last pickle is none
        pass
    return tuple(zip(places, [*places[1:], at], strict=True))


def in_pickle(data: bytes, rng: Random) -> bytes:
    """An instruction changed, left out, doubled, or another put before it."""
    spans = instructions(data)
    if not spans:
        return blind(data, rng)
    begin, end = rng.choice(spans)
    one, how = data[begin:end], rng.randrange(7)
    if how == 0:
        new = b""
    elif how == 1:
        new = one + one
    elif how == 2:
        new = rng.choice(TRAPS) + one
    elif how == 3:
        new = rng.choice(OTHERS) + one
    elif how == 4:
        start, stop = rng.choice(spans)
        new = data[start:stop] if stop - start < 1000 else b"N"
    elif how == 5 and len(one) > 1:
        at, width = rng.randrange(1, min(len(one), 40)), rng.choice([1, 2, 4])
        word = (rng.choice(NASTY) % (1 << 8 * width)).to_bytes(width, "little")
        new = (one[:at] + word + one[at + width :])[: len(one)]
    else:
        new = rng.choice(OTHERS)
    return data[:begin] + new + data[end:]


# Protocol buffers.


def varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


@lru_cache(maxsize=64)
def fields(data: bytes) -> tuple[tuple[int, int, bytes], ...] | None:
    """(number, wire, value) of each field of a message, if it is one."""
    found, at = [], 0
    try:
        while at < len(data):
            key, at = _varint(data, at)
            wire = key & 7
            if wire == 2:
                length, at = _varint(data, at)
                end = at + length
            else:
                end = _varint(data, at)[1] if wire == 0 else at + {1: 8, 5: 4}[wire]
            if end > len(data) or key >> 3 == 0:
                return None
            found.append((key >> 3, wire, data[at:end]))
            at = end
    except (IndexError, KeyError):
        return None
    return tuple(found)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise IndexError


def in_message(data: bytes, rng: Random, depth: int = 0) -> bytes:
    """One field, however deep, changed; the lengths around it put right."""
    parts = list((fields(data) if len(data) < 1 << 22 else None) or ())
    if not parts:
        return blind(data, rng)
    at = rng.randrange(len(parts))
    number, wire, value = parts[at]
    how = rng.randrange(8)
    if wire == 2 and depth < 12 and rng.random() < 0.8 and fields(value):
        parts[at] = (number, wire, in_message(value, rng, depth + 1))
    elif how == 0:
        del parts[at]
    elif how == 1:
        parts.insert(rng.randrange(len(parts)), parts[at])
    elif how == 2:
        parts[at] = (rng.choice([number + 1, 13, 14, 100, 0, (1 << 29) - 1]), wire, value)
    elif how == 3:
        parts[at] = (number, rng.choice([0, 1, 3, 4, 5, 6, 7]), value)
    elif how == 4:
        parts[at] = (number, 0, varint(rng.choice(NASTY)))
    elif how == 5:
        parts[at] = (number, 2, rng.choice(TEXTS))
    elif how == 6:
        inside = b"".join(
            varint(n << 3 | 2) + varint(len(v)) + v for n, v in [(1, b"location"), (2, _there(rng))]
        )
        parts[at] = (rng.choice([13, number]), 2, inside)  # a tensor of ONNX whose data are elsewhere
        parts.append((14, 0, b"\x01"))
    else:
        parts[at] = (number, wire, blind(value, rng))
    return b"".join(varint(n << 3 | w) + (varint(len(v)) if w == 2 else b"") + v for n, w, v in parts)


def _there(rng: Random) -> bytes:
    return rng.choice([ELSEWHERE.encode() + b".txt", b"/etc/passwd", b"file:///etc/passwd"])


# MATLAB 5.


def in_mat5(data: bytes, rng: Random) -> bytes:
    """A tag in one of its variables, looked for also in packed ones, which are packed again."""
    parts, at = [], 128
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        parts.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length
    if not parts:
        return blind(data, rng)
    which = rng.randrange(len(parts))
    kind, value = parts[which]
    packed = kind == 15 and rng.random() < 0.9
    inside = bytearray(zlib.decompress(value) if packed else value)
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(max(1, min(len(inside), rng.choice([64, 4096, len(inside)])) // 4)) * 4
        inside[at : at + 4] = (rng.choice(NASTY) % (1 << 32)).to_bytes(4, "little")
    if rng.random() < 0.1:
        inside = bytearray(blind(bytes(inside), rng))
    parts[which] = (kind, zlib.compress(bytes(inside), 1) if packed else bytes(inside))
    return data[:128] + b"".join(struct.pack("<II", k, len(v)) + v for k, v in parts)
