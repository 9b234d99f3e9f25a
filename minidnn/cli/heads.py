"""`minidnn heads`: linear heads on files of features, and what they tell of layers, poolings and nets."""

from __future__ import annotations

import argparse
import json

from tqdm import tqdm

from minidnn import weights, zoo
from minidnn.cli.watching import stopping
from minidnn.errors import MismatchError, UsageError
from minidnn.train import transfer
from minidnn.train.curves import check_plots
from minidnn.train.featurefile import Features
from minidnn.train.heads import NORMALISE
from minidnn.train.relearn import with_head


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FEATURES.h5", help="as minidnn features made them")
    parser.add_argument(
        "--kind",
        choices=[*transfer.KINDS, "all"],
        default="all",
        help="of heads: one of these, or both (all)",
    )
    parser.add_argument(
        "--normalise",
        choices=NORMALISE,
        default="standard",
        help="each feature to mean 0 and deviation 1, or each picture's features to length 1 (standard)",
    )
    parser.add_argument("--only", action="append", metavar="LAYER:POOL", help="these features alone")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of which pictures are held back (0)"
    )
    parser.add_argument("--confusion", action="store_true", help="what the best head takes for what")
    parser.add_argument("--plot", metavar="FILE.png", help="the share of right answers over the depth")
    parser.add_argument(
        "--net", metavar="NET.h5", help="the net of the features, to put the best head on (wants --output)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE.h5", help="where that goes: a net for minidnn classify"
    )
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    parser.add_argument("--json", action="store_true", help="for other programs")


def run(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: give 0 or more")
    if (args.net is None) != (args.output is None):
        raise UsageError("--net and --output go together: a net with the best head, and where to write it")
    if args.plot:
        check_plots()
    files = [Features.open(path) for path in args.files]
    for other in files[1:]:
        if other.classes != files[0].classes:
            raise MismatchError(
                f"{other.path}: has other classes than {files[0].path}; compare them by themselves"
            )
    kinds = transfer.KINDS if args.kind == "all" else (args.kind,)
    rows: list[transfer.Row] = []
    total = sum(len(args.only or file.keys) for file in files) * len(kinds)
    with tqdm(total=total, unit="head", disable=None) as bar, stopping() as asked:
        for file in files:
            options = {"kinds": kinds, "normalise": args.normalise, "seed": args.seed, "keys": args.only}
            for row in transfer.compared(file, **options):
                rows.append(row)
                bar.update()
                bar.set_postfix_str(f"{row.layer} {row.pool} {row.kind} {row.test:.1%}")
                if asked:
                    return 130
    if args.net:
        _save(args, files, rows)
    print(json.dumps([_facts(row) for row in rows], indent=1) if args.json else _told(args, rows, files[0]))
    if args.plot:
        transfer.save_plot(args.plot, rows)
    for path in filter(None, () if args.json else (args.plot, args.output)):
        print(f"wrote {path}")
    return 0


def _save(args: argparse.Namespace, files: list[Features], rows: list[transfer.Row]) -> None:
    """The best head that a net can take, on the net."""
    able = [row for row in rows if row.pool == "mean" and row.choice.head.normalise == "standard"]
    if not able:
        raise UsageError("--output: a net takes a head on the mean of standard features; give --pool mean")
    row = transfer.best(able)
    file = next(file for file in files if file.path == row.file)
    net = with_head(weights.load(zoo.file_of(args.net)), file, f"{row.layer}:{row.pool}", row.choice.head)
    result = {"kind": row.kind, "layer": row.layer, "validation": row.validation, "test": row.test}
    weights.save(args.output, net, provenance={"head": result, "features of": file.about["net"]})


def _told(args: argparse.Namespace, rows: list[transfer.Row], file: Features) -> str:
    best = transfer.best(rows)
    words = [transfer.table(rows, markdown=args.markdown), "", transfer.told(best, file.classes)]
    if args.confusion:
        words += ["", transfer.confusion_text(best.judged, file.classes)]
    return "\n".join(words)


def _facts(row: transfer.Row) -> dict[str, object]:
    return {
        "net": row.net,
        "layer": row.layer,
        "pool": row.pool,
        "width": row.width,
        "kind": row.kind,
        "penalty": row.choice.head.penalty,
        "validation": row.validation,
        "test": row.test,
        "confusion": row.judged.confusion.tolist(),
    }
