"""Where an array lives. Nothing is global: the array itself says which library computes with it.

`xp_of(x)` is NumPy for host arrays and CuPy for device arrays, and CuPy is imported only if somebody asks for
it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidnn.errors import DeviceError, MinidnnError, TooLargeError, UsageError

Array = Any  # numpy.ndarray or cupy.ndarray: the same names, so one code serves both


def xp_of(*arrays: Array) -> Any:
    """The library (numpy, cupy) that all these arrays belong to; host and device together is an error."""
    first = _home(arrays[0])
    for other in arrays[1:]:
        if other is not None and _home(other) is not first:
            raise DeviceError(
                f"{_described(arrays[0])} meets {_described(other)}: move one of them, "
                f'e.g. net.to("cuda") before forwardto, or minidnn.to_host(x)'
            )
    return first


def _home(x: Array) -> Any:
    if isinstance(x, np.ndarray | np.generic):
        return np
    xp = getattr(x, "__xp__", None)  # what an array library of another kind may declare
    if xp is not None:
        return xp
    if type(x).__module__.partition(".")[0] == "cupy":
        import cupy

        return cupy
    raise UsageError(f"wanted an array, found {type(x).__name__}; numpy.asarray(x) makes one of a list")


def _described(x: Array) -> str:
    return f"{'host' if _home(x) is np else 'device'} array {tuple(x.shape)}"


class Backend(NamedTuple):
    """How arrays come to a device, leave it, and how to wait until its work is done."""

    put: Callable[[Array], Array]
    get: Callable[[Array], np.ndarray]
    wait: Callable[[], None]


def _cuda() -> Backend:
    try:
        import cupy
    except ModuleNotFoundError:
        how = "pip install 'minidnn[cuda13]' (or [cuda12] for an older driver)"
        raise DeviceError(f"CuPy is not installed: {how}") from None
    except ImportError as error:
        raise DeviceError(f"CuPy does not load ({error}); minidnn doctor says how to mend it") from None
    if not cupy.cuda.is_available():
        raise DeviceError("CuPy is installed, but finds no usable GPU; minidnn doctor says what is missing")
    return Backend(cupy.asarray, cupy.asnumpy, lambda: cupy.cuda.get_current_stream().synchronize())


def _cpu() -> Backend:
    return Backend(np.asarray, np.asarray, lambda: None)


BACKENDS: dict[str, Callable[[], Backend]] = {"cpu": _cpu, "cuda": _cuda}


def chosen_device(name: str) -> tuple[str, str]:
    """The device for what was asked for, and why: "auto" takes a GPU that works, else the CPU.

    "auto" never fails, and any other name does if that device is not there.
    """
    if name != "auto":
        backend(name)
        return name, "as asked"
    try:
        here = backend("cuda")
    except DeviceError as error:
        return "cpu", f"no GPU can be used: {error}"
    try:
        counted = int(here.get(here.put(np.arange(3.0)) * 2).sum())
    except Exception as error:  # whatever a broken installation comes up with
        return "cpu", f"there is a GPU, but it does not compute: {type(error).__name__}: {error}"
    return ("cuda", "there is a GPU") if counted == 6 else ("cpu", "there is a GPU, but it computes wrongly")


def no_room(error: MemoryError) -> MinidnnError:
    """What to do about memory that has run out, the GPU's or the host's."""
    advice = "take a smaller size, or let --max-memory cut the work into tiles"
    if type(error).__name__ == "OutOfMemoryError":  # CuPy's
        return DeviceError(f"the GPU has no room left ({error}); {advice}, or --device cpu")
    return TooLargeError(f"there is no room left ({str(error) or 'out of memory'}); {advice}")


def backend(device: str) -> Backend:
    """The backend of that name; a name we do not know, or a device that is not there, says what to do."""
    if device not in BACKENDS:
        raise DeviceError(f"no device {device!r}; there are {', '.join(BACKENDS)}")
    return BACKENDS[device]()


def device_of(x: Array) -> str:
    """'cpu', 'cuda', … : the name to move other arrays to, so that they meet this one."""
    home = _home(x)
    return "cpu" if home is np else getattr(home, "__device__", "cuda")


def to_device(x: Array, device: str) -> Array:
    """The same numbers on that device; the very same array if it is there already."""
    if device_of(x) == device:
        return x
    return backend(device).put(to_host(x))


def to_host(x: Array) -> np.ndarray:
    """The same numbers as a NumPy array, wherever they are now."""
    return backend(device_of(x)).get(x)


def synchronize(x: Array) -> None:
    """Wait until the device of x has done its work, so that a clock tells the truth."""
    if _home(x) is not np:
        backend(device_of(x)).wait()
