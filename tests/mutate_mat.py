"""Thousands of damaged copies of a .mat file, each read: `python -m tests.mutate_mat FILE COUNT [SEED]`.

It prints which errors they end in; what is no error of ours ends it, and a crash too.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from minidnn.errors import MinidnnError
from weights_tools.readers import matconvnet

NASTY = [0, 1, 7, 8, 10, 14, 15, 16, 17, 18, 19, 20, 0x7F, 0x80, 0xFF]


def damaged(original: bytes, rng: np.random.Generator) -> bytes:
    """A copy with a few bytes changed, a word set to something nasty, or a piece cut out or doubled."""
    copy = bytearray(original)
    kind = rng.integers(6)
    at = int(rng.integers(len(copy)))
    if kind <= 1:
        for place in rng.integers(len(copy), size=int(rng.integers(1, 4))):
            copy[place] = int(rng.integers(256))
    elif kind <= 3:
        word = at // 4 * 4
        copy[word : word + 4] = int(rng.choice([*NASTY, 70_000, 1 << 31, (1 << 32) - 1])).to_bytes(
            4, "little"
        )
    elif kind == 4:
        copy[at] = int(rng.choice(NASTY))
    else:
        length = int(rng.integers(1, 64))
        copy[at:at] = copy[at : at + length] if rng.random() < 0.5 else b""
        del copy[at : at + length * int(rng.integers(2))]
    return bytes(copy)


def main(path: str, count: int, seed: int = 0) -> None:
    """Read that many damaged copies."""
    warnings.simplefilter("error")
    original, found = Path(path).read_bytes(), Counter[str]()
    with TemporaryDirectory() as folder:
        copy = Path(folder, "a.mat")
        for number in range(seed, seed + count):
            copy.write_bytes(damaged(original, np.random.default_rng(number)))
            print(number, file=sys.stderr, flush=True)  # the last one, should it crash
            try:
                matconvnet.read(copy)
                found["read"] += 1
            except MinidnnError as error:
                found[type(error).__name__] += 1
    print(*(f"{name}={times}" for name, times in sorted(found.items())))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
