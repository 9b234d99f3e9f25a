"""`minidnn classify`: what a net sees in photos, with the five likeliest names for each."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidnn import images, weights, zoo
from minidnn.arrays import Array, to_device, to_host
from minidnn.cli.device import add_device, device_for
from minidnn.errors import FileError, MismatchError, ShapeError, UsageError
from minidnn.images import Preprocess
from minidnn.layers import Sigmoid, Softmax
from minidnn.layers.base import lacks_weights
from minidnn.net import Net
from minidnn.weights.classes import Classes, read_classes

BAR = 30  # characters of a certainty
NO_CLASSIFIER = "it does not classify; look at what it sees with minidnn layers, or name another net"
MANY = 5  # photos from which on a bar shows how far it is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="pictures")
    add_net_arguments(parser)
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many names for each (5)")
    parser.add_argument("--json", action="store_true", help="for other programs")
    parser.add_argument("--input-picture", metavar="FILE", help="save what the net gets to see")


def add_net_arguments(parser: argparse.ArgumentParser) -> None:
    """What `evaluate` wants to know too."""
    parser.add_argument(
        "--net",
        default="tiny",
        metavar="NET.h5",
        help="as minidnn weights convert made it (tiny, which is built in)",
    )
    parser.add_argument("--classes", metavar="FILE", help="names of the classes, one a line")
    parser.add_argument(
        "--grey",
        choices=("replicate", "fold"),
        help="see the photos in grey: as three equal channels, or as one, with the first filters summed",
    )
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    if args.top < 1:
        raise UsageError(f"--top {args.top}: give at least 1")
    device = device_for(args.device)
    classifier = Classifier.from_file(args.net, classes=args.classes, grey=args.grey, device=device)
    answers: list[dict] = []
    goals = _goals(args.input_picture, args.photos)
    for photo, goal in tqdm(
        zip(args.photos, goals, strict=True),
        total=len(args.photos),
        disable=True if len(args.photos) < MANY else None,
        unit="photo",
    ):
        try:
            fitted = classifier.fitted(photo)
        except FileError as error:  # the other photos are as good as before
            answers.append({"file": photo, "error": str(error)})
            continue
        if goal is not None:
            images.save(goal, classifier.seen(fitted))
        answers.append({"file": photo, "top": classifier.top(classifier.probabilities(fitted)[0], args.top)})
    unread = [answer["error"] for answer in answers if "error" in answer]
    code = FileError.exit_code if unread else 0
    if args.json:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
        return _reported(unread, code)
    for answer in answers:
        if "top" in answer:
            print("\n".join(told(answer)))
    if not classifier.names and len(unread) < len(answers):
        print("these are numbers of classes: this net has no names for them; --classes FILE gives them")
    return _reported(unread, code)


def _reported(unread: list[str], code: int) -> int:
    """What was wrong with some of the photos, behind what was seen in the others."""
    sys.stdout.flush()
    for words in unread:
        print(f"minidnn: {words}", file=sys.stderr)
    return code


@dataclass(frozen=True)
class Classifier:
    """A net, how it wants to see pictures, and what it calls what it sees."""

    net: Net
    preprocess: Preprocess
    names: tuple[str, ...]
    ids: tuple[str, ...] = ()  # of the classes in WordNet, where they are known
    in_grey: bool = False
    device: str = "cpu"

    @classmethod
    def from_file(
        cls, path: str, *, classes: str | None = None, grey: str | None = None, device: str = "cpu"
    ) -> Classifier:
        stored = weights.Weights.open(zoo.file_of(path))
        found = cls.of(stored.net(), path, classes=classes, grey=grey)
        found = found if classes else replace(found, ids=stored.class_ids)
        return found if device == "cpu" else replace(found, net=found.net.to(device), device=device)

    @classmethod
    def of(cls, net: Net, what: str, *, classes: str | None = None, grey: str | None = None) -> Classifier:
        missing = [node.name for node in net.nodes if lacks_weights(node.layer)]
        if missing:
            raise UsageError(f"{what}: {missing[0]!r} has no weights; convert the file of the whole net")
        if grey == "fold" and net.preprocess is not None and net.preprocess.order != "GRAY":
            net = images.fold_grey(net)
        if not isinstance(net.preprocess, Preprocess):
            advice = "convert it again with --preprocessing"
            raise UsageError(f"{what}: says nothing of how pictures become what it sees; {advice}")
        check_classifies(net, what)
        called = read_classes(classes) if classes else Classes(tuple(net.classes))
        in_grey = grey is not None or net.preprocess.order == "GRAY"
        return cls(net, net.preprocess, called.names, called.ids, in_grey)

    def fitted(self, photo: str | Path) -> Array:
        """The photo (1, h, w, c) in the size and the channels of the net, 0..255."""
        pixels = images.load(photo, colour=not self.in_grey)
        if pixels.shape[3] < self.preprocess.channels:
            pixels = np.repeat(pixels, self.preprocess.channels, axis=3)
        return self.preprocess.fit(pixels)

    def seen(self, fitted: Array) -> Array:
        """What the net gets to see, as a picture again."""
        return self.preprocess.to_pixels(self.preprocess.to_net(fitted))

    def probabilities(self, fitted: Array) -> Array:
        """(N, K): the last layer's answers, made probabilities if it gives scores; of a map, the mean."""
        net, x = self.net, to_device(self.preprocess.to_net(fitted), self.device)
        last = net.nodes[-1]
        found = to_host(net.forwardto(net.init_res(), last.name, x, keep=()))
        check_answers(net, found.shape, "this net")
        answers = found.mean(axis=(1, 2))
        if not isinstance(last.layer, Softmax | Sigmoid):
            answers = Softmax().forward(answers[:, None, None])[0][:, 0, 0]
        if self.names and len(self.names) != answers.shape[1]:
            counts = f"{len(self.names)} names of classes for {answers.shape[1]} answers"
            raise MismatchError(f"{counts}; give the --classes of this net")
        return answers

    def top(self, probabilities: Array, count: int) -> list[dict[str, object]]:
        """The likeliest, best first."""
        best = np.argsort(-probabilities, kind="stable")[:count]
        return [
            {"index": int(i), "name": self.name(int(i)), "probability": float(probabilities[i])} for i in best
        ]

    def name(self, index: int) -> str:
        return self.names[index] if self.names else str(index)


