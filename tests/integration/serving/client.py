"""The requests that the contract makes, in as few words as possible."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Self

import aiohttp


class Client:
    """Raw HTTP, so that the bytes of the wire are what is tested."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.session = aiohttp.ClientSession(
            base_url=url, headers=headers, timeout=aiohttp.ClientTimeout(total=120)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON (or text) of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(path, data=data, headers={"Content-Type": "application/json"}) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(text) if is_json else text

    async def chat(self, model: str, question: str, **more: Any) -> Any:
        """A chat completion that must succeed; greedy, 24 tokens."""
        status, body = await self.post("/v1/chat/completions", ask(model, question, **more))
        assert status == 200, body
        return body

    async def text(self, model: str, question: str, **more: Any) -> str:
        """The first choice's text."""
        text: str = (await self.chat(model, question, **more))["choices"][0]["message"]["content"]
        return text

    async def complete(self, model: str, prompt: Any, **more: Any) -> Any:
        """A legacy completion that must succeed; greedy."""
        body = {"model": model, "prompt": prompt, "temperature": 0, **more}
        status, answer = await self.post("/v1/completions", body)
        assert status == 200, answer
        return answer

    async def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """The events of a stream; it must end with [DONE]."""
        events = []
        async with self.session.post(path, json=body | {"stream": True}) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "text/event-stream"
            async for line in answer.content:
                if line.startswith(b"data: "):
                    events.append(line[6:].strip())
        assert events.pop() == b"[DONE]"
        return [json.loads(event) for event in events]

    async def models(self) -> dict[str, str | None]:
        """Parent by name."""
        async with self.session.get("/v1/models") as answer:
            body = await answer.json()
        assert answer.status == 200
        assert body["object"] == "list"
        return {card["id"]: card["parent"] for card in body["data"]}

    async def load(self, name: str, path: Path) -> float:
        """Load an adapter, which must succeed; seconds."""
        started = time.monotonic()
        status, body = await self.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        assert status == 200, body
        return time.monotonic() - started

    async def unload(self, name: str) -> None:
        """Unload one, which must succeed."""
        status, body = await self.post("/v1/unload_lora_adapter", {"lora_name": name})
        assert status == 200, body


def ask(model: str, question: str, **more: Any) -> dict[str, Any]:
    """The body of a chat request."""
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 24, **more}
