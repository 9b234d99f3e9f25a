"""`minidnn weights`, also `python -m weights_tools`: foreign weight files into ours, and a look at both."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minidnn import zoo
from minidnn.errors import MinidnnError, OutputError, UsageError
from minidnn.files import replacing
from weights_tools import conventions, isolation, jobs
from weights_tools.convert import Options, convert
from weights_tools.detect import listed, opened
from weights_tools.fetch import fetch, home
from weights_tools.placing import check_may_write, check_output, done_in, folder_beside
from weights_tools.registry import FILES
from weights_tools.report import sha256

EXTERNAL = "read tensors of ONNX that lie in other files of the same folder"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, or that of what went wrong."""
    args = _parser().parse_args(argv)
    try:
        code = args.run(args) or 0
        sys.stdout.flush()  # a reader that has gone shall be noticed here, not at the very end
        return code
    except MinidnnError as error:
        if args.debug:
            raise
        notes = [f"  {note}" for note in getattr(error, "__notes__", ())]
        print(f"minidnn: {error}", *notes, sep="\n", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("minidnn: stopped", file=sys.stderr)
        return 130
    except OSError as error:  # of our own output: the reader had enough, as `head` has, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 0
        print(f"minidnn: cannot write: {error.strerror}", file=sys.stderr)
        return OutputError.exit_code


def _convert(args: argparse.Namespace) -> int:
    *given, output = map(Path, args.files)
    inputs = [listed(path) for path in given]
    if not inputs:
        raise UsageError(f"{output}: name what to convert, and then the file to write: convert IN… OUT.h5")
    options = Options(
        arch=args.arch,
        settings=_settings(args.set),
        classes=args.classes,
        preprocessing=args.preprocessing,
        mean=args.mean,
        input_size=_size(args.input_size),
        dtype=args.dtype,
        to_rgb=args.to_rgb,
        grey=args.grey,
        allow_external=args.allow_external,
    )
    check_may_write(output, forced=args.force)
    report = Path(args.report) if args.report else output.with_suffix(".report.txt")
    text = convert(inputs, output, options, in_process=args.in_process, report=report)
    for title in ("net", "preprocessing", "self-test", "warnings"):
        print(f"{title}: " + _section(text, title))
    print(f"wrote {output} ({output.stat().st_size:,} bytes) and {report}")
    return 0


def _section(report: str, title: str) -> str:
    found = re.search(rf"^{title}\n((?:  .*\n)+)", report, re.MULTILINE)
    return found[1].strip().replace("\n  ", f"\n{' ' * (len(title) + 2)}") if found else "nothing"


def _behind_the_wall(what: str, files: Sequence[str], *, in_process: bool, **more: Any) -> dict[str, Any]:
    paths = [listed(Path(file)) for file in files]
    for path in paths:
        opened(path)
    job = {"do": what, "what": ", ".join(files), "inputs": [str(path.resolve()) for path in paths], **more}
    if in_process:
        return jobs.do(job)
    with tempfile.TemporaryDirectory(prefix="minidnn-") as folder:
        limits = isolation.limits_for(paths, and_beside=more.get("allow_external", False))
        return isolation.run_job(job, Path(folder), limits)


def _inspect(args: argparse.Namespace) -> None:
    if args.graph is not None:
        check_output(Path(args.graph), [listed(Path(file)) for file in args.files], forced=args.force)
    how = {"graph": args.graph is not None, "allow_external": args.allow_external}
    found = _behind_the_wall("inspect", args.files, in_process=args.in_process, **how)
    print(found["text"])
    if args.graph is not None:
        with replacing(args.graph) as partial:
            partial.write_text(found["graph"], encoding="utf-8", newline="\n")
        print(f"wrote {args.graph}: how it is wired")


def _verify(args: argparse.Namespace) -> None:
    for file in args.files:
        print(_behind_the_wall("verify", [file], in_process=args.in_process)["text"])


def _compare(args: argparse.Namespace) -> int:
    how = {"allow_external": args.allow_external}
    found = _behind_the_wall("compare", [args.first, args.second], in_process=args.in_process, **how)
    print(found["text"])
    return 0 if found["equal"] else 1


def _export(args: argparse.Namespace) -> None:
    output, source = Path(args.output), Path(args.input)
    ending = output.suffix.lower()
    if ending not in jobs.WRITERS:
        known = ", ".join(jobs.WRITERS)
        raise UsageError(f"{output}: cannot write {output.suffix or 'no ending'!r}; end in {known}")
    check_output(output, [source], forced=args.force)
    with folder_beside(output, [source]) as folder:
        made_there = folder / f"net{ending}"
        job = {
            "do": "export",
            "what": args.input,
            "inputs": [str(source.resolve())],
            "output": str(made_there),
        }
        found = done_in(folder, job, output, None if args.in_process else isolation.limits_for([source]))
        with replacing(output) as partial:
            made_there.replace(partial)
    print(f"wrote {output}: {found['layers']} layers, {output.stat().st_size:,} bytes")
    if found["text"]:
        print(found["text"])


def _fetch(args: argparse.Namespace) -> None:
    if args.name is None:
        print(f"they go to {home()}, or where MINIDNN_HOME says; offline, put them there by hand")
        for name, published in FILES.items():
            print(f"{name:<26} {published.words}")
        return
    with tqdm(unit="B", unit_scale=True, desc=args.name, disable=None) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        paths = fetch(args.name, progress=show)
    published = FILES[args.name]
    print("there is " + " and ".join(map(str, paths)))
    if published.hash is None:
        what = "its publisher states no hash: whether it came as it was published cannot be checked"
        print(f"{what}; its sha256 is {sha256(paths[0])}")
    if not published.is_weights:
        print(f"next: name it to convert, classify or evaluate: --classes {paths[0]}")
        return
    print(f"next: minidnn weights convert {' '.join(map(str, paths))} {args.name}.h5{published.options}")


def _settings(words: Sequence[str]) -> dict[str, str]:
    """["pool=max", ...] as a dict."""
    wrong = [one for one in words if not re.fullmatch(r"[\w-]+=.+", one)]
    if wrong:
        raise UsageError(f"--set {wrong[0]}: give it as name=value, e.g. --set pool=max")
    pairs = (one.partition("=") for one in words)
    return {name.strip().replace("-", "_"): value.strip() for name, _, value in pairs}


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if found is None or 0 in (h_w := (int(found[1]), int(found[2] or found[1]))):
        raise UsageError(f"--input-size {text}: give it as 480x640, or 224 for a square")
    return h_w


class _Intermixed(argparse.ArgumentParser):
    """Options may stand between the files. (argparse has that for whole programs, not for their commands.)"""

    _is_asked = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._is_asked:
            return super().parse_known_args(args, namespace)
        self._is_asked = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_asked = False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "minidnn weights", description="Weight files: convert, look, check, fetch."
    )
    debug = "show where an error came from"
    parser.add_argument("--debug", action="store_true", help=debug)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Intermixed
    )

    def command(name: str, run: Any, words: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words[:1].upper() + words[1:])
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug)
        sub.set_defaults(run=run)
        return sub

    _convert_arguments(command("convert", _convert, "a foreign weight file into one of ours"))
    looking = [
        command("inspect", _inspect, "what a weight file of any kind holds"),
        command("verify", _verify, "whether files of ours are whole and unchanged"),
    ]
    for sub in looking:
        sub.add_argument("files", nargs="+", metavar="FILE")
    looking[0].add_argument("--graph", metavar="OUT.json", help="write how its net is wired, for --arch")
    looking[0].add_argument("--force", action="store_true", help="write over OUT.json")
    sub = command(
        "compare", _compare, "the weights of two files of any kind, layer by layer; exit code 1 if not equal"
    )
    sub.add_argument("first", metavar="A")
    sub.add_argument("second", metavar="B")
    for looker in [looking[0], sub]:
        looker.add_argument("--allow-external", action="store_true", help=EXTERNAL)
    endings = ", ".join(jobs.WRITERS)
    export = command("export", _export, f"a file of ours into one of {endings}")
    for walled in [*looking, sub, export]:
        walled.add_argument("--in-process", action="store_true", help="without the wall, to find errors")
    sub = export
    sub.add_argument("output", metavar="OUT", help=f"ends in {endings}")
    sub.add_argument("input", metavar="IN.h5")
    sub.add_argument("--force", action="store_true", help="write over OUT")
    sub = command("fetch", _fetch, "published weights from the web; without a name, what there is")
    sub.add_argument("name", nargs="?", metavar="NAME")
    return parser


