"""Sums and products with a number for each channel, as normalisation asks for them.

In the words of NumPy and CuPy alike; NumPy's arrays are worked off in pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidnn.arrays import Array, xp_of
from minidnn.kernels.cpu import channels
from minidnn.kernels.cuda import pointwise as cuda
from minidnn.kernels.cuda.source import ready
from minidnn.kernels.memory import Mem


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and variance of each channel over all images and places."""
    if _in_pieces(x):
        return channels.moments(x)
    return x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))


def sums(dzdy: Array, x: Array, mean: Array) -> tuple[Array, Array]:
    """Of each channel the sum of dzdy, and that of dzdy * (x - mean)."""
    xp = xp_of(dzdy, x, mean)
    if _in_pieces(dzdy, x, mean):
        return channels.sums(dzdy, x, mean)
    return xp.sum(dzdy, axis=(0, 1, 2)), xp.sum(dzdy * (x - mean), axis=(0, 1, 2))


def scaled(x: Array, scale: Array, shift: Array, mem: Mem = None) -> Array:
    """x * scale + shift"""
    xp_of(x, scale, shift)
    if ready(x, scale, shift):
        return cuda.scaled(x, scale, shift, mem)
    return channels.scaled(x, scale, shift, mem) if _in_pieces(x, scale, shift) else x * scale + shift


def blended(x: Array, a: Array, y: Array, b: Array, c: Array, mem: Mem = None) -> Array:
    """x * a + y * b + c"""
    xp_of(x, a, y, b, c)
    if ready(x, a, y, b, c):
        return cuda.blended(x, a, y, b, c, mem)
    return channels.blended(x, a, y, b, c, mem) if _in_pieces(x, a, y, b, c) else x * a + y * b + c


def by_pixel(
    formula: Callable[..., Any], *arrays: Array, results: int, mem: Mem = None, apart: bool = True
) -> Any:
    """formula(*arrays), so many arrays of the same shape; some pixels at a time, if they lie apart."""
    if not apart:
        return formula(*arrays)
    whole = [np.ascontiguousarray(a) if isinstance(a, np.ndarray) else a for a in arrays]
    return channels.by_pixel(formula, whole, results, mem) if _in_pieces(*whole) else formula(*whole)


def _in_pieces(*arrays: Array) -> bool:
    """Whether all are NumPy's, in one piece and of one kind of float."""
    first = arrays[0]
    return all(
        isinstance(a, np.ndarray) and a.flags.c_contiguous and a.dtype == first.dtype and a.dtype.kind == "f"
        for a in arrays
    )
