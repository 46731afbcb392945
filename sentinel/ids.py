"""Identities: the same thing reported twice gets the same id, two things never share one.

All ids are UUID version 5 (RFC 9562 section 5.5) and made in Python, since PostgreSQL 14 has no uuidv7().
"""

from __future__ import annotations

import hashlib
from uuid import UUID, SafeUUID, uuid5

NAMESPACE = UUID("6f1c7a52-3d0e-5b8e-9a41-8f2d6c1b7e90")
"""Root namespace of this product; changing it would make every event look new."""

_SEPARATOR = "\x1f"
"""Unit separator between the parts of a name. A part that a producer chooses is preceded by its length, or stands
between two numbers, so that whatever it contains ('a', 'bc') and ('ab', 'c') cannot meet."""

_CLEARED = ~((0xF000 << 64) | (0xC000 << 48))
_VERSION_5 = (5 << 76) | (0x8000 << 48)
"""Bits of RFC 9562: version and variant cleared, then version 5 and variant 10 set."""


_begin_digest = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False).copy
_set_int = UUID.__dict__["int"].__set__
_set_safe = UUID.__dict__["is_safe"].__set__
_UNKNOWN = SafeUUID.unknown
"""Looked up once: finding a member of an enumeration takes as long as the digest."""


def _named(name: str) -> UUID:
    # What `uuid5(NAMESPACE, name)` answers in a quarter of its time: every event needs one. The constructor looks at
    # six ways in which it may have been called, which takes as long as the rest.
    digest = _begin_digest()
    digest.update(name.encode("utf-8", "surrogatepass"))
    made = UUID.__new__(UUID)
    _set_int(made, int.from_bytes(digest.digest()[:16], "big") & _CLEARED | _VERSION_5)
    _set_safe(made, _UNKNOWN)
    return made


def event_id_from_response(tenant: str | None, response_id: str, choice: int) -> UUID:
    """Identity of a model call that carries a response id; the same for span, log event and route."""
    tenant = tenant or ""
    return _named(f"response\x1f{len(tenant)}\x1f{tenant}\x1f{response_id}\x1f{choice}")


def event_id_from_producer(tenant: str | None, source: str | None, producer_id: str, item: int) -> UUID:
    """Identity given by the producer (own ``id``, CloudEvents id, OTLP ``trace:span``, Idempotency-Key)."""
    tenant, source = tenant or "", source or ""
    return _named(
        f"producer\x1f{len(tenant)}\x1f{tenant}\x1f{len(source)}\x1f{source}\x1f{producer_id}\x1f{item}"
    )


def event_id_from_log(
    cluster: str, topic: str, incarnation: int, partition: int, offset: int, item: int
) -> UUID:
    """Identity by position where the record names nothing: a producer's retry is then a second event."""
    return _named(
        _SEPARATOR.join(("log", cluster, topic, str(incarnation), str(partition), str(offset), str(item)))
    )


def collided_event_id(event_id: UUID, content: bytes) -> UUID:
    """Identity of a later call that reuses the response id of an earlier one with another text."""
    return uuid5(event_id, content.hex())


def finding_id(event_id: UUID) -> UUID:
    """Identity of the finding of an interaction: one at most."""
    return uuid5(event_id, "finding")


def pair_id(finding: UUID, attempt: int) -> UUID:
    """Identity of the preference pair made by re-prompt ``attempt`` (1..) of a finding."""
    return uuid5(finding, str(attempt))


def dead_letter_id(topic: str, incarnation: int, partition: int, offset: int, item: int) -> UUID:
    """Identity of a dead letter: its origin, so that a replay of the log writes it once."""
    return uuid5(
        NAMESPACE, _SEPARATOR.join(("dead", topic, str(incarnation), str(partition), str(offset), str(item)))
    )


def content_hash(last_user_text: str, response: str) -> bytes:
    """16 bytes that tell two calls with one response id apart (blake2b over last user text and answer)."""
    asked = last_user_text.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(b"%d\x1f" % len(asked), digest_size=16)
    digest.update(asked)
    digest.update(response.encode("utf-8", "surrogatepass"))
    return digest.digest()


def guard_id(model: str, weights: str, template: str, sampling: str) -> str:
    """First 16 hex digits of sha256 over what determines a guard's answers."""
    return hashlib.sha256(_SEPARATOR.join((model, weights, template, sampling)).encode()).hexdigest()[:16]
