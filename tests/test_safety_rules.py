"""What no line of ours may do: run what a file says. Read off the syntax trees of all that is shipped.

That HDF5 is read through one door is in test_guarded.py.
"""

from __future__ import annotations

import ast

import pytest

from tests.test_architecture import ROOT, imports_of, name_of

SHIPPED = sorted([*ROOT.glob("minidnn/**/*.py"), *ROOT.glob("weights_tools/**/*.py")])
NEVER_IMPORTED = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
}
NEVER_IMPORTED |= {"torch", "tensorflow", "keras", "onnx", "safetensors", "imp", "runpy", "code"}
NEVER_CALLED = {"eval", "exec", "compile", "__import__"}
BY_NAME = {"import_module", "load_source", "exec_module", "resolve_name"}
RUNS_WHAT_THE_USER_WROTE = {"minidnn/cli/layers.py"}  # a net in Python, named by its file


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_nothing_in_a_file_is_ever_run(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = {"runpy"} if name_of(path) in RUNS_WHAT_THE_USER_WROTE else set()
    assert not {module.partition(".")[0] for module, _ in imports_of(path)} & NEVER_IMPORTED - allowed
    for name, call in calls(tree):
        last = name.rpartition(".")[2]
        assert name not in NEVER_CALLED, f"line {call.lineno}: {name}"
        if last in BY_NAME:
            assert all(isinstance(arg, ast.Constant) for arg in call.args), f"line {call.lineno}: {name}"
        if name in ("os.system", "os.popen") or any(word.arg == "shell" for word in call.keywords):
            pytest.fail(f"line {call.lineno}: {name} starts a shell")


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_numpy_never_unpickles(path):
    for name, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
        if name in ("np.load", "numpy.load", "np.lib.format.read_array", "np.savez", "np.save"):
            said = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert said.get("allow_pickle") == "False", f"line {call.lineno}: {name}"
        assert name not in ("np.fromregex", "np.genfromtxt", "np.loadtxt", "torch.load")


def test_zip_archives_are_never_unpacked_to_the_disk():
    for path in SHIPPED:
        for name, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            assert not name.endswith((".extract", ".extractall", "unpack_archive")), f"{path}:{call.lineno}"
