"""Rates with their intervals as a drawing in the page itself (SVG)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from trainer.evaluation.summary import MEASURES, Measured
from trainer.evidence import ArmName

_COLOURS: Final = {ArmName.BASE: "#7a8797", ArmName.INCUMBENT: "#b7791f", ArmName.CANDIDATE: "#1f6fb2"}
_LEFT, _WIDTH, _LINE = 190, 620, 18


def intervals_plot(measured: Sequence[Measured]) -> str:
    """One line for each arm and measure: the rate as a dot, Wilson's interval as a bar, from 0 to 100 %."""
    rows = [
        one
        for name in MEASURES
        for arm in ArmName
        for one in measured
        if (one.measure, one.arm) == (name, arm)
    ]
    if not rows:
        return ""
    parts = []
    y, last = 26, ""
    for one in rows:
        if one.measure != last:
            y += 8 if last else 0
            parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(one.measure)}</text>')
            last = one.measure
        colour = _COLOURS[one.arm]
        low, high = (_LEFT + _WIDTH * bound for bound in (one.wilson.low, one.wilson.high))
        dot = _LEFT + _WIDTH * (one.wilson.value or 0.0)
        told = escape(f"{one.arm.value}: {one.wilson}")
        parts.append(
            f'<g><title>{told}</title><line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="{colour}" '
            f'stroke-width="3"/><circle cx="{dot:.1f}" cy="{y}" r="5" fill="{colour}"/>'
            f'<text x="{_LEFT + _WIDTH + 14}" y="{y + 4}" fill="{colour}">{told}</text></g>'
        )
        y += _LINE
    grid = "".join(
        f'<line x1="{_LEFT + _WIDTH * share / 100}" y1="14" x2="{_LEFT + _WIDTH * share / 100}" y2="{y}" '
        f'stroke="#dde3ea"/><text x="{_LEFT + _WIDTH * share / 100}" y="10" text-anchor="middle">{share} %</text>'
        for share in range(0, 101, 20)
    )
    return (
        f'<svg role="img" aria-label="Rates with 95 % intervals" viewBox="0 0 1130 {y + 6}" width="100%" '
        f'font-family="system-ui,sans-serif" font-size="12">{grid}{"".join(parts)}</svg>'
    )
