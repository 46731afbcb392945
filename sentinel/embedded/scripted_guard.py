"""A guard server that answers Qwen3Guard's grammar by rule, for tests and throughput benchmarks.

The judged text is the last message. Without a mark it is safe; a mark in it decides otherwise (`RULES`).
It speaks vLLM's ``/v1/chat/completions`` and ``/v1/chat/completions/batch``.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Final

import orjson

from sentinel.embedded.scripted_http import Faults, ScriptedServer, serve

MODEL: Final = "scripted-guard"

UNSAFE_MARK: Final = "UNSAFE-MARK"
CONTROVERSIAL_MARK: Final = "CONTROVERSIAL-MARK"
REFUSAL_MARK: Final = "REFUSAL-MARK"
GARBAGE_MARK: Final = "GARBAGE-MARK"
EMPTY_MARK: Final = "EMPTY-MARK"
NUL_MARK: Final = "NUL-MARK"
CONFLICT_MARK: Final = "CONFLICT-MARK"
ECHO_MARK: Final = "ECHO-MARK"
"""The guard repeats the judged text instead of judging it, as small models do."""
ERROR_MARK: Final = "ERROR-MARK"
"""The whole request fails with 500, as one bad conversation fails a batch."""
REFUSED_MARK: Final = "REFUSED-MARK"
"""The whole request fails with 400."""

RULES: Final[tuple[tuple[str, str, str], ...]] = (
    # mark, answer about a prompt, answer about a response; the first mark found wins
    (CONTROVERSIAL_MARK, "Safety: Controversial\nCategories: Politically Sensitive Topics",
     "Safety: Controversial\nCategories: Politically Sensitive Topics\nRefusal: No"),
    (UNSAFE_MARK, "Safety: Unsafe\nCategories: Violent", "Safety: Unsafe\nCategories: Violent\nRefusal: No"),
    (REFUSAL_MARK, "Safety: Safe\nCategories: None", "Safety: Safe\nCategories: None\nRefusal: Yes"),
    (GARBAGE_MARK, "I would call this text Unsafe, but it depends.", "I would call this answer Unsafe."),
    (EMPTY_MARK, "", ""),
    (NUL_MARK, "Safety: Unsafe\0\nCategories: Violent", "Safety: Unsafe\nCategories: Violent\nRefusal: No\0"),
    (CONFLICT_MARK, "Safety: Unsafe\nSafety: Safe\nCategories: None",
     "Safety: Unsafe\nCategories: Violent\nSafety: Safe\nRefusal: No"),
)  # fmt: skip

SAFE_PROMPT: Final = "Safety: Safe\nCategories: None"
SAFE_RESPONSE: Final = "Safety: Safe\nCategories: None\nRefusal: No"

_BATCH: Final = "/v1/chat/completions/batch"
_SINGLE: Final = "/v1/chat/completions"
_FAILED: Final = b'{"error":{"message":"scripted failure","type":"InternalServerError","code":500}}'
_REFUSED: Final = b'{"error":{"message":"scripted refusal","type":"BadRequestError","code":400}}'
_TOO_LONG: Final = (
    b'{"error":{"message":"maximum context length exceeded","type":"BadRequestError","code":400}}'
)


class ScriptedGuard(ScriptedServer):
    """The server; ``max_chars`` makes longer conversations fail with 400, as a context length does."""

    def __init__(self, *, faults: Faults | None = None, seed: int = 0, max_chars: int | None = None) -> None:
        super().__init__(faults=faults, seed=seed)
        self.max_chars = max_chars

    def models(self) -> Mapping[str, str | None]:
        """One model."""
        return {MODEL: None}

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """A chat completion with one choice for each conversation."""
        if path == _BATCH:
            conversations = orjson.loads(body)["messages"]
            self.stats.batch_requests += 1
        elif path == _SINGLE:
            conversations = [orjson.loads(body)["messages"]]
            self.stats.single_requests += 1
        else:
            return 404, b'{"detail":"Not Found"}'
        self.stats.conversations += len(conversations)
        if self.max_chars is not None:
            for turns in conversations:
                if sum(len(turn["content"]) for turn in turns) > self.max_chars:
                    return 400, _TOO_LONG
        # Every mark ends alike: one search of the whole body spares nearly all of the others.
        if b"-MARK" not in body:
            choices = [
                _CHOICES[turns[-1]["role"] == "assistant"] % index
                for index, turns in enumerate(conversations)
            ]
        else:
            choices = []
            for index, turns in enumerate(conversations):
                text = turns[-1]["content"]
                if ERROR_MARK in text:
                    return 500, _FAILED
                if REFUSED_MARK in text:
                    return 400, _REFUSED
                verdict = orjson.dumps(_judge(text, turns[-1]["role"] == "assistant"))
                choices.append(_choice(index, verdict))
        return 200, _HEAD + b",".join(choices) + b"]}"


def _judge(text: str, is_response: bool) -> str:
    if ECHO_MARK in text:
        return text
    for mark, about_prompt, about_response in RULES:
        if mark in text:
            return about_response if is_response else about_prompt
    return SAFE_RESPONSE if is_response else SAFE_PROMPT


def _choice(index: int, verdict: bytes) -> bytes:
    return (
        b'{"index":%d,"message":{"role":"assistant","content":%s},"logprobs":null,"finish_reason":"stop"}'
        % (index, verdict)
    )


_HEAD: Final = (
    b'{"id":"chatcmpl-scripted","object":"chat.completion","created":0,"model":"'
    + MODEL.encode()
    + b'","usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0},"choices":['
)
_CHOICES: Final = tuple(
    _choice(7, orjson.dumps(text).replace(b"%", b"%%")).replace(b'"index":7', b'"index":%d')
    for text in (SAFE_PROMPT, SAFE_RESPONSE)
)


def main() -> None:
    """``python -m sentinel.embedded.scripted_guard``: serve until a signal; prints its address first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", default="0:0", metavar="LOW:HIGH", help="seconds, drawn uniformly")
    parser.add_argument("--error-rate", type=float, default=0.0)
    parser.add_argument("--no-batch", action="store_true", help="404 on the batch endpoint")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    low, _, high = options.latency.partition(":")
    faults = Faults(
        latency_low=float(low),
        latency_high=float(high or low),
        error_rate=options.error_rate,
        batch_missing=options.no_batch,
    )
    work = serve(ScriptedGuard(faults=faults, seed=options.seed), options.host, options.port)
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


if __name__ == "__main__":
    main()
