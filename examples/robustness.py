"""What augmentation is good for: small nets, each trained with another one, tested on pictures made worse.

    python examples/robustness.py FOLDER [OUTPUT]

FOLDER holds MNIST (docs/training.md says what else may). One net learns from the pictures as they are, the
others from pictures that were shifted, turned, covered ... anew each time they are seen. Then each is asked
about test pictures that were made worse in one way: does it know the digit still? It prints a table, and
leaves three pictures in OUTPUT. All numbers follow from the seed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minidnn.net import Net
from minidnn.train.augment import applied, from_words, rotated
from minidnn.train.curves import figure_of, save_plot, svg
from minidnn.train.data import DataSet, Part, Splits
from minidnn.train.fit import fit
from minidnn.train.judging import evaluate
from minidnn.train.recipe import Recipe

LEARNED_FROM, TESTED_ON = 1500, 400
RECIPE = Recipe(net="lenet", epochs=6, batch=64, optimiser="adam", rate=0.001)
TRAINED = {
    "as they are": (),
    "noise": ("noise 60",),
    "cutout": ("cutout 10",),
    "occlude": ("occlude 0.3 0.5",),
    "flip": ("flip",),
    "rotate": ("rotate 45",),
    "shift": ("shift 4",),
    "scale": ("scale 0.4",),
    "colour": ("colour 0.5",),
    "all but flip": ("rotate 45", "shift 3", "scale 0.25", "colour 0.3", "occlude 0.3 0.5", "noise 50"),
}
ANGLES = tuple(range(-90, 91, 15))
TURNED = ("as they are", "rotate", "all but flip")  # whose answers to each angle are drawn

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def faint(images: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """A quarter of the contrast, around the mean of each picture."""
    middle = images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    return middle + (images - middle) / 4


def turned_by(degrees: float) -> Change:
    return lambda images, _: rotated(images, np.full(len(images), float(degrees)))


def words(text: str) -> Change:
    return from_words([text])[0]


TESTED: dict[str, Change] = {
    "as it is": lambda images, _: images,
    "noise": words("noise 100"),
    "occluded": words("occlude 0.4 1"),
    "flipped": words("flip 1"),
    "turned": words("rotate 45"),
    "shifted": words("shift 5"),
    "scaled": words("scale 0.4"),
    "faint": faint,
}


@dataclass(frozen=True, eq=False)
class Changed(Part):
    """The pictures of a set, each made worse by the same draw whenever it is asked for."""

    change: Change = TESTED["as it is"]

    def batch(self, which: np.ndarray) -> np.ndarray:
        return self.change(super().batch(which), np.random.default_rng([7, *which[:1]]))


def share(data: Splits, learned_from: int, tested_on: int) -> Splits:
    """The first pictures of each set: enough to show it, in a minute for each net."""

    def first(part: DataSet, count: int) -> Part:
        return Part(part, np.arange(min(count, len(part))), part.name)

    return Splits(first(data.train, learned_from), first(data.validation, 0), first(data.test, tested_on))


def trained(recipe: Recipe, data: Splits) -> Net:
    net = recipe.first_net(data.train)
    for _ in fit(net, data, recipe.way()):
        pass
    return net


def right(net: Net, data: DataSet, change: Change) -> float:
    """The share of these pictures, changed, that the net knows."""
    everything = Changed(data, np.arange(len(data)), data.name, change)
    return 1 - evaluate(net, everything)["top1"]


def table(rows: dict[str, dict[str, float]]) -> str:
    """Who learned from what, against what was tested; the best of each column in bold."""
    lines = ["| trained on | " + " | ".join(TESTED) + " |", "|---" * (len(TESTED) + 1) + "|"]
    best = {name: max(row[name] for row in rows.values()) for name in TESTED}
    for trained_on, row in rows.items():
        cells = [f"{row[name]:.1%}" for name in TESTED]
        cells = [
            f"**{cell}**" if row[name] == best[name] else cell
            for name, cell in zip(TESTED, cells, strict=True)
        ]
        lines.append(f"| {trained_on} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table_picture(rows: dict[str, dict[str, float]]) -> bytes:
    """The table as a map of colours."""
    figure, (axes,) = figure_of(1)
    figure.set_size_inches(7, 0.4 * len(rows) + 1.2)
    numbers = np.array([[row[name] for name in TESTED] for row in rows.values()])
    axes.imshow(numbers, vmin=0.2, vmax=1, cmap="viridis", aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks(range(len(TESTED)), TESTED, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_xlabel("tested on", fontsize=9)
    axes.set_ylabel("trained on", fontsize=9)
    for (i, j), number in np.ndenumerate(numbers):
        dark = "white" if number < 0.75 else "black"
        axes.text(j, i, f"{number:.0%}", ha="center", va="center", fontsize=8, color=dark)
    return svg(figure)


def angle_picture(lines: dict[str, list[float]]) -> bytes:
    """What is right against the angle that test pictures are turned by."""
    figure, (axes,) = figure_of(1)
    axes.axvspan(-45, 45, color="0.93")
    axes.text(0, 0.03, "angles that were trained", ha="center", fontsize=8, color="0.4")
    for name, values in lines.items():
        axes.plot(ANGLES, values, marker=".", label=name)
    axes.set_xticks(ANGLES[::2])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("degrees that a test picture is turned by")
    axes.set_ylabel("known")
    axes.legend(fontsize=8, title="trained on", title_fontsize=8)
    return svg(figure)


def samples_picture(data: DataSet, count: int = 10) -> bytes:
    """The same pictures as each net sees them, a row for each."""
    figure, axes = figure_of(len(TRAINED))
    figure.set_size_inches(7, 0.68 * len(TRAINED))
    figure.get_layout_engine().set(rect=(0.03, 0, 0.97, 1))
    images = data.batch(np.arange(count))
    for axis, (name, kind) in zip(axes, TRAINED.items(), strict=True):
        changed = applied(from_words(kind), images, np.random.default_rng(1))
        strip = np.concatenate(list(changed), axis=1) / 255
        axis.imshow(
            strip if strip.shape[2] == 3 else strip[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="none"
        )
        axis.grid(visible=False)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return svg(figure)


def study(
    data: Splits, recipe: Recipe = RECIPE, names: tuple[str, ...] = tuple(TRAINED)
) -> tuple[dict[str, dict[str, float]], dict[str, list[float]]]:
    """The table, and for some nets what each angle does."""
    rows: dict[str, dict[str, float]] = {}
    lines: dict[str, list[float]] = {}
    for name in names:
        net = trained(replace(recipe, augment=TRAINED[name]), data)
        rows[name] = {test: right(net, data.test, change) for test, change in TESTED.items()}
        print(
            f"{name:14}", "  ".join(f"{test} {value:.1%}" for test, value in rows[name].items()), flush=True
        )
        if name in TURNED:
            lines[name] = [right(net, data.test, turned_by(angle)) for angle in ANGLES]
    return rows, lines


def main() -> None:
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else ".")
    folder.mkdir(parents=True, exist_ok=True)
    data = share(replace(RECIPE, data=sys.argv[1]).splits(), LEARNED_FROM, TESTED_ON)
    save_plot(folder / "augmentations.svg", samples_picture(data.test))
    rows, lines = study(data)
    print(table(rows))
    save_plot(folder / "robustness.svg", table_picture(rows))
    save_plot(folder / "rotation.svg", angle_picture(lines))
    print(f"wrote augmentations.svg, robustness.svg and rotation.svg to {folder}")


if __name__ == "__main__":
    main()
