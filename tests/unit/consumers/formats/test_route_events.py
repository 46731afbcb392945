"""What the route publishes about a call, and what a gateway logs about it, is one interaction."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from producers.route.events import KINDS, Call, events_of
from sentinel.events import PromptEvent
from tests.unit.consumers.formats.by_hand import decoded
from tests.unit.consumers.formats.examples import NAMES, load, seen

PAIRS = [name for name in NAMES if name.startswith("openai_pair/") and "embedding" not in name]


@pytest.mark.parametrize("name", PAIRS)
def test_the_routes_event_is_the_gateways(name: str) -> None:
    pair = json.loads(load(name).value)
    call = Call(
        kind=KINDS["/v1/responses" if "input" in pair["request"] else "/v1/chat/completions"],
        request=json.dumps(pair["request"]).encode(),
        answer=json.dumps(pair["response"]).encode(),
        streamed=False,
        model="known-model",
        served_by="adapter-1",
        at=dt.datetime(2026, 2, 2, tzinfo=dt.UTC),
    )
    routed = [item for line in events_of(call) for item in decoded(line)]
    logged = decoded(pair)
    assert seen(routed) == seen(logged)
    for one, other in zip(routed, logged, strict=True):
        assert isinstance(one, PromptEvent)
        assert isinstance(other, PromptEvent)
        assert one.event_id == other.event_id
        assert (one.choice, one.finish_reason, one.input_tokens) == (
            other.choice,
            other.finish_reason,
            other.input_tokens,
        )
        assert one.served_by == "adapter-1"
