"""The instructions of a pickle, one after another; Python's `pickletools` says how long each one is.

Nothing is copied, and no length is believed before it was compared with what is left.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterator
from mmap import mmap

from minidnn.errors import DamagedFileError, TooLargeError

MAX_INSTRUCTIONS = 1_000_000

COUNTED = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}
INSTRUCTIONS = {ord(op.code): op for op in pickletools.opcodes}


def instructions(data: bytes | mmap, at: int, what: str) -> Iterator[tuple[str, memoryview, int]]:
    """(name, argument, where the next one begins) one after another; no length is believed unchecked."""
    view = memoryview(data)
    for _ in range(MAX_INSTRUCTIONS):
        if at >= len(data):
            raise DamagedFileError(f"{what}: a pickle that never stops; cut short? fetch it again")
        op = INSTRUCTIONS.get(data[at])
        if op is None:
            raise DamagedFileError(f"{what}: byte {at} is no instruction of a pickle; fetch it again")
        at += 1
        size = op.arg.n if op.arg else 0
        if size == pickletools.UP_TO_NEWLINE:
            end = data.find(b"\n", at)
            if op.name in ("GLOBAL", "INST"):  # two lines
                end = data.find(b"\n", end + 1) if end >= 0 else end
            size, skip = (end - at, 1) if end >= 0 else (len(data), 0)
        else:
            skip = 0
            if form := COUNTED.get(size):
                width = struct.calcsize(form)
                if len(data) - at < width:
                    raise DamagedFileError(f"{what}: ends within {op.name}; cut short? fetch it again")
                (size,) = struct.unpack_from(form, data, at)
                at += width
        if not 0 <= size <= len(data) - at:
            left = len(data) - at
            raise DamagedFileError(f"{what}: {op.name} claims {size:,} bytes, {left:,} are left; cut short?")
        yield op.name, view[at : at + size], at + size + skip
        at += size + skip
    raise TooLargeError(f"{what}: more than {MAX_INSTRUCTIONS:,} instructions; no file of arrays has so many")
