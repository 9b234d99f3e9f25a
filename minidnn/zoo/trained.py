"""Nets that minidnn has trained itself, and whose weights come with it: docs/tiny.md says how."""

from __future__ import annotations

import os
from pathlib import Path

from minidnn.errors import UsageError
from minidnn.net import Net

TRAINED = {"tiny": Path(__file__).with_name("tiny.h5")}


def trained(name: str) -> Net:
    """The net of that name with all that it has learned."""
    if name not in TRAINED:
        raise UsageError(f"{name!r} does not come trained; {', '.join(TRAINED)} does, others want a file")
    from minidnn import weights  # here, so that looking at nets does not wait for h5py

    return weights.load(TRAINED[name])


def file_of(net: str | os.PathLike) -> str:
    """The file of weights that is meant: one that comes with minidnn, by its net's name, or any other."""
    return os.fspath(TRAINED.get(os.fspath(net), net))
