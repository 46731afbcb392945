"""The summary for people: ``report.html``, one file without a network, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from rich import box
from rich.table import Table

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b2230; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.lead { font-size: 1.15rem; padding: .7rem 1rem; border-left: 4px solid #1f6fb2; background: #f2f6fb; }
.lead.no { border-color: #b7791f; background: #fbf6ec; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .3rem .6rem; vertical-align: top; }
tr { border-bottom: 1px solid #dde2ea; } tr.first td { border-top: 2px solid #c3cbd8; }
tr.same { border-bottom: 0; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } .name { white-space: nowrap; }
.track { fill: #eef1f6; } .halo { stroke: #fff; stroke-width: 5; } .interval { stroke: #1b2230; stroke-width: 1.5; }
.note { color: #566075; } svg { display: block; margin-top: .2rem; }
"""
_COLOURS: Final = {"before": "#7a8797", "between": "#b7791f", "after": "#1f6fb2"}
_LABELS: Final = {
    "unsafe_rate": "Unsafe answers to harmful prompts",
    "refusal_rate": "Refusals of harmful prompts",
    "false_refusal_rate": "Needless refusals of benign prompts",
    "utility_rate": "Useful answers to benign prompts",
    "garbled_rate": "Garbled answers",
}
_OUTCOMES: Final = {
    "stored": "scored and stored",
    "unscored": "stored without a verdict",
    "duplicate": "known already, counted once",
    "dead_letter": "unreadable, kept aside",
    "ignored": "no answer of a model",
}
_WIDTH: Final = 260
_MARGIN: Final = 3


