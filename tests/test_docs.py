"""The documents cannot rot: their code runs, prints what they say, and quotes the sources as they stand.

In docs/*.md and README.md a ```python block is run, in one namespace for each file; a ```text block directly
after it is what it prints; a ```py block quotes a file of minidnn, line by line and in order.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import minidnn.layers

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "README.md"]
SOURCES = [path.read_text(encoding="utf-8").splitlines() for path in sorted((ROOT / "minidnn").rglob("*.py"))]
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


class Block(NamedTuple):
    """Fenced text of a page, and where it starts."""

    language: str
    body: str
    line: int
    follows: bool  # directly on another block, with nothing but blank lines between


def blocks(text: str) -> Iterator[Block]:
    end = None
    for found in FENCED.finditer(text):
        follows = end is not None and not text[end : found.start()].strip()
        yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 1, follows)
        end = found.end()


def run(text: str, name: str) -> None:
    """Run the python blocks of a page in order, and compare what they print with what the page says."""
    namespace, printed, before = {"__name__": "page"}, "", ""
    with np.printoptions():  # a page may set its own, for itself
        for block in blocks(text):
            if block.language == "python":
                lines = "\n" * block.line + block.body  # so that errors show the line of the page
                code = compile(lines, name, "exec", dont_inherit=True)
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    exec(code, namespace)
                printed = out.getvalue()
            elif block.language == "text" and block.follows and before == "python":
                assert printed == block.body, (
                    f"{name}, line {block.line}: the block before prints something else"
                )
            before = block.language


def misquoted(text: str) -> list[int]:
    """Where on the page a quotation starts that no source file has, line by line and in order."""
    return [
        block.line
        for block in blocks(text)
        if block.language == "py" and not any(_in_order(block.body, source) for source in SOURCES)
    ]


def _in_order(body: str, source: list[str]) -> bool:
    rest = iter(source)
    return all(any(line.strip() in code for code in rest) for line in body.splitlines() if line.strip())


@every_page
def test_the_code_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page.read_text(encoding="utf-8"), page.name)


@every_page
def test_quoted_code_stands_in_the_source(page):
    assert misquoted(page.read_text(encoding="utf-8")) == []


@every_page
def test_every_block_says_what_it_is_and_ends(page):
    text = page.read_text(encoding="utf-8")
    assert all(block.language for block in blocks(text))
    assert len(re.findall(r"^\s*```", text, re.MULTILINE)) == 2 * len(list(blocks(text)))


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_layer_has_its_section():
    headings = re.findall(
        r"^## (\w+)$", (ROOT / "docs/backprop.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(set(minidnn.layers.__all__) - {"Layer"} - set(headings)) == []


def test_the_index_knows_every_page():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS if page.name != "index.md" and f"({page.name})" not in index] == []


def test_these_checks_can_fail():
    says_wrong = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    with pytest.raises(AssertionError, match="line 5"):
        run(says_wrong, "page.md")
    run(says_wrong.replace("3", "2"), "page.md")
    run(says_wrong.replace("```text", "Not what it prints:\n\n```text"), "page.md")
    with pytest.raises(NameError):
        run("```python\nnobody\n```\n", "page.md")
    assert misquoted("```py\nreturn -self.factor * dzdy\n```\n") == []
    assert misquoted("\n```py\nreturn dzdy * (y >= 0)\n```\n") == [2]
