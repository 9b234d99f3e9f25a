"""`minidnn evaluate`: how often a net is wrong about a folder of photos, at its first answer and in five."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidnn.cli.classify import Classifier, add_net_arguments
from minidnn.cli.device import device_for
from minidnn.errors import FileError, FileFormatError, UsageError, did_you_mean
from minidnn.weights.classes import SYNSET, Classes

PHOTOS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", help="sub-folders named by classes or their numbers, or photos named 0123_anything.jpg"
    )
    add_net_arguments(parser)
    parser.add_argument(
        "--labels", metavar="FILE", help="lines 'photo class': the class by its number or name"
    )
    parser.add_argument("--json", action="store_true", help="for other programs")


def run(args: argparse.Namespace) -> int:
    device = device_for(args.device)
    classifier = Classifier.from_file(args.net, classes=args.classes, grey=args.grey, device=device)
    labels = labelled(Path(args.folder), args.labels, Classes(classifier.names, classifier.ids))
    result = errors(classifier, labels)
    code = FileError.exit_code if result["unread"] else 0
    if args.json:
        print(json.dumps(result))
        return code
    print(f"{result['photos']} photos of {len(set(labels.values()))} classes")
    for top in (1, 5):
        wrong = result[f"top{top}_errors"]
        print(f"top-{top} error {wrong / result['photos']:6.2%}   ({wrong} of {result['photos']} wrong)")
    if result["unread"]:
        print(f"{result['unread']} photos could not be read and are not counted")
    return code


def errors(classifier: Classifier, labels: dict[Path, int]) -> dict[str, int]:
    """How many of the photos are not the first answer, and not among the first five.

    Top-5 is kinder, and fairer: a photo has several things in it, and names of classes are near each other.
    A photo that cannot be read is told, and not counted.
    """
    wrong = {1: 0, 5: 0}
    batch: list[tuple[np.ndarray, int]] = []
    unread: list[str] = []
    with tqdm(total=len(labels), unit="photo", disable=None) as bar:
        for photo, label in labels.items():
            bar.update()
            try:
                fitted = classifier.fitted(photo)
            except FileError as error:
                unread.append(str(error))
                continue
            if len(batch) == BATCH or (batch and batch[-1][0].shape != fitted.shape):
                _judge(classifier, batch, wrong)
                batch = []
            batch.append((fitted, label))
    if batch:
        _judge(classifier, batch, wrong)
    for words in unread:
        print(f"minidnn: {words}", file=sys.stderr)
    read = len(labels) - len(unread)
    if not read:
        raise FileFormatError(f"none of the {len(labels)} photos can be read; give others")
    return {"photos": read, "top1_errors": wrong[1], "top5_errors": wrong[5], "unread": len(unread)}


def _judge(classifier: Classifier, batch: list[tuple[np.ndarray, int]], wrong: dict[int, int]) -> None:
    probabilities = classifier.probabilities(np.concatenate([fitted for fitted, _ in batch]))
    for row, (_, label) in zip(probabilities, batch, strict=True):
        if label >= len(row):
            raise UsageError(
                f"class number {label} among the labels, and the net has {len(row)}; name another --net"
            )
        best = np.argsort(-row, kind="stable")[:5]
        wrong[1] += int(best[0] != label)
        wrong[5] += int(label not in best)


def labelled(folder: Path, file: str | None, classes: Classes) -> dict[Path, int]:
    """Each photo with the number of its class: by a file, by its sub-folder, or by its own name."""
    if not folder.is_dir():
        raise FileFormatError(f"{folder}: no such folder; give one with photos")
    if file is not None:
        return _by_file(folder, Path(file), classes)
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTOS)
    if not photos:
        raise FileFormatError(f"{folder}: no photos in it ({', '.join(PHOTOS)})")
    labels = {}
    for photo in photos:
        if photo.parent == folder:
            number = re.match(r"(\d+)(?=[_.-])", photo.name)
            if number is None:
                advice = "begin with its class number (0123_cat.jpg), use sub-folders, or give --labels"
                raise UsageError(f"{photo}: of which class? Let its name {advice}")
            labels[photo] = int(number[1])
        else:
            labels[photo] = _number_of(photo.relative_to(folder).parts[0], classes, str(photo.parent))
    return labels


def _by_file(folder: Path, file: Path, classes: Classes) -> dict[Path, int]:
    if not file.is_file():
        raise FileFormatError(f"{file}: no such file; --labels wants lines 'photo class'")
    labels = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            photo, _, label = line.strip().partition("\t" if "\t" in line else " ")
            labels[folder / photo] = _number_of(label.strip(), classes, f"{file}, line {number}")
    if not labels:
        raise FileFormatError(f"{file}: no lines in it; --labels wants lines 'photo class'")
    return labels


def _number_of(label: str, classes: Classes, where: str) -> int:
    """A class by its number, its identifier in WordNet, its name, or the first of its names."""
    names = classes.names
    if label.isdecimal():
        return int(label)
    if label in classes.ids:
        return classes.ids.index(label)
    if SYNSET.fullmatch(label) and not classes.ids:
        unknown = f"{label} is an identifier of WordNet, and the net's file has none"
        raise UsageError(
            f"{where}: {unknown}; give --classes synset_words.txt, with n01440764 tench and so on"
        )
    for number, name in enumerate(names):
        if label.lower() in (name.lower(), name.split(",")[0].lower(), name.replace(" ", "_").lower()):
            return number
    known = ", ".join(names[:3]) + " …" if names else "no names at all: use numbers, or --classes FILE"
    raise UsageError(f"{where}: no class {label!r}; the net has {known}{did_you_mean(label, names)}")