def told(answer: dict) -> list[str]:
    """A photo and its names, with a bar for each."""
    width = min(50, max(len(entry["name"]) for entry in answer["top"]))
    lines = [answer["file"]]
    for entry in answer["top"]:
        bar = "█" * round(BAR * entry["probability"])
        lines.append(f"  {entry['name'][:width]:<{width}} {entry['probability']:7.2%} {bar}".rstrip())
    return lines


def check_classifies(net: Net, what: str) -> None:
    """Whether its last layer is its only end, and gives an answer for each of several classes."""
    ends = [name for name in net.names[1:] if not any(name in node.inputs for node in net.nodes)]
    if len(ends) > 1:
        raise UsageError(f"{what}: has {len(ends)} ends, {', '.join(map(repr, ends))}; {NO_CLASSIFIER}")
    size = net.preprocess.size if isinstance(net.preprocess, Preprocess) else None
    if isinstance(net.preprocess, Preprocess) and size is not None:
        try:
            shape = net.shapes((1, *size, net.preprocess.channels))[net.names[-1]]
        except ShapeError:  # which the first photo will tell better
            return
        check_answers(net, shape, what)


def check_answers(net: Net, shape: tuple[int, ...], what: str) -> None:
    """Of one picture: a number for each class, or a map of probabilities."""
    h, w, k = shape[1:]
    if k < 2:
        raise UsageError(
            f"{what}: {net.names[-1]!r} gives one channel, not one for each class; {NO_CLASSIFIER}"
        )
    if (h, w) != (1, 1) and not isinstance(net.nodes[-1].layer, Softmax):
        raise UsageError(f"{what}: {net.names[-1]!r} gives a map of {h}x{w}, not names; {NO_CLASSIFIER}")


def _goals(path: str | None, photos: list[str]) -> list[Path | None]:
    """One picture gets the name as it is, each of several its photo's too, and a number where two agree."""
    if path is None:
        return [None] * len(photos)
    goal = Path(path)
    if len(photos) == 1:
        return [goal]
    often, seen = Counter(Path(photo).stem for photo in photos), Counter[str]()
    goals: list[Path | None] = []
    for photo in photos:
        stem = Path(photo).stem
        seen[stem] += 1
        number = f"-{seen[stem]}" if often[stem] > 1 else ""
        goals.append(goal.with_stem(f"{goal.stem}-{stem}{number}"))
    return goals
