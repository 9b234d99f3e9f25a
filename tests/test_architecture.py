"""The house rules: who may import whom, how large a room may grow, and what importing the house costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("minidnn/**/*.py"), *ROOT.glob("weights_tools/**/*.py")])

FLOORS = [
    ["errors"],
    ["arrays", "window", "files"],
    ["kernels"],
    ["layers"],
    ["res", "graph"],
    ["params"],
    ["entrance"],
    ["net"],
    ["images"],
    ["rules", "gradcheck", "optim", "losses", "weights", "summary", "sizes", "tiles", "npz"],
    ["plan"],
    ["zoo", "dream", "tables"],
    ["explain", "recipes", "train"],
    ["cli", "studio"],
    ["__main__"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
READING_PATH = {room for rooms in FLOORS[:8] for room in rooms} - {"kernels"}
CUPY_ALLOWED = {"minidnn/arrays.py", "minidnn/cli/doctor.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "minidnn").parts[0].removesuffix(".py")


def imports_of(path: Path):
    """(module, line) of every import in a file, also the lazy ones inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.lineno
            if node.module == "minidnn":
                yield from ((f"minidnn.{alias.name}", node.lineno) for alias in node.names)


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("path", [p for p in SOURCES if "minidnn" in p.parts], ids=name_of)
def test_a_file_imports_only_from_lower_floors_or_its_own_room(path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in FLOOR, f"{name_of(path)}: give the new room a floor"
    for module, line in imports_of(path):
        parts = module.split(".")
        if parts[0] == "weights_tools":
            pytest.fail(f"{name_of(path)}:{line} imports weights_tools, which stands outside")
        if parts[0] == "minidnn" and len(parts) > 1 and parts[1] != room and parts[1] in FLOOR:
            above = f"{name_of(path)}:{line} imports {module}, which is not below it"
            assert FLOOR[parts[1]] < FLOOR[room], above


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_passes_400_lines(path):
    assert lines_of(path) <= 400


def test_the_reading_path_fits_an_afternoon():
    path = [p for p in SOURCES if "minidnn" in p.parts and room_of(p) in READING_PATH]
    assert sum(map(lines_of, path)) < 2400
    assert sum(lines_of(p) for p in SOURCES if "kernels" in p.parts) <= 2480


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_star_imports_and_cupy_only_behind_the_wall(path):
    tree = ast.parse(path.read_text())
    stars = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"]
    assert not stars
    if any(module.partition(".")[0] in ("cupy", "cupyx") for module, _ in imports_of(path)):
        assert name_of(path) in CUPY_ALLOWED or "kernels/cuda" in name_of(path)


def test_no_room_is_a_lumber_room():
    assert not [p for p in SOURCES if p.stem in ("utils", "misc", "common", "helpers", "util")]


def test_importing_the_house_is_quick_and_touches_nothing_heavy():
    """With NumPy, which it cannot do without, in processor time: the clock of a shared machine lies."""
    heavy = ["cupy", "scipy", "h5py", "PIL", "matplotlib", "torch", "tqdm"]
    code = f"""
import time, sys
began = time.process_time(); import numpy; numpys = time.process_time() - began
began = time.process_time(); import minidnn; ours = time.process_time() - began
assert not set({heavy}) & set(sys.modules), sorted(set({heavy}) & set(sys.modules))
print(numpys, ours)
"""
    tries = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        for _ in range(3)
    ]
    assert all(done.returncode == 0 for done in tries), tries[0].stderr
    assert min(sum(map(float, done.stdout.split())) for done in tries) < 0.3


@pytest.mark.parametrize("path", sorted(ROOT.glob("minidnn/layers/*.py")), ids=name_of)
def test_a_layer_says_what_it_computes(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
