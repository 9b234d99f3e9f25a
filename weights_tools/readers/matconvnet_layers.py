"""MatConvNet's records into our layers, with the defaults that vl_simplenn_tidy fills in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidnn.errors import DamagedFileError, MismatchError, ShapeError, TooLargeError, UsageError
from minidnn.layers import (
    FC,
    LRN,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dropout,
    Layer,
    LeakyReLU,
    MaxPool,
    ReLU,
    Sigmoid,
    Softmax,
)
from minidnn.window import Window
from weights_tools.foreign import Foreign
from weights_tools.matvalues import Cell, Value
from weights_tools.readers.matconvnet_records import Record, text

MOST = 1024  # pixels that a window, its pad or its stride may measure
MOST_CHANNELS = 65_536  # that an LRN may look at
MOST_SIGMA = 1e18  # its square is still a float32
LRN_DEFAULT = (5, 1, 0.0001 / 5, 0.75)
AGAIN = "fetch it again"


def channels_after(layer: Layer, before: Sequence[int]) -> int:
    """The channels of a layer's output, where the size of its input is not known."""
    if isinstance(layer, Conv | ConvTranspose | FC):
        return layer.out_channels
    if isinstance(layer, BatchNorm):
        layer.out_shape((1, 1, 1, before[0]))
    return sum(before) if isinstance(layer, Concat) else before[0]


