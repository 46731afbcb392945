"""What is written where a producer's values are odd."""

from __future__ import annotations

import datetime as dt
import json
import struct

import pytest

from sentinel.events import Message
from sentinel.store.binary_copy import received_at
from sentinel.store.rows import messages_json

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


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
    size, microseconds = struct.unpack("!iq", received_at(received_ms, NOW))
    assert size == 8
    assert EPOCH + dt.timedelta(microseconds=microseconds) == expected


def test_messages_are_a_list_of_role_and_text() -> None:
    messages = (Message("system", "Be \u00e4 \U0001f600 good."), Message("user", '"\\\n\t'))
    assert json.loads(messages_json(messages)) == [
        {"role": message.role, "text": message.text} for message in messages
    ]
    assert messages_json(()) == b"[]"
