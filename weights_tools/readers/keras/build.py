"""The net of a Keras model: each call in turn through the table of layers; all that we lack, told at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from minidnn.errors import DamagedFileError, MinidnnError, MismatchError, ShapeError, UnsupportedError
from minidnn.net import Net
from weights_tools.foreign import Foreign
from weights_tools.readers.keras.arrays import Keras3, Legacy
from weights_tools.readers.keras.assembly import MAX_MAP, Assembly, Map
from weights_tools.readers.keras.config import Call, Wiring
from weights_tools.readers.keras.layers import JOINS, NOISE, TABLE, lacking

MAX_CHANNELS = 1 << 24  # of the image; a vector counts as one pixel of many
RANDOM = ("BatchNormalization", "Dropout", *NOISE)  # what training changes


def built(
    kind: str, wired: Wiring, arrays: Legacy | Keras3, what: str, input_size: tuple[int, int] | None
) -> Foreign:
    """The net that the calls describe, with the arrays of the file."""
    _refuse(_lacking(wired), what)
    is_chw = _is_chw(wired, what)
    if isinstance(arrays, Legacy):
        arrays.is_chw |= is_chw
        with placed(what):
            arrays.share(wired.parts)
    net = Assembly(wired, arrays, is_chw)
    image = _image(wired, net, what, input_size)
    values = _values(wired, net, image, what)
    size = None if None in (image.h, image.w, image.c) else (image.h, image.w, image.c)
    with placed(what):
        ends = [net.settled(values[number]) for number in wired.outputs]
        if not net.nodes:
            raise MismatchError("a model without layers; nothing to convert")
        made = Net(net.nodes, net.input, input_shape=size, aliases=net.aliases)  # type: ignore[arg-type]
    foreign = Foreign(kind, net=made, steps=net.steps)
    foreign.hints = {
        "name": wired.name,
        "input_size": size and size[:2],
        "outputs": [end.name for end in ends],
    }
    if net.depends_on_size:
        foreign.warnings.append(
            f"padding 'same' with a stride depends on the size of the map: here it is that for images of "
            f"{image.h}x{image.w}, also when larger ones are run"
        )
    return foreign


def _values(wired: Wiring, net: Assembly, image: Map, what: str) -> list[Map]:
    """What every call makes. Behind a layer that we lack nothing can be built, but all of them are told."""
    values: list[Map | None] = [image]
    complaints = []
    for part, reads, _ in wired.calls:
        made, maps = None, [one for number in reads if (one := values[number]) is not None]
        if len(maps) == len(reads):
            with placed(f"{what}: layer {part.name!r} ({part.kind})"):
                if not maps or (len(maps) > 1 and part.kind not in JOINS):
                    raise DamagedFileError(f"reads {len(maps)} maps, expected one; fetch the file again")
                try:
                    made = TABLE[part.kind](net, part, maps)
                except UnsupportedError as error:
                    complaints.append(f"{part.name!r} ({part.kind} {error})")
        values.append(made)
    _refuse(complaints, what)
    return [one for one in values if one is not None]


def _lacking(wired: Wiring) -> list[str]:
    """Each layer that asks for something we do not have, in words."""
    found = {part: lacking(part) for part, _, _ in wired.calls}
    for call in wired.calls:
        if call.oddity and not found[call.part] and _matters(call):
            found[call.part] = f"{call.part.name!r} ({call.oddity})"
    return [words for words in found.values() if words]


def _matters(call: Call) -> bool:
    return call.oddity != "always as in training" or call.part.kind in RANDOM


def _refuse(complaints: list[str], what: str) -> None:
    if complaints:
        raise UnsupportedError(
            f"{what}: layers that we do not have: {', '.join(complaints)}; "
            f"convert a net without them, or save its weights alone: model.save_weights"
        )


def _is_chw(wired: Wiring, what: str) -> bool:
    """Whether maps are (C, H, W) there. A Flatten says what the user's machine was set to, no more."""
    parts = dict.fromkeys(call.part for call in wired.calls)
    said = [(part, part.config.get("data_format")) for part in parts if part.config.get("data_format")]
    formats = {value for part, value in said if part.kind != "Flatten"} or {value for _, value in said}
    if not formats <= {"channels_first", "channels_last"} or len(formats) > 1:
        raise UnsupportedError(
            f"{what}: maps are {' and '.join(map(str, formats))[:60]}; make it one of both"
        )
    return formats == {"channels_first"}


def _image(wired: Wiring, net: Assembly, what: str, input_size: tuple[int, int] | None) -> Map:
    """The image as the file states it, in our order of axes."""
    shape = wired.input_shape if wired.input_shape is not None else [None] * 4
    for size in shape[1:]:
        if size is not None and (type(size) is not int or not 1 <= size <= MAX_CHANNELS):
            raise DamagedFileError(f"{what}: images of shape {str(shape)[:60]}; fetch the file again")
    if len(shape) == 2:
        return Map(net.input, 1, 1, shape[1], rank=2)
    if len(shape) != 4:
        raise UnsupportedError(f"{what}: the net reads {len(shape) - 1} axes, expected an image of three")
    h, w, c = (*shape[2:], shape[1]) if net.is_chw else shape[1:]
    image = Map(net.input, h, w, c)
    if input_size is not None:
        image = replace(image, h=input_size[0], w=input_size[1])
    if max(image.h or 0, image.w or 0) > MAX_MAP:
        raise DamagedFileError(f"{what}: images of {image.h}x{image.w}; the limit is {MAX_MAP}")
    return image


@contextmanager
def placed(where: str) -> Iterator[None]:
    """What goes wrong in here is told with its place; sizes that do not fit are the file's fault."""
    try:
        yield
    except ShapeError as error:
        raise MismatchError(f"{where}: {error}") from None
    except MinidnnError as error:
        raise type(error)(error.args[0] if where in str(error) else f"{where}: {error}") from None
