"""The process behind the wall, for tests: the same limits and home, but it does many jobs, one line each.

`Worker` is the parent's side. The other side is a module that calls `serve`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weights_tools import isolation
from weights_tools._worker import limit

ROOT = Path(__file__).parents[1]


class Died(Exception):
    """The other process ended, or was stopped; the words say how."""


class Worker:
    """`Worker("tests.fuzz", folder).ask({...}, seconds=20)`; after a `Died` it is of no use any more."""

    def __init__(self, module: str, folder: Path, *, file_size: int = 8 << 20) -> None:
        self.folder = folder
        limits = isolation.limits_of(file_size) | {"cpu_seconds": 3600}
        self.said = (folder / "said.txt").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, "--behind", json.dumps(limits)],
            cwd=folder,
            env=isolation._environment(folder)
            | {"MINIDNN_TEST_DATA": os.environ.get("MINIDNN_TEST_DATA", "")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
        )
        self.waiting = selectors.DefaultSelector()
        self.waiting.register(self.process.stdout, selectors.EVENT_READ)

    def ask(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to one job, or how the other process ended over it."""
        try:
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has died already: there will be no answer
        if not self.waiting.select(seconds):
            self.close()
            raise Died(f"not done after {seconds:g} s")
        answer = self.process.stdout.readline()
        if not answer:
            code = self.process.wait()
            words = (self.folder / "said.txt").read_text(errors="replace").strip()[-300:]
            self.close()
            raise Died(f"{isolation._end(code)} {words}")
        return json.loads(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.said):
            with contextlib.suppress(OSError):
                pipe.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(limits: str, do: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Do what is asked until nobody asks any more; what jobs print goes elsewhere."""
    limit(json.loads(limits))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        answers.write(json.dumps(do(json.loads(line))).encode() + b"\n")
        answers.flush()


def one_job(job: dict[str, Any]) -> dict[str, Any]:
    """As `weights_tools._worker` does it."""
    from weights_tools.jobs import do

    try:
        return {"result": do(job)}
    except BaseException as error:
        return isolation.buried(error, job["what"])


if __name__ == "__main__":
    serve(sys.argv[2], one_job)
