"""The wall: foreign files are read in a process of their own, with little memory, little time and no way out.

What comes back is a sentence, or a file in our own format that the strict reader opens afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from minidnn import errors
from minidnn.errors import ConverterCrashed, MinidnnError, OutputError, TooLargeError
from minidnn.zoo.raw import MANIFEST
from weights_tools import room

# Libraries and mapped files are part of the address space: a second line of defence, and a wide one.
BASE_ADDRESSES = 2 << 30  # bytes
ADDRESSES_PER_BYTE = 8  # of the file
LONGEST = 4000  # letters of an error
BASE_SECONDS = 120
SECONDS_PER_MIB = 2
HANDED_ON = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")
ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, MinidnnError)
}


def limits_for(paths: Sequence[Path], *, and_beside: bool = False) -> dict[str, int]:
    """What reading files of this size may cost; `and_beside`: the others in their folders count too."""
    counted = list(paths)
    for path in paths:
        if and_beside or path.name == MANIFEST:
            counted += [other for other in path.parent.iterdir() if other.is_file() and other != path]
    return limits_of(sum(path.stat().st_size for path in counted))


def limits_of(size: int) -> dict[str, int]:
    """The same for so many bytes."""
    seconds = BASE_SECONDS + SECONDS_PER_MIB * (size >> 20)
    memory, halves = (room.BASE + each * size for each in (room.PER_BYTE, room.PER_BYTE_OF_HALVES))
    return {
        "memory": memory,
        "memory_for_halves": halves,
        "address_space": BASE_ADDRESSES + ADDRESSES_PER_BYTE * size,
        "cpu_seconds": seconds,
        "file_size": halves,
        "seconds": 3 * seconds,
    }


def run_job(job: dict[str, Any], folder: Path, limits: dict[str, int]) -> dict[str, Any]:
    """Do the job in a process whose home is that folder; what it says, or the error that it met."""
    written = folder / "job.json"
    try:
        written.write_text(json.dumps(job | {"limits": limits}), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}; free some space") from None
    command = [sys.executable, "-P", "-m", "weights_tools._worker", str(written)]
    with (folder / "said.txt").open("wb") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(folder), stdin=subprocess.PIPE, stdout=said, stderr=said
        )  # nothing goes through that pipe: when it closes, the other process knows that this one has ended
        try:
            code = process.wait(limits["seconds"])
        except subprocess.TimeoutExpired:
            raise ConverterCrashed(
                f"{job['what']}: not done after {limits['seconds']} s, so stopped; a damaged file?"
            ) from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
    return _understood(job, code, folder)


def _environment(folder: Path) -> dict[str, str]:
    """Nothing that is a secret, but the way to the same modules; one thread keeps memory foreseeable."""
    handed = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    modules = os.pathsep.join(str(Path(entry or ".").resolve()) for entry in sys.path)
    own = {
        "PYTHONPATH": modules,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "TEMP": str(folder),
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # it writes in its folder and nowhere else
    }
    return handed | own | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _understood(job: dict[str, Any], code: int, folder: Path) -> dict[str, Any]:
    """What came back, of which no more is believed than that it may be words."""
    answer: Any = {}
    with suppress(OSError, ValueError, RecursionError):
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    match answer:
        case {"result": dict() as result} if code == 0:
            return {name: printable(said) if isinstance(said, str) else said for name, said in result.items()}
        case {"error": str(), "words": str(), "notes": list()}:
            raise revived(answer)
    last = (folder / "said.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    words = f" (its last words: {printable(last[0])[:200]})" if last else ""
    raise ConverterCrashed(
        f"{job['what']}: the reader process {_end(code)}{words}; a damaged or hostile file?"
    )


def _end(code: int) -> str:
    """How a process ended, by its exit code."""
    if code == 0xC0000005 or code == -0x3FFFFFFB:  # Windows' access violation
        return "died (access violation)"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"died ({name}{', out of time' if name in ('SIGXCPU', 'SIGKILL') else ''})"
    return f"ended with exit code {code}"


def revived(answer: dict[str, Any]) -> MinidnnError:
    """The error that the other process met, of the same class."""
    kind = ERRORS.get(answer["error"], ConverterCrashed)
    error = kind(shortened(printable(answer["words"])))
    for note in answer.get("notes", ())[:10]:
        error.add_note(shortened(printable(str(note))))
    return error


def printable(text: str) -> str:
    """With the letters written out that a terminal would obey: a file may have them in its names."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


def shortened(text: str) -> str:
    """Its two ends; what to do stands at the second."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]} … ({len(text) - 2 * half:,} letters) … {text[-half:]}"


def buried(error: BaseException, what: str) -> dict[str, Any]:
    """An error as it goes back through the wall; one that nobody foresaw is our fault or the file's."""
    if isinstance(error, MemoryError):
        error = TooLargeError(
            f"{what}: needs more memory than a file of this size should; damaged or hostile? If you "
            "trust it, and it is only packed well, --in-process knows no limit"
        )
    elif isinstance(error, RecursionError):
        error = errors.DamagedFileError(f"{what}: nested deeper than any net; fetch it again")
    elif not isinstance(error, MinidnnError):
        words = f"{what}: the reader failed ({type(error).__name__}: {error}); damaged? --in-process --debug"
        error = ConverterCrashed(f"{words} shows where")
    error = with_its_file(error, what)
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    return {"error": type(error).__name__, "words": str(error), "notes": notes}


def with_its_file(error: MinidnnError, what: str) -> MinidnnError:
    """The same error, that begins with what was read if it names none of it."""
    if any(Path(name).name in str(error) for name in what.split(", ")):
        return error
    said = type(error)(f"{what}: {error}").with_traceback(error.__traceback__)
    for note in getattr(error, "__notes__", ()):
        said.add_note(note)
    return said
