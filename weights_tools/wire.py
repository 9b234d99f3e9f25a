"""Protobuf's wire format, read without protobuf: Caffe's and ONNX's files are messages of it.

A message is a row of (field number, wire type, value). Nothing is copied, nothing is recursive, and no length
is believed before it was compared with what is left. https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minidnn.errors import DamagedFileError, TooLargeError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WIDTH = {FIXED64: 8, FIXED32: 4}
MAX_FIELDS = 250_000  # of one message, a run of unpacked floats counting as one
MAX_NUMBERS = 1_000_000  # of one field: each becomes an object of Python's, of many times its size

Value = int | memoryview


class Message:
    """The fields of one message: `m.bytes(7)` all values of field 7, `m.number(3)` the last of 3."""

    def __init__(self, data: bytes | memoryview, what: str = "message") -> None:
        self.what = what
        self.fields: dict[int, list[tuple[int, Value]]] = {}
        for count, (number, kind, value) in enumerate(fields(memoryview(data), what)):
            if count >= MAX_FIELDS:
                raise TooLargeError(f"{what}: more than {MAX_FIELDS:,} fields; not a net that we could run")
            self.fields.setdefault(number, []).append((kind, value))

    def __contains__(self, number: int) -> bool:
        return number in self.fields

    def bytes(self, number: int) -> list[memoryview]:
        """All values of a field that holds strings, bytes or messages, in order."""
        return [self._view(number, kind, value) for kind, value in self.fields.get(number, ())]

    def messages(self, number: int, what: str) -> list[Message]:
        return [Message(data, f"{self.what} > {what}") for data in self.bytes(number)]

    def message(self, number: int, what: str) -> Message:
        """A field that comes once; if it is not there, an empty message (all defaults).

        Should it come in several pieces, they are one message: laid end to end, messages merge.
        """
        data = self.bytes(number)
        return Message(data[0] if len(data) == 1 else b"".join(data), f"{self.what} > {what}")

    def texts(self, number: int) -> list[str]:
        try:
            return [str(data, "utf-8") for data in self.bytes(number)]
        except UnicodeDecodeError:
            raise DamagedFileError(f"{self.what}: field {number} is not text; fetch the file again") from None

    def text(self, number: int, default: str = "") -> str:
        return (self.texts(number) or [default])[-1]

    def number(self, number: int, default: int = 0) -> int:
        """The last whole number of a field, signed."""
        return (self.numbers(number) or [default])[-1]

    def numbers(self, number: int) -> list[int]:
        """All whole numbers of a field, packed or not, signed."""
        found = []
        for kind, value in self.fields.get(number, ()):
            if kind == VARINT and isinstance(value, int):
                found.append(value)
                continue
            data, at = self._view(number, kind, value), 0
            while at < len(data):
                one, at = varint(data, at, self.what)
                found.append(one)
                if len(found) > MAX_NUMBERS:
                    raise TooLargeError(
                        f"{self.what}: field {number} holds more than {MAX_NUMBERS:,} numbers"
                    )
        return [n - (1 << 64) if n >= 1 << 63 else n for n in found]

    def real(self, number: int, default: float = 0.0) -> float:
        values = self.reals(number)
        return float(values[-1]) if len(values) else default

    def reals(self, number: int, dtype: str = "<f4") -> np.ndarray:
        """All floats of a field, packed or one by one, in one array; a single packed run is not copied."""
        width = np.dtype(dtype).itemsize
        parts = []
        for kind, value in self.fields.get(number, ()):
            if isinstance(value, int) or len(value) % width or (kind != BYTES and WIDTH[kind] != width):
                raise DamagedFileError(f"{self.what}: field {number} holds no whole floats; fetch it again")
            parts.append(np.frombuffer(value, dtype))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, dtype)

    def _view(self, number: int, kind: int, value: Value) -> memoryview:
        if kind != BYTES or isinstance(value, int):
            raise DamagedFileError(
                f"{self.what}: field {number} has wire type {kind}, not {BYTES}; fetch it again"
            )
        return value


def fields(data: memoryview, what: str) -> Iterator[tuple[int, int, Value]]:
    """(field number, wire type, value) one after another; a run of unpacked floats comes as one packed."""
    at = 0
    while at < len(data):
        began = at
        key, at = varint(data, at, what)
        number, kind = key >> 3, key & 7
        if not 1 <= number < 1 << 29:
            raise DamagedFileError(f"{what}: no field has number {number} (byte {began}); fetch it again")
        if kind == VARINT:
            value, at = varint(data, at, what)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, at = varint(data, at, what)
        elif kind in WIDTH:
            length = WIDTH[kind]
        else:
            raise DamagedFileError(f"{what}: wire type {kind} at byte {began}; there are 0, 1, 2 and 5")
        if length > len(data) - at:
            left = len(data) - at
            raise DamagedFileError(
                f"{what}: field {number} claims {length:,} bytes, {left:,} are left; cut short?"
            )
        if kind == FIXED32 and (run := unpacked_run(data, began, at)) > 1:
            end = began + run * (at + 4 - began)
            yield number, BYTES, packed(data[began:end], run)
            at = end
            continue
        yield number, kind, data[at : at + length]
        at += length


def packed(data: memoryview, run: int) -> memoryview:
    """The floats of a run without their keys."""
    return memoryview(np.frombuffer(data, np.uint8).reshape(run, -1)[:, -4:].tobytes())


def unpacked_run(data: memoryview, began: int, at: int) -> int:
    """How many floats of one field follow one another from `began` on, each under a key of its own.

    Old writers packed nothing: read float by float, their files would take a thousand times as long.
    """
    key, step = bytes(data[began:at]), at + 4 - began
    most, run, look = (len(data) - began) // step, 1, 1
    while run < most:
        look = min(2 * look, most - run)
        start = began + run * step
        rows = np.frombuffer(data[start : start + look * step], np.uint8).reshape(look, step)
        same = (rows[:, : len(key)] == np.frombuffer(key, np.uint8)).all(axis=1)
        if not same.all():
            return run + int(same.argmin())
        run += look
    return run


def varint(data: memoryview, at: int, what: str) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise DamagedFileError(f"{what}: ends within a number; cut short?")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
    raise DamagedFileError(f"{what}: a number of more than ten bytes before byte {at}; fetch it again")
