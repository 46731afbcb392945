"""What the loop relies on in a source, for the file and for the log in memory that the loop's tests use."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

from consumers.file import CLUSTER, FileSource
from consumers.source import Source
from consumers.tracker import Partition
from sentinel.errors import CommandError
from sentinel.events import NO_TIMESTAMP
from tests.support.memory import MemorySource, log_record

LINES = [b"one", b"two", b"three", b"four", b"five"]


async def ignore(_: frozenset[Partition]) -> None:
    """Partitions went."""


async def joined(source: Source) -> Partition:
    found: list[Partition] = []
    await source.start(ignore, found.extend)
    (partition,) = found
    return partition


@pytest.fixture(params=["file", "memory"])
async def source(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Source]:
    made: Source
    if request.param == "file":
        path = tmp_path / "events.jsonl"
        path.write_bytes(b"\n".join(LINES))
        made = FileSource(path)
    else:
        memory = MemorySource({Partition("t", 0): [log_record(n, line) for n, line in enumerate(LINES)]})
        memory.finite = True
        made = memory
    yield made
    await made.stop()


async def test_bounds_and_records_agree(source: Source) -> None:
    partition = await joined(source)
    assert (await source.bounds([partition]))[partition] == (0, 5)
    assert source.seek(partition, 0)
    polled = await source.poll([partition], max_records=100, timeout_s=0.01)
    assert [(r.offset, r.value) for r in polled[partition]] == list(enumerate(LINES))
    assert source.lag(partition, 3) == 2


async def test_a_poll_takes_no_more_than_asked_and_goes_on_there(source: Source) -> None:
    partition = await joined(source)
    source.seek(partition, 0)
    read: list[int] = []
    for _ in range(3):
        polled = await source.poll([partition], max_records=2, timeout_s=0.01)
        assert len(polled[partition]) <= 2
        read += [r.offset for r in polled[partition]]
        assert source.exhausted == (len(read) == 5)
    assert read == [0, 1, 2, 3, 4]
    assert not any((await source.poll([partition], max_records=2, timeout_s=0.01)).values())


@pytest.mark.parametrize("offset", [0, 1, 3, 4])
async def test_a_seek_reads_from_there_forward_and_back(source: Source, offset: int) -> None:
    partition = await joined(source)
    for target in (offset, 2, offset):
        source.seek(partition, target)
        polled = await source.poll([partition], max_records=1, timeout_s=0.01)
        assert [r.offset for r in polled[partition]] == [target]


async def test_at_the_end_it_is_exhausted(source: Source) -> None:
    partition = await joined(source)
    seen = [source.exhausted]
    for offset in (5, 4):
        source.seek(partition, offset)
        seen.append(source.exhausted)
    assert seen == [False, True, False]


async def test_commit_says_yes_and_stop_may_be_repeated(source: Source) -> None:
    partition = await joined(source)
    assert await source.commit({partition: 1})
    await source.keepalive(0.001)
    await source.stop()
    await source.stop()
    assert not source.seek(partition, 0)


# -- the file alone


async def file_source(path: Path, content: bytes) -> tuple[FileSource, Partition]:
    path.write_bytes(content)
    source = FileSource(path)
    return source, await joined(source)


async def read_all(source: FileSource, partition: Partition) -> list[tuple[int, bytes | None]]:
    source.seek(partition, 0)
    found: list[tuple[int, bytes | None]] = []
    while not source.exhausted:
        polled = await source.poll([partition], max_records=2, timeout_s=0.01)
        found += [(r.offset, r.value) for r in polled[partition]]
    await source.stop()
    return found


@pytest.mark.parametrize(
    ("content", "lines", "records"),
    [
        (b"", 0, []),
        (b"a", 1, [(0, b"a")]),
        (b"a\n", 1, [(0, b"a")]),
        (b"a\r\nb\r\n", 2, [(0, b"a"), (1, b"b")]),
        (b"a\n\n \t\nb", 4, [(0, b"a"), (3, b"b")]),
        (b"\n", 1, [(0, None)]),
        (b"a\n\n", 2, [(0, b"a"), (1, None)]),
        (b"a\n  ", 2, [(0, b"a"), (1, None)]),
        (b"\n\n\na", 4, [(3, b"a")]),
    ],
)
async def test_lines_are_records_and_empty_ones_are_holes(
    tmp_path: Path, content: bytes, lines: int, records: list[tuple[int, bytes | None]]
) -> None:
    source, partition = await file_source(tmp_path / "f", content)
    assert source.lines == lines
    assert await read_all(source, partition) == records


async def test_the_content_names_the_log(tmp_path: Path) -> None:
    source, partition = await file_source(tmp_path / "f", b"a\nb\n")
    same, same_partition = await file_source(tmp_path / "g", b"a\nb\n")
    assert partition == same_partition == Partition("file:" + sha256(b"a\nb\n").hexdigest(), 0)
    assert source.cluster_id == CLUSTER
    source.seek(partition, 0)
    polled = await source.poll([partition], max_records=1, timeout_s=0.01)
    assert polled[partition][0].timestamp == NO_TIMESTAMP
    await source.stop()
    await same.stop()


async def test_what_is_appended_meanwhile_is_not_read(tmp_path: Path) -> None:
    source, partition = await file_source(tmp_path / "f", b"a\nb\n")
    with (tmp_path / "f").open("ab") as file:
        file.write(b"c\nd\n")
    assert await read_all(source, partition) == [(0, b"a"), (1, b"b")]


async def test_another_file_under_the_name_is_not_read(tmp_path: Path) -> None:
    source, partition = await file_source(tmp_path / "f", b"a\nb\n")
    (tmp_path / "g").write_bytes(b"x\ny\n")
    (tmp_path / "g").rename(tmp_path / "f")
    assert await read_all(source, partition) == [(0, b"a"), (1, b"b")]


async def test_a_file_that_shrinks_is_an_error_not_a_wait(tmp_path: Path) -> None:
    source, partition = await file_source(tmp_path / "f", b"a\nb\nc\n")
    source.seek(partition, 0)
    (tmp_path / "f").write_bytes(b"a\n")
    with pytest.raises(CommandError, match="shorter"):
        await source.poll([partition], max_records=3, timeout_s=0.01)
    await source.stop()


async def test_a_file_that_cannot_be_read_is_a_commands_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        await joined(FileSource(tmp_path / "none"))
    with pytest.raises(CommandError, match="directory"):
        await joined(FileSource(tmp_path))


async def test_long_lines_come_in_small_portions(tmp_path: Path) -> None:
    """Lines may be of any length; what one poll holds in memory must not be their number times that."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join([b"x" * 3_000_000] * 9))
    source = FileSource(path)
    partition = await joined(source)
    read = []
    while not source.exhausted:
        records = (await source.poll([partition], max_records=512, timeout_s=0.01))[partition]
        assert len(records) <= 3
        read += [record.offset for record in records]
    assert read == list(range(9))
    await source.stop()


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize(
    ("length", "read"), [(9, 9), (10, 10), (11, 11), (12, 11), (13, 11), (5_000_000, 11)]
)
async def test_of_an_overlong_line_only_its_beginning_is_read(
    tmp_path: Path, end: bytes, length: int, read: int
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"a" + end + b"x" * length + end + b"b" + end)
    source = FileSource(path, max_line_bytes=10)
    partition = await joined(source)
    source.seek(partition, 0)
    records = (await source.poll([partition], max_records=9, timeout_s=0.01))[partition]
    assert [(r.offset, r.value) for r in records] == [(0, b"a"), (1, b"x" * read), (2, b"b")]
    source.seek(partition, 2)
    assert [r.value for r in (await source.poll([partition], max_records=9, timeout_s=0.01))[partition]] == [
        b"b"
    ]
    await source.stop()


