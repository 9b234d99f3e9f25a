"""One layer as a Keras file describes it, in the words of today: its class, its numbers, its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from minidnn.errors import DamagedFileError

MAX_SIZE = 1 << 12  # of a window, a pad, a stride: whatever is counted in pixels

# What Keras 1 called things.
OLD_KINDS = {"Convolution2D": "Conv2D", "SeparableConvolution2D": "SeparableConv2D"}
OLD_WORDS = {"nb_filter": "filters", "subsample": "strides", "border_mode": "padding", "bias": "use_bias"}
OLD_WORDS |= {"dim_ordering": "data_format", "output_dim": "units", "p": "rate", "concat_axis": "axis"}
OLD_VALUES = {"th": "channels_first", "tf": "channels_last"}


@dataclass(frozen=True, eq=False)
class Part:
    """One layer as the file describes it. Its numbers are checked when they are asked for."""

    kind: str  # its class
    name: str
    config: Mapping[str, Any]
    within: tuple[str, ...]  # the models it is a part of, the outermost first
    group: tuple[str, ...]  # where Keras 3 keeps its arrays, below "layers" and "layers"

    def flag(self, word: str, default: bool) -> bool:
        value = self.config.get(word, default)
        if not isinstance(value, bool):
            raise self._wrong(word, "true or false")
        return value

    def text(self, word: str, default: str) -> str:
        value = self.config.get(word, default)
        if not isinstance(value, str):
            raise self._wrong(word, "a word")
        return value

    def number(self, word: str, default: float | None = None) -> float:
        value = self.config.get(word, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e30 < value < 1e30:
            raise self._wrong(word, "a number")
        return float(value)

    def whole(self, word: str, default: int | None = None) -> int:
        return self.checked(word, [self.config.get(word, default)], 1)[0]

    def pair(self, word: str, default: Any = None) -> tuple[int, int]:
        """(y, x): two numbers, or one that stands for both."""
        y, x = self.wholes(word, default, 2)
        return y, x

    def wholes(self, word: str, default: Any, count: int, least: int = 1) -> list[int]:
        value = self.config.get(word)
        value = default if value is None else value
        values = value if isinstance(value, list | tuple) else [value] * count
        if len(values) != count:
            raise self._wrong(word, f"{count} numbers")
        return self.checked(word, values, least)

    def checked(self, word: str, values: Iterable[Any], least: int) -> list[int]:
        """These values of that word as whole numbers, of a size that an image can have."""
        found = list(values)
        for value in found:
            if type(value) is not int or not least <= value <= MAX_SIZE:
                raise self._wrong(word, f"whole numbers from {least} to {MAX_SIZE:,}")
        return found

    def _wrong(self, word: str, wanted: str) -> DamagedFileError:
        found = repr(self.config.get(word))[:60]
        return DamagedFileError(f"{word!r} is {found}, expected {wanted}; fetch the file again")


def snake_case(kind: str) -> str:
    """BatchNormalization → batch_normalization, as Keras 3 names the groups of its files."""
    kind = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub("([a-z])([A-Z])", r"\1_\2", kind).lower()


def kind_of(layer: dict[str, Any]) -> str:
    """The class of a layer; one of somebody's own is told apart from Keras's of the same name."""
    kind, module, registered = (layer.get(word) for word in ("class_name", "module", "registered_name"))
    if isinstance(registered, str) and ">" in registered:
        return registered
    if isinstance(module, str) and module.partition(".")[0] not in ("keras", "tf_keras", "tensorflow"):
        return f"{module}.{kind}"
    return OLD_KINDS.get(str(kind), str(kind))


def modern(config: dict[str, Any]) -> dict[str, Any]:
    """What Keras 1 wrote, in the words of today."""
    if not {"nb_row", "border_mode", "dim_ordering", "output_dim", "p", "mode"} & config.keys():
        return config
    new = {OLD_WORDS.get(word, word): value for word, value in config.items()}
    if "nb_row" in config:
        new["kernel_size"] = [config["nb_row"], config.get("nb_col")]
    old_format = config.get("dim_ordering")
    if isinstance(old_format, str):
        new["data_format"] = OLD_VALUES.get(old_format, old_format)
    return new
