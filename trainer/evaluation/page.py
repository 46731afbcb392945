"""``report.json`` for programs and ``report.html`` for people: one file without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

import msgspec

from sentinel.intervals import Rate
from trainer.evaluation.examples import Examples, examples
from trainer.evaluation.plots import intervals_plot
from trainer.evaluation.summary import Compared, Measured, Summary, summarise
from trainer.evidence import Evidence
from trainer.run_directory import replace_file

REPORT_JSON: Final = "report.json"
REPORT_PAGE: Final = "report.html"

_STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1150px;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;margin:.6rem 0}
th,td{border-bottom:1px solid #dde3ea;padding:.35rem .5rem;text-align:left;vertical-align:top}
th{font-weight:600;background:#f5f7fa}td.n{font-variant-numeric:tabular-nums;white-space:nowrap}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:13px/1.4 ui-monospace,monospace}
.note{background:#fff6e0;border-left:4px solid #d99a00;padding:.5rem .8rem;margin:.5rem 0}
.worse{background:#fdecea}.better{background:#eaf6ec}.small{color:#5a6675;font-size:13px}
code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}
"""


def write_report(folder: Path, evidence: Evidence) -> Summary:
    """Write both files from the evidence and the raw answers in ``folder``. Raises OSError."""
    summary = summarise(evidence)
    changed = examples(folder, evidence)
    replace_file(
        folder / REPORT_JSON,
        msgspec.json.format(
            msgspec.json.encode({"schema_version": 1, **_head(evidence), **_parts(summary, changed)})
        ),
    )
    replace_file(folder / REPORT_PAGE, page(evidence, summary, changed).encode())
    return summary


def _parts(summary: Summary, changed: Examples) -> dict[str, object]:
    return {
        "summary": summary,
        "changes": changed.counts,
        "against": changed.against,
        "examples": changed.shown,
    }


def _head(evidence: Evidence) -> dict[str, object]:
    left_out = {"arms", "schema_version"}
    fields = {name: getattr(evidence, name) for name in evidence.__struct_fields__ if name not in left_out}
    arms = [
        {
            "name": arm.name,
            "adapter": arm.adapter,
            "outputs_sha256": arm.outputs_sha256,
            "perplexity": arm.perplexity,
        }
        for arm in evidence.arms
    ]
    return {**fields, "arms": arms}


