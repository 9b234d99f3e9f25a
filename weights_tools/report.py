"""What a conversion says for itself, as text: where it came from, what was done, and what was proved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import minidnn
from minidnn.images import Preprocess
from minidnn.net import Net

CHUNK = 1 << 20


@dataclass
class Report:
    """Grows while the conversion goes on; `text` at the end."""

    sources: list[dict[str, str]] = field(default_factory=list)  # file, sha256
    format: str = ""
    arch: str | None = None
    steps: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    preprocessing: str = ""
    tests: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    count: int = 0
    licence: str = "unknown: ask whoever gave you the file"

    def text(self) -> str:
        parts = [
            ("source", [f"{source['file']}\n  sha256 {source['sha256']}" for source in self.sources]),
            ("format", [self.format]),
            ("net", [f"{self.arch or 'its own'}: {len(self.layers)} layers, {self.count:,} parameters"]),
            ("what was done", self.steps),
            ("preprocessing", [self.preprocessing]),
            ("self-test", self.tests),
            ("warnings", self.warnings or ["none"]),
            ("licence", [self.licence]),
            ("layers", self.layers),
        ]
        head = f"Converted by minidnn {minidnn.__version__}\n"
        return head + "".join(
            f"\n{title}\n" + "".join(f"  {line}\n" for line in lines) for title, lines in parts if lines
        )

    def provenance(self) -> dict[str, Any]:
        """For the file itself."""
        first = self.sources[0] if self.sources else {}
        return {
            "source_format": self.format,
            "net": self.arch,
            "source_file": first.get("file", ""),
            "source_sha256": first.get("sha256", ""),
            "license": "unknown",
            "converter": "minidnn weights convert",
            "converter_version": minidnn.__version__,
            "steps": [*self.steps, f"preprocessing: {self.preprocessing}"],
            "warnings": list(self.warnings),
        }


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sources(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Weights first: that of several files which is the largest."""
    by_size = sorted(paths, key=lambda path: -path.stat().st_size)
    return [{"file": path.name, "sha256": sha256(path)} for path in by_size]


def layer_lines(net: Net) -> list[str]:
    """Each layer on a line: number, name, kind, the shapes of its arrays."""
    width = max(len(name) for name in net.names)
    other = {name: alias for alias, name in net.aliases.items()}
    lines = []
    for number, node in enumerate(net.nodes, start=1):
        arrays = {**node.layer.params, **node.layer.buffers}
        shapes = "  ".join(f"{name} {'x'.join(map(str, a.shape))}" for name, a in arrays.items())
        alias = f"  (in the file {other[node.name]!r})" if node.name in other else ""
        kind = type(node.layer).__name__
        lines.append(f"{number:>3} {node.name:<{width}}  {kind:<13} {shapes}{alias}".rstrip())
    return lines


def told(preprocess: Preprocess) -> str:
    """A preprocessing in words."""
    mean = "a picture" if np.ndim(preprocess.mean) == 3 else ", ".join(f"{m:g}" for m in preprocess.mean)
    std = ", ".join(f"{s:g}" for s in preprocess.std)
    words = [preprocess.order]
    words += [f"times {preprocess.scale:.6g}"] if preprocess.scale != 1 else []
    words += [f"minus {mean}"] if np.any(preprocess.mean) else []
    words += [f"over {std}"] if set(preprocess.std) != {1.0} else []
    if preprocess.size:
        size = "{}x{}".format(*preprocess.size)
        way = "squeezed to" if preprocess.resize is None else f"short side {preprocess.resize}, middle"
        words.append(f"{way} {size}")
    return ", ".join(words)
