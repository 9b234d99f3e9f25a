"""A net of the zoo with the weights of a file, if they are its weights."""

from __future__ import annotations

import os

from minidnn.errors import FileFormatError, MismatchError
from minidnn.net import Net
from minidnn.zoo.raw import is_raw, load_raw

RAW = {"inception-v3-stem"}  # nets that are published as a folder of raw files
SHOWN = 5  # of what does not fit


def with_weights(net: Net, name: str, path: str | os.PathLike, *, own_layers: bool = False) -> Net:
    """The net in that file, or a MismatchError if it is another net than this one.

    With `own_layers` this net's layers get the file's numbers: the file may know no dropout.
    """
    if is_raw(path):
        if name not in RAW:
            raise FileFormatError(f"{path}: a folder, and {name} wants one file of weights; name the file")
        return load_raw(net, path)
    from minidnn import weights  # here, so that looking at nets does not wait for h5py

    found = weights.load(path)
    wrong = differences(net, found)
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        advice = f"give the file of {name}, or see what it holds: minidnn weights inspect {path}"
        raise MismatchError(f"{path}: not {name}: {'; '.join(wrong[:SHOWN])}{more}; {advice}")
    if not own_layers:
        return found
    about = {name: found.about[name] for name in ("preprocess", "classes", "source")}
    filled = net.replacing(found.params | found.buffers)
    return filled.with_nodes(filled.nodes, **about)


def differences(wanted: Net, found: Net) -> list[str]:
    """In words, where the names or the shapes of two nets' arrays differ."""
    mine = {name: array.shape for name, array in (wanted.params | wanted.buffers).items()}
    theirs = {name: array.shape for name, array in (found.params | found.buffers).items()}
    words = [f"{name!r} is missing" for name in mine.keys() - theirs.keys()]
    words += [f"{name!r} is of no use" for name in theirs.keys() - mine.keys()]
    words += [
        f"{name!r} is {theirs[name]}, expected {shape}"
        for name, shape in mine.items()
        if theirs.get(name, shape) != shape
    ]
    return sorted(words)
