"""What every layer is: a frozen dataclass of what is true of every image, and pure functions between arrays.

The fields of trained arrays are marked PARAM, those of stored but untrained ones BUFFER; everything else
about a layer is in its methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.errors import MismatchError, ShapeError, UnknownLayerError, did_you_mean

Shape = tuple[int, ...]  # (n, h, w, c)
Grads = dict[str, Array]  # by the names of params
Rng = np.random.Generator | None


# The metadata of a field that holds an array to be trained (or None), or one that is only kept and moved.
PARAM = {"role": "param"}
BUFFER = {"role": "buffer"}


@dataclass(frozen=True, eq=False)
class Layer:
    """One step of a network. Subclasses give `forward` and `backward`, and `backward_params` if they learn.

    A backward names in its signature the state it needs, and the engine hands over just that: `x` the input,
    `y` the output, `aux` what forward returned beside it. Always there: `x_shape`, `mem`, `how` and `mode`.
    """

    @property
    def params(self) -> dict[str, Array]:
        return self._arrays("param")

    @property
    def buffers(self) -> dict[str, Array]:
        return self._arrays("buffer")

    def _arrays(self, role: str) -> dict[str, Array]:
        marked = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("role") == role}
        return {name: array for name, array in marked.items() if array is not None}

    def replacing(self, **arrays: Array) -> Self:
        """The same layer with other arrays, which must have the shapes of those they replace."""
        own, what = self.params | self.buffers, type(self).__name__
        for name, array in arrays.items():
            if name not in own:
                has = f"it has {', '.join(own) or 'none'}{did_you_mean(name, own)}"
                raise UnknownLayerError(f"{what} has no array {name!r}; {has}")
            if array.shape != own[name].shape:
                raise MismatchError(f"{what} wants {name!r} as {own[name].shape}, found {array.shape}")
        return replace(self, **arrays)

    def out_shape(self, x_shape: Shape) -> Shape:
        """The shape of `forward`'s output, or a ShapeError that says why there is none."""
        return x_shape

    def forward(self, *xs: Any, **state: Any) -> tuple[Array, Any]:
        """y, and what the way back will want to know beside x and y."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def backward(self, dzdy: Array, *_: Any, **state: Any) -> Any:
        """dz/dx; for a layer that joins several inputs, a tuple of them."""
        raise TypeError(f"{type(self).__name__} has no backward")

    def backward_params(self, dzdy: Array, *_: Any, **state: Any) -> Grads:
        """{name: dz/dparam} with the keys of `params`."""
        return {}

    @property
    def gradient_factor(self) -> float:
        """backward over the true gradient: 1, except where a layer tells another tale on purpose."""
        return 1.0

    def pieces(self, *_: Any, **state: Any) -> Array | None:
        """For a layer made of pieces (y > 0 or not, this tap or that): on which one each number is.

        None: smooth.
        """
        return None


def reads(method: Callable) -> frozenset[str]:
    """Which of x, y and aux a backward reads, by its own signature. What no one reads may be dropped."""
    code = method.__code__
    return frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) & {"x", "y", "aux"}


def as_handed(parts: Sequence[Any]) -> Any:
    """Inputs, or what belongs to them, as a layer gets them: one by itself, several as a tuple."""
    return parts[0] if len(parts) == 1 else tuple(parts)


def drawn(rng: Rng, shape: Shape, fan_in: int, dtype: str = "float32") -> Array:
    """Weights of variance 2 / fan_in, which keeps signals level through ReLUs (He et al. 2015, section 2.2).

    With no rng: a placeholder of that shape that takes no memory, for looking at a net before its weights are
    there.
    """
    if rng is None:
        return np.broadcast_to(np.asarray(np.nan, dtype), shape)
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(dtype)


def is_placeholder(array: Array) -> bool:
    """Whether this only stands for weights that are still to come."""
    return array.size > 1 and not any(array.strides)


def lacks_weights(layer: Layer) -> bool:
    return any(map(is_placeholder, layer.params.values()))


def check_channels(what: object, wanted: int, x_shape: Shape) -> None:
    if x_shape[3] != wanted:
        is_grey = (wanted, x_shape[3]) == (3, 1)
        advice = "; a grey image? repeat it: np.repeat(image, 3, axis=3)" if is_grey else ""
        raise ShapeError(f"{what} wants {wanted} channels, x has {x_shape[3]} (shape {x_shape}){advice}")


def per_channel(dzdy: Array) -> Array:
    """The sum over images and places: what reaches a number that is added to a whole channel."""
    return xp_of(dzdy).sum(dzdy, axis=(0, 1, 2))
