"""How much memory the process behind the wall may take, and when that gives way.

Counted is what belongs to it alone (RLIMIT_DATA): no libraries, and no files that are mapped, which the
system drops when it needs the room. So the limit can be near to what is promised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the limits are there before NumPy is
    import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

BASE = 512 << 20  # bytes: Python, NumPy, SciPy and HDF5, and a picture on its way through the net
PER_BYTE = 2  # of the file: as it was read, and as it will be written
PER_BYTE_OF_HALVES = 4  # half precision becomes single


def limited(soft: int, hard: int) -> None:
    """From here on the system refuses more than `soft`, and more than `hard` whatever is found."""
    if resource is None:
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    hard = hard if most == resource.RLIM_INFINITY else min(hard, most)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (min(soft, hard), hard))
    except (OSError, ValueError):  # a system that knows no such limit
        return


def give_way(halves: np.ndarray) -> None:
    """Numbers in half precision are about to become single: the limit gives way by what that takes."""
    if resource is None or halves.itemsize != 2:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY:
        more = (PER_BYTE_OF_HALVES - PER_BYTE) * halves.nbytes
        resource.setrlimit(resource.RLIMIT_DATA, (min(soft + more, hard), hard))