def render(summary: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> str:
    """The page. Everything from outside is escaped."""
    outcomes = "".join(
        f"<tr><td>{escape(name)}</td><td class=note>{_OUTCOMES.get(name, '')}</td><td class=n>{number}</td></tr>"
        for name, number in summary["outcomes"].items()
    )
    return f"""<!doctype html><html lang=en><meta charset=utf-8><title>Sentinel Loop demonstration</title>
<meta name=viewport content="width=device-width"><style>{_STYLE}</style>
<h1>Sentinel Loop demonstration</h1>
<p class=note>scenario {escape(str(summary["scenario"]))}</p>
{_lead(summary)}
<p>{summary["events"]} answers were watched and {summary["findings"]} of them were findings.
Asking again gave {summary["pairs"]} preference pairs. All of it took {summary["seconds"]:.0f} seconds.
The models are tiny test articles that write harmless placeholders:
nothing here says anything about the safety of a real model.</p>
{_measures(summary)}
{_families(summary)}
{_rounds(summary["rounds"])}
<h2>What became of every event</h2><table>{outcomes}</table>
{_examples(findings)}
</html>"""


def rates_table(summary: Mapping[str, Any]) -> Table:
    """The three rates that a promotion is about, before and after, for a terminal of 80 characters."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("answers", "phase", "share", "95 % interval", "n"):
        shown.add_column(heading, justify="left" if heading in {"answers", "phase"} else "right")
    rates = {"unsafe": "unsafe_rate", "needlessly refused": "false_refusal_rate", "useful": "utility_rate"}
    phases = [phase for phase in _COLOURS if summary[phase] is not None]
    for label, name in rates.items():
        for phase in phases:
            rate = summary[phase][name]
            bounds = "" if rate["value"] is None else f"{100 * rate['low']:.1f} to {100 * rate['high']:.1f} %"
            share = "-" if rate["value"] is None else f"{100 * rate['value']:.1f} %"
            head = label if phase == phases[0] else ""
            shown.add_row(head, phase, share, bounds, str(rate["n"]), end_section=phase == phases[-1])
    return shown


def _lead(summary: Mapping[str, Any]) -> str:
    """The outcome in a sentence."""
    state, adapter = summary["promotion"]["state"], escape(str(summary["promotion"]["adapter"]))
    told = {
        "promoted": f"The adapter {adapter} passed the gate and is in service.",
        "rejected": f"The gate said no to the adapter {adapter}: what was in service stays.",
        "inconclusive": f"The gate could not tell about the adapter {adapter}: what was in service stays.",
        "failed": "The training run failed: what was in service stays.",
        "rolled_back": f"The adapter {adapter} was promoted and taken back.",
        "none": "Nothing was trained: no threshold was crossed, or the training was left out.",
    }.get(state, escape(str(state)))
    if summary["after"] is not None:
        before, after = (_value(summary[phase]["unsafe_rate"]) for phase in ("before", "after"))
        told += f" Unsafe answers to harmful prompts: {before} before, {after} after."
    return f"<p class='lead{'' if state == 'promoted' else ' no'}'>{told}</p>"


def _value(rate: Mapping[str, Any]) -> str:
    return "none asked for" if rate["value"] is None else f"{100 * rate['value']:.1f} %"


def _titles(summary: Mapping[str, Any]) -> dict[str, str]:
    """The phases that took place, in order."""
    titles = {"before": "Before training"}
    if summary["between"] is not None:
        titles |= {"between": "After the first promotion"}
    if summary["after"] is not None:
        titles |= {"after": f"After the {'second ' if summary['between'] is not None else ''}promotion"}
    return titles


def _measures(summary: Mapping[str, Any]) -> str:
    """A bar for each measure and phase, those of one measure under one another."""
    titles = _titles(summary)
    rows = []
    for name, label in _LABELS.items():
        for number, (phase, title) in enumerate(titles.items()):
            kind = "first" if number == 0 else "rest"
            same = " same" if number < len(titles) - 1 else ""
            head = f"<td rowspan={len(titles)}>{label}</td>" if number == 0 else ""
            rows.append(
                f"<tr class='{kind}{same}'>{head}<td class='note name'>{title}</td>"
                f"{_bar(summary[phase][name], _COLOURS[phase])}</tr>"
            )
    return (
        f"<h2>Answers, by the labels of the corpus</h2><table>{''.join(rows)}</table>"
        "<p class=note>From 0 to 100 %; lines are 95 % Wilson intervals, n is how many answers were counted.</p>"
    )


def _bar(rate: Mapping[str, Any], colour: str) -> str:
    if rate["value"] is None:
        return "<td class=note>nothing to count</td><td class=n>n 0</td>"
    width, low, high = (_WIDTH * rate[key] for key in ("value", "low", "high"))
    ends = "".join(
        f"<line class={kind} x1={x:.1f} x2={x:.1f} y1=5 y2=13 />"
        for kind in ("halo", "interval")
        for x in (low, high)
    )
    return (
        f"<td><svg width={_WIDTH + 2 * _MARGIN} height=18 viewBox='{-_MARGIN} 0 {_WIDTH + 2 * _MARGIN} 18' role=img"
        f" aria-label='{100 * rate['value']:.1f} percent'><rect class=track width={_WIDTH} height=18 rx=2 />"
        f"<rect fill='{colour}' width={width:.1f} height=18 rx=2 />"
        f"<line class=halo x1={low:.1f} x2={high:.1f} y1=9 y2=9 />{ends}"
        f"<line class=interval x1={low:.1f} x2={high:.1f} y1=9 y2=9 /></svg></td>"
        f"<td class=n>{_share(rate)}</td>"
    )


def _families(summary: Mapping[str, Any]) -> str:
    """Unsafe answers family by family, a column for each phase: what one promotion gained and the next one kept."""
    asked = summary["unsafe_by_family"]
    titles = _titles(summary)
    families = sorted({family for phase in titles for family in asked[phase]})
    if not families:
        return ""
    heads = "".join(f"<th class=n>{title}</th>" for title in titles.values())
    rows = "".join(
        f"<tr><td>{escape(family)}</td>"
        + "".join(f"<td class=n>{_share(asked[phase].get(family))}</td>" for phase in titles)
        + "</tr>"
        for family in families
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
        f"<td class=n>{_seconds(one['seconds_to_promotion'])}</td><td>{_page(one['page'])}</td></tr>"
        for one in rounds
    )
    return (
        "<h2>Training runs</h2><table><tr><th>Adapter</th><th>Held against</th><th class=n>Pairs</th>"
        "<th class=n>of earlier runs</th><th>Gate</th><th>State</th><th class=n>Seconds to promotion</th>"
        f"<th>Evaluation</th></tr>{rows}</table>"
    )


def _page(path: str | None) -> str:
    """A link to the run's own report, relative to this page."""
    return "-" if path is None else f"<a href='{escape(path, quote=True)}'>report</a>"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f}"


def _examples(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return "<h2>Findings</h2><p>No answer was found unsafe.</p>"
    rows = "".join(
        f"<tr><td>{escape(str(f['prompt']))}</td><td>{escape(str(f['answer']))}</td>"
        f"<td>{escape(str(f['second'] or 'none was safe'))}</td></tr>"
        for f in findings
    )
    return (
        "<h2>Some findings</h2><table><tr><th>Prompt</th><th>Unsafe answer</th>"
        f"<th>Answer when asked again</th></tr>{rows}</table>"
    )
