"""Personal data by its form, one pseudonym a value, and nothing else touched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.redaction import Redactor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mail bob.lee+x@mail.example.org now.", "Mail <EMAIL_1> now."),
        ("BOB@x.org or bob@X.org, then amy@x.org", "<EMAIL_1> or <EMAIL_1>, then <EMAIL_2>"),
        ("+49 170 1234567", "<PHONE_1>"),
        ("call (555) 123-4567, or 555-123-4568.", "call <PHONE_1>, or <PHONE_2>."),
        ("Room 12 555-123-4567 8 pm", "Room 12 <PHONE_1> 8 pm"),
        ("030 123 4567", "<PHONE_1>"),
        ("from 10.0.0.1 to 2001:db8::1 and fe80::1:2", "from <IP_1> to <IP_2> and <IP_3>"),
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN <IBAN_1>."),
        ("4111 1111 1111 1111 and 378282246310005", "<CARD_1> and <CARD_2>"),
        ("SSN 123-45-6789", "SSN <SSN_1>"),
        ("sk-proj-abcdefghijklmnop1234", "<SECRET_1>"),
        ("ghp_abcdefghijklmnopqrstuvwxyz012345", "<SECRET_1>"),
        ("AKIAIOSFODNN7EXAMPLE", "<SECRET_1>"),
        ("Authorization: Bearer abcdef0123456789abcdef", "Authorization: Bearer <SECRET_1>"),
        ('{"api_key": "0123456789abcdef"}', '{"api_key": "<SECRET_1>"}'),
        ("password=correcthorse", "password=<SECRET_1>"),
        ("postgres://me:secret@db.example.org/x", "postgres://<SECRET_1>@db.example.org/x"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nxyz\n-----END RSA PRIVATE KEY-----", "<SECRET_1>"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKKF2QT4", "<SECRET_1>"),
    ],
)
def test_each_kind_is_found(text: str, expected: str) -> None:
    assert Redactor().redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "On 2026-11-21 at 12:30:45 it was 3.14 degrees.",
        "Version 1.2.3.4.5 of 300.300.300.300",
        "4111 1111 1111 1112 fails Luhn",
        "DE00 3704 0044 0532 0130 00 fails the check",
        "666-12-3456 and 000-12-3456 are no SSNs",
        "std::vector, a :: b and 5 + 3 = 8, 1,000,000",
        "The password is required. Use a token or key.",
        "user@localhost and @handle",
        "order 20261121",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert Redactor().redact(text) == text


def test_one_map_for_all_texts_of_a_row() -> None:
    redactor = Redactor()
    assert redactor.redact("I am a@x.org, my friend is b@x.org") == "I am <EMAIL_1>, my friend is <EMAIL_2>"
    assert redactor.redact("Dear b@x.org and a@x.org") == "Dear <EMAIL_2> and <EMAIL_1>"
    assert dict(redactor.counts) == {"EMAIL": 2}


def test_a_new_value_never_gets_the_pseudonym_of_another_row() -> None:
    assert Redactor().redact("<EMAIL_1> wrote to new@x.org") == "<EMAIL_1> wrote to <EMAIL_2>"
    # Also where the pseudonym stands in a later text of the row.
    later = "as <EMAIL_1> said"
    redactor = Redactor(["new@x.org", later])
    assert (redactor.redact("new@x.org"), redactor.redact(later)) == ("<EMAIL_2>", later)


PIECES = st.sampled_from(
    ["a@b.org", "+49 170 1234567", "10.1.2.3", "::1", "4111111111111111", "123-45-6789", "token: abcdefgh1",
     "DE89370400440532013000", "sk-abcdefghijklmnop12", "<EMAIL_3>", "hello", "\n", " ", "://", "@", "7", "é", "<"]
)  # fmt: skip


@given(st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12))
def test_it_is_idempotent_and_deterministic(pieces: list[str]) -> None:
    text = "".join(pieces)
    once = Redactor().redact(text)
    assert Redactor().redact(text) == once
    assert Redactor().redact(once) == once
    redactor = Redactor()
    assert redactor.redact(redactor.redact(text)) == once
