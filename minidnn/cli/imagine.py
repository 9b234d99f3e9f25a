"""`minidnn imagine`: what a net thinks that a class looks like, from noise or from a photo."""

from __future__ import annotations

import argparse
from dataclasses import replace
from time import perf_counter

from minidnn import images
from minidnn.arrays import device_of, to_host
from minidnn.cli.device import add_device, device_for
from minidnn.cli.dream import add_checkpoint, add_max_memory, add_microscope, finish, kept_in
from minidnn.cli.outputs import check_outputs
from minidnn.cli.settings import changed, from_words, size_of
from minidnn.cli.watching import watch
from minidnn.errors import UsageError
from minidnn.recipes.classvis import ABLATION, ClassVis
from minidnn.recipes.forecast import check_cost
from minidnn.recipes.goals import class_number
from minidnn.recipes.job import Job, Opened, net_called, size_for
from minidnn.recipes.sheets import sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="CLASS", help='its name, "bee eater", or its number')
    parser.add_argument(
        "-o", "--output", default="imagined.png", metavar="FILE", help="where to write (imagined.png)"
    )
    parser.add_argument("--net", default="tiny", help="a file of weights, with classes (tiny, built in)")
    parser.add_argument("--photo", help="begin with this picture (noise)")
    parser.add_argument("--steps", type=int, metavar="N", help="uphill (200)")
    parser.add_argument("--size", metavar="HxW", help="of the picture (as suits the net)")
    parser.add_argument("--after-softmax", action="store_true", help="climb the probability, not the score")
    parser.add_argument("--seed", type=int, metavar="N", help="of the noise and the jitter (0)")
    parser.add_argument("--painted", action="store_true", help="in waves with the colours of photographs")
    add_max_memory(parser)
    add_checkpoint(parser, "; minidnn dream --resume goes on")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any setting of a dream"
    )
    parser.add_argument("--strip", metavar="FILE.png", help="how the picture grew")
    parser.add_argument("--plot", metavar="FILE.svg", help="the score over the steps")
    add_microscope(parser)
    parser.add_argument("--report", metavar="FILE.html", help="one page with everything")
    add_device(parser)
    course = parser.add_argument_group("unless it is painted")
    course.add_argument("--rate", type=float, help="length of a step, in deviations of colour (5)")
    course.add_argument("--regularisation", type=float, metavar="R", help="held against far colours (0.001)")
    course.add_argument(
        "--blur-every", type=int, metavar="N", help="blur between so many steps, 0 for never (10)"
    )
    course.add_argument(
        "--ablation", action="store_true", help=f"one picture each of regularisation {', '.join(ABLATION)}"
    )


def run(args: argparse.Namespace) -> int:
    practical = {name: getattr(args, name) for name in ("rate", "regularisation", "blur_every")}
    given = [f"--{name.replace('_', '-')}" for name, value in practical.items() if value is not None]
    given += ["--ablation"] if args.ablation else []
    if given and args.painted:
        raise UsageError(f"{', '.join(given)}: nothing is held back where it is --painted; leave that out")
    wanted = changed(ClassVis(args.target), practical | {"steps": args.steps, "seed": args.seed})
    wanted = replace(wanted, after_softmax=args.after_softmax, painted=args.painted)
    opened = _job(args, wanted).opened(device_for(args.device))
    check_outputs(args, opened.job)
    check_cost(opened)
    return _three(args, wanted, opened) if args.ablation else _one(args, opened)


def _three(args: argparse.Namespace, wanted: ClassVis, opened: Opened) -> int:
    """With less and with more to hold it back, side by side."""
    for_one = ("checkpoint", "plot", "strip", "microscope", "report")
    given = [f"--{name}" for name in for_one if getattr(args, name)]
    if given:
        raise UsageError(f"--ablation draws three pictures: leave out {', '.join(given)}")
    pictures = []
    for name, (regularisation, blur_every) in ABLATION.items():
        kind = replace(wanted, regularisation=regularisation, blur_every=blur_every)
        opened = _job(args, kind).opened(device_of(opened.picture))
        found = watch(opened)
        blur = f"blur every {blur_every}" if blur_every else "no blur"
        pictures.append((f"{name}: {regularisation:g}, {blur}", to_host(found.picture)))
        if found.stopped or found.diverged:
            break
    images.save(args.output, sheet(pictures, height=opened.picture.shape[1]))
    print(f"wrote {args.output}: {len(pictures)} pictures")
    if found.diverged is not None:
        raise found.diverged
    return 130 if found.stopped else 0


def _one(args: argparse.Namespace, opened: Opened) -> int:
    began = perf_counter()
    found = watch(
        opened,
        save_to=kept_in(args.checkpoint),
        keep_pictures=bool(args.strip or args.report),
        microscope=bool(args.microscope or args.report),
    )
    return finish(opened, found, args, perf_counter() - began)


def _job(args: argparse.Namespace, wanted: ClassVis) -> Job:
    net = net_called(args.net)
    wanted = replace(wanted, target=str(class_number(net, args.target)))  # a name may hold a + or a bracket
    settings = wanted.as_dream()
    for changes in (from_words(args.set), {"max_memory": args.max_memory}):
        settings = changed(settings, changes)
    return Job(
        net=args.net,
        photo=args.photo,
        size=size_of(args.size) or size_for(net),
        start="noise" if args.photo is None else "photo",
        settings=settings,
    )
