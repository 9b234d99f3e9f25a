"""`minidnn experiment`: the experiments of the course on dreaming, each as a sheet of pictures and a plot."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from minidnn import images
from minidnn.cli.device import add_device, device_for
from minidnn.cli.outputs import try_out
from minidnn.cli.settings import size_of
from minidnn.cli.watching import stopping
from minidnn.errors import UsageError
from minidnn.recipes.deepdream import DeepDream
from minidnn.recipes.experiments import EXPERIMENTS, Result, side_by_side
from minidnn.recipes.job import Job, Opened, net_called, size_for
from minidnn.recipes.plots import check_plots, plot_lines, save_plot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = "; ".join(
        f"{name}: {(made.__doc__ or '').partition('(')[0].strip().rstrip('.')}"
        for name, made in EXPERIMENTS.items()
    )
    parser.add_argument(
        "name", choices=[*EXPERIMENTS, "nets", "all"], help=f"{kinds}; nets: one picture by several nets"
    )
    parser.add_argument("photo", nargs="?", help="what to dream of; without one, a landscape is drawn")
    parser.add_argument(
        "-o", "--output", default="experiments", metavar="FOLDER", help="where to write (experiments)"
    )
    parser.add_argument(
        "--net", action="append", help="a file of weights (tiny, built in); several for the experiment nets"
    )
    parser.add_argument(
        "--layer", action="append", metavar="NAME", help="for the experiment nets, one for each net"
    )
    parser.add_argument("--guide", metavar="PHOTO", help="for the experiment guide")
    parser.add_argument("--size", metavar="HxW", help="of the picture (as suits the net)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random (0)")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    check_plots()
    folder = Path(args.output)
    try_out(folder / "trial.png")
    device = device_for(args.device)
    jobs = [_job(args, net, number, device) for number, net in enumerate(args.net or ["tiny"])]
    names = (
        [name for name in EXPERIMENTS if name != "guide" or args.guide] if args.name == "all" else [args.name]
    )
    if args.name != "nets" and len(jobs) > 1:
        raise UsageError(f"experiment {args.name} is about one net; several are for: minidnn experiment nets")
    for name in names:
        result, of_what = Result(), None
        if name == "nets":
            going = side_by_side([(_called(job), job) for job in jobs], result)
        else:
            going = EXPERIMENTS[name](jobs[0], result)
        with tqdm(desc=name, unit="step") as bar, stopping() as asked:
            for progress in going:
                if progress.what != of_what:
                    of_what = progress.what
                    bar.reset(progress.total)
                    bar.set_description(f"{name}: {of_what}")
                bar.update(progress.done - bar.n)
                if asked:
                    break
        _write(folder, name, result)
        if asked:
            return 130
    return 0


def _write(folder: Path, name: str, result: Result) -> None:
    """The sheet, the plot and the words, as far as there are some."""
    if result.pictures:
        images.save(folder / f"{name}.png", result.sheet)
        print(f"wrote {folder / name}.png")
    if result.lines:
        svg = plot_lines(result.lines, xlabel="step", ylabel="|y| of the layer", title=name, log=True)
        save_plot(folder / f"{name}.svg", svg)
        print(f"wrote {folder / name}.svg")
    for words in result.words:
        print(words)


@dataclass(frozen=True)
class There(Job):
    """A job that opens on one device, wherever its experiment opens it."""

    device: str = "cpu"

    def opened(self, device: str = "") -> Opened:
        return super().opened(device or self.device)


def _job(args: argparse.Namespace, net: str, number: int, device: str) -> Job:
    layers = args.layer or []
    chosen = (layers[number],) if number < len(layers) else ()
    settings = DeepDream(layers=chosen, seed=args.seed)
    what = {"photo": args.photo, "size": size_of(args.size), "guide": args.guide, "settings": settings}
    job = There(net=net, device=device, **what)
    there = net_called(net)
    return replace(job, size=size_for(there)) if job.size is None and there.input_shape else job


def _called(job: Job) -> str:
    return f"{Path(job.net).stem} {', '.join(map(str, job.settings.layers))}".strip()