async def test_an_overlong_line_that_begins_with_blanks_is_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b" " * 20 + b"{}\nb\n")
    source = FileSource(path, max_line_bytes=10)
    partition = await joined(source)
    records = (await source.poll([partition], max_records=9, timeout_s=0.01))[partition]
    assert [(r.offset, len(r.value or b"")) for r in records] == [(0, 11), (1, 1)]
    await source.stop()


async def test_an_overlong_line_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * 40_000_000 + b"\nb")
    source = FileSource(path, max_line_bytes=1000)
    partition = await joined(source)
    tracemalloc.start()
    try:
        source.seek(partition, 1)
        source.seek(partition, 0)
        records = (await source.poll([partition], max_records=9, timeout_s=0.01))[partition]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(r.value or b"") for r in records] == [1001, 1]
    assert peak < 10_000_000
    await source.stop()


async def test_the_rest_of_a_poll_can_be_read_again(source: Source) -> None:
    partition = await joined(source)
    source.seek(partition, 0)
    for again in (3, 1, 4, 0, 2):
        read = (await source.poll([partition], max_records=100, timeout_s=0.01)).get(partition, ())
        assert [r.value for r in read] == LINES[5 - len(read) :]
        assert source.seek(partition, again)
    read = (await source.poll([partition], max_records=100, timeout_s=0.01))[partition]
    assert [(r.offset, r.value) for r in read] == list(enumerate(LINES))[2:]
