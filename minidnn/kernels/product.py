"""Matrix products: the @ of NumPy and CuPy; what CuPy has none for, cuBLAS is asked itself (cuda/blas.py)."""

from __future__ import annotations

from functools import partial

import numpy as np

from minidnn.arrays import Array, device_of, xp_of
from minidnn.kernels.cpu.threads import CREW, LITTLE
from minidnn.kernels.cuda import blas

SHARED = 1 << 18  # numbers of a matrix b that is shared out, however few rows a has


def product(a: Array, b: Array, out: Array = None, *, add: bool = False, factors: str = "") -> Array:
    """a @ b, into `out` or with `add` onto what is there. A card may round factors to `factors`."""
    xp, beyond_cupy = xp_of(a, b, out), add or factors or blas.RECORDING.get()
    if out is None and not add:
        out = xp.empty((len(a), b.shape[1]), xp.result_type(a, b))
    if beyond_cupy and device_of(a) == "cuda" and a.dtype == b.dtype and a.dtype.char in "fd":
        return blas.gemm(a, b, out, add, factors)
    if add:
        out += a @ b
    elif xp is np and a.dtype == b.dtype and (b.size >= SHARED or len(a) * b.size >= LITTLE):
        _in_shares(a, b, out)
    else:
        xp.matmul(a, b, out=out)
    return out


def _in_shares(a: Array, b: Array, out: Array) -> None:
    """Some rows of a at a time, or columns of b. BLAS's own threads spin on when done, in the way of ours."""
    if len(a) > b.shape[1]:
        a, b, out = b.T, a.T, out.T
    some = -(-b.shape[1] // min(64, max(8, len(a) * b.size // LITTLE)))  # not by how many threads there are
    shares = [slice(at, at + some) for at in range(0, b.shape[1], some)]
    with CREW.alone():
        CREW.run(partial(np.matmul, a, b[:, share], out[:, share]) for share in shares)
