"""`minidnn features`: what layers of a net say of each picture of a data set, kept to learn from."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from minidnn import weights, zoo
from minidnn.cli.device import add_device, device_for
from minidnn.cli.settings import size_of
from minidnn.cli.train import owned
from minidnn.cli.watching import stopping
from minidnn.errors import UsageError
from minidnn.train.featurefile import Features
from minidnn.train.features import Extraction, Wanted
from minidnn.train.judging import preprocess_of
from minidnn.train.opening import open_data
from minidnn.train.pooling import POOLS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("net", metavar="NET.h5", help="as minidnn weights convert made it, or tiny")
    parser.add_argument("data", metavar="DATA", help="labelled pictures, as for minidnn train")
    parser.add_argument(
        "--layer",
        action="append",
        required=True,
        metavar="NAME",
        help="by name or number; '*' or 'fire*' for all like it; may be given several times",
    )
    pools = "; ".join(f"{name}: {(pool.__doc__ or '').partition(chr(10))[0]}" for name, pool in POOLS.items())
    parser.add_argument(
        "--pool", action="append", metavar="HOW", help=f"several times for several (mean). {pools}"
    )
    parser.add_argument("-o", "--output", default="features.h5", metavar="FILE", help="(features.h5)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped or killed")
    parser.add_argument("--size", metavar="HxW", help="of the pictures (that the net was trained on)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="pictures at once (16)")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    device = device_for(args.device)
    net = weights.load(zoo.file_of(args.net))
    preprocess = preprocess_of(net)
    size = size_of(args.size) or preprocess.size
    parts = open_data(args.data, size=size, grey=preprocess.order == "GRAY")
    wanted = Wanted(tuple(args.layer), tuple(args.pool or ["mean"]), size, args.batch)
    output = Path(args.output)
    if output.is_dir():
        raise UsageError(f"{output}: is a folder; give --output the name of a file")
    extraction = Extraction(output, net.to(device), parts, wanted)
    bar = tqdm(total=extraction.total, unit="picture", disable=None)
    with owned(extraction.folder), bar, stopping() as asked:
        for progress in extraction.run(resume=args.resume):
            bar.update(progress.done - bar.n)
            if asked and progress.done < progress.total:
                print(f"stopped; {extraction.folder} holds what is done: the same with --resume goes on")
                return 130
    found = Features.open(output)
    counts = ", ".join(f"{count:,} of {part}" for part, count in found.parts.items())
    layers = f"{len(found.about['layers'])} layers, {len(found.keys)} kinds of features"
    print(f"wrote {output}: {counts}; {layers} ({output.stat().st_size:,} bytes)")
    print(f"learn from it: minidnn heads {output}")
    return 0
