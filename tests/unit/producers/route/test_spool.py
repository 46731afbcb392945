"""The spool's bounds, order and behaviour after crashes and full disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from producers.route import spool as module
from producers.route.spool import Spool


def opened(folder: Path, limit: int = 10_000) -> Spool:
    spool = Spool(folder / "spool", limit)
    spool.open()
    return spool


def drained(spool: Spool) -> list[bytes]:
    lines: list[bytes] = []
    while (segment := spool.oldest()) is not None:
        lines += segment[1]
        spool.remove(segment[0])
    return lines


def test_what_goes_in_comes_out_in_order_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SEGMENT_BYTES", 50)
    lines = [b"line %d" % number for number in range(40)]
    first = opened(tmp_path)
    for line in lines[:30]:
        assert first.append([line]) == 1
    assert len(list((tmp_path / "spool").glob("*.jsonl"))) > 3
    first.close()
    second = opened(tmp_path)
    assert second.size == first.size
    assert second.append(lines[30:]) == 10
    assert drained(second) == lines
    assert second.size == 0
    assert list((tmp_path / "spool").glob("*.jsonl")) == []


def test_two_processes_do_not_share_it(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(BlockingIOError, match="another process"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([b"x"])
    (file,) = (tmp_path / "spool").glob("*.jsonl")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_it_is_bounded_in_bytes(tmp_path: Path) -> None:
    spool = opened(tmp_path, limit=25)
    assert spool.append([b"123456789"] * 4) == 2
    assert spool.append([b"123456789"]) == 0
    assert spool.append([b"1234"]) == 1
    assert spool.size == 25
    assert drained(spool) == [b"123456789", b"123456789", b"1234"]
    assert spool.append([b"123456789"]) == 1


def test_half_a_line_of_a_crash_is_left_out(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.append([b"whole"])
    (file,) = (tmp_path / "spool").glob("*.jsonl")
    first.close()
    with file.open("ab") as torn:
        torn.write(b"half of a li")
    second = opened(tmp_path)
    second.append([b"later"])
    assert drained(second) == [b"whole", b"later"]


def test_a_segment_that_is_being_read_is_not_written_any_more(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([b"one"])
    segment = spool.oldest()
    spool.append([b"two"])
    assert segment is not None
    spool.remove(segment[0])
    assert drained(spool) == [b"two"]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    spool.append([b"before"])
    write = os.write

    def full(descriptor: int, data: memoryview) -> int:
        write(descriptor, bytes(data[:3]))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        spool.append([b"lost"])
    monkeypatch.setattr(os, "write", write)
    spool.append([b"after"])
    assert drained(spool) == [b"before", b"after"]
