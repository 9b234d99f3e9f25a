"""A device that is not there: arrays as strict as CuPy's, so that host arrays leaking into device code fail
here too.

A FakeArray refuses to become a NumPy array and to meet one; its library has only the names that CuPy has
(cupy_names.txt lists those of CuPy 14). What is computed is computed by NumPy, so the numbers are the same.

What crosses between host and device is written down in TRAFFIC. All that is computed passes through `_done`,
so a tape there can play it again as a CUDA graph would: without Python, on the same addresses.
"""

from __future__ import annotations

import operator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

from minidnn.arrays import Backend

NAMES = frozenset((Path(__file__).parent / "cupy_names.txt").read_text().split())
REFUSED = "Implicit conversion to a NumPy array is not allowed"
TRAFFIC: list[tuple[str, int]] = []  # ("to host" or "to device", bytes), in order
TAPES: list[list] = []  # those that record just now


class FakeArray:
    __array_ufunc__ = None  # NumPy arrays then leave every operator to us

    def __init__(self, host):
        self.host = host

    def __array__(self, *_, **__):
        raise TypeError(REFUSED)

    def __getattr__(self, name):
        if name.startswith("__"):  # __array_interface__ and its kin would let NumPy in by the back door
            raise AttributeError(name)
        found = getattr(self.host, name)
        if name in ("item", "tolist"):
            crossing("to host", self.host)
        return _wrapped(found) if callable(found) else _lift(found)

    def __getitem__(self, key):
        return _done(operator.getitem, self, key)

    def __setitem__(self, key, value):
        _done(operator.setitem, self, key, value)

    def __len__(self):
        return len(self.host)

    def __bool__(self):
        return bool(crossing("to host", self.host))

    def __int__(self):
        return int(crossing("to host", self.host))

    def __float__(self):
        return float(crossing("to host", self.host))

    def __index__(self):
        return operator.index(crossing("to host", self.host)[()])

    def __iter__(self):
        return (_lift(part) for part in self.host)

    def __repr__(self):
        return f"FakeArray{self.host.shape}"


def _operator(name):
    plain = getattr(operator, name, None) or getattr(operator, f"__{name}__")

    def forward(self, other):
        return _done(plain, self, other)

    def backward(self, other):
        return _done(plain, other, self)

    def in_place(self, other):
        self[...] = _done(plain, self, other)
        return self

    return forward, backward, in_place


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"):
    _plain = _name.rstrip("_")
    _forward, _backward, _in_place = _operator(_name)
    setattr(FakeArray, f"__{_plain}__", _forward)
    setattr(FakeArray, f"__r{_plain}__", _backward)
    setattr(FakeArray, f"__i{_plain}__", _in_place)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(FakeArray, f"__{_name}__", _operator(_name)[0])
FakeArray.__hash__ = object.__hash__
FakeArray.__neg__ = lambda self: _done(operator.neg, self)
FakeArray.__invert__ = lambda self: _done(operator.invert, self)
FakeArray.__abs__ = lambda self: _done(abs, self)


def _lower(value):
    if isinstance(value, FakeArray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a host array among device arrays")
    if isinstance(value, tuple | list):
        return type(value)(_lower(part) for part in value)
    return value


def _lift(value):
    if isinstance(value, np.ndarray | np.generic):
        return FakeArray(np.asarray(value))
    if isinstance(value, tuple | list):
        return type(value)(_lift(part) for part in value)
    return value


def _done(function, *args, **kwargs):
    """Call it with what lies behind the fake arrays."""
    args, kwargs = _lower(args), {name: _lower(value) for name, value in kwargs.items()}
    found = function(*args, **kwargs)
    lifted = _lift(found)
    for tape in TAPES:
        tape.append((function, args, kwargs, _lower(lifted)))
    return lifted


def _wrapped(function):
    def call(*args, **kwargs):
        return _done(function, *args, **kwargs)

    return call


def crossing(way, host):
    """Numbers on their way between host and device; a card that records cannot hand any out."""
    if TAPES:
        raise RuntimeError(f"operation not permitted when stream is capturing: {host.nbytes} bytes {way}")
    TRAFFIC.append((way, host.nbytes))
    return host


class FakeLibrary:
    """What `xp_of` hands out for fake arrays."""

    __device__ = "fake"

    def __getattr__(self, name):
        if name not in NAMES:
            raise AttributeError(f"CuPy has no {name!r}, so code for both libraries must do without")
        found = getattr(np, name)
        if isinstance(found, ModuleType):
            return FakeModule(found)
        return _wrapped(found) if callable(found) and not isinstance(found, type) else found

    @staticmethod
    def asarray(value, dtype=None):
        """The way from the host onto the device, as in CuPy."""
        if isinstance(value, FakeArray):
            return _done(np.asarray, value, dtype)
        return FakeArray(crossing("to device", np.asarray(value, dtype)))


class FakeModule:
    """A part of the library, such as xp.fft; CuPy's has the names of NumPy's there."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        return _wrapped(getattr(self.module, name))


FakeArray.__xp__ = FakeLibrary()
BACKEND = Backend(
    put=lambda x: FakeArray(crossing("to device", x.copy())),
    get=lambda x: crossing("to host", x.host).copy(),
    wait=lambda: None,
)
xp = FakeArray.__xp__
fake = SimpleNamespace(xp=xp, put=BACKEND.put, get=BACKEND.get)
