"""`minidnn nets`: the nets by name, how large they are, and where their weights come from."""

from __future__ import annotations

import argparse
import json
from textwrap import fill
from typing import Any

from minidnn import zoo

COLUMNS = ["name", "paper", "input", "layers", "parameters", "MB"]
NUMBERS = {"layers", "parameters", "MB"}
WIDTH = 100  # of a line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for other programs to read")


def run(args: argparse.Namespace) -> None:
    nets = [_facts(name) for name in zoo.NETS]
    print(json.dumps(nets, indent=1) if args.json else table(nets))


def table(nets: list[dict[str, Any]]) -> str:
    """A line for each net, below the names of the columns; indented under it, where its weights come from."""
    columns = [[column, *(_cell(net, column) for net in nets)] for column in COLUMNS]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if name in NUMBERS else cell.ljust(width)
            for name, cell, width in zip(COLUMNS, cells, widths, strict=True)
        ).rstrip()
        for cells in zip(*columns, strict=True)
    ]
    for at, net in enumerate(nets, start=1):
        lines[at] += "\n" + fill(net["weights"], WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _facts(name: str) -> dict[str, Any]:
    """Its shapes alone tell, so no weights are drawn."""
    net, about = zoo.get(name, seed=None), zoo.ABOUT[name]
    params = sum(array.size for array in net.params.values())
    stored = sum(array.nbytes for array in (net.params | net.buffers).values())
    return {
        "name": name,
        "paper": about.paper,
        "words": about.words,
        "input": net.input_shape,
        "layers": len(net.nodes),
        "parameters": params,
        "bytes": stored,
        "weights": about.weights,
    }


def _cell(net: dict[str, Any], column: str) -> str:
    if column == "MB":
        return f"{net['bytes'] / 1e6:.1f}"
    if column == "input":
        return "x".join(map(str, net["input"] or ["any"]))
    return f"{net[column]:,}" if column in NUMBERS else str(net[column])
