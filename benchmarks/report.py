"""What a benchmark leaves behind: one JSON object, and the same as a table.

The JSON object is `{benchmark, commit, cores, python, versions, results}`; each result is
`{case, metric, unit, value, low, high, n}`: the median, the least and the greatest of `n` repetitions.
"""

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One measured figure.

    `value` is the median of `n` repetitions in `unit`; `low` and `high` are their extremes.
    """

    case: str
    metric: str
    unit: str
    value: float
    low: float
    high: float
    n: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one run of one benchmark found, and on what.

    `commit` ends in `+changes` when tracked files differed from it. `versions` holds, per program that ran,
    its distributions and their versions.
    """

    benchmark: str
    commit: str
    cores: int
    python: str
    versions: Mapping[str, Mapping[str, str]]
    results: Sequence[Result]


def summarize(case: str, metric: str, unit: str, samples: Sequence[float]) -> Result:
    """Reduce repetitions of one figure to median, least and greatest.

    Raises `ValueError` without samples: an unmeasured figure must not be printed as one.
    """
    if not samples:
        raise ValueError(f"no samples of {metric} for {case}")
    return Result(
        case=case,
        metric=metric,
        unit=unit,
        value=statistics.median(samples),
        low=min(samples),
        high=max(samples),
        n=len(samples),
    )


def make_report(
    benchmark: str, results: Iterable[Result], versions: Mapping[str, Mapping[str, str]]
) -> Report:
    """Join results with where they were made: commit, usable cores, Python version."""
    return Report(
        benchmark=benchmark,
        commit=current_commit(),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        versions=versions,
        results=tuple(results),
    )


def current_commit(root: Path = ROOT) -> str:
    """The commit of the checkout at `root`, `unknown` outside one, `+changes` added when it was edited."""
    git = ("git", "-C", str(root))
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    return f"{head}+changes" if changed else head


def write_json(report: Report, path: Path) -> None:
    """Write the report as one indented JSON object, making the folder when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def print_table(report: Report, console: Console | None = None) -> None:
    """Print one row per result and, under the table, which versions ran."""
    if console is None:
        console = Console()
        if not console.is_terminal:
            # A log has no width of its own, and 80 columns would cut every figure.
            console = Console(width=160)
    title = f"{report.benchmark} ({report.commit}, {report.cores} cores, Python {report.python})"
    table = Table(title=title, title_justify="left")
    for heading in ("case", "metric"):
        table.add_column(heading, no_wrap=True)
    for heading in ("value", "low", "high"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("n", justify="right")
    for row in report.results:
        figures = (format_figure(figure) for figure in (row.value, row.low, row.high))
        table.add_row(row.case, row.metric, *figures, row.unit, str(row.n))
    console.print(table)
    for program, distributions in report.versions.items():
        console.print(f"{program}: " + ", ".join(f"{name} {v}" for name, v in distributions.items()))


def format_figure(figure: float) -> str:
    """Three significant digits below 100, whole numbers with separators above."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:#.3g}"
