"""Sums over neighbours, across channels or within one: what local response normalisation divides by."""

from __future__ import annotations

from minidnn.arrays import Array, xp_of


def channel_sum(x: Array, before: int, after: int) -> Array:
    """s_k = sum of x_q over the channels q = k-before … k+after that exist."""
    channels = x.shape[3]
    total = x.copy()
    for shift in range(1, min(before, channels - 1) + 1):
        total[..., shift:] += x[..., :-shift]
    for shift in range(1, min(after, channels - 1) + 1):
        total[..., :-shift] += x[..., shift:]
    return total


def square_sum(x: Array, reach: int) -> Array:
    """s_ij = sum of x over the square of pixels at most `reach` away that exist, each channel by itself."""
    xp = xp_of(x)
    _, h, w, _ = x.shape
    ground = xp.pad(x, ((0, 0), (reach, reach), (0, 0), (0, 0)))
    down = sum(ground[:, at : at + h] for at in range(2 * reach + 1))
    ground = xp.pad(down, ((0, 0), (0, 0), (reach, reach), (0, 0)))
    return sum(ground[:, :, at : at + w] for at in range(2 * reach + 1))
