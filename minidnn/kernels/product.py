"""Matrix products: the @ of NumPy and CuPy; what CuPy has none for, cuBLAS is asked itself (cuda/blas.py)."""

from __future__ import annotations

from functools import partial

import numpy as np

from minidnn.arrays import Array, device_of, xp_of
from minidnn.kernels.cpu.threads import CREW
from minidnn.kernels.cuda import blas

SHARED = 1 << 18  # numbers of a matrix that is shared by our own threads: those of BLAS spin on, in their way
SHARES = 8


def product(a: Array, b: Array, out: Array = None, *, add: bool = False, factors: str = "") -> Array:
    """a @ b, into `out` or with `add` onto what is there. A card may round factors to `factors`."""
    xp, beyond_cupy = xp_of(a, b, out), add or factors or blas.RECORDING.get()
    if beyond_cupy and device_of(a) == "cuda" and a.dtype == b.dtype and a.dtype.char in "fd":
        out = xp.empty((len(a), b.shape[1]), a.dtype) if out is None else out
        return blas.gemm(a, b, out, add, factors)
    if xp is np and not add and a.dtype == b.dtype == np.float32 and b.size >= SHARED:
        return _in_shares(a, b, np.empty((len(a), b.shape[1]), np.float32) if out is None else out)
    if not add:
        return a @ b if out is None else xp.matmul(a, b, out=out)
    out += a @ b
    return out


def _in_shares(a: Array, b: Array, out: Array) -> Array:
    """Some columns of b at a time."""
    some = -(-b.shape[1] // SHARES)
    shares = [slice(at, at + some) for at in range(0, b.shape[1], some)]
    with CREW.alone():
        CREW.run(partial(np.matmul, a, b[:, share], out[:, share]) for share in shares)
    return out
