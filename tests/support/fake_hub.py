"""A Hub of the test's own: the few endpoints that a client needs to make a repository and commit to it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "local" * 5


@dataclass
class FakeHub:
    """What was sent, and what it answers."""

    url: str = ""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name: ``private``, and ``files`` of the last commit."""
    calls: list[str] = field(default_factory=list)
    fail_with: int | None = None
    """Status that every call is answered with."""

    def serve(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        self.calls.append(f"{method} {path.partition('?')[0]}")
        if self.fail_with is not None:
            return self.fail_with, {"error": "no"}, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials"}, {}
        path = path.partition("?")[0]
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            private = wanted.get("private") or wanted.get("visibility") == "private"
            self.repos[name] = {"private": bool(private), "type": wanted.get("type"), "files": {}}
            return (
                200,
                {"url": f"{self.url}/{'datasets/' if wanted.get('type') == 'dataset' else ''}{name}"},
                {},
            )
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        path = path.removeprefix("/api/datasets/").removeprefix("/api/models/")
        name, _, verb = path.partition("/preupload/")
        if verb:
            files = json.loads(body)["files"]
            answer = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            return 200, {"files": answer}, {}
        name, _, verb = path.partition("/commit/")
        if name not in self.repos:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if not verb:
            return 200, {"id": name, "private": self.repos[name]["private"], "siblings": []}, {}
        for line in body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                self.repos[name]["files"][item["value"]["path"]] = base64.b64decode(item["value"]["content"])
        return (
            200,
            {"commitUrl": f"{self.url}/{name}/commit/1", "commitOid": "1" * 40, "success": True},
            {},
        )


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serves on a free port for as long as the block lasts."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            token = self.headers.get("Authorization") or ""
            status, value, headers = hub.serve(self.command, self.path, token, body)
            data = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_HEAD = answer  # noqa: N815  # the library calls them so

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
