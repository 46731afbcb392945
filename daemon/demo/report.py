"""``report.html``: the summary for people; one file, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b2230; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .35rem .6rem; vertical-align: top; }
tr { border-bottom: 1px solid #dde2ea; } .n { text-align: right; font-variant-numeric: tabular-nums; }
.bar { fill: #3b6fb6; } .interval { stroke: #1b2230; stroke-width: 1.5; } .note { color: #566075; }
"""
_LABELS = {
    "unsafe_rate": "Unsafe answers to harmful prompts",
    "refusal_rate": "Refusals of harmful prompts",
    "false_refusal_rate": "Needless refusals of benign prompts",
    "utility_rate": "Useful answers to benign prompts",
    "garbled_rate": "Garbled answers",
}
_WIDTH = 320


def render(summary: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> str:
    """The page. Everything from outside is escaped."""
    phases = [("before", summary["before"]), ("after", summary["after"])]
    rates = "".join(
        f"<h2>{'Before training' if name == 'before' else 'After the promotion'}</h2>{_rates(phase)}"
        for name, phase in phases
        if phase is not None
    )
    outcomes = "".join(
        f"<tr><td>{escape(name)}</td><td class=n>{number}</td></tr>"
        for name, number in summary["outcomes"].items()
    )
    examples = "".join(
        f"<tr><td>{escape(str(f['prompt']))}</td><td>{escape(str(f['answer']))}</td>"
        f"<td>{escape(str(f['second'] or 'none was safe'))}</td></tr>"
        for f in findings
    )
    return f"""<!doctype html><html lang=en><meta charset=utf-8><title>Sentinel Loop demonstration</title>
<style>{_STYLE}</style>
<h1>Sentinel Loop demonstration</h1>
<p>{summary["events"]} answers were watched and {summary["findings"]} of them were findings.
Asking again gave {summary["pairs"]} preference pairs, in {summary["seconds"]:.0f} seconds.
The models are tiny test articles that write harmless placeholders:
nothing here says anything about the safety of a real model.</p>
{rates}
<p class=note>Bars are shares by the labels of the corpus; lines are 95 % Wilson intervals.</p>
<h2>How every item ended</h2><table>{outcomes}</table>
<h2>Some findings</h2>
<table><tr><th>Prompt</th><th>Unsafe answer</th><th>Second answer</th></tr>{examples}</table>
</html>"""


def _rates(phase: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><td>{label}</td>{_bar(phase[name])}</tr>" for name, label in _LABELS.items())
    return f"<table>{rows}</table>"


def _bar(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return "<td class=note>nothing to count</td><td class=n>n 0</td>"
    width, low, high = (int(_WIDTH * rate[key]) for key in ("value", "low", "high"))
    return (
        f"<td><svg width={_WIDTH} height=18 role=img aria-label='{100 * rate['value']:.1f} percent'>"
        f"<rect class=bar width={width} height=18 rx=2 />"
        f"<line class=interval x1={low} x2={high} y1=9 y2=9 /></svg></td>"
        f"<td class=n>{100 * rate['value']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
        f" n {rate['n']}</td>"
    )
