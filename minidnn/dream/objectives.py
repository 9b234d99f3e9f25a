"""What a dream climbs: a number z made of what layers say, and its derivatives by them.

An objective is a function {layer: y} → (z, {layer: dz/dy}) that knows which layers it reads. Objectives add
up, multiply, and scale: `squared_norm("conv4_3") + 0.5 * channel("conv5_1", 12) * channel("conv5_1", 88)`.
With a batch, z is the sum over its images, so that each of them climbs for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from minidnn.arrays import Array, xp_of
from minidnn.errors import ShapeError, UsageError
from minidnn.graph import Handle

Seeds = dict[Handle, Array]
Measure = Callable[[Mapping[Handle, Array]], tuple[float, Seeds]]
Place = tuple[int, int] | None  # (row, column) on a map; None: its middle
AT_ONCE = 1 << 24  # pairs of places that are compared at once: of early layers there are billions


@dataclass(frozen=True, eq=False)
class Objective:
    """`value, seeds = objective({"conv4_3": y})`; the seeds are what backwardfrom wants."""

    layers: tuple[Handle, ...]
    measure: Measure
    name: str = "objective"

    def __call__(self, ys: Mapping[Handle, Array]) -> tuple[float, Seeds]:
        return self.measure(ys)

    def __str__(self) -> str:
        return self.name

    def __add__(self, other: Objective) -> Objective:
        def measure(ys: Mapping[Handle, Array]) -> tuple[float, Seeds]:
            (a, da), (b, db) = self(ys), other(ys)
            return a + b, _summed(da, db)

        return Objective(_union(self, other), measure, f"{self} + {other}")

    def __mul__(self, factor: float | Objective) -> Objective:
        """By a number; or by another objective, with the product rule: (ab)' = a'b + ab'."""
        if isinstance(factor, Objective):
            other = factor

            def product(ys: Mapping[Handle, Array]) -> tuple[float, Seeds]:
                (a, da), (b, db) = self(ys), other(ys)
                return a * b, _summed(_scaled(da, b), _scaled(db, a))

            return Objective(_union(self, other), product, f"({self}) * ({other})")

        def scaled(ys: Mapping[Handle, Array]) -> tuple[float, Seeds]:
            value, seeds = self(ys)
            return factor * value, _scaled(seeds, factor)

        return Objective(self.layers, scaled, f"{factor:g} * ({self})")

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        return self * -1.0

    def __sub__(self, other: Objective) -> Objective:
        return self + -other


def on_layer(layer: Handle, name: str, measure: Callable[[Array], tuple[float | Array, Array]]) -> Objective:
    """An objective of one layer from a function y → (z, dz/dy). The door for your own."""

    def of_layer(ys: Mapping[Handle, Array]) -> tuple[float, Seeds]:
        value, seed = measure(ys[layer])
        return float(value), {layer: seed}

    return Objective((layer,), of_layer, f"{name}({layer})")


# All of a layer.


def squared_norm(layer: Handle) -> Objective:
    """z = Σ y²,   dz/dy = 2y          (the courses' "L2 norm"; Google's dream climbs half of it)"""
    return on_layer(layer, "squared_norm", lambda y: ((y * y).sum(), 2 * y))


def strongest(layer: Handle, count: int) -> Objective:
    """z = Σ y² over the `count` channels that are strongest just now: more of what is there already."""

    def measure(y: Array) -> tuple[float, Array]:
        if not 1 <= count <= y.shape[3]:
            raise UsageError(
                f"{layer!r} has {y.shape[3]} channels: the strongest are 1 to that many, not {count}"
            )
        energy = (y * y).sum(axis=(1, 2), keepdims=True)  # (N, 1, 1, C)
        least = xp_of(y).sort(energy, axis=3)[..., -count, None]
        chosen = y * (energy >= least)
        return (chosen * chosen).sum(), 2 * chosen

    return on_layer(layer, f"strongest {count}", measure)


