"""MATLAB files of version 5, read by scipy after a walk through all of them.

scipy takes the type and size of every part on trust, and crashes on a wrong type: never call it without
`check`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import scipy.io
from scipy.io.matlab import MatlabFunction, MatlabObject, MatlabOpaque, mat_struct

from minidnn.errors import DamagedFileError
from weights_tools.mat5_walk import AGAIN, check
from weights_tools.matvalues import Cell, Opaque, Struct, Value


def load(path: Path) -> dict[str, Value]:
    """The variables by name."""
    check(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = scipy.io.loadmat(path, struct_as_record=False, squeeze_me=False, appendmat=False)
    except MemoryError:
        raise
    except Exception as error:  # scipy meets damage with errors of a dozen kinds
        raise DamagedFileError(f"{path}: scipy cannot read it ({error}); {AGAIN}") from error
    return {name: _value(array) for name, array in found.items() if not name.startswith("__")}


def _value(found: Any) -> Value:
    """What scipy made, as ours; `check` has bounded the depth."""
    if isinstance(found, MatlabFunction):
        return Opaque("function")
    if isinstance(found, MatlabOpaque | MatlabObject):
        return Opaque("object")
    if found.dtype.kind == "U":
        return str(found[0]) if found.size == 1 else Cell(map(str, found)) if found.size else ""
    if found.dtype.kind != "O":
        return found
    items = found.ravel(order="F")
    if found.size and all(isinstance(item, mat_struct) for item in items):
        return Struct({name: _value(vars(item)[name]) for name in item._fieldnames} for item in items)
    return Cell(map(_value, items))
