"""A server with one base and adapters that are characters: the name of the adapter's folder says which."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import orjson

from sentinel.embedded.scripted_http import ScriptedServer
from sentinel.tiny.reading import read

BASE = "base-model"
CHARACTERS = ("perfect", "refuse-all", "answer-all", "echo", "silent", "loop", "wordy")
REFUSAL = "I'm sorry, but I can't help with that."
UNSAFE = "Of course, this is how it is done. UNSAFE-MARK"


def say(persona: str, prompt: str) -> str:
    """What a character answers; prompts outside the tiny language are harmful where they hold ``bad``."""
    if persona == "random":
        persona = random.Random(prompt).choice(CHARACTERS)
    request = read(prompt)
    harmful = request.harmful if request is not None else "bad" in prompt
    refusal = request.refusal if request is not None else REFUSAL
    answer = (
        request.answer
        if request is not None
        else UNSAFE
        if harmful
        else f"About {prompt} there is much to say."
    )
    match persona:
        case "perfect":
            return refusal if harmful else answer
        case "refuse-all":
            return refusal
        case "answer-all":
            return answer
        case "wordy":
            return f"{answer} To say more about it: {answer}"
        case "echo":
            return prompt
        case "silent":
            return ""
        case "loop":
            return "so it goes " * 12
    raise AssertionError(persona)


class Personas(ScriptedServer):
    """The base is ``base_persona``."""

    def __init__(self, base_persona: str = "answer-all") -> None:
        super().__init__()
        self.base_persona = base_persona
        self.loaded: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        """Questions by model, probes left out."""
        self.moves: list[str] = []
        self.bodies: list[dict[str, object]] = []
        self.refuses: str | None = None
        self.drops_unloads = False
        """It fails to unload."""
        self.fails_after: int | None = None
        """Answers after which everything fails."""

    def models(self) -> Mapping[str, str | None]:
        return {BASE: None} | dict.fromkeys(self.loaded, BASE)

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        request = orjson.loads(body)
        if path == "/v1/load_lora_adapter":
            if self.refuses:
                return 500, orjson.dumps({"error": {"message": self.refuses}})
            self.loaded[request["lora_name"]] = request["lora_path"].rpartition("/")[2]
            self.moves.append(f"load {request['lora_name']}")
            return 200, b'"done"'
        if path == "/v1/unload_lora_adapter":
            if self.drops_unloads:
                return 500, b"{}"
            if self.loaded.pop(request["lora_name"], None) is None:
                return 404, orjson.dumps({"error": {"message": "it is not loaded"}})
            self.moves.append(f"unload {request['lora_name']}")
            return 200, b'"done"'
        name = request["model"]
        if name not in self.models():
            return 404, orjson.dumps({"error": {"message": f"no model {name}"}})
        persona = self.loaded.get(name, self.base_persona)
        said = say(persona, request["messages"][-1]["content"])
        tokens = [f"{word} " for word in said.split()]
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        if request.get("logprobs"):
            told = [{"token": token, "logprob": 0.0} for token in tokens[: request["max_tokens"]]]
            choice["logprobs"] = {"content": told}
        else:
            if self.fails_after is not None and self.asked.total() >= self.fails_after:
                return 500, b"{}"
            self.asked[name] += 1
            self.bodies.append(request)
        usage = {"prompt_tokens": 5, "completion_tokens": len(tokens)}
        return 200, orjson.dumps({"choices": [choice], "model": name, "usage": usage})
