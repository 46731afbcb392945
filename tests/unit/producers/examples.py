"""One finding, one dead letter, one interaction, for the tests of what leaves."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from sentinel.events import Message, Origin, PromptEvent
from sentinel.findings import Finding
from sentinel.interactions import DeadLetter, Interaction
from sentinel.outcomes import Outcome
from sentinel.verdicts import Assessment, Label, Role, Verdict

NOW = dt.datetime(2026, 11, 21, 10, 30, 0, 123456, tzinfo=dt.UTC)
FINDING = UUID("11111111-1111-5111-8111-111111111111")
EVENT = UUID("22222222-2222-5222-8222-222222222222")


def finding(**changes: object) -> Finding:
    values: dict[str, object] = {
        "finding_id": FINDING,
        "event_id": EVENT,
        "created_at": NOW,
        "policy_version": "1",
        "label": "unsafe",
        "categories": ("Violent", "PII"),
        "score": 0.93,
        "guard_id": "0123456789abcdef",
        "source": "shop",
        "tenant": "acme",
        "model": "olmo",
        "served_model": "olmo",
        "served_by": "olmo-a1",
        "response_id": "chatcmpl-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
    }
    return Finding(**{**values, **changes})  # type: ignore[arg-type]


def letter(**changes: object) -> DeadLetter:
    values: dict[str, object] = {
        "origin": Origin("llm.events", 0, 3, 42, 1),
        "reason": "invalid_json",
        "detail": "line 1 column 2",
        "error_class": "PoisonError",
        "key": b"k",
        "value": b"{not json",
        "headers": (("traceparent", b"00-aa"), ("empty", None)),
        "timestamp_ms": 1_700_000_000_000,
    }
    return DeadLetter(**{**values, **changes})  # type: ignore[arg-type]


def interaction() -> Interaction:
    event = PromptEvent(
        event_id=EVENT,
        origin=Origin("llm.events", 0, 0, 7),
        identified=True,
        format="native",
        messages=(Message("system", "be nice"), Message("user", "how?")),
        response="like this",
        tenant="acme",
        model="olmo",
        response_id="chatcmpl-1",
    )
    verdict = Verdict(
        event_id=EVENT,
        role=Role.RESPONSE,
        attempt=0,
        guard_id="0123456789abcdef",
        score_run=0,
        assessment=Assessment(label=Label.UNSAFE, categories=("Violent",), raw="Safety: Unsafe"),
        guard_model="guard",
        template="qwen3guard/1",
        policy_version="1",
    )
    return Interaction(
        event=event,
        outcome=Outcome.STORED,
        response_verdict=verdict,
        unsafe=True,
        policy_version="1",
        served_model="olmo",
    )
