"""Thousands of damaged copies of real files, each converted: `python -m tests.fuzz`, a long job (make fuzz).

Each ends in a net that is whole, or in an error of ours that names the file. All else is a finding: a crash,
a hang, too much memory, a look at or a mark on another file. Findings are kept with their bytes; a case is
made again by `--again SEED/READER/NUMBER`, all that were found by `--recheck`. Called again with the same
seed it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from tests import fuzz_targets, mutations
from tests.fuzz_targets import READERS, Target
from tests.longworker import ROOT, Died, Worker, serve
from weights_tools import isolation

SECONDS = 60  # for one case, on a machine that has other things to do
CASES_A_WORKER = 300
SLACK = 64 << 20  # bytes that any reading may need beside the file: modules, tables, the allocator's rounding
TWICE, FOUR_TIMES = 2, 4  # the file's memory; of half precision, which becomes float32
PIXELS = (64 << 20) * 3 * 6  # bytes that a picture may need, which is limited by its pixels
FEATHERS = "yellow feathers 7f3a"  # what only the canary has
EXPECTED = ("UsageError", "OutputError")  # "name the weights too", "float16 cannot hold this"
BANNED = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect")
BANNED += ("socket.bind", "pickle.find_class")


def mutant(target: Target, whole: bytes, rng: Random) -> bytes:
    """A damaged copy, by one or two mutations; half of them know the format."""
    data = whole
    for _ in range(rng.choice([1, 1, 1, 2])):
        change = rng.choice([target.change, target.change, mutations.blind, mutations.blind, _spliced])
        try:
            data = change(data, rng) or b"\0"
        except Exception:  # a mutation that knows the format does not get along with what the last one did
            data = mutations.blind(data, rng) or b"\0"
    return data


def _spliced(data: bytes, rng: Random) -> bytes:
    """The beginning of this file and the end of another."""
    other = fuzz_targets.bytes_of(rng.choice(fuzz_targets.small()))
    return data[: mutations.place(data, rng)] + other[mutations.place(other, rng) :]


def rng_of(seed: int, reader: str, number: int) -> Random:
    return Random(f"{seed}/{reader}/{number}")


def made(seed: int, reader: str, number: int) -> tuple[Target, bytes, Random]:
    """The case of that number: what it is made of, its bytes, and its dice."""
    rng = rng_of(seed, reader, number)
    targets = READERS[reader]
    target = rng.choices(targets, [target.weight for target in targets])[0]
    return target, mutant(target, fuzz_targets.bytes_of(target.files[0]), rng), rng


# Behind the wall.


class Watch:
    """What this process opens, starts and calls, as Python sees it; and the memory that it needs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen, self.awake = str(folder), [], False
        self.readable = [*sys.path, sys.prefix, sys.base_prefix, str(ROOT), "/proc/", "/sys/", "/dev/null"]
        self.readable += ["/usr/lib", "/usr/share/zoneinfo", "/lib"]
        sys.addaudithook(self.hear)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.awake:
            return
        if event in BANNED:
            self.seen.append(f"{event} {args}")
        if event == "open" and isinstance(args[0], str | bytes):
            path = os.path.abspath(os.fsdecode(args[0]))
            writes = bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if path.startswith((self.folder, "/proc/self")):
                return
            if writes or not path.startswith(tuple(filter(None, self.readable))):
                self.seen.append(f"open {path} to {'write' if writes else 'read'}")

    def begin(self) -> None:
        self.seen = []
        self.awake = True
        self.before = self._memory("VmRSS")
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        except OSError:
            self.before = 0

    def peak(self) -> int:
        return max(0, self._memory("VmHWM") - self.before) if self.before else 0

    @staticmethod
    def _memory(what: str) -> int:
        try:
            status = Path("/proc/self/status").read_text()
        except OSError:
            return 0
        return int(status.split(f"{what}:")[1].split()[0]) << 10


def behind(limits: str) -> None:
    """The loop of the other process."""
    folder = Path.cwd()
    fuzz_targets.import_readers()
    watch = Watch(folder)
    serve(limits, lambda job: _case(job, folder, watch))