# One unit of it.


def channel(layer: Handle, k: int) -> Objective:
    """z = mean over i, j of y[i,j,k]"""

    def measure(y: Array) -> tuple[float, Array]:
        _check_channel(layer, k, y)
        seed = xp_of(y).zeros_like(y)
        seed[..., k] = 1 / (y.shape[1] * y.shape[2])
        return y[..., k].mean(axis=(1, 2)).sum(), seed

    return on_layer(layer, f"channel {k}", measure)


def neuron(layer: Handle, k: int, at: Place = None) -> Objective:
    """z = h²,   h = y[i,j,k] of the one neuron there"""

    def measure(y: Array) -> tuple[float, Array]:
        _check_channel(layer, k, y)
        i, j = _place(layer, at, y)
        seed = xp_of(y).zeros_like(y)
        seed[:, i, j, k] = 2 * y[:, i, j, k]
        return (y[:, i, j, k] ** 2).sum(), seed

    return on_layer(layer, f"neuron {k}", measure)


def score(layer: Handle, k: int) -> Objective:
    """z = y[k], a class before the softmax or behind it; on a larger map, its mean."""
    return replace(channel(layer, k), name=f"score {k}({layer})")


def direction(layer: Handle, towards: Array, *, cosine: float = 0.0) -> Objective:
    """z = mean over i, j of <y_ij, v> * max(0.1, cos(y_ij, v))^cosine

    With cosine 0 just the projection; more asks for y to point along v, and not only to be long (Carter et
    al. 2019, "Activation Atlas").
    """

    def measure(y: Array) -> tuple[float, Array]:
        v = xp_of(y, towards).asarray(towards, dtype=y.dtype).reshape(1, 1, 1, -1)
        if v.shape[3] != y.shape[3]:
            raise ShapeError(
                f"direction has {v.shape[3]} channels, {layer!r} has {y.shape[3]}; make them agree"
            )
        value, seed = _dot_with_cosine(y, v, cosine)
        places = y.shape[1] * y.shape[2]
        return value / places, seed / places

    return on_layer(layer, "direction", measure)


# Towards another picture.


def guide_dot(layer: Handle, guide: Array) -> Objective:
    """z = Σ y * g,   dz/dy = g, the layer's response to a guide picture of the same size"""

    def measure(y: Array) -> tuple[float, Array]:
        g = _same_map(layer, guide, y)
        return (y * g).sum(), xp_of(y).broadcast_to(g, y.shape)

    return on_layer(layer, "guide_dot", measure)


