"""A device that is not there: arrays as strict as CuPy's, so that host arrays leaking into device code fail
here too.

A FakeArray refuses to become a NumPy array and to meet one; it and its library have only the names that CuPy
has, and take only its arguments (cupy_names.txt lists those of CuPy 14). What is computed is computed by
NumPy, so the numbers are the same.

What crosses between host and device is written down in TRAFFIC. All that is computed passes through `_done`,
so a tape there can play it again as a CUDA graph would: without Python, on the same addresses.
"""

from __future__ import annotations

import operator
from types import ModuleType, SimpleNamespace

import numpy as np

from minidnn.arrays import Backend
from tests import cupynames

NAMES = cupynames.known()
REFUSED = "Implicit conversion to a NumPy array is not allowed"
TRAFFIC: list[tuple[str, int]] = []  # ("to host" or "to device", bytes), in order
TAPES: list[list] = []  # those that record just now
MADE = []  # who wants to hear of each array
BY_CUBLAS = ("matmul", "dot", "tensordot", "einsum", "inner", "vdot")  # what CuPy refuses to record


class FakeArray:
    __array_ufunc__ = None  # NumPy arrays then leave every operator to us

    def __init__(self, host):
        self.host = host

    def __array__(self, *_, **__):
        raise TypeError(REFUSED)

    def __getattr__(self, name):
        if name.startswith("__"):  # __array_interface__ and its kin would let NumPy in by the back door
            raise AttributeError(name)
        call, found = _known(f".{name}"), getattr(self.host, name)
        if name in ("item", "tolist"):
            crossing("to host", self.host)
        return _wrapped(found, call) if callable(found) else _lift(found)

    @property
    def data(self):
        return SimpleNamespace(ptr=self.host.ctypes.data)

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
    into = getattr(operator, f"__i{name.rstrip('_')}__", None)  # comparisons have none

    def forward(self, other):
        return _done(plain, self, other)

    def backward(self, other):
        return _done(plain, other, self)

    def in_place(self, other):
        _done(into, self, other)  # as CuPy: without memory of its own
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
        lifted = FakeArray(np.asarray(value))
        for made in MADE:
            made(lifted)
        return lifted
    if isinstance(value, tuple | list):
        return type(value)(_lift(part) for part in value)
    return value


def _done(function, *args, **kwargs):
    """Call it with what lies behind the fake arrays."""
    args, kwargs = _lower(args), {name: _lower(value) for name, value in kwargs.items()}
    if TAPES and getattr(function, "__name__", "") in BY_CUBLAS:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    found = function(*args, **kwargs)
    lifted = _lift(found)
    for tape in TAPES:
        tape.append((function, args, kwargs, _lower(lifted)))
    return lifted


def noted(function, *args, keeping=()):
    """Call it with what a card would be given, and let recordings hold it, and what it works on."""
    function(*args)
    for tape in TAPES:
        tape.append((lambda *_: function(*args), (keeping,), {}, None))


def _known(name):
    """How CuPy lets it be called."""
    if name not in NAMES:
        raise AttributeError(f"CuPy has no {name!r}, so code for both libraries must do without")
    return NAMES[name]


def _wrapped(function, call=None):
    def checked(*args, **kwargs):
        if call is not None and (why := call.refuses(args, kwargs)):
            raise TypeError(f"CuPy's {function.__name__} {why}")
        return _done(function, *args, **kwargs)

    return checked


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
        call, found = _known(name), getattr(np, name)
        if isinstance(found, ModuleType):
            return FakeModule(found)
        return _wrapped(found, call) if callable(found) and not isinstance(found, type) else found

    @staticmethod
    def asarray(value, dtype=None):
        """The way from the host onto the device, as in CuPy."""
        if isinstance(value, FakeArray):
            return _done(np.asarray, value, dtype)
        return _lift(crossing("to device", np.array(value, dtype)))


class FakeModule:
    """A part of the library, such as xp.fft."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        call = _known(f"{self.module.__name__.removeprefix('numpy.')}.{name}")
        return _wrapped(getattr(self.module, name), call)


FakeArray.__xp__ = FakeLibrary()
BACKEND = Backend(
    put=lambda x: _lift(crossing("to device", x.copy())),
    get=lambda x: crossing("to host", x.host).copy(),
    wait=lambda: None,
)
xp = FakeArray.__xp__
fake = SimpleNamespace(xp=xp, put=BACKEND.put, get=BACKEND.get)