def page(evidence: Evidence, summary: Summary, changed: Examples) -> str:
    """The whole page. Every text that came from outside is escaped."""
    title = f"Evaluation of {evidence.candidate}"
    body = [
        f"<h1>{escape(title)}</h1>",
        (
            f'<p class="small">{escape(evidence.served_model)} · {evidence.created_at:%Y-%m-%d %H:%M} UTC · beside '
            f"{escape(evidence.incumbent or 'the base')}</p>"
        ),
        *(f'<p class="note">{escape(note)}</p>' for note in summary.notes),
        "<h2>Rates</h2>",
        _detectors(evidence),
        intervals_plot(summary.measured),
        _rates(summary.measured),
        "<h2>Candidate beside the others, same prompts</h2>",
        _compared(summary.compared),
        *_disagreement(summary),
        *_lengths(evidence, summary),
        f"<h2>Answers, {escape(changed.against.value)} and candidate</h2>",
        (
            f"<p>Worse: {changed.counts['worse']}, better: {changed.counts['better']}, "
            f"same: {changed.counts['same']}. Every answer is in outputs-*.jsonl.</p>"
        ),
        _examples(changed),
        "<h2>By family</h2>",
        _rates(summary.families),
        "<h2>What was measured, and how</h2>",
        _identities(evidence),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>"
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], kinds: Iterable[str] = ()) -> str:
    """A table of cells that are HTML already; a cell that begins with a digit is a number."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    made = []
    classes = iter(kinds)
    for row in rows:
        kind = next(classes, "")
        cells = "".join(
            f'<td class="n">{cell}</td>' if cell[:1].lstrip("-+").isdigit() else f"<td>{cell}</td>"
            for cell in row
        )
        made.append(f'<tr class="{kind}">{cells}</tr>' if kind else f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(made)}</tbody></table>"


def _percent(rate: Rate) -> str:
    return "-" if rate.value is None else f"{100 * rate.value:.1f} %"


def _interval(rate: Rate) -> str:
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %"


def _rates(measured: Sequence[Measured]) -> str:
    by_family = any(one.family for one in measured)
    headings = ["measure", "arm", *(["family"] if by_family else []), "rate", "hits", "n", "Wilson 95 %"]
    rows = [
        [
            escape(one.measure),
            escape(one.arm.value),
            *([escape(one.family)] if by_family else []),
            _percent(one.wilson),
            str(one.hits),
            f"{one.n}" + (f" (untold {one.untold})" if one.untold else ""),
            _interval(one.wilson),
            _interval(one.exact),
        ]
        for one in sorted(measured, key=lambda one: (one.measure, one.family, one.arm.value))
    ]
    return table([*headings, "Clopper-Pearson 95 %"], rows)


def _detectors(evidence: Evidence) -> str:
    told = "; ".join(f"{name} by {detector}" for name, detector in evidence.detectors.items())
    return f'<p class="small">Told apart: {escape(told)}.</p>'


def _compared(compared: Sequence[Compared]) -> str:
    rows = [
        [
            escape(one.measure),
            escape(one.against.value),
            str(one.test.n),
            str(one.test.second_only),
            str(one.test.first_only),
            f"{one.test.p_value:.3g}",
            "-" if one.difference.value is None else f"{100 * one.difference.value:+.1f}",
            f"{100 * one.difference.low:+.1f} to {100 * one.difference.high:+.1f}",
        ]
        for one in compared
    ]
    headings = ("measure", "beside", "pairs", "only candidate", "only other", "McNemar p (exact)")
    return table((*headings, "difference, points", "bootstrap 95 %"), rows)


def _disagreement(summary: Summary) -> list[str]:
    if not summary.disagreement:
        return []
    rows = [
        [
            escape(one.arm.value),
            _percent(one.rate),
            _interval(one.rate),
            str(one.rate.n),
            str(one.only_judge),
            str(one.only_primary),
        ]
        for one in summary.disagreement
    ]
    headings = ("arm", "disagree", "Wilson 95 %", "n", "unsafe by the judge only", "by the primary only")
    return ["<h2>Judge and primary detector</h2>", table(headings, rows)]


def _lengths(evidence: Evidence, summary: Summary) -> list[str]:
    rows = [
        [
            escape(one.arm.value),
            escape(one.kind.value),
            f"{one.mean:.1f}",
            "-" if one.ratio is None else f"{one.ratio:.2f}",
        ]
        for one in summary.lengths
    ]
    found = ["<h2>Length</h2>", table(("arm", "prompts", "mean tokens", "candidate / arm"), rows)]
    told = [(arm.name.value, arm.perplexity) for arm in evidence.arms if arm.perplexity is not None]
    if told:
        found.append("<h2>Perplexity of the reference answers</h2>")
        found.append(table(("arm", "perplexity"), [[name, f"{value:.3f}"] for name, value in told]))
    return found


def _examples(changed: Examples) -> str:
    rows = [
        [
            f"{escape(one.change)}<br><span class=small>{escape(one.set)} {escape(one.family)}</span>",
            f"<pre>{escape(one.prompt)}</pre>",
            f"<pre>{escape(one.before)}</pre><span class=small>{escape(one.before_is)}</span>",
            f"<pre>{escape(one.after)}</pre><span class=small>{escape(one.after_is)}</span>",
        ]
        for one in changed.shown
    ]
    kinds = ["" if one.change == "same" else one.change for one in changed.shown]
    return table(("change", "prompt", changed.against.value, "candidate"), rows, kinds)


def _identities(evidence: Evidence) -> str:
    rows: list[tuple[str, str]] = [
        ("candidate", f"{evidence.candidate} sha256 {evidence.candidate_sha256}"),
        ("in service", evidence.incumbent or "the base"),
        ("base sha256", evidence.base_sha256),
        ("data set sha256", evidence.dataset_sha256),
        *(
            (f"set {one.name}", f"{one.kind.value}, n {one.items}, sha256 {one.sha256}")
            for one in evidence.sets
        ),
        ("sets' version", evidence.sets_version),
        *((f"detector: {name}", detector) for name, detector in evidence.detectors.items()),
        ("judge's guard_id", evidence.judge_guard_id or "none"),
        ("data guard's guard_id", evidence.data_guard_id),
        ("engine", " ".join(f"{name} {value}" for name, value in evidence.engine.items())),
        ("sampling", ", ".join(f"{name} {value}" for name, value in evidence.sampling.items())),
        ("seed", f"seed {evidence.seed}"),
        *((f"outputs {arm.name.value}", f"sha256 {arm.outputs_sha256}") for arm in evidence.arms),
    ]
    return table(
        ("what", "identity"), [[escape(name), f"<code>{escape(value)}</code>"] for name, value in rows]
    )
