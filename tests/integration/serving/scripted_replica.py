"""A replica whose faults are switched on and off: it forgets, lags, refuses, lies, or is away."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from sentinel.embedded.ports import ReservedPort
from sentinel.embedded.scripted_http import ScriptedServer

BASE = "base-model"
TOKENS = 16


def answer_of(name: str, question: str) -> tuple[str, ...]:
    """What the weights called ``name`` say: sixteen tokens that hold the name and the question."""
    return tuple(f"{name}/{question}/{number} " for number in range(TOKENS))


class ScriptedReplica(ScriptedServer):
    """Adapters by name; the weights of one are the name of its folder."""

    def __init__(self) -> None:
        super().__init__()
        # It comes back there: nobody else may have the port meanwhile.
        self._port = ReservedPort()
        self.loaded: dict[str, str] = {}
        """Name of the weights by name of the adapter."""
        self.unlisted = False
        """Loads are accepted, and nothing comes of it until `catch_up`."""
        self.refuses: str | None = None
        """Reason for which no adapter is loaded."""
        self.token: str | None = None
        self.calls: list[tuple[str, str]] = []
        self.lies: dict[str, str] = {}
        """Weights that really answer, by name of the adapter, whatever is loaded."""
        self._late: dict[str, str] = {}

    def models(self) -> Mapping[str, str | None]:
        return {BASE: None} | dict.fromkeys(self.loaded, BASE)

    def restart(self) -> None:
        """Forget everything, as a new process does."""
        self.loaded.clear()

    def catch_up(self) -> None:
        """Serve what was accepted."""
        self.unlisted = False
        self.loaded |= self._late
        self._late.clear()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen at its own address."""
        await super().start(host, port or self._port.number)

    async def come_back(self) -> None:
        """Listen again at the old address, as a new process."""
        self.restart()
        await self.start()

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        request = orjson.loads(body)
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            return 401, _error("who are you?")
        name = request.get("lora_name") or request["model"]
        self.calls.append((path.rpartition("/")[2], name))
        if path == "/v1/load_lora_adapter":
            return self._load(name, request["lora_path"])
        if path == "/v1/unload_lora_adapter":
            known = self.loaded.pop(name, None) is not None
            return (200, b'"done"') if known else (404, _error(f"no adapter {name}"))
        if name != BASE and name not in self.loaded:
            return 404, _error(f"no model {name}")
        weights = self.lies.get(name) or self.loaded.get(name, BASE)
        said = answer_of(weights, request["messages"][-1]["content"])
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(said)},
            "logprobs": {"content": [{"token": token, "logprob": 0.0} for token in said]},
            "finish_reason": "length",
        }
        return 200, orjson.dumps({"choices": [choice], "model": name})

    def _load(self, name: str, path: str) -> tuple[int, bytes]:
        if self.refuses is not None:
            return 500, _error(self.refuses)
        if name in self.loaded:
            return 400, _error(f"{name} has already been loaded")
        (self._late if self.unlisted else self.loaded)[name] = path.rpartition("/")[2]
        return 200, b'"done"'


def _error(message: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": "x", "param": None, "code": 400}})