class Builder:
    """Makes layers; an array that two records hold becomes one array that two layers hold."""

    def __init__(self, path: str, foreign: Foreign) -> None:
        self.path, self.foreign = path, foreign
        self.made: dict[tuple[int, str], tuple[Any, np.ndarray]] = {}
        self.makers: dict[str, Callable[[Record, list[tuple[int, ...]]], Layer]] = {
            "conv": self.conv,
            "convt": self.convt,
            "pool": self.pool,
            "bnorm": self.bnorm,
            "lrn": lambda record, _: self.lrn(record),
            "relu": lambda record, _: self.relu(record),
            "dropout": lambda record, _: Dropout(self.real(record, "rate", 0.5)),
            "softmax": lambda *_: Softmax(),
            "sigmoid": lambda *_: Sigmoid(),
            "join": lambda *_: Concat(),
            "add": lambda *_: Add(),
        }

    def layer(self, record: Record, before: list[tuple[int, ...]]) -> Layer:
        """The layer for inputs of these shapes: (h, w, c), or (c,) where the size is not known."""
        try:
            return self.makers[record.kind](record, before)
        except (ShapeError, UsageError) as error:
            raise MismatchError(f"{self.what(record)}: {error}; {AGAIN}") from error

    def first_channels(self, records: list[Record], input: str) -> int:
        """How many channels the first layers want; 3, if none of them tells."""
        for record in records:
            if input in record.inputs and record.kind == "conv" and record.arrays:
                filters, bias, *_ = self.bank(record)
                if filters.size:
                    return self.axes(filters, bias.size).shape[2]
        return 3

    # Layers with arrays.

    def conv(self, record: Record, before: list[tuple[int, ...]]) -> Layer:
        """A convolution; an FC, where its one window is the whole map."""
        (*size, channels) = before[0]
        filters, bias, *_ = self.bank(record)
        if filters.size:
            w = self.array(record, filters, lambda own: self.axes(own, bias.size))
        else:
            w = np.ones((1, 1, 1, channels), "float32")
            self.foreign.steps.append(
                f"gave layer {record.name!r}, which has no filters, some that change nothing"
            )
        window = self.window(record, w.shape[:2], "pad", "stride")
        b = self.bias(record, bias, w.shape[3])
        if channels % w.shape[2]:
            found = f"filters over {w.shape[2]} channels, and reads {channels}"
            raise MismatchError(f"{self.what(record)} has {found}; {AGAIN}")
        whole = window == Window.of(w.shape[:2])
        if whole and tuple(size) == w.shape[:2] and channels == w.shape[2]:
            return FC(w, b)
        return Conv(w, b, window, channels // w.shape[2])

    def convt(self, record: Record, before: list[tuple[int, ...]]) -> Layer:
        filters, bias, *_ = self.bank(record)
        w = self.array(record, filters, lambda own: own.reshape(*own.shape, *[1] * (4 - own.ndim)))
        (groups,) = self.whole(record, "numGroups", 1, (1,))
        window = self.window(record, w.shape[:2], "crop", "upsample")
        if groups < 1 or w.shape[3] != before[0][-1]:
            found = f"filters of {w.shape[3]} channels in {groups} groups, and reads {before[0][-1]}"
            raise MismatchError(f"{self.what(record)} has {found}; {AGAIN}")
        return ConvTranspose(w, self.bias(record, bias, w.shape[2] * groups), window, groups)

    def bnorm(self, record: Record, before: list[tuple[int, ...]]) -> Layer:
        """MatConvNet keeps sigma = sqrt(var + epsilon), we keep var."""
        gamma, beta, *moments = self.bank(record)
        channels, eps = before[0][-1], self.real(record, "epsilon", 1e-5)
        if gamma.size != channels or beta.size != channels or eps < 0:
            found = f"{gamma.size} multipliers and {beta.size} biases, and reads {channels} channels"
            raise MismatchError(f"{self.what(record)} has {found}; {AGAIN}")
        held = moments[0] if moments else np.zeros((0, 0))
        if held.size and (held.size != 2 * channels or held.shape[-1] != 2):
            found = f"moments {held.shape}, wanted ({channels}, 2)"
            raise MismatchError(f"{self.what(record)} has {found}; {AGAIN}")
        if not held.any():
            instead = "MatConvNet takes those of each batch, minidnn now takes mean 0 and variance 1"
            self.foreign.warnings.append(
                f"layer {record.name!r} has no moments: {instead}; train it a little to have some"
            )
            held = np.stack([np.zeros(channels), np.ones(channels)], axis=-1)
        flat = self.single(record, held.reshape(channels, 2, order="F"))
        if not ((flat[:, 1] > 0) & (flat[:, 1] < MOST_SIGMA)).all():
            found = f"deviations from {flat[:, 1].min()} to {flat[:, 1].max()}"
            raise DamagedFileError(f"{self.what(record)} has {found}; {AGAIN}")
        var, own_eps = var_of(flat[:, 1], eps)
        if own_eps != eps:
            self.foreign.steps.append(
                f"took epsilon 0 for {eps:g} in layer {record.name!r}, whose deviations are smaller"
            )
        first, second = (self.array(record, own, np.ravel) for own in (gamma, beta))
        return BatchNorm(first, second, flat[:, 0].copy(), var, own_eps)

    # Layers without.

    def pool(self, record: Record, before: list[tuple[int, ...]]) -> Layer:
        kernel = self.whole(record, "pool", None, (1, 2))
        window = self.window(record, kernel if len(kernel) == 2 else kernel * 2, "pad", "stride")
        (kh, kw), pad = window.kernel, window.pad
        if max(pad[:2]) >= kh or max(pad[2:]) >= kw:
            what = f"pad {pad} for a pool of {kh}x{kw}; MatConvNet wants less than the window"
            raise DamagedFileError(f"{self.what(record)} has {what}; {AGAIN}")
        is_max = text(record.fields.get("method"), "max") == "max"
        return MaxPool(window) if is_max else AvgPool(window, divisor="real")

    def lrn(self, record: Record) -> Layer:
        size, kappa, alpha, beta = self.reals(record, "param", LRN_DEFAULT, 4)
        if size not in range(1, MOST_CHANNELS):
            raise DamagedFileError(f"{self.what(record)} has a window of {size:g} channels; {AGAIN}")
        return LRN(int(size), kappa, alpha, beta)

    def relu(self, record: Record) -> Layer:
        leak = self.real(record, "leak", 0)
        return LeakyReLU(leak) if leak else ReLU()

    # What records hold.

    def bank(self, record: Record) -> list[np.ndarray]:
        """The arrays of a layer, of real numbers."""
        if record.arrays is None:
            raise MismatchError(f"{self.what(record)} has no weights; save the net with them")
        if len(record.arrays) < 2:
            found = f"{len(record.arrays)} arrays as weights, wanted 2: filters and biases"
            raise MismatchError(f"{self.what(record)} has {found}; where there are none, put []")
        for held in record.arrays:
            if not isinstance(held, np.ndarray) and not (isinstance(held, Cell) and not held):
                raise DamagedFileError(f"{self.what(record)} has weights that are no numbers; {AGAIN}")
        return [held if isinstance(held, np.ndarray) else np.zeros((0, 0)) for held in record.arrays]

    def axes(self, filters: np.ndarray, biases: int) -> np.ndarray:
        """All four axes: MATLAB drops those of size 1 at the end, other writers drop any.

        The number of biases tells which of the two it was.
        """
        if filters.ndim > 4:
            raise ShapeError(f"filters of shape {filters.shape}, wanted (height, width, channels, filters)")
        last = filters.shape[3] if filters.ndim == 4 else 1
        if filters.ndim < 4 and biases not in (0, last) and filters.shape[-1] == biases:
            return filters[None, None] if filters.ndim == 2 else filters[:, :, None]
        return filters.reshape(*filters.shape, *[1] * (4 - filters.ndim))

    def array(
        self, record: Record, held: np.ndarray, shaped: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """As float32 in our memory order; the same array again, if it was asked for before."""
        wanted = shaped(held)
        key = id(held), str(wanted.shape)
        if key not in self.made:
            if held.dtype != np.float32:
                self.foreign.steps.append(f"converted {held.dtype} to float32 in layer {record.name!r}")
            self.made[key] = (
                held,
                np.ascontiguousarray(wanted, "float32"),
            )  # with held, or its id may be reused
        return self.made[key][1]

    def single(self, record: Record, numbers: np.ndarray) -> np.ndarray:
        """As float32, if they fit."""
        with np.errstate(over="ignore"):
            made = np.ascontiguousarray(numbers, "float32")
        if numbers.dtype.kind == "f" and np.isinf(made).sum() > np.isinf(numbers).sum():
            raise DamagedFileError(f"{self.what(record)} has numbers too large for float32; {AGAIN}")
        return made

    def bias(self, record: Record, held: np.ndarray, k: int) -> np.ndarray | None:
        if held.size not in (0, k):
            raise MismatchError(f"{self.what(record)} has {held.size} biases for {k} filters; {AGAIN}")
        return self.array(record, held, np.ravel) if held.size else None

    def window(self, record: Record, kernel: Sequence[int], pad: str, stride: str) -> Window:
        pads = self.whole(record, pad, 0, (1, 4))
        strides = self.whole(record, stride, 1, (1, 2))
        dilations = self.whole(record, "dilate", 1, (1, 2)) if record.kind == "conv" else (1,)
        return Window.of(kernel, pad=_one(pads), stride=_one(strides), dilation=_one(dilations))

    def whole(
        self, record: Record, name: str, default: int | None, counts: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Whole numbers of a layer: as many as one of `counts` says."""
        numbers = self.numbers(record, name, () if default is None else (default,))
        if len(numbers) not in counts:
            wanted = " or ".join(map(str, counts))
            raise DamagedFileError(
                f"{self.what(record)}: {name} has {len(numbers)} numbers, wanted {wanted}; {AGAIN}"
            )
        if any(number != int(number) or number < 0 for number in numbers):
            raise DamagedFileError(f"{self.what(record)}: {name} is {numbers}, wanted whole numbers; {AGAIN}")
        if max(numbers) > MOST:
            raise TooLargeError(f"{self.what(record)}: {name} is {numbers}, the limit is {MOST:,}; {AGAIN}")
        return tuple(map(int, numbers))

    def real(self, record: Record, name: str, default: float) -> float:
        return self.reals(record, name, (default,), 1)[0]

    def reals(self, record: Record, name: str, default: Sequence[float], count: int) -> list[float]:
        numbers = self.numbers(record, name, default)
        if len(numbers) != count:
            raise DamagedFileError(
                f"{self.what(record)}: {name} has {len(numbers)} numbers, wanted {count}; {AGAIN}"
            )
        return numbers

    def numbers(self, record: Record, name: str, default: Sequence[float]) -> list[float]:
        held: Value | None = record.fields.get(name)
        if held is None or (not isinstance(held, np.ndarray) and not held):
            return list(default)
        if not isinstance(held, np.ndarray) or not np.isfinite(held).all():
            raise DamagedFileError(f"{self.what(record)}: {name} is no list of numbers; {AGAIN}")
        return [float(number) for number in held.ravel(order="F")[: MOST + 1]] or list(default)

    def what(self, record: Record) -> str:
        return f"{self.path}: layer {record.name!r}"


def _one(numbers: tuple[int, ...]) -> int | tuple[int, ...]:
    return numbers[0] if len(numbers) == 1 else numbers


def var_of(sigma: np.ndarray, eps: float) -> tuple[np.ndarray, float]:
    """var and eps in float32 with sqrt(var + eps) = sigma to the last bit.

    The square of a float32, rounded, has that float32 as its square root; of sigma² - eps the neighbours are
    tried. Where eps is more than sigma² there is no such var, and all of the layer gets eps = 0.
    """
    var = (sigma.astype("float64") ** 2 - eps).astype("float32")
    with np.errstate(invalid="ignore"):
        for neighbour in (np.nextafter(var, np.float32("-inf")), np.nextafter(var, np.float32("inf"))):
            var = np.where(np.sqrt(var + eps) == sigma, var, neighbour)
        if (var >= 0).all() and (np.sqrt(var + eps) == sigma).all():
            return var, eps
    return sigma * sigma, 0.0
