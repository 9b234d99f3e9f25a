"""`minidnn diagnose`: the doctor for networks: what may be wrong with a net, its data or its training."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from minidnn import weights, zoo
from minidnn.cli.layers import net_in
from minidnn.cli.outputs import try_out
from minidnn.cli.settings import changed, from_toml, from_words
from minidnn.cli.train import CHECKPOINT, LOG, found_recipe
from minidnn.errors import MinidnnError, MismatchError, UsageError, did_you_mean
from minidnn.files import replacing
from minidnn.net import Net
from minidnn.train import checkpoint, curves
from minidnn.train.checks.page import MARKS, as_html, as_json, plots
from minidnn.train.checks.patient import DOUBTFUL, WRONG, Finding, Patient, is_healthy, knows_something
from minidnn.train.data import fingerprint
from minidnn.train.diagnose import CHECKS, Readout, diagnose, readout
from minidnn.train.recipe import Recipe, built_in

ILL = 1  # the exit code when something was found to be wrong


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "by name, a file (.h5, .py), the folder of a training run, or a recipe as minidnn train takes it"
    parser.add_argument("net", metavar="NET", help=what)
    parser.add_argument("--data", metavar="PATH", help="what it learns from (that of the run or recipe)")
    parser.add_argument("--rate", type=float, metavar="X", help="the rate to judge")
    parser.add_argument("--batch", type=int, metavar="N", help="the batch to judge")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other setting of a recipe"
    )
    parser.add_argument("--human-error", type=float, metavar="X", help="0.01 if people err in 1 %%")
    parser.add_argument("--quick", action="store_true", help="look at fewer pictures, for less time")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the pictures looked at (0)")
    parser.add_argument("-o", "--output", metavar="FILE", help="a report as well: .html or .json")
    parser.add_argument("--plot", metavar="FILE.svg", help="loss against rate, and layer by layer")


def run(args: argparse.Namespace) -> int:
    """Look at everything; the exit code says whether something is wrong."""
    _check_outputs(args)
    case = case_for(args)
    print(case.title)
    findings = looked_at(case.patient)
    tell(findings)
    found = None if args.human_error is None else readout(case.patient, args.human_error)
    if found is not None:
        print(f"\n{found}\n  {found.larger}: {found.advice}")
    elif args.human_error is not None:
        print("\nno bias and variance yet: the net must have been trained, and fit the data")
    write(args, case.title, findings, found)
    return 0 if is_healthy(findings) else ILL


class Case(NamedTuple):
    """Who comes to the doctor."""

    title: str
    patient: Patient


def case_for(args: argparse.Namespace) -> Case:
    """The net, its data and how it is trained, from what the command line names."""
    path = Path(args.net)
    asked = {"data": args.data, "rate": args.rate, "batch": args.batch}
    if path.is_dir():
        return _run_case(path, args, asked)
    named = args.net in built_in() or path.suffix == ".toml"
    recipe = Recipe(net=args.net if args.net in zoo.NETS else Recipe.net)
    about = _recipe_in(path) if path.suffix in (".h5", ".hdf5") and path.is_file() else None
    recipe = about or recipe
    for changes in (from_toml(str(found_recipe(args.net))) if named else {}, from_words(args.set), asked):
        recipe = changed(recipe, changes)
    data, known = recipe.splits(), bool(named or about or args.rate or args.set)
    if named or args.net in zoo.NETS:
        net = recipe.first_net(data.train)
        trained, known = recipe.goes_on, True
        first = None if trained else net
    elif path.suffix == ".py" or not path.exists():
        net = _drawn(_found(args.net), recipe)
        trained = knows_something(net, data)
        first = None if trained else net
    else:
        net, trained = net_in(args.net), True
        first = _first(about, recipe, data.train)
    patient = Patient(
        net, data, recipe.way(), first, trained, way_is_known=known, quick=args.quick, seed=_seed(args)
    )
    return Case(_title(args.net, net, recipe, patient), patient)


def looked_at(patient: Patient) -> list[Finding]:
    """All findings, with a bar while they are made."""
    findings, looking = [], diagnose(patient)
    with tqdm(total=len(CHECKS), unit="check", disable=None, leave=False) as bar:
        for check in CHECKS:
            bar.set_description(check.name)
            findings.append(next(looking))
            bar.update()
    return findings


def tell(findings: list[Finding]) -> None:
    """A line for each check, then what to do about those that are not well."""
    names = max(len(finding.check) for finding in findings)
    for finding in findings:
        print(_folded(f"{MARKS[finding.verdict]} {finding.check:<{names}}  ", finding.words))
    wrong, doubtful = ([f for f in findings if f.verdict == verdict] for verdict in (WRONG, DOUBTFUL))
    for heading, some in (("what to mend", wrong), ("what to look at", doubtful)):
        if some:
            print(f"\n{heading}")
        for finding in some:
            for words in dict.fromkeys(finding.advice):
                print(_folded(f"  {finding.check}: ", words, indent=4))
    counts = [f"{len(wrong)} wrong"] * bool(wrong) + [f"{len(doubtful)} doubtful"] * bool(doubtful)
    print(f"\n{', '.join(counts)}" if counts else "\nhealthy")


def write(args: argparse.Namespace, title: str, findings: list[Finding], found: Readout | None) -> None:
    """The report and the plots that were asked for."""
    if args.plot:
        curves.save_plot(args.plot, plots(findings))
        print(f"wrote {args.plot}")
    if not args.output:
        return
    told = None if found is None else found._asdict() | {"larger": found.larger, "advice": found.advice}
    if args.output.endswith(".json"):
        text = json.dumps(as_json(title, findings, told), indent=1) + "\n"
    else:
        text = as_html(title, findings, f"{found}: {found.advice}" if found else "", _svg(findings))
    with replacing(args.output) as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"wrote {args.output}")


def _run_case(folder: Path, args: argparse.Namespace, asked: dict[str, Any]) -> Case:
    """A training run: its own recipe, its first weights and those that it has reached."""
    if not (folder / CHECKPOINT).is_file():
        raise UsageError(f"{folder}: no training run ({CHECKPOINT} is missing); name its --output folder")
    saved = checkpoint.load(folder / CHECKPOINT)
    recipe = changed(changed(Recipe.from_json(saved.about["recipe"]), from_words(args.set)), asked)
    data = recipe.splits()
    if fingerprint(data.train) != saved.about.get("data"):
        raise MismatchError(f"{folder / CHECKPOINT}: began with other data than these; give the same --data")
    first = recipe.first_net(data.train)
    net, begun = saved.into(first), bool(saved.state.epoch or saved.state.batch)
    patient = Patient(
        net,
        data,
        recipe.way(),
        first=None if recipe.goes_on else first,
        trained=begun or recipe.goes_on,
        history=tuple(saved.state.history),
        test_error=_test_error(folder / LOG),
        quick=args.quick,
        seed=_seed(args),
    )
    return Case(_title(str(folder), net, recipe, patient), patient)


def _test_error(log: Path) -> float | None:
    """That in the log, if the run has come to it."""
    try:
        found = json.loads(log.read_text(encoding="utf-8"))["test"]["top1"]
    except (OSError, ValueError, KeyError, TypeError):  # not there yet
        return None
    return float(found) if isinstance(found, int | float) and 0 <= found <= 1 else None


def _recipe_in(path: Path) -> Recipe | None:
    """The recipe that a weight file says it was trained by; other files have none, or one of another kind."""
    told = weights.Weights.open(path).provenance.get("recipe")
    if not isinstance(told, dict):
        return None
    try:
        recipe = changed(Recipe(), Recipe.from_json(told).as_json())  # each setting as its default is
        recipe.way()
    except (MinidnnError, TypeError, AttributeError):
        return None
    return recipe


def _first(about: Recipe | None, recipe: Recipe, learned: Any) -> Net | None:
    """The net before its training, where its recipe tells."""
    if about is None or recipe.goes_on:
        return None
    return recipe.first_net(learned)


def _found(name: str) -> Net:
    if Path(name).exists():
        return net_in(name)
    known = [*zoo.NETS, *built_in()]
    nets = f"there are {', '.join(zoo.NETS)} and the recipes {', '.join(built_in())}"
    raise UsageError(f"no net, recipe, file or folder {name!r}; {nets}{did_you_mean(name, known)}")


def _drawn(net: Net, recipe: Recipe) -> Net:
    """With first weights, where it has only shapes."""
    return recipe.drawn(net) if net.without_weights else net


def _title(name: str, net: Net, recipe: Recipe, patient: Patient) -> str:
    (h, w, c), count = patient.data.train.shape, sum(array.size for array in net.params.values())
    state = "trained" if patient.trained else "not trained yet"
    return f"{name}, {count:,} parameters, {state}, on {recipe.data}: {h}x{w}x{c}, {patient.classes} classes"


def _seed(args: argparse.Namespace) -> int:
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: give 0 or more")
    return args.seed


def _check_outputs(args: argparse.Namespace) -> None:
    """That all can be written, and is asked for rightly, before the work and not after it."""
    if args.human_error is not None and not 0 <= args.human_error < 1:
        raise UsageError(f"--human-error {args.human_error}: give a share, 0.01 for 1 %")
    if args.output and not args.output.endswith((".html", ".json")):
        raise UsageError(f"--output {args.output}: a report is written as .html or .json")
    if args.plot and not args.plot.endswith(".svg"):
        raise UsageError(f"--plot {args.plot}: plots are written as .svg, which every browser shows")
    if args.plot:
        curves.check_plots()
    for path in (args.output, args.plot):
        if path:
            try_out(Path(path))


def _svg(findings: list[Finding]) -> bytes | None:
    try:
        return plots(findings)
    except UsageError as error:
        print(f"no plots in the report: {error}")
        return None


def _folded(head: str, words: str, indent: int | None = None) -> str:
    """In lines as wide as the terminal, those after the first below the words."""
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    below = " " * (len(head) if indent is None else indent)
    return textwrap.fill(head + words, width, subsequent_indent=below, break_long_words=False)
