"""What is written where a producer's values are odd."""

from __future__ import annotations

import datetime as dt
import json
from uuid import UUID

import pytest

from sentinel.events import Message, Origin, PromptEvent
from sentinel.interactions import Interaction
from sentinel.outcomes import Outcome
from sentinel.store.rows import INTERACTION_COLUMNS, TEXT_COLUMNS, interaction_row, messages_json, text_row

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
EVENT_ID = UUID("00000000-0000-4000-8000-000000000001")


def _interaction(received_ms: int) -> Interaction:
    event = PromptEvent(
        event_id=EVENT_ID,
        origin=Origin("t", 0, 0, 0),
        identified=True,
        format="native",
        messages=(Message("user", 'What is "this"?\n\u2028'),),
        response="An answer.",
        received_ms=received_ms,
    )
    return Interaction(event=event, outcome=Outcome.UNSCORED, reason="unparseable")


@pytest.mark.parametrize(
    ("received_ms", "expected"),
    [
        (0, dt.datetime(1970, 1, 1, tzinfo=dt.UTC)),
        (1_700_000_000_123, dt.datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=dt.UTC)),
        (253_402_300_799_999, dt.datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=dt.UTC)),
        (253_402_300_800_000, NOW),
        (2**63 - 1, NOW),
        (-1, NOW),
    ],
)
def test_a_log_timestamp_that_is_no_date_becomes_the_time_of_receipt(
    received_ms: int, expected: dt.datetime
) -> None:
    row = interaction_row(NOW.date(), EVENT_ID, _interaction(received_ms), False, NOW)
    assert row[INTERACTION_COLUMNS.index("received_at")] == expected


def test_rows_are_as_wide_as_their_columns() -> None:
    interaction = _interaction(0)
    assert len(interaction_row(NOW.date(), EVENT_ID, interaction, False, NOW)) == len(INTERACTION_COLUMNS)
    assert len(text_row(NOW.date(), EVENT_ID, interaction)) == len(TEXT_COLUMNS)


def test_messages_are_a_list_of_role_and_text() -> None:
    messages = (Message("system", "Be \u00e4 \U0001f600 good."), Message("user", '"\\\n\t'))
    assert json.loads(messages_json(messages)) == [
        {"role": message.role, "text": message.text} for message in messages
    ]
    assert messages_json(()) == "[]"
