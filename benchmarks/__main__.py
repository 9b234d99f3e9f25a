"""`python -m benchmarks` lists the races; `python -m benchmarks dream` runs one."""

from __future__ import annotations

import argparse
import sys

from benchmarks import compare, curves, dream, gpu, kernels, layers, memory, nets, planned, train, weights
from minidnn.errors import MinidnnError
from minidnn.kernels.cpu import threads

RACES = {
    "layers": layers,
    "kernels": kernels,
    "nets": nets,
    "dream": dream,
    "planned": planned,
    "curves": curves,
    "memory": memory,
    "train": train,
    "gpu": gpu,
    "weights": weights,
    "compare": compare,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Races against peers on this machine."
    )
    races = parser.add_subparsers(title="races", metavar="RACE")
    for name, race in RACES.items():
        sub = races.add_parser(name, help=(race.__doc__ or "").partition("\n")[0])
        sub.add_argument("--threads", type=int, metavar="N", help="of everyone in the race (one a core)")
        race.add_arguments(sub)
        sub.set_defaults(run=race.run)
    args = parser.parse_args()
    if "run" not in args:
        parser.print_help()
        return 0
    try:
        with threads.limit(args.threads):
            args.run(args)
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing: pip install 'minidnn[bench]' (or make bench)", file=sys.stderr)
        return 2
    except MinidnnError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
