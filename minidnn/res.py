"""Everything that belongs to one run: what each layer said, and what came back to it. The net itself never
changes.

As in MatConvNet's `res`, but a slot keeps all of one layer together: its output, and the derivatives by that
output and by that layer's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from minidnn.arrays import Array, to_device
from minidnn.errors import StaleResError
from minidnn.kernels.memory import Arena

AGAIN = "forwardto with the image again, and keep='all'"  # what to do about something that was dropped


@dataclass
class Slot:
    """One layer in one run: x is its output, aux what it remembered for the way back (switches, masks).

    Where a layer hands on what it got, arrays share memory with the image or another slot: copy to write.
    """

    x: Array = None
    aux: Any = None
    dzdx: Array = None
    dzdw: dict[str, Array] = field(default_factory=dict)
    mode: str = "test"
    seconds: float = 0.0  # forward, the last time it ran
    backward_seconds: float = 0.0  # both gradients, the last time
    dropped_shape: tuple[int, ...] | None = None  # of an x that was computed and let go again
    aux_dropped: bool = False

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of x, also after x was dropped; None if this layer has not run."""
        return self.dropped_shape if self.x is None else self.x.shape

    @property
    def nbytes(self) -> int:
        """What this slot holds on to."""
        return sum(array.nbytes for array in _arrays_in((self.x, self.aux, self.dzdx, self.dzdw)))

    def clear(self) -> None:
        """Forget the image; the weight gradients stay, so that sub-batches can be added up."""
        self.x = self.aux = self.dzdx = self.dropped_shape = None
        self.aux_dropped = False

    def drop_x(self) -> None:
        """Let go of the output, but remember its shape."""
        if self.x is not None:
            self.dropped_shape, self.x = self.x.shape, None

    def drop_aux(self) -> None:
        """Let go of what the layer remembered."""
        if self.aux is not None:
            self.aux, self.aux_dropped = None, True


class Res(Mapping[str, Slot]):
    """The slots of one run by layer name, or by number as the summary counts (0 is the image).

    One run is one user: threads each make their own. `sync` waits for the device after each layer, so that
    the seconds on the slots are those of the work and not those of handing it in. `sure` says that all that
    comes in is known to be finite, so that nobody needs to wait for a device to look.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        name_of: Callable[[str | int], str],
        *,
        sync: bool = False,
        sure: bool = False,
    ) -> None:
        self._slots = {name: Slot() for name in names}
        self._name_of = name_of
        self.sync, self.sure = sync, sure
        self.mem = Arena()
        self.version = 0  # of the net's weights when this run began
        self.shown = set(names)  # the slots whose dzdx stays to be looked at

    def begin(self, version: int) -> None:
        """Forget the last image, for a new one."""
        self.version = version
        for slot in self.values():
            slot.clear()
        self.mem.begin()

    def __getitem__(self, layer: str | int) -> Slot:
        return self._slots[self._name_of(layer)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def filled(self, layer: str | int) -> Slot:
        """The slot, if its x is there; else what to do about it."""
        name, slot = self._name_of(layer), self[layer]
        if slot.shape is None:
            raise StaleResError(f"slot {name!r} is empty: call forwardto(res, {name!r}, image) first")
        if slot.x is None:
            raise StaleResError(f"the x of slot {name!r} was dropped: {AGAIN}")
        return slot

    @property
    def nbytes(self) -> int:
        """What the run holds on to, and what it has ready for the next."""
        return sum(slot.nbytes for slot in self.values()) + self.mem.nbytes

    def to(self, device: str) -> Res:
        """The same run on that device, also in the middle of a pass; this one stays as it is."""
        moved = Res(tuple(self), self._name_of, sync=self.sync, sure=self.sure)
        moved.version, moved.shown = self.version, self.shown
        for name, slot in self.items():
            arrays = {part: _moved(getattr(slot, part), device) for part in ("x", "aux", "dzdx", "dzdw")}
            moved._slots[name] = replace(slot, **arrays)
        return moved


def _arrays_in(part: Any) -> Iterator[Array]:
    if isinstance(part, dict | tuple):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _arrays_in(inner)
    elif part is not None:
        yield part


def _moved(part: Any, device: str) -> Any:
    if isinstance(part, dict):
        return {name: _moved(inner, device) for name, inner in part.items()}
    if isinstance(part, tuple):
        inners = [_moved(inner, device) for inner in part]
        return type(part)(*inners) if hasattr(part, "_fields") else tuple(inners)
    return part if part is None else to_device(part, device)
