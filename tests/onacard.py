"""`make test-gpu`: all tests where there is a GPU; what came of them is kept beside the races' results."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from benchmarks.card import facts
from benchmarks.race import record
from minidnn.arrays import backend
from minidnn.errors import DeviceError


class Outcomes:
    """How many tests ended how, and which failed; of tests on a GPU they are counted by themselves."""

    def __init__(self):
        self.all, self.on_card, self.failed = Counter(), Counter(), []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.all[report.outcome] += 1
            self.on_card[report.outcome] += "[cuda" in report.nodeid or "-cuda" in report.nodeid
            if report.failed:
                self.failed.append(report.nodeid)

    def told(self):
        return {"tests": dict(self.all), "of these on the card": dict(self.on_card), "failed": self.failed}


def main(argv: list[str]) -> int:
    try:
        backend("cuda")
    except DeviceError as error:
        print(f"make test-gpu: {error}", file=sys.stderr)
        return error.exit_code
    outcomes = Outcomes()
    code = int(pytest.main(argv, plugins=[outcomes]))
    print("kept in", record("test-gpu", {"card": facts("cuda"), "exit": code, **outcomes.told()}).name)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
