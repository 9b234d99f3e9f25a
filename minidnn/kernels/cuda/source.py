"""Our own kernels for a GPU: text, compiled for a card when it is first asked for.

Each runs once for every number that it writes, and says which plain code it stands for: on a machine without
a card the tests compile the same text as C++ and compare it with that twin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from minidnn.arrays import Array, device_of

HEAD = """
typedef long long Int;
#define EACH(at, count) \\
  for (At at = blockIdx.x * (At)blockDim.x + threadIdx.x; at < count; at += (At)gridDim.x * blockDim.x)
"""
IN_C = {"float32": "float", "float64": "double", "uint8": "unsigned char", "int32": "int"}
IN_C["int64"] = "long long"
THREADS = 256  # in one block
MOST_BLOCKS = 1 << 16
SHORT = 1 << 30  # up to so many numbers a place is an int, by which a card divides far sooner


@dataclass(frozen=True)
class Kernel:
    """`name(count, arrays…, numbers…)`. T is the kind of the first, S of switches, At of places."""

    name: str
    twin: str  # "module:function"
    text: str

    def __call__(self, y: Array, *args: Any, switches: Array = None) -> None:
        """Run for every number of y, which comes last among the arrays."""
        largest = max(arg.size for arg in (y, *args) if not isinstance(arg, int))
        at = "int32" if largest < SHORT else "int64"
        source = self.source(args[0].dtype.name, at, "uint8" if switches is None else switches.dtype.name)
        if y.size:
            blocks = min(-(-y.size // THREADS), MOST_BLOCKS)
            compiled(source, self.name)((blocks,), (THREADS,), (y.size, *args))

    def source(self, t: str, at: str, s: str = "uint8") -> str:
        """The whole text for these kinds of numbers."""
        kinds = {"T": t, "At": at, "S": s}  # no macros: NVRTC's own headers have a T too
        meant = "".join(f"typedef {IN_C[kind]} {letter};\n" for letter, kind in kinds.items())
        head, _, body = self.text.strip().partition("{")
        return f'{meant}{HEAD}extern "C" __global__ void {self.name}(Int count, {head.strip()}) {{{body}\n'


@lru_cache(maxsize=256)
def compiled(source: str, name: str) -> Any:
    import cupy

    return cupy.RawKernel(source, name)


def ready(*arrays: Array) -> bool:
    """Whether all these lie on a card, in one piece, and are of one kind of float."""
    first = arrays[0]
    return all(
        device_of(a) == "cuda" and a.flags.c_contiguous and a.dtype == first.dtype and a.dtype.char in "fd"
        for a in arrays
    )
