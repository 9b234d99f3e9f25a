"""A card that is not there: the fake device calls itself "cuda", and runs all that a card would be given.

Our own kernels are compiled as C++, their threads taken one after the other; cuBLAS is played by NumPy. Both
are called as on a card, by addresses. What ran is written down, so that recordings hold it too; as with CuPy,
of all calls of cuBLAS only our own can be recorded.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace

import numpy as np

from minidnn.arrays import BACKENDS
from minidnn.kernels.cuda import blas, source
from tests import fakedevice, fakegraphs

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
ON_ONE_THREAD = """
#define __global__
struct Count { int x; };
static const Count blockIdx = {0}, threadIdx = {0}, blockDim = {1}, gridDim = {1};
"""
FLAGS = ["-O1", "-Wall", "-Werror", "-Wno-unused-function", "-shared", "-fPIC"]


@lru_cache(maxsize=64)
def by_cpp(text: str, name: str):
    """What `source.compiled` hands out, but for the host."""
    with TemporaryDirectory() as folder:
        code, library = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        code.write_text(ON_ONE_THREAD + text)
        done = subprocess.run([COMPILER, *FLAGS, "-o", library, code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        function = getattr(ctypes.CDLL(str(library)), name)

    def launch(grid, block, args):
        arrays = [getattr(arg, "host", arg) for arg in args]
        assert all(a.flags.c_contiguous for a in arrays if isinstance(a, np.ndarray))
        given = [
            ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_longlong(a)
            for a in arrays
        ]
        fakedevice.noted(function, *given, keeping=arrays)

    return launch


class Blas:
    """cuBLAS as far as we call it, on matrices that lie column by column at addresses."""

    def __init__(self):
        self.products, self.has_room, self.stream = [], False, None

    def cublasCreate_v2(self, handle):
        handle._obj.value = 7
        return 0

    def cublasSetStream_v2(self, handle, stream):
        self.stream, self.has_room = stream.value, False
        return 0 if handle.value == 7 else 1

    def cublasSetWorkspace_v2(self, handle, room, size):
        self.has_room = room.value is not None and size.value == blas.WORKSPACE
        return 0

    def cublasGemmEx(self, handle, *args):
        assert handle.value == 7 and self.has_room, "a recording must not ask for memory"
        (
            turn_a,
            turn_b,
            m,
            n,
            k,
            alpha,
            a,
            kind_a,
            ld_a,
            b,
            kind_b,
            ld_b,
            beta,
            c,
            kind_c,
            ld_c,
            compute,
            way,
        ) = args
        assert kind_a == kind_b == kind_c and way == -1 and (compute == 70) == bool(kind_a)
        number = (ctypes.c_float, ctypes.c_double)[kind_a]
        assert isinstance(alpha._obj, number) and isinstance(beta._obj, number)
        self.products.append(((n, k, m), compute))
        fakedevice.noted(
            multiplied,
            _columns(a, *((k, m) if turn_a else (m, k)), ld_a, number, turn_a),
            _columns(b, *((n, k) if turn_b else (k, n)), ld_b, number, turn_b),
            _columns(c, m, n, ld_c, number),
            alpha._obj.value,
            beta._obj.value,
        )
        return 0


def multiplied(a, b, c, alpha, beta):
    c[...] = alpha * (a @ b) + (beta * c if beta else 0)


def _columns(at, rows, columns, ld, number, turned=0):
    """The matrix that lies there, column by column, its columns ld numbers apart."""
    assert ld >= max(1, rows)
    memory = np.ctypeslib.as_array((number * (ld * columns)).from_address(at.value))
    matrix = memory.reshape(columns, ld)[:, :rows].T
    return matrix.T if turned else matrix


@contextmanager
def put_in(patch):
    """The card, as long as this lasts: what it has launched, and its cuBLAS."""
    library, launched = Blas(), []
    cupy, cuda, pathfinder = ModuleType("cupy"), ModuleType("cuda"), ModuleType("cuda.pathfinder")
    cupy.cuda = SimpleNamespace(
        **vars(fakegraphs.cuda),
        Device=lambda: SimpleNamespace(id=0),
        Memory=lambda size: SimpleNamespace(ptr=4096, size=size),
    )
    pathfinder.load_nvidia_dynamic_lib = lambda name: SimpleNamespace(abs_path=f"/there/lib{name}.so")
    cuda.pathfinder = pathfinder
    for module in (cupy, cuda, pathfinder):
        patch.setitem(sys.modules, module.__name__, module)
    patch.setattr(fakedevice.FakeLibrary, "__device__", "cuda")
    patch.setattr(fakedevice.FakeLibrary, "cuda", cupy.cuda, raising=False)
    patch.setitem(BACKENDS, "cuda", lambda: fakedevice.BACKEND)
    patch.setattr(blas, "CDLL", lambda path: library)

    def compiled(text, name):
        launched.append(name)
        return by_cpp(text, name)

    patch.setattr(source, "compiled", compiled)
    blas._on_card.cache_clear()
    yield SimpleNamespace(launched=launched, blas=library, products=library.products)
    blas._on_card.cache_clear()
