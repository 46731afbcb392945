"""The compared programs: complete, locked, and fed with events that all of them can parse."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import environments
from benchmarks.load import Load, bodies
from benchmarks.peers import HERE, PEERS, Peer
from benchmarks.peers.__main__ import parse
from benchmarks.peers.programs.onetable import COLUMNS, DDL, UNNEST, as_columns, decode_event

by_name = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)


@by_name
def test_every_peer_has_a_program_and_a_lock_with_what_it_reports(peer: Peer) -> None:
    compile(peer.program.read_text(), str(peer.program), "exec")
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", peer.lock.read_text(), re.MULTILINE))
    assert set(peer.distributions) <= set(pins)


@pytest.mark.parametrize("lock", sorted(HERE.glob("*.txt")), ids=lambda path: path.name)
def test_locks_have_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    blocks = re.findall(r"^[a-z0-9-]+==.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    assert [block for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)] == []
    assert re.findall(r".*(?:://|index-url|find-links|trusted-host).*", text) == []


def test_no_program_and_no_lock_is_left_over() -> None:
    assert sorted(HERE.glob("programs/*_app.py")) == sorted(peer.program for peer in PEERS)
    assert set(HERE.glob("*.txt")) == {peer.lock for peer in PEERS}
    assert set(HERE.glob("*.in")) == {peer.requirements for peer in PEERS}


def test_statement_table_and_columns_agree() -> None:
    assert tuple(re.findall(r"^    (\w+) \w+", DDL, re.MULTILINE)) == COLUMNS
    assert f"({', '.join(COLUMNS)})" in UNNEST
    assert re.findall(r"\$(\d)", UNNEST) == [str(number + 1) for number in range(len(COLUMNS))]


def test_events_are_about_a_kilobyte_with_ids_of_their_own() -> None:
    load = Load("127.0.0.1:1")
    events = [*load.events(3000), *load.events(3000), *Load("127.0.0.1:1").events(3000)]
    assert 800 < sum(map(len, events)) / len(events) < 1200
    assert len({json.loads(event)["id"] for event in events}) == 9000


def test_events_fit_the_profile_and_our_own_format() -> None:
    parsed = [decode_event(event) for event in Load("127.0.0.1:1").events(50)]
    columns = as_columns(parsed)
    assert len(columns) == len(COLUMNS)
    assert all(len(column) == 50 for column in columns)
    assert all(event.prompt and event.messages[-1].role == "user" for event in parsed)
    first = json.loads(next(Load("127.0.0.1:1").events(1)))
    assert {"messages", "response"} <= set(first)


def test_the_same_seed_draws_the_same_bodies() -> None:
    assert bodies(3, 20) == bodies(3, 20)
    assert bodies(3, 20) != bodies(4, 20)


def test_the_command_line_picks_peers_and_names_unknown_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert [peer.name for peer in parse(["--only", "faust,bare"]).peers] == ["bare", "faust"]
    assert parse([]).peers == PEERS
    with pytest.raises(SystemExit):
        parse(["--only", "storm"])
    assert "unknown peers: storm; known: bare, quix" in capsys.readouterr().err


def test_versions_are_asked_of_the_environment_itself() -> None:
    found = environments.versions(Path(sys.executable), ("msgspec", "rich"))
    assert set(found) == {"msgspec", "rich"}
    with pytest.raises(subprocess.CalledProcessError):
        environments.versions(Path(sys.executable), ("no-such-distribution",))


def test_an_environment_that_fits_its_lock_is_kept_and_a_changed_lock_remakes_it(tmp_path: Path) -> None:
    lock = tmp_path / "peer.txt"
    lock.write_text("# nothing needed\n")
    python = environments.prepare("peer", lock, tmp_path / "cache")
    mark = python.parent / "mark"
    mark.touch()
    assert environments.prepare("peer", lock, tmp_path / "cache") == python
    assert mark.exists()
    lock.write_text("# another lock\n")
    environments.prepare("peer", lock, tmp_path / "cache")
    assert not mark.exists()