def _case(job: dict[str, Any], folder: Path, watch: Watch) -> dict[str, Any]:
    if not job:  # only asked whether we are there
        return {}
    target, data, rng = made(job["seed"], job["reader"], job["number"])
    paths = fuzz_targets.put(target, data, folder)
    output = folder / "net.h5"
    output.unlink(missing_ok=True)
    before, marks = set(os.listdir(folder)), {}
    watch.begin()
    try:
        message = target.run(paths, output, rng, lambda: marks.setdefault("read", watch.peak()))
        outcome = "converted"
    except BaseException as error:
        outcome = type(error).__name__
        message = str(isolation.revived(isolation.buried(error, paths[0].name)))
        finding = _wrong_error(error, message, paths)
    else:
        finding = None
    needed = marks.get("read", watch.peak())
    watch.awake = False
    size, factor = sum(path.stat().st_size for path in paths), FOUR_TIMES if target.half else TWICE
    if needed > (PIXELS if job["reader"] == "image" else factor * size + SLACK):
        finding = finding or f"reading needed {needed:,} bytes"
    if watch.seen:
        finding = "; ".join(watch.seen)[:500]
    if FEATHERS in message or (output.exists() and FEATHERS.encode() in output.read_bytes()):
        finding = "the canary was read"
    if stray := set(os.listdir(folder)) - before - {output.name}:
        finding = f"wrote {stray}"
    if sorted(os.listdir(folder.parent / "canary")) != ["secret.h5", "secret.txt"]:
        finding = "wrote beside the canary"
    return {"outcome": outcome, "finding": finding, "message": message[:500], "memory": needed}


def _wrong_error(error: BaseException, message: str, paths: list[Path]) -> str | None:
    from minidnn.errors import ConverterCrashed, FileError

    kind = type(error).__name__
    if (not isinstance(error, FileError) and kind not in EXPECTED) or isinstance(error, ConverterCrashed):
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
        return f"{kind} at {place}: {message[:300]}"
    if not any(path.name in message for path in paths):
        return f"{kind} names no file: {message[:300]}"
    if not message.replace("\n", "").isprintable():
        return f"{kind} has letters that a terminal obeys: {message[:300]!r}"
    if len(message) > isolation.LONGEST + 100:
        return f"{kind} has {len(message):,} letters"
    return None


# This side.


