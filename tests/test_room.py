"""How much memory the reading process may take: what is its own is counted, what is mapped is not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from weights_tools import room
from weights_tools.isolation import limits_of

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux counts so")

BEGIN = """
import mmap, sys
import numpy as np
from weights_tools import room

MIB = 1 << 20

def fits(mib):
    try:
        np.empty(mib * MIB, np.uint8)
    except MemoryError:
        return False
    return True

room.limited(400 * MIB, 900 * MIB)
"""


def told(script: str, *args: str) -> str:
    command = [sys.executable, "-c", BEGIN + script, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_a_process_takes_for_itself_has_a_limit_and_what_it_maps_has_none(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2 << 30)
    script = """
with open(sys.argv[1], "rb") as file:
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print(fits(100), fits(450), len(held) // MIB)
"""
    assert told(script, str(tmp_path / "large")) == "True False 2048"


def test_half_precision_makes_it_give_way_by_what_single_takes_and_never_beyond_the_end():
    script = """
room.give_way(np.broadcast_to(np.float32(0), 200 * MIB))
print(fits(450), end=" ")
room.give_way(np.broadcast_to(np.float16(0), 60 * MIB))
print(fits(450), fits(700), end=" ")
room.give_way(np.broadcast_to(np.float16(0), 900 * MIB))
print(fits(700), fits(950))
"""
    assert told(script) == "False True False True False"


def test_without_a_limit_nothing_gives_way():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    room.give_way(np.zeros(3, "f2"))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_limits_are_what_the_documentation_promises():
    nothing, some = limits_of(0), limits_of(100)
    assert nothing["memory"] == nothing["memory_for_halves"] == 512 << 20
    assert (some["memory"] - nothing["memory"], some["memory_for_halves"] - nothing["memory"]) == (200, 400)
