"""`python -m benchmarks` lists the races; `python -m benchmarks dream` runs one."""

from __future__ import annotations

import argparse
import sys

from benchmarks import dream, layers, weights

RACES = {"dream": dream, "layers": layers, "weights": weights}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Races against peers on this machine."
    )
    races = parser.add_subparsers(title="races", metavar="RACE")
    for name, race in RACES.items():
        sub = races.add_parser(name, help=(race.__doc__ or "").partition("\n")[0])
        race.add_arguments(sub)
        sub.set_defaults(run=race.run)
    args = parser.parse_args()
    if "run" not in args:
        parser.print_help()
        return 0
    try:
        args.run(args)
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing: pip install 'minidnn[bench]' (or make bench)", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
