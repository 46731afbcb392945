"""What the doctor found, and how it is shown: most severe first, secrets never."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sentinel.failures import without_password

_SHORTEST_SECRET = 4
"""Characters; masking shorter values would only make the text unreadable."""


class Level(StrEnum):
    """How bad it is."""

    FAIL = "fail"
    """The service cannot run, or loses or misjudges something."""
    WARN = "warn"
    """It runs; somebody should know."""
    OK = "ok"


_ORDER = tuple(Level)


@dataclass(frozen=True, slots=True)
class Finding:
    """One part that was looked at."""

    level: Level
    part: str
    message: str
    remedy: str = ""


def ok(part: str, message: str) -> Finding:
    """All is well, or worth knowing."""
    return Finding(Level.OK, part, message)


def warn(part: str, message: str, remedy: str) -> Finding:
    """The service runs, but somebody should know."""
    return Finding(Level.WARN, part, message, remedy)


def fail(part: str, message: str, remedy: str) -> Finding:
    """Something is missing or wrong."""
    return Finding(Level.FAIL, part, message, remedy)


def most_severe_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort by level, then by part; findings of one part keep their order."""
    return sorted(findings, key=lambda finding: (_ORDER.index(finding.level), finding.part))


def masked(findings: Iterable[Finding], secrets: Iterable[str]) -> list[Finding]:
    """The same findings without any of ``secrets`` and without passwords in addresses."""
    hidden = sorted({s for s in secrets if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True)

    def clean(text: str) -> str:
        text = without_password(text)
        for secret in hidden:
            text = text.replace(secret, "***")
        return text

    return [replace(f, message=clean(f.message), remedy=clean(f.remedy)) for f in findings]


def exit_status(findings: Iterable[Finding], *, strict: bool = False) -> int:
    """1 where something failed (``strict``: or was warned about), else 0."""
    bad = {Level.FAIL, Level.WARN} if strict else {Level.FAIL}
    return int(any(finding.level in bad for finding in findings))


def as_json(findings: Sequence[Finding], *, status: int) -> str:
    """One object: the exit status, counts by level, and every finding."""
    counts = {level.value: sum(f.level is level for f in findings) for level in Level}
    rows = [
        {"level": f.level.value, "part": f.part, "message": f.message, "remedy": f.remedy} for f in findings
    ]
    return json.dumps({"status": status, **counts, "findings": rows}, indent=2, ensure_ascii=False)


def as_lines(findings: Sequence[Finding]) -> str:
    """Plain text, one finding a line and its remedy below; used where rich is missing."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level.value:<5}{finding.part}: {finding.message}")
        if finding.remedy:
            lines.append(f"     -> {finding.remedy}")
    return "\n".join([*lines, summary(findings)])


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    counts = [sum(f.level is level for f in findings) for level in Level]
    return f"{counts[0]} problem(s), {counts[1]} warning(s), {counts[2]} in order"