def best_match(layer: Handle, guide: Array) -> Objective:
    """z = Σ over places p of max over places q of <y_p, g_q>,   dz/dy_p = that g_q

    Each place looks for what suits it best anywhere on the guide, which may have any size (Mordvintsev et al.
    2015, "Controlling dreams").
    """

    def measure(y: Array) -> tuple[float, Array]:
        g = xp_of(y, guide).asarray(guide, dtype=y.dtype)
        if g.shape[-1] != y.shape[3]:
            raise ShapeError(f"the guide has {g.shape[-1]} channels at {layer!r}, y has {y.shape[3]}")
        wanted, places = g.reshape(-1, y.shape[3]), y.reshape(-1, y.shape[3])  # (Q, C), (P, C)
        rows = max(1, AT_ONCE // len(wanted))
        parts = [(places[at : at + rows] @ wanted.T).argmax(axis=1) for at in range(0, len(places), rows)]
        best = xp_of(y).concatenate(parts)
        seed = wanted[best].reshape(y.shape)
        return (y * seed).sum(), seed

    return on_layer(layer, "best_match", measure)


def caricature(layer: Handle, original: Array, *, cosine: float = 1.0) -> Objective:
    """As guide_dot, but each place shall also point the way it pointed on the original: see `direction`."""

    def measure(y: Array) -> tuple[float, Array]:
        return _dot_with_cosine(y, _same_map(layer, original, y), cosine)

    return on_layer(layer, "caricature", measure)


# Between the pictures of a batch.


def diversity(layer: Handle) -> Objective:
    """z = -Σ over pairs a ≠ b of <G_a, G_b> / |G_a||G_b|,   G = Fᵀ F, F the (H*W, C) of one picture

    Pictures that show the same textures have the same Gram matrix G; these shall differ (Olah et al. 2017).
    """

    def measure(y: Array) -> tuple[float, Array]:
        n, h, w, c = y.shape
        if n < 2:
            raise UsageError(f"diversity at {layer!r} of one picture; dream a batch of two or more")
        flat = y.reshape(n, h * w, c)
        grams = flat.transpose(0, 2, 1) @ flat  # (N, C, C)
        rows = grams.reshape(n, -1)
        length = xp_of(y).sqrt((rows * rows).sum(axis=1, keepdims=True)) + 1e-12
        unit = rows / length
        alike = unit @ unit.T  # (N, N)
        pull = unit.sum(axis=0) - unit  # each one's others
        own = (unit * pull).sum(axis=1, keepdims=True)
        dgram = (-2 * (pull - own * unit) / length).reshape(grams.shape)
        seed = flat @ (dgram + dgram.transpose(0, 2, 1))
        return -(alike.sum() - xp_of(y).trace(alike)), seed.reshape(y.shape)

    return on_layer(layer, "diversity", measure)


def _dot_with_cosine(y: Array, v: Array, power: float) -> tuple[float, Array]:
    """Σ over places of <y, v> * max(0.1, cos)^power, and its gradient; what cos is below 0.1 has no say."""
    xp = xp_of(y)
    dot = (y * v).sum(axis=3, keepdims=True)
    if not power:
        return dot.sum(), xp.broadcast_to(v, y.shape)
    long_y = xp.sqrt((y * y).sum(axis=3, keepdims=True)) + 1e-12
    long_v = xp.sqrt((v * v).sum(axis=3, keepdims=True)) + 1e-12
    cos = dot / (long_y * long_v)
    eased = xp.maximum(cos, 0.1)
    dcos = v / (long_y * long_v) - cos * y / long_y**2  # by y
    steep = power * eased ** (power - 1) * (cos > 0.1)
    return (dot * eased**power).sum(), v * eased**power + dot * steep * dcos


def _same_map(layer: Handle, guide: Array, y: Array) -> Array:
    g = xp_of(y, guide).asarray(guide, dtype=y.dtype)
    if g.shape[1:] != y.shape[1:] or len(g) not in (1, len(y)):
        raise ShapeError(
            f"the guide's response at {layer!r} is {g.shape}, the picture's {y.shape}: "
            "give one guide of the picture's size, or use best_match"
        )
    return g


def _check_channel(layer: Handle, k: int, y: Array) -> None:
    if not 0 <= k < y.shape[3]:
        raise UsageError(f"{layer!r} has channels 0 to {y.shape[3] - 1}, not {k}")


def _place(layer: Handle, at: Place, y: Array) -> tuple[int, int]:
    h, w = y.shape[1:3]
    i, j = (h // 2, w // 2) if at is None else at
    if not (0 <= i < h and 0 <= j < w):
        raise UsageError(f"{layer!r} is a map of {h}x{w} for this picture: it has no place ({i}, {j})")
    return i, j


def _union(a: Objective, b: Objective) -> tuple[Handle, ...]:
    return tuple(dict.fromkeys(a.layers + b.layers))


def _scaled(seeds: Seeds, factor: Any) -> Seeds:
    return {layer: float(factor) * seed for layer, seed in seeds.items()}


def _summed(a: Seeds, b: Seeds) -> Seeds:
    return {
        layer: a[layer] + b[layer] if layer in a and layer in b else a.get(layer, b.get(layer))
        for layer in a | b
    }
