"""One page with everything about a dream, in one file that any browser opens anywhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from minidnn import images
from minidnn.arrays import Array, to_host
from minidnn.files import replacing
from minidnn.recipes.findings import Finding, panels, tables, why
from minidnn.recipes.job import Opened
from minidnn.recipes.microscope import Seen
from minidnn.recipes.plots import plot_panels, plot_run
from minidnn.recipes.sheets import strip

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
img, svg { max-width: 100%; height: auto } table { border-collapse: collapse }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top } th { font-weight: 600 }
figure { margin: 1rem 0 } figcaption { color: #666; font-size: .9rem }
"""
CLIMB = "z, the gradient's share of the way and the length of each step, step by step"
LOOKS = "what the net takes the picture for, which channels rose and how much is burnt out, step by step"


def report(
    path: str | Path,
    opened: Opened,
    picture: np.ndarray,
    history: Sequence[Mapping[str, Any]],
    pictures: Sequence[tuple[str, Array]],
    seen: Seen,
) -> None:
    """Write the page."""
    parts = [
        _figure(picture, f"the dream, {picture.shape[2]}x{picture.shape[1]} pixels"),
        _figure(to_host(opened.picture), "what it began with"),
        _figure(strip(pictures), "how it grew"),
        _plot(plot_run(history, title=str(opened.objective)), CLIMB),
        "<h2>Why it became this</h2>" + "".join(f"<p>{html.escape(words)}</p>" for words in why(seen)),
        _plot(plot_panels(panels(seen), xlabel="step"), LOOKS),
        *(_section(finding) for finding in tables(seen)),
        "<h2>Settings</h2>" + _table(_settings(opened)),
    ]
    title = f"A dream of {', '.join(map(str, opened.objective.layers))}"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{''.join(parts)}</html>"
    )
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _figure(picture: np.ndarray, caption: str) -> str:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "picture.png"
        images.save(file, picture)
        data = base64.b64encode(file.read_bytes()).decode()
    words = html.escape(caption)
    image = f'<img alt="{words}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{words}</figcaption></figure>"


def _plot(svg: bytes, words: str) -> str:
    """The picture without the head that a file of its own needs."""
    text = svg.decode().partition("<svg")[2]
    caption = f"<figcaption>{html.escape(words)}</figcaption>"
    return f'<figure><svg role="img" aria-label="{html.escape(words)}"{text}{caption}</figure>'


def _section(finding: Finding) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in finding.rows
    )
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in finding.heads)
    return f"<h2>{html.escape(finding.title)}</h2><table><tr>{heads}</tr>{rows}</table>"


def _settings(opened: Opened) -> dict[str, Any]:
    told = opened.job.as_json()
    settings = told.pop("settings")
    return {name: value for name, value in (told | settings).items() if value not in (None, "", ())}


def _table(rows: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{cells}</table>"
