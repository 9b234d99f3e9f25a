"""Which algorithm computes a convolution. A table decides, never a timing: one machine, always the same bits.

im2col      the plain one, in its own words in im2col.py; the reference, and what is taken for float64
chunked     the same a few rows at a time, within the cache and on all cores
winograd2   3x3 filters with 2.25 times fewer multiplications, about as exact as the plain one
winograd4   with 4 times fewer, and about ten times the rounding: in float32 near 1e-5 of the largest value
shifted     one product for each tap and no columns, for windows one pixel apart; what a GPU is given
tf32, bfloat16, float16     the same, but a GPU may round factors to these; it never does unasked
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from threading import Lock
from typing import Any

import numpy as np

from minidnn.arrays import Array, device_of
from minidnn.errors import UnknownLayerError, UsageError, did_you_mean
from minidnn.kernels.cpu import winograd
from minidnn.kernels.cuda import shifted
from minidnn.kernels.cuda.blas import COMPUTE
from minidnn.window import Window

ROUNDED = tuple(filter(None, COMPUTE))
NAMES = ("auto", "im2col", "chunked", *winograd.TRANSFORMS, "shifted", *ROUNDED)
FEW = 8  # channels below which a product for each tap or point has too little to sum over


class Kernel:
    """The algorithm of one layer, and the filters prepared for it, which all runs of the net share."""

    def __init__(self, name: str = "auto", *, obeys: bool = True) -> None:
        """One that does not obey, for nobody named its layer, leaves few channels to the plain way."""
        if name not in NAMES:
            raise UsageError(f"no kernel {name!r}; there are {', '.join(NAMES)}{did_you_mean(name, NAMES)}")
        self.name, self.factors, self.obeys = name, name if name in ROUNDED else "", obeys
        self._made: dict[Any, Array] = {}
        self._lock = Lock()

    def algorithm(self, x_shape: tuple[int, ...], w: Array, window: Window, groups: int) -> str:
        """The name of what will run for images of this shape."""
        if self.name == "auto":
            return _table(x_shape, w, window, groups)
        if self.name in ("shifted", *ROUNDED):
            return "shifted" if shifted.fits(window, groups) else "im2col"
        if self.name not in winograd.TRANSFORMS:
            return self.name
        suits = winograd.fits(window, groups) and (self.obeys or min(w.shape[2:]) >= FEW)
        return self.name if suits else "chunked"

    def prepared(self, what: str, make: Callable[[], Array]) -> Array:
        """What `make` makes, made once."""
        with self._lock:
            if what not in self._made:
                self._made[what] = make()
            return self._made[what]

    @property
    def nbytes(self) -> int:
        """What the prepared filters take."""
        return sum(array.nbytes for array in self._made.values())

    def forget(self) -> None:
        """Drop what was prepared: the weights have changed, or the room is wanted."""
        with self._lock:
            self._made.clear()


How = Kernel | None  # None: the plain way


class Kernels:
    """The kernel of every layer of a net: one name for all, or names for some, and "auto" for the others."""

    def __init__(self, layers: Collection[str], setting: str | Mapping[str, str] = "auto") -> None:
        some = dict.fromkeys(layers, setting) if isinstance(setting, str) else setting
        for layer in some:
            if layer not in layers:
                raise UnknownLayerError(
                    f"no layer {layer!r} to choose a kernel for{did_you_mean(layer, layers)}"
                )
        obeys = not isinstance(setting, str)
        self._of = {layer: Kernel(some.get(layer, "auto"), obeys=obeys) for layer in layers}

    def __getitem__(self, layer: str) -> Kernel:
        return self._of[layer]

    def forget(self) -> None:
        """Drop all that was prepared: the weights have changed, or the room is wanted."""
        for kernel in self._of.values():
            kernel.forget()

    @property
    def nbytes(self) -> int:
        """What all prepared filters take."""
        return sum(kernel.nbytes for kernel in self._of.values())


def _table(x_shape: tuple[int, ...], w: Array, window: Window, groups: int) -> str:
    """Winograd pays where there are channels to sum over and tiles to fill."""
    if w.dtype == np.float32 and device_of(w) == "cuda":
        return "shifted" if shifted.fits(window, groups) and w.shape[2] >= FEW else "im2col"
    if not isinstance(w, np.ndarray) or w.dtype != np.float32:
        return "im2col"
    oh, ow = window.out_size(*x_shape[1:3])
    if min(w.shape[2:]) >= 16 and min(oh, ow) >= 4 and winograd.fits(window, groups):
        return "winograd4" if min(oh, ow) >= 8 else "winograd2"
    return "chunked"  # small maps too: BLAS's own threads and ours would wait for each other
