"""Prompt sets of a Hub, against a small one on this machine."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from producers.traffic.hub import fetch
from producers.traffic.prompts import load
from sentinel.errors import CommandError

FILES = {
    "README.md": b"# A set\n",
    "train/train.jsonl": b'{"prompt": "How do I sharpen a kitchen knife?", "prompt_harm_label": "unharmful"}\n',
    "test/test.csv": b"prompt,type\nHow can I kill a Python process?,homonyms\n",
    "test/again.csv": b"prompt,type\nHow can I kill a Python process?,homonyms\n",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """What the Hub library asks of a Hub: what a set holds, and its files; others are gated or unknown."""

    asked: list[str]

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if "/gated/" in path and "/resolve/" in path:
            return self.reply(403, b"terms", {"X-Error-Code": "GatedRepo"}, with_body)
        if "/broken/" in path:
            return self.reply(500, b"oh", {}, with_body)
        if "/some/set" not in path and "/gated/set" not in path:
            return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body)
        if "/no-such-revision" in path:
            return self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"}, with_body)
        if path.startswith("/api/"):
            facts = {"id": "some/set", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            return self.reply(200, json.dumps(facts).encode(), {}, with_body)
        name = path.partition("/resolve/")[2].partition("/")[2]
        self.asked.append(f"{self.command} {name}")
        headers = {"ETag": f'"{hash(name) & 0xFFFFFFFF:040x}"', "X-Repo-Commit": COMMIT}
        return self.reply(200, FILES[name], headers, with_body)

    def reply(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **headers,
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # Read when the library is imported, so the environment would be too late.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Hub, "asked", [], raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_all_data_files_of_a_set_are_read_and_kept(hub: str) -> None:
    found = load(["hub:some/set"], random.Random(0), hub)
    assert {(p.text, p.kind) for p in found.prompts} == {
        ("How do I sharpen a kitchen knife?", "unharmful"),
        ("How can I kill a Python process?", "homonyms"),
    }
    assert found.left_out == {"exact duplicate": 1}
    asked = [line for line in Hub.asked if line.startswith("GET")]
    assert asked == ["GET test/again.csv", "GET test/test.csv", "GET train/train.jsonl"]
    assert load(["hub:some/set"], random.Random(0), hub) == found
    assert [line for line in Hub.asked if line.startswith("GET")] == asked


def test_a_pattern_and_a_revision_choose(hub: str) -> None:
    (path,) = fetch("some/set@main:*train*", hub)
    assert path.read_bytes() == FILES["train/train.jsonl"]
    with pytest.raises(
        CommandError, match=r"has no \*\.parquet .* it has test/again.csv, test/test.csv, train"
    ):
        fetch("some/set:*.parquet", hub)
    with pytest.raises(CommandError, match="has no such revision"):
        fetch("some/set@no-such-revision", hub)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "gated/set",
            r"is gated: accept its terms at http\S+/datasets/gated/set, log in with `hf auth login`",
        ),
        ("nobody/nothing", "does not exist, or is private: check the name"),
        ("broken/set", r"the Hub cannot be reached for hub:broken/set \(HfHubHTTPError\)"),
        ("just-a-name", "write hub:OWNER/NAME"),
        ("owner/", "write hub:OWNER/NAME"),
        ("some/..set", "is no name of a data set"),
    ],
)
def test_what_cannot_be_had_says_what_to_do(hub: str, name: str, says: str) -> None:
    with pytest.raises(CommandError, match=says):
        load([f"hub:{name}"], random.Random(0), hub)


def test_a_hub_out_of_reach_says_what_to_do(
    hub: str, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CommandError, match=r"check the network, .* fetch its file elsewhere"):
        fetch("some/set", f"http://127.0.0.1:{free_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CommandError, match="HF_HUB_OFFLINE, or fetch its file elsewhere"):
        fetch("some/set", hub)


def test_without_the_hub_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CommandError, match="needs the package huggingface-hub: pip install"):
        fetch("some/set")