def _convert_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "files", nargs="+", metavar="FILE", help="what to convert (of Caffe the prototxt too), and OUT.h5"
    )
    arch = f"the net that it is: {', '.join(zoo.NETS)}; or a prototxt or JSON that wires it"
    sub.add_argument("--arch", metavar="NET", help=arch)
    option = "an option of that net, e.g. --arch lenet5 --set pool=max; of Lasagne's files flip_filters"
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=option)
    sub.add_argument("--classes", metavar="FILE", help="names of the classes, one a line")
    sub.add_argument(
        "--preprocessing",
        metavar="HOW",
        help=f"{', '.join(conventions.WORDS)}, or a .toml, .json or .h5 of ours",
    )
    sub.add_argument("--mean", metavar="FILE", help="mean image of Caffe, .binaryproto")
    sub.add_argument("--input-size", metavar="HxW", help="of the images that the net is for")
    sub.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="of the numbers in the file"
    )
    sub.add_argument("--to-rgb", action="store_true", help="turn a net of BGR into one of RGB")
    sub.add_argument("--grey", action="store_true", help="sum the first filters: a net for grey pictures")
    sub.add_argument("--allow-external", action="store_true", help=EXTERNAL)
    sub.add_argument("--report", metavar="FILE", help="where the report goes (OUT.report.txt)")
    sub.add_argument("--force", action="store_true", help="write over OUT.h5")
    sub.add_argument("--in-process", action="store_true", help="without the wall, to find errors")
