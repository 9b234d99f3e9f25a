"""What the doctor found, for other programs, as one page for a browser, and as plots."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from minidnn.train import curves
from minidnn.train.checks.patient import DOUBTFUL, UNSEEN, WELL, WRONG, Finding, is_healthy

MARKS = {WELL: "✓", UNSEEN: "–", DOUBTFUL: "!", WRONG: "✗"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
svg { max-width: 100%; height: auto } table { border-collapse: collapse }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top } th { font-weight: 600 }
.wrong { color: #b00020 } .doubtful { color: #8a5a00 } .well { color: #1b6e2c }
"""


def as_json(title: str, findings: Sequence[Finding], readout: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything, in JSON's own kinds; numbers that are not finite become null."""
    checks = [
        {
            "check": finding.check,
            "verdict": finding.verdict,
            "evidence": [{"verdict": verdict, "words": words} for verdict, words in finding.evidence],
            "advice": list(finding.advice),
            "numbers": plain(finding.numbers),
        }
        for finding in findings
    ]
    healthy = is_healthy(findings)
    return {"of": title, "healthy": healthy, "checks": checks, "bias and variance": plain(readout)}


def as_html(title: str, findings: Sequence[Finding], readout: str, svg: bytes | None) -> str:
    """One page that any browser opens anywhere."""
    rows = "".join(_row(finding) for finding in findings)
    more = f"<h2>Bias and variance</h2><p>{html.escape(readout)}</p>" if readout else ""
    plot = f"<svg{svg.decode().partition('<svg')[2]}" if svg else ""
    words = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{words}</title><style>{STYLE}</style>'
        f"<h1>{words}</h1><table>{rows}</table>{more}{plot}</html>\n"
    )


def plots(findings: Sequence[Finding]) -> bytes:
    """The loss against the rate, and how loud layers and their gradients are, as an SVG picture."""
    numbers = {finding.check: finding.numbers for finding in findings}
    figure, (top, middle, below) = curves.figure_of(3, share_x=False)
    tested = numbers.get("learning rate", {})
    if tested.get("rates"):
        top.plot(tested["rates"], tested["losses"])
        for name, style in (("suggested", "--"), ("chosen", ":")):
            if tested.get(name):
                top.axvline(tested[name], linestyle=style, color="black", label=f"{name}: {tested[name]:g}")
        top.set_xscale("log")
        top.legend(fontsize=8)
    top.set_xlabel("rate")
    top.set_ylabel("loss")
    layered = (
        (middle, "first weights", "spreads", "spread of outputs"),
        (below, "depth", "gradients", "size of gradients"),
    )
    for axes, check, what, label in layered:
        sizes = {name: size for name, size in numbers.get(check, {}).get(what, {}).items() if size > 0}
        axes.plot([name.replace("$", r"\$") for name in sizes], list(sizes.values()), marker=".")
        curves.in_powers(axes)
        axes.tick_params(axis="x", labelrotation=90 if len(sizes) > 8 else 0, labelsize=8)
        axes.set_ylabel(label)
    return curves.svg(figure)


def plain(value: Any) -> Any:
    """The same in JSON's own kinds."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if isfinite(value) else None
    return value


def _row(finding: Finding) -> str:
    evidence = "<br>".join(
        f'<span class="{html.escape(verdict)}">{html.escape(words)}</span>'
        for verdict, words in finding.evidence
    )
    advice = "".join(f"<br><b>{html.escape(words)}</b>" for words in finding.advice)
    mark = f'<td class="{html.escape(finding.verdict)}">{MARKS[finding.verdict]}</td>'
    return f"<tr>{mark}<th>{html.escape(finding.check)}</th><td>{evidence}{advice}</td></tr>"
