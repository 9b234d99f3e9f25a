"""The process behind the wall (isolation.py): limits itself, does one job, writes one answer.

`python -m weights_tools._worker job.json`
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from weights_tools import room


def limit(limits: dict[str, int]) -> None:
    """From here on the system itself refuses more; Windows has only the parent's clock."""
    try:
        import resource
    except ImportError:
        return
    room.limited(limits["memory"], limits["memory_for_halves"])
    wanted = {
        resource.RLIMIT_AS: limits["address_space"],
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_FSIZE: limits["file_size"],
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in wanted.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except (OSError, ValueError):  # macOS knows no limit of the address space
            continue


def end_with_the_parent() -> None:
    """Nobody waits for what is done after the parent was killed; then its end of our input closes."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(path: str) -> int:
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    job: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    limit(job["limits"])
    from weights_tools.isolation import buried  # only now, so that importing is limited too
    from weights_tools.jobs import do

    try:
        answer: dict[str, Any] = {"result": do(job)}
    except BaseException as error:
        answer = buried(error, job["what"])
    Path(path).with_name("answer.json").write_text(json.dumps(answer), encoding="utf-8")
    return 0 if "result" in answer else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
