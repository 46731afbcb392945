"""The comparison of proxies: its command line, its requests, and the lock of LiteLLM's environment."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.route import LITELLM, TARGETS, body, parse, percentile


def test_the_lock_has_hashes_and_no_address() -> None:
    requirements, lock = LITELLM
    text = lock.read_text()
    blocks = re.findall(r"^[a-z0-9.-]+==.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 30
    assert [block for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)] == []
    assert re.findall(r".*(?:://|index-url|find-links|trusted-host).*", text) == []
    for line in requirements.read_text().split():
        assert re.search(rf"^{line.partition('[')[0]}==", text, re.MULTILINE)


def test_the_command_line_names_what_it_knows() -> None:
    assert parse([]).names == list(TARGETS)
    assert parse(["--only", "bare,route"]).names == ["bare", "route"]
    with pytest.raises(SystemExit):
        parse(["--only", "nginx"])


def test_requests_are_of_a_usual_size() -> None:
    request = json.loads(body("assistant", stream=True))
    assert (request["model"], request["stream"]) == ("assistant", True)
    assert 1000 < len(body("assistant", stream=False)) < 3000


def test_percentiles() -> None:
    assert percentile([float(n) for n in range(100)], 0.5) == 50
    assert percentile([float(n) for n in range(100)], 0.99) == 99
    assert percentile([1.0], 0.99) == 1
