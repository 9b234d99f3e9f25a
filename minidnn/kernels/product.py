"""Matrix products: the @ of NumPy and CuPy; what CuPy has none for, cuBLAS is asked itself (cuda/blas.py)."""

from __future__ import annotations

from minidnn.arrays import Array, device_of, xp_of
from minidnn.kernels.cuda import blas


def product(a: Array, b: Array, out: Array = None, *, add: bool = False, factors: str = "") -> Array:
    """a @ b, into `out` or with `add` onto what is there. A card may round factors to `factors`."""
    xp, beyond_cupy = xp_of(a, b, out), add or factors or blas.RECORDING.get()
    if beyond_cupy and device_of(a) == "cuda" and a.dtype == b.dtype and a.dtype.char in "fd":
        out = xp.empty((len(a), b.shape[1]), a.dtype) if out is None else out
        return blas.gemm(a, b, out, add, factors)
    if not add:
        return a @ b if out is None else xp.matmul(a, b, out=out)
    out += a @ b
    return out
