"""`minidnn layers`: the table of a net, with sizes, receptive fields and memory."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

from minidnn import zoo
from minidnn.cli.settings import size_of
from minidnn.errors import (
    FileFormatError,
    MinidnnError,
    OutputError,
    UnsupportedError,
    UsageError,
    did_you_mean,
)
from minidnn.net import Net
from minidnn.summary import summarise
from minidnn.tables import FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "net",
        metavar="NET",
        help="one that `minidnn nets` lists, a weight file (.h5), or a Python file that makes a `net`",
    )
    parser.add_argument("--size", metavar="HxW", help="of the images (those it was made for)")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images at once (1)")
    parser.add_argument("--format", choices=FORMATS, default="text", help="how to write it (text)")
    parser.add_argument("--output", metavar="FILE", help="where to write it (the terminal)")


def run(args: argparse.Namespace) -> None:
    summary = summarise(net_in(args.net), size_of(args.size), batch=_positive(args.batch))
    written = FORMATS[args.format](summary)
    if args.output is None:
        print(written)
        return
    try:
        Path(args.output).write_text(written + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        words = f"cannot write {args.output}: {error.strerror}; give --output another FILE"
        raise OutputError(words) from error
    print(f"wrote {args.output}: {len(summary.rows) - 1} layers")


def net_in(name: str) -> Net:
    """A net of the zoo, or the one that a weight file holds or a Python file makes."""
    if name in zoo.NETS:
        return zoo.get(name, seed=None)
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"no net and no file {name!r}; there are {', '.join(zoo.NETS)}{did_you_mean(name, zoo.NETS)}"
        )
    if path.suffix in (".h5", ".hdf5"):
        from minidnn import weights  # here, so that the other nets do not wait for h5py

        return weights.load(path)
    if path.suffix != ".py":
        advice = f"for other formats run: minidnn weights convert {name}"
        raise UnsupportedError(f"{name}: a net is read from a weight file (.h5) or a Python file; {advice}")
    try:
        found = runpy.run_path(str(path)).get("net")
    except MinidnnError:
        raise
    except Exception as error:
        words = f"{name} fails: {type(error).__name__}: {error}; --debug shows where"
        raise FileFormatError(words) from error
    if not isinstance(found, Net):
        raise FileFormatError(
            f"{name} makes no `net`: at its end, say net = Net([...]) or net = Net.chain({{...}})"
        )
    return found


def _positive(batch: int) -> int:
    if batch < 1:
        raise UsageError(f"--batch {batch}: give at least 1")
    return batch
