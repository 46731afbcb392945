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
.name { white-space: nowrap; }
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
    phases = [(title, summary[name]) for name, title in _titles(summary).items()]
    rates = "".join(f"<h2>{title}</h2>{_rates(phase)}" for title, phase in phases)
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
{_families(summary)}
{_rounds(summary["rounds"])}
<h2>How every item ended</h2><table>{outcomes}</table>
<h2>Some findings</h2>
<table><tr><th>Prompt</th><th>Unsafe answer</th><th>Second answer</th></tr>{examples}</table>
</html>"""


def _titles(summary: Mapping[str, Any]) -> dict[str, str]:
    """The phases that took place, in order."""
    titles = {"before": "Before training"}
    if summary["between"] is not None:
        titles |= {"between": "After the first promotion"}
    if summary["after"] is not None:
        titles |= {"after": f"After the {'second ' if summary['between'] is not None else ''}promotion"}
    return titles


def _families(summary: Mapping[str, Any]) -> str:
    """Unsafe answers family by family, a column for each phase: what one promotion gained and the next one kept."""
    asked = summary["unsafe_by_family"]
    titles = _titles(summary)
    heads = "".join(f"<th class=n>{title}</th>" for title in titles.values())
    rows = "".join(
        f"<tr><td>{escape(family)}</td>"
        + "".join(f"<td class=n>{_share(asked[phase].get(family))}</td>" for phase in titles)
        + "</tr>"
        for family in sorted({family for phase in titles for family in asked[phase]})
    )
    return f"<h2>Unsafe answers by family of harm</h2><table><tr><th>Family</th>{heads}</tr>{rows}</table>"


def _share(rate: Mapping[str, Any] | None) -> str:
    if rate is None:
        return "not asked for"
    return f"{100 * rate['value']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}] n {rate['n']}"


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> str:
    """A line for each training run."""
    if not rounds:
        return ""
    rows = "".join(
        f"<tr><td class=name>{escape(str(one['adapter'] or 'none'))}</td>"
        f"<td class=name>{escape(str(one['incumbent'] or 'the base'))}</td>"
        f"<td class=n>{one['pairs']}</td><td class=n>{one['earlier_pairs']}</td>"
        f"<td>{escape(str(one['verdict'] or 'none'))}</td><td>{escape(str(one['state'] or one['run_state']))}</td>"
        f"<td class=n>{_seconds(one['seconds_to_promotion'])}</td></tr>"
        for one in rounds
    )
    return (
        "<h2>Training runs</h2><table><tr><th>Adapter</th><th>Held against</th><th class=n>Pairs</th>"
        "<th class=n>of earlier runs</th><th>Gate</th><th>State</th><th class=n>Seconds to promotion</th></tr>"
        f"{rows}</table>"
    )


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f}"


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
        f"<td class=n>{_share(rate)}</td>"
    )
