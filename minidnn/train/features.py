"""What layers of a net say of many pictures, streamed to a file: batch by batch, each kept at once.

Beside FILE grows the folder FILE.parts with a small file for each batch. When all are there they become FILE
in one instant, and the folder goes. So a run that was killed goes on where it was, to the same file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidnn import images, npz
from minidnn.arrays import to_device, to_host
from minidnn.errors import DivergedError, FileError, FileFormatError, MismatchError, OutputError, UsageError
from minidnn.files import ADVICE, replacing
from minidnn.net import Net
from minidnn.train import featurefile
from minidnn.train.data import DataSet, fingerprint
from minidnn.train.featurefile import Features, key_of
from minidnn.train.judging import preprocess_of
from minidnn.train.pooling import POOLS, check_pools, chosen_layers, width
from minidnn.weights import digest
from minidnn.weights.typed import encoded


@dataclass(frozen=True)
class Wanted:
    """Which features: all pools of all layers, of pictures brought to `size` (the net's own)."""

    layers: tuple[str, ...]
    pools: tuple[str, ...] = ("mean",)
    size: tuple[int, int] | None = None
    batch: int = 16

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UsageError(f"batches of {self.batch}; give 1 or more")
        check_pools(self.pools)


class Progress(NamedTuple):
    """So many pictures are done, of so many."""

    done: int
    total: int


class Extraction:
    """`for progress in Extraction("features.h5", net, parts, wanted).run(): ...` writes the file.

    That the net has the layers and takes the pictures is seen at once. Whoever stops taking what `run` yields
    stops it; then `run(resume=True)` of the same thing goes on.
    """

    def __init__(self, path: str | Path, net: Net, parts: Mapping[str, DataSet], wanted: Wanted) -> None:
        self.path, self.net, self.parts, self.wanted = Path(path), net, parts, wanted
        self.folder = self.path.with_name(self.path.name + ".parts")
        self.note = self.folder / "about.json"  # of what the batches in the folder are
        self.layers = chosen_layers(net, wanted.layers)
        self.preprocess = preprocess_of(net)
        first = next(iter(parts.values()))
        self.size = wanted.size or self.preprocess.size or first.shape[:2]
        shapes = net.shapes((1, *self.size, self.preprocess.channels), upto=self.layers)
        self.widths = {
            key_of(layer, pool): width(pool, shapes[layer]) for layer in self.layers for pool in wanted.pools
        }
        self.total = sum(map(len, parts.values()))
        self.about = json.loads(json.dumps(self._about()))  # as it comes back from a file

    def _about(self) -> dict[str, Any]:
        first = next(iter(self.parts.values()))
        counted = {
            name: {"count": len(part), "fingerprint": fingerprint(part)} for name, part in self.parts.items()
        }
        return {
            "net": Path(self.net.source.get("path", "")).name or repr(self.net),
            "digest": digest(self.net, upto=self.layers),
            "layers": self.layers,
            "pools": check_pools(self.wanted.pools),
            "widths": self.widths,
            "size": self.size,
            "preprocess": encoded(self.preprocess),
            "classes": first.classes,
            "parts": counted,
            "batch": self.wanted.batch,
        }

    def run(self, *, resume: bool = False) -> Iterator[Progress]:
        """Stream. With `resume` go on with what a run for the same thing has left, if there is something."""
        if self.note.exists():
            if not resume:
                advice = "go on with it by --resume, delete it, or give another --output"
                raise UsageError(f"{self.folder}: a run that was not done; {advice}")
            self._check_same(self._begun_for(), self.folder)
        elif resume and self.path.exists():
            self._check_same(Features.open(self.path).about, self.path)
            shutil.rmtree(self.folder, ignore_errors=True)
            return iter([Progress(self.total, self.total)])
        else:
            self._begin()
        return self._going()

    def _begun_for(self) -> dict[str, Any]:
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileFormatError(
                f"{self.note}: damaged ({error}); delete the folder and begin anew"
            ) from None
        return found if isinstance(found, dict) else {}

    def _begin(self) -> None:
        """Make the folder, if the disk has room for all that is to come."""
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            advice = ADVICE.get(error.errno or 0, "choose another place to write to")
            raise OutputError(f"{self.path}: {error.strerror}; {advice}") from None
        need = 8 * self.total * sum(self.widths.values())  # bytes: once in batches, once in the file
        free = shutil.disk_usage(self.folder).free
        if need > free:
            shutil.rmtree(self.folder)
            found = f"takes {need:,} bytes on the way, {free:,} are free"
            raise OutputError(f"{self.path}: {found}; ask for fewer layers, or pool them more")
        with replacing(self.note) as partial:
            partial.write_text(json.dumps(self.about), encoding="utf-8")

    def _going(self) -> Iterator[Progress]:
        """The batches that are not there yet; then the file."""
        done = 0
        for part, data in self.parts.items():
            for number, which in enumerate(self._batches(data)):
                if self._kept(part, number, len(which)) is None:
                    self._keep(part, number, self._features(data, which))
                done += len(which)
                yield Progress(done, self.total)
        featurefile.write(self.path, self.about, {part: self._all_kept(part) for part in self.parts})
        shutil.rmtree(self.folder)

    def _batches(self, data: DataSet) -> list[np.ndarray]:
        return [
            np.arange(at, min(at + self.wanted.batch, len(data)))
            for at in range(0, len(data), self.wanted.batch)
        ]

    def _features(self, data: DataSet, which: np.ndarray) -> dict[str, np.ndarray]:
        """The rows of a batch, by layer and pool, and its labels."""
        net = self.net
        x = to_device(self.preprocess.to_net(self._fitted(data.batch(which))), net.device)
        maps = net.forwardto(net.init_res(), list(self.layers), x, keep=())
        found = {"labels": data.labels[which].astype("<i4")}
        for layer, y in maps.items():
            for pool in self.wanted.pools:
                rows = to_host(POOLS[pool](y)).astype("<f4")
                good = np.isfinite(rows).all(axis=1)
                if not good.all():
                    where = f"picture {which[~good][0]} of {data.name}"
                    raise DivergedError(f"{where}: {layer!r} says what is not finite; check the weights")
                found[key_of(layer, pool)] = rows
        return found

    def _fitted(self, pixels: np.ndarray) -> np.ndarray:
        """In the size and channels of the net: sets that come in one size are what they are."""
        if pixels.shape[3] < self.preprocess.channels:
            pixels = np.repeat(pixels, self.preprocess.channels, axis=3)
        if pixels.shape[1:3] != tuple(self.size):
            pixels = images.resize(pixels, self.size, how=self.preprocess.interpolation)
        return pixels

    # What is kept on the way.

    def _place(self, part: str, number: int) -> Path:
        return self.folder / f"{part}-{number:06}.npz"

    def _keep(self, part: str, number: int, found: Mapping[str, np.ndarray]) -> None:
        with replacing(self._place(part, number)) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **{name.replace("/", "|"): a for name, a in found.items()})

    def _kept(self, part: str, number: int, count: int) -> dict[str, np.ndarray] | None:
        """A batch that is there and whole; what is not is made again."""
        try:
            found = npz.read(self._place(part, number))
        except FileError:
            return None
        found = {name.replace("|", "/"): array for name, array in found.items()}
        shapes = {"labels": (count,)} | {key: (count, wide) for key, wide in self.widths.items()}
        return found if {name: array.shape for name, array in found.items()} == shapes else None

    def _all_kept(self, part: str) -> Iterator[dict[str, np.ndarray]]:
        for number, which in enumerate(self._batches(self.parts[part])):
            found = self._kept(part, number, len(which))
            if found is None:
                raise FileFormatError(
                    f"{self._place(part, number)}: was changed meanwhile; --resume makes it again"
                )
            yield found

    def _check_same(self, before: Mapping[str, Any], where: Path) -> None:
        """That what is there was begun for the same thing; a net may have been renamed."""
        what = {"digest": "net", "parts": "data", "widths": "layers"}
        for name, mine in self.about.items():
            if name != "net" and before.get(name) != mine:
                shown = f" ({before.get(name)}, now {mine})" if name in ("layers", "pools", "size") else ""
                raise MismatchError(
                    f"{where}: of another {what.get(name, name)}{shown}; resume with the same, "
                    "or give another --output"
                )
