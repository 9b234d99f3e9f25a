"""Matrix products by cuBLAS itself, where CuPy's way there does not do: to add onto what is there, to round
factors, and to be recorded as a CUDA graph. Sums are float32 or finer, always.
"""

from __future__ import annotations

from contextvars import ContextVar
from ctypes import CDLL, byref, c_double, c_float, c_size_t, c_void_p
from functools import lru_cache
from threading import get_ident
from typing import Any

from minidnn.arrays import Array, xp_of
from minidnn.errors import DeviceError, ShapeError

# Of cublas_api.h: what factors may be rounded to.
COMPUTE = {"": 68, "tf32": 77, "bfloat16": 75, "float16": 74}
WORKSPACE = 1 << 25  # bytes: what cuBLAS wants on a Hopper card
RECORDING = ContextVar("RECORDING", default=False)  # from the first warm-up on, so that these warm up


def gemm(a: Array, b: Array, out: Array, add: bool, factors: str) -> Array:
    """out = a @ b, + out with `add`. BLAS goes column by column and finds all turned: outᵀ = bᵀ @ aᵀ."""
    (m, k), n, single = a.shape, b.shape[1], a.dtype.char == "f"
    kind, number, compute = (0, c_float, COMPUTE[factors]) if single else (1, c_double, 70)
    if b.shape[0] != k or out.shape != (m, n) or not out.flags.c_contiguous or out.dtype != a.dtype:
        raise ShapeError(f"no product of {a.shape} and {b.shape} into {out.dtype} {out.shape}, in one piece")
    if not (m and n and k):
        return out if add else out.fill(0) or out
    (b, turn_b, step_b), (a, turn_a, step_a) = _laid_out(b), _laid_out(a)
    sides = turn_b, turn_a, n, m, k, byref(number(1)), at(b), kind, step_b, at(a), kind, step_a
    library, handle = opened()
    if status := library.cublasGemmEx(handle, *sides, byref(number(add)), at(out), kind, n, compute, -1):
        raise DeviceError(f"cuBLAS does not multiply {m}x{k} by {k}x{n}: its status is {status}")
    return out


def _laid_out(x: Array) -> tuple[Array, int, int]:
    """x in one piece; whether BLAS has to turn it; and the numbers from one of its lines to the next."""
    if x.flags.f_contiguous and not x.flags.c_contiguous:
        return x, 1, x.shape[0]
    return xp_of(x).ascontiguousarray(x), 0, x.shape[1]


def at(x: Array) -> c_void_p:
    return c_void_p(x.data.ptr)


def opened() -> tuple[Any, c_void_p]:
    """cuBLAS, and a handle on the stream of now with memory of ours: a recording may not ask for any."""
    import cupy

    library, handle, room = _on_card(cupy.cuda.Device().id, get_ident())
    stream, ours = c_void_p(cupy.cuda.get_current_stream().ptr), (c_void_p(room.ptr), c_size_t(WORKSPACE))
    if library.cublasSetStream_v2(handle, stream) or library.cublasSetWorkspace_v2(handle, *ours):
        raise DeviceError("cuBLAS takes neither stream nor memory; minidnn doctor tries it out")
    return library, handle


@lru_cache(maxsize=16)
def _on_card(card: int, thread: int) -> tuple[Any, c_void_p, Any]:
    try:
        import cupy
        from cuda.pathfinder import load_nvidia_dynamic_lib

        library, handle = CDLL(load_nvidia_dynamic_lib("cublas").abs_path), c_void_p()
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(f"cuBLAS is not found ({error}); minidnn doctor says how to mend it") from None
    if library.cublasCreate_v2(byref(handle)):
        raise DeviceError("cuBLAS does not start; minidnn doctor tries it out")
    return library, handle, cupy.cuda.Memory(WORKSPACE)
