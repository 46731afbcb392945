"""One flush is one transaction: the fence, then the keys, then the rows, then the sums.

    1. fence      every partition concerned must still carry our epoch, and its position must be the one we
                  started from (or the one we aim at: then an earlier COMMIT whose outcome was unknown did apply)
    2. keys       `event_keys` decides which items are new; a conflict is our own earlier write (replayed),
                  the same call again (duplicate), or another call with a reused id (collision)
    3. rows       interactions, texts, verdicts, findings, announcements, dead letters of the new items
    4. sums       `partition_outcomes` grows by the items of the offsets that this flush passes

A flush may be repeated as often as one likes: each step finds what an earlier try wrote.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asyncpg.pgproto import pgproto
from msgspec import Struct

from sentinel import ids
from sentinel.announcements import OutboxRow
from sentinel.errors import FencedError
from sentinel.events import Ignored, Origin, PromptEvent
from sentinel.interactions import DeadLetter, Interaction, Recordable, Replay, origin_of
from sentinel.outcomes import Outcome
from sentinel.store import binary_copy, dead_letters, outbox, rows

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

OutcomeKey = tuple[Outcome, str]
NewFinding = tuple[UUID, UUID, Interaction]
"""finding_id, event_id, interaction."""
Announce = Callable[[NewFinding, dt.datetime], Sequence[OutboxRow]]
"""Makes the outbox rows of one new finding."""

_FENCE = """
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::bigint[], $8::bigint[])
        AS w(topic, partition, epoch, base, target, last_ts, records, holes)),
locked AS (
    SELECT w.*, c.next_offset AS before FROM consumer_offsets c JOIN wanted w USING (topic, partition)
    WHERE c.epoch = w.epoch AND (c.next_offset = w.base OR c.next_offset = w.target)
    ORDER BY c.topic, c.partition FOR UPDATE OF c)
UPDATE consumer_offsets c SET
    next_offset = l.target,
    last_timestamp_ms = CASE WHEN l.target > l.base THEN l.last_ts ELSE c.last_timestamp_ms END,
    records = c.records + CASE WHEN l.before = l.base THEN l.records ELSE 0 END,
    holes = c.holes + CASE WHEN l.before = l.base THEN l.holes ELSE 0 END,
    bad_allowance = greatest(0, c.bad_allowance - CASE WHEN l.before = l.base THEN l.records ELSE 0 END),
    updated_at = now()
FROM locked l WHERE c.topic = l.topic AND c.partition = l.partition
RETURNING c.topic, c.partition, (l.before = l.base) AS counted
"""

_INSERT_KEYS = """
WITH inserted AS (
    INSERT INTO event_keys (day, event_id, hash, topic, incarnation, partition, "offset", item, outcome, reason)
    SELECT $1, u.event_id, u.hash, ($2::text[])[u.kind], ($3::int[])[u.kind], ($4::int[])[u.kind], u."offset",
        ($5::int[])[u.kind], ($6::text[])[u.kind], ($7::text[])[u.kind]
    FROM unnest($8::uuid[], $9::bytea[], $10::int[], $11::bigint[]) AS u(event_id, hash, kind, "offset")
    ON CONFLICT DO NOTHING RETURNING event_id)