class Job:
    """Counts that are kept between calls, and the workers that add to them."""

    def __init__(
        self, folder: Path, seed: int, readers: list[str], cases: int, workers: int, recheck: bool
    ) -> None:
        self.folder, self.seed, self.workers = folder, seed, workers
        folder.mkdir(parents=True, exist_ok=True)
        self.kept = folder / f"counts-{seed}.json"
        known = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        self.counts = {reader: Counter(known.get(reader, {})) for reader in READERS}
        share = -(-cases // len(readers))
        self.left = [
            (reader, number)
            for number in range(share)
            for reader in readers
            if number >= self.counts[reader]["cases"]
        ]
        if recheck:
            self.left = self._found_before()
        self.bar = tqdm(total=len(self.left), unit="case", smoothing=0.05)
        self.findings: list[str] = []
        self.lock = threading.Lock()
        self.left.reverse()

    def _found_before(self) -> list[tuple[str, int]]:
        """The findings of that seed, which are forgotten: what is still wrong will be found again."""
        noted = self.folder / "findings.txt"
        names = [
            line.split(" ")[0].split("/") for line in noted.read_text().splitlines() if line[:1].isdigit()
        ]
        noted.replace(noted.with_suffix(".before"))
        self.counts = {reader: Counter() for reader in READERS}
        self.kept = self.folder / f"recheck-{self.seed}.json"
        return list(dict.fromkeys((reader, int(n)) for seed, reader, n in names if int(seed) == self.seed))

    def run(self) -> None:
        """All cases; an error of our own, such as a worker that cannot begin, ends the job."""
        try:
            with ThreadPoolExecutor(self.workers) as pool:
                working = [pool.submit(self._work) for _ in range(self.workers)]
                try:
                    for one in as_completed(working):
                        one.result()
                except BaseException:
                    self.left.clear()
                    raise
        except KeyboardInterrupt:
            pass
        finally:
            self.bar.close()
            self._keep()

    def _work(self) -> None:
        while self.left:
            with tempfile.TemporaryDirectory(prefix="minidnn-fuzz-") as home:
                fuzz_targets.put_canary(Path(home) / "canary", FEATHERS)
                folder = Path(home) / "home"
                folder.mkdir()
                with Worker("tests.fuzz", folder) as worker:
                    self._cases(worker)

    def _cases(self, worker: Worker) -> None:
        worker.ask({}, SECONDS)  # who cannot even begin has found nothing: let it fail here
        for _ in range(CASES_A_WORKER):
            with self.lock:
                if not self.left:
                    return
                reader, number = self.left.pop()
            job = {"seed": self.seed, "reader": reader, "number": number}
            try:
                said = worker.ask(job, SECONDS)
            except Died as error:
                self._note(reader, number, {"outcome": "died", "finding": str(error), "memory": 0})
                return
            self._note(reader, number, said)

    def _note(self, reader: str, number: int, said: dict[str, Any]) -> None:
        with self.lock:
            counts = self.counts[reader]
            counts["cases"] += 1
            counts[said["outcome"]] += 1
            counts["most memory"] = max(counts["most memory"], said["memory"])
            if said["finding"]:
                counts["findings"] += 1
                name = f"{self.seed}/{reader}/{number}"
                target, data, _ = made(self.seed, reader, number)
                kept = self.folder / f"{name.replace('/', '-')}-{Path(target.files[0]).name}"
                kept.write_bytes(data)
                line = f"{name} ({Path(target.files[0]).name}): {said['finding']}"
                with (self.folder / "findings.txt").open("a") as file:
                    file.write(line + "\n")
                self.findings.append(line)
                self.bar.write(line)
            self.bar.update()
            if not self.bar.n % 200:
                self._keep()

    def _keep(self) -> None:
        self.kept.write_text(json.dumps(self.counts, indent=1))

    def table(self) -> str:
        lines = []
        for reader, counts in self.counts.items():
            errors = [f"{name} {n:,}" for name, n in counts.most_common() if name[:1].isupper()]
            head = f"{reader:<14} {counts['cases']:>7,} cases, {counts['converted']:>6,} converted"
            most = f"{counts['most memory'] >> 20} MiB at most"
            lines.append(f"{head}, {counts['findings']} findings, {most}; {', '.join(errors)}")
        return "\n".join(line for line in lines if " 0 cases" not in line)


def again(name: str, folder: Path) -> None:
    """One case once more, in this process, with its traceback."""
    seed, reader, number = name.split("/")
    target, data, rng = made(int(seed), reader, int(number))
    folder.mkdir(parents=True, exist_ok=True)
    paths = fuzz_targets.put(target, data, folder)
    print(f"{paths[0]}: {len(data):,} bytes, of {target.files[0]}")
    print(target.run(paths, folder / "net.h5", rng, lambda: None) or "converted")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000, help="of all readers together (20000)")
    parser.add_argument("--reader", choices=READERS, help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "minidnn-fuzz")
    parser.add_argument("--recheck", action="store_true", help="only what was found before")
    parser.add_argument("--again", metavar="SEED/READER/NUMBER", help="one case once more, in this process")
    args = parser.parse_args()
    if args.again:
        again(args.again, args.keep / "again")
        return 0
    readers = [args.reader] if args.reader else list(READERS)
    job = Job(args.keep, args.seed, readers, args.cases, args.workers, args.recheck)
    job.run()
    print(job.table())
    print(f"{len(job.findings)} findings; what was found is in {args.keep}")
    return 1 if job.findings else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--behind"]:
        behind(sys.argv[2])
    else:
        sys.exit(main())