SELECT CASE WHEN count(*) < $12 THEN coalesce(array_agg(event_id), '{}') END FROM inserted
"""
"""Few logs, item numbers and outcomes stand for many keys, so their combinations travel once each: asyncpg takes
0.3 us for every element of an array. Answers NULL where every key is new."""

_READ_KEYS = """
SELECT event_id, hash, topic, incarnation, partition, "offset", item, outcome, reason
FROM event_keys WHERE event_id = ANY($1::uuid[])
"""

_SUMS = """
INSERT INTO partition_outcomes AS p (topic, incarnation, partition, outcome, reason, n)
SELECT * FROM unnest($1::text[], $2::int[], $3::int[], $4::text[], $5::text[], $6::bigint[]) AS u
ON CONFLICT (topic, incarnation, partition, outcome, reason) DO UPDATE SET n = p.n + excluded.n
"""


class LostPartitionsError(FencedError):
    """Some partitions of the flush are no longer ours; nothing was written, the others may go again."""

    def __init__(self, partitions: frozenset[tuple[str, int]]) -> None:
        super().__init__(f"fenced off {len(partitions)} partition(s)")
        self.partitions = partitions


class Move(Struct, frozen=True, kw_only=True):
    """What a flush does to one partition; ``target`` equals ``base`` where only rows are written."""

    topic: str
    partition: int
    incarnation: int
    epoch: int
    base: int
    target: int
    last_timestamp_ms: int | None
    records: int
    holes: int
    settled: Counter[OutcomeKey]
    """Outcomes, written by earlier flushes, of items whose offsets this move passes."""


class Entry(Struct, frozen=True, gc=False):
    """One item to write, and whether this flush passes its offset."""

    item: Recordable
    passed: bool


class Flushed(Struct, frozen=True, kw_only=True):
    """What a committed flush did; ``outcomes`` is aligned with the entries."""

    outcomes: tuple[OutcomeKey, ...]
    replayed: int
    collisions: int
    new: tuple[Interaction, ...]
    findings: tuple[UUID, ...]


async def flush(
    conn: Connection,
    moves: Sequence[Move],
    entries: Sequence[Entry],
    *,
    now: dt.datetime,
    announce: Announce,
    dead_letter_rows: Callable[[DeadLetter], OutboxRow | None],
    code_version: str,
) -> Flushed:
    """Write ``entries`` and move the partitions, all or nothing.

    ``now`` must stay the same when a flush is repeated, since it decides the day of receipt.
    Raises LostPartitionsError when a fence fails, and whatever asyncpg raises.
    """
    async with conn.transaction():
        counted = await fence(conn, moves)
        keyed = await _settle_keys(conn, entries, now.date())
        findings = await _insert_rows(conn, keyed.new, now, announce)
        letters = [entry.item for entry in entries if isinstance(entry.item, DeadLetter)]
        if letters:
            letters = await dead_letters.insert(conn, letters, now=now, code_version=code_version)
            announcements = [row for row in map(dead_letter_rows, letters) if row is not None]
            await outbox.insert(conn, announcements)
        await _add_sums(conn, moves, counted, entries, keyed.outcomes)
    return Flushed(
        outcomes=tuple(keyed.outcomes),
        replayed=keyed.replayed,
        collisions=keyed.collisions,
        new=tuple(interaction for _, interaction, _ in keyed.new),
        findings=findings,
    )


async def fence(conn: Connection, moves: Sequence[Move]) -> frozenset[tuple[str, int]]:
    """Step 1. Returns the partitions whose sums may grow (all but those whose move had been committed)."""
    fenced = await conn.fetch(
        _FENCE,
        [m.topic for m in moves],
        [m.partition for m in moves],
        [m.epoch for m in moves],
        [m.base for m in moves],
        [m.target for m in moves],
        [m.last_timestamp_ms for m in moves],
        [m.records for m in moves],
        [m.holes for m in moves],
    )
    held = {(row["topic"], row["partition"]) for row in fenced}
    lost = frozenset((m.topic, m.partition) for m in moves) - held
    if lost:
        raise LostPartitionsError(lost)
    return frozenset((row["topic"], row["partition"]) for row in fenced if row["counted"])


class _Keyed(Struct):
    outcomes: list[OutcomeKey]
    new: list[tuple[UUID, Interaction, bool]]
    replayed: int = 0
    collisions: int = 0


class _Candidate(Struct, gc=False):
    index: int
    event_id: UUID
    hash: bytes
    interaction: Interaction
    collided: bool = False


_SEEN: OutcomeKey = (Outcome.DUPLICATE, "seen")


async def _settle_keys(conn: Connection, entries: Sequence[Entry], day: dt.date) -> _Keyed:
    """Step 2: which items are new, and the outcome of each."""
    result = _Keyed(outcomes=[_SEEN] * len(entries), new=[])
    candidates: list[_Candidate] = []
    for index, entry in enumerate(entries):
        match entry.item:
            case Interaction() as interaction:
                event = interaction.event
                event_id: UUID | None = event.event_id
                if interaction.replay is not None and not event.identified:
                    event_id = await _replayed_id(conn, event, interaction.replay)
                if event_id is None:
                    result.outcomes[index] = (Outcome.IGNORED, "not_replayed")
                    continue
                digest = ids.content_hash(event.last_user_text, event.scanned_response)
                # The driver's own class from here on: it hashes, compares and writes its 16 bytes as they are.
                candidates.append(_Candidate(index, pgproto.UUID(event_id.bytes), digest, interaction))
            case DeadLetter() as letter:
                result.outcomes[index] = (Outcome.DEAD_LETTER, letter.reason)
            case Ignored() as ignored:
                result.outcomes[index] = (Outcome.IGNORED, ignored.reason)
    while candidates:
        # A collision gets a second id, which may itself have been written before: hence the rounds.
        candidates = await _key_round(conn, candidates, day, result)
    return result


async def _replayed_id(conn: Connection, event: PromptEvent, replay: Replay) -> UUID | None:
    """The id of an item of a replayed record; None for an item that was kept when the record was first read.

    Headers alone prove nothing: without the token that the dead letter's row holds, the item is a new event.
    """
    if not await dead_letters.consume_replay_token(conn, replay.token, replay.event_id, event.origin):
        return event.event_id
    return replay.event_id if event.origin.item == replay.item else None


async def _key_round(
    conn: Connection, candidates: list[_Candidate], day: dt.date, result: _Keyed
) -> list[_Candidate]:
    first: dict[UUID, _Candidate] = {}
    later: list[_Candidate] = []
    for candidate in candidates:
        if first.setdefault(candidate.event_id, candidate) is not candidate:
            later.append(candidate)
    # Sorted, so that two flushes that share ids take the locks in one order.
    ordered = sorted(first.values(), key=attrgetter("event_id.int"))
    new_ids = await conn.fetchval(_INSERT_KEYS, day, *_key_columns(ordered), len(ordered))
    inserted = None if new_ids is None else frozenset(new_ids)
    known: dict[UUID, Any] = {}
    if inserted is not None:
        missing = [c.event_id for c in ordered if c.event_id not in inserted]
        known = {row["event_id"]: row for row in await conn.fetch(_READ_KEYS, missing)}
    again: list[_Candidate] = []
    # Not in the order of the locks: events that came together lie together in memory, and are written from there.
    for candidate in first.values():
        if inserted is None or candidate.event_id in inserted:
            interaction = candidate.interaction
            result.new.append((candidate.event_id, interaction, candidate.collided))
            result.collisions += candidate.collided
            result.outcomes[candidate.index] = (interaction.outcome, interaction.reason)
        else:
            _compare(candidate, known[candidate.event_id], result, again)
    for candidate in later:
        # The stored row may be the later one's own: it was written before a crash, and the earlier one was not.
        if candidate.event_id in known:
            _compare(candidate, known[candidate.event_id], result, again)
        elif candidate.hash != first[candidate.event_id].hash:
            again.append(_collided(candidate))
    return again


def _compare(candidate: _Candidate, row: Any, result: _Keyed, again: list[_Candidate]) -> None:
    """A candidate whose id is stored: its own earlier write, the same call (as assumed), or another call."""
    if _same_origin(row, candidate.interaction.event.origin):
        result.replayed += 1
        result.outcomes[candidate.index] = (Outcome(row["outcome"]), row["reason"])
    elif row["hash"] != candidate.hash and not candidate.collided:
        again.append(_collided(candidate))


def _collided(candidate: _Candidate) -> _Candidate:
    if candidate.collided:
        # Same derived id with another hash cannot be: the id is made of the hash.
        return candidate
    new_id = ids.collided_event_id(candidate.event_id, candidate.hash)
    return _Candidate(candidate.index, new_id, candidate.hash, candidate.interaction, collided=True)


def _key_columns(candidates: Sequence[_Candidate]) -> list[list[Any]]:
    kinds: dict[tuple[str, int, int, int, Outcome, str], int] = {}
    numbers = []
    for candidate in candidates:
        interaction = candidate.interaction
        origin = interaction.event.origin
        kind = (
            origin.topic, origin.incarnation, origin.partition, origin.item, interaction.outcome, interaction.reason,
        )  # fmt: skip
        # Arrays of PostgreSQL count from one.
        numbers.append(kinds.setdefault(kind, len(kinds) + 1))
    topics, incarnations, partitions, items, outcomes, reasons = rows.columns(kinds, 6)
    return [
        topics,
        incarnations,
        partitions,
        items,
        [outcome.value for outcome in outcomes],
        reasons,
        [c.event_id for c in candidates],
        [c.hash for c in candidates],
        numbers,
        [c.interaction.event.origin.offset for c in candidates],
    ]


def _same_origin(row: Any, origin: Origin) -> bool:
    return (
        bool(row["offset"] == origin.offset)
        and bool(row["partition"] == origin.partition)
        and bool(row["incarnation"] == origin.incarnation)
        and bool(row["item"] == origin.item)
        and bool(row["topic"] == origin.topic)
    )


async def _insert_rows(
    conn: Connection,
    new: Sequence[tuple[UUID, Interaction, bool]],
    now: dt.datetime,
    announce: Announce,
) -> tuple[UUID, ...]:
    """Step 3. Returns the ids of the findings."""
    if not new:
        return ()
    day = now.date()
    # Their keys are new, so nothing of them can be there yet: COPY has no need to look for conflicts.
    await _copy(conn, "interactions", rows.INTERACTION_COLUMNS, binary_copy.interactions(day, new, now))
    await _copy(conn, "interaction_texts", rows.TEXT_COLUMNS, binary_copy.texts(day, new))
    await _copy(conn, "verdicts", rows.VERDICT_COLUMNS, binary_copy.verdicts(day, new))
    screened = [(event_id, row.screening) for event_id, row, _ in new if row.screening is not None]
    if screened:
        values = [(e, s.screener_id, s.label.value, s.score, s.created_at) for e, s in screened]
        await conn.execute(rows.INSERT_SCREENINGS, day, *rows.columns(values, 5))
    found: list[NewFinding] = [(ids.finding_id(e), e, row) for e, row, _ in new if row.unsafe]
    if found:
        values_f = [rows.finding_row(f, e, row, now) for f, e, row in found]
        await conn.execute(rows.INSERT_FINDINGS, day, *rows.columns(values_f, 17))
        await outbox.insert(conn, [out for finding in found for out in announce(finding, now)])
    return tuple(finding_id for finding_id, _, _ in found)


async def _copy(conn: Connection, table: str, columns: Sequence[str], encoded: bytes) -> None:
    # The driver takes bytes for a path, and its stubs leave buffers out.
    source: Any = memoryview(encoded)
    await conn.copy_to_table(table, source=source, columns=columns, format="binary")


async def _add_sums(
    conn: Connection,
    moves: Sequence[Move],
    counted: frozenset[tuple[str, int]],
    entries: Sequence[Entry],
    outcomes: Sequence[OutcomeKey],
) -> None:
    """Step 4: the items of the offsets passed, by outcome and reason."""
    sums: dict[tuple[str, int], Counter[OutcomeKey]] = {}
    incarnations: dict[tuple[str, int], int] = {}
    for move in moves:
        key = (move.topic, move.partition)
        if key in counted:
            sums[key] = Counter(move.settled)
            incarnations[key] = move.incarnation
    for entry, outcome in zip(entries, outcomes, strict=True):
        if entry.passed:
            origin = origin_of(entry.item)
            counter = sums.get((origin.topic, origin.partition))
            if counter is not None:
                counter[outcome] += 1
    values = [
        (topic, incarnations[topic, partition], partition, outcome.value, reason, n)
        for (topic, partition), counter in sorted(sums.items())
        for (outcome, reason), n in sorted(counter.items())
    ]
    if values:
        await conn.execute(_SUMS, *rows.columns(values, 6))
