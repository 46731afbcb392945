"""Content parts of all dialects: what the guard reads, what it reads beside the answer, and what it cannot read.

Visible text and tool results are text. Reasoning and the arguments of tool calls are further text that the guard
must see, since a model can do harm there too. Images, sound and files are counted as unscanned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from consumers.formats.fields import MAX_DEPTH, dumps, first, json_in_text, name
from sentinel.errors import PoisonError

_TEXT_TYPES: Final = frozenset({"text", "input_text", "output_text", "refusal", "message"})
_REASONING_TYPES: Final = frozenset({"reasoning", "thinking", "summary_text", "reasoning_text"})
_CALL_TYPES: Final = frozenset(
    {
        "tool_call", "tool-call", "tool_use", "function", "function_call", "custom_tool_call", "custom", "mcp_call",
        "server_tool_call", "server_tool_use", "computer_call", "local_shell_call", "web_search_call",
        "code_interpreter_call",
    }
)  # fmt: skip
_RESULT_TYPES: Final = frozenset(
    {
        "tool_call_response", "tool-result", "tool_result", "function_call_output", "custom_tool_call_output",
        "server_tool_call_response", "computer_call_output", "local_shell_call_output",
    }
)  # fmt: skip
_TEXT_KEYS: Final = ("text", "content", "refusal", "transcript")
_REASONING_KEYS: Final = ("text", "content", "summary", "thinking", "reasoning")
_RESULT_KEYS: Final = ("result", "response", "output", "content")
_CALL_NAME_KEYS: Final = ("name", "toolName", "tool_name")
_CALL_ARGUMENT_KEYS: Final = ("arguments", "input", "args", "action", "code")


class Content:
    """Text gathered from the parts of one message."""

    __slots__ = ("extra", "present", "text", "unscanned")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.extra: list[str] = []
        self.unscanned = 0
        self.present = False
        """Whether the producer recorded content at all: an empty answer is not the same as capture off."""

    @property
    def visible(self) -> str:
        """What the reader of the answer saw."""
        return "\n".join(self.text)

    @property
    def beside(self) -> str:
        """Reasoning and tool-call arguments."""
        return "\n".join(self.extra)

    @property
    def whole(self) -> str:
        """All text in one string, for turns of the prompt."""
        return "\n".join((*self.text, *self.extra))

    def add(self, value: Any, depth: int = 0) -> None:
        """Take in a string, a part, or a list of them. Raises PoisonError ``too_deep``."""
        if value is None:
            return
        self.present = True
        if isinstance(value, str):
            if value:
                self.text.append(value)
        elif isinstance(value, list):
            if depth >= MAX_DEPTH:
                raise PoisonError("too_deep", "content parts")
            for item in value:
                self.add(item, depth + 1)
        elif isinstance(value, dict):
            if depth >= MAX_DEPTH:
                raise PoisonError("too_deep", "content parts")
            self._part(value, depth + 1)
        else:
            self.text.append(dumps(value))

    def call(self, call: Any) -> None:
        """Take in one tool call of any dialect. Only a name without arguments means that capture was off."""
        if not isinstance(call, dict):
            self.add(call)
            return
        function = call.get("function")
        inner: Mapping[str, Any] = function if isinstance(function, dict) else call
        arguments = next((inner[key] for key in _CALL_ARGUMENT_KEYS if inner.get(key) is not None), None)
        if arguments is None:
            return
        self.present = True
        if isinstance(arguments, str):
            # Some reporters parse the arguments and some do not; one call must be one text, or it is stored twice.
            arguments = json_in_text(arguments)
        called = name(first(_CALL_NAME_KEYS, inner))
        self.extra.append(" ".join(piece for piece in (called, dumps(arguments)) if piece))

    def message(self, message: Mapping[str, Any], depth: int = 0) -> None:
        """Take in a chat message: content or parts, refusal, reasoning, tool calls, transcript of sound."""
        self.add(message.get("content"), depth)
        self.add(message.get("parts"), depth)
        self.add(refusal(message))
        self.reasoning(first(("reasoning_content", "reasoning", "thinking"), message), depth)
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            self.call(call)
        if isinstance(message.get("function_call"), dict):
            self.call(message["function_call"])
        audio = message.get("audio")
        if isinstance(audio, dict):
            self._part({"type": "audio", **audio}, depth)

    def reasoning(self, value: Any, depth: int = 0) -> None:
        """Take in reasoning: text, parts, or summaries."""
        if value is None:
            return
        if isinstance(value, str) and value.startswith("[{"):
            value = json_in_text(value)  # OpenLLMetry writes the summaries as JSON
        thought = Content()
        thought.add(value, depth)
        self.present |= thought.present
        self.extra += thought.text + thought.extra

    def _part(self, part: Mapping[str, Any], depth: int) -> None:
        kind = name(part.get("type"))
        if kind in _CALL_TYPES:
            self.call(part)
        elif kind in _RESULT_TYPES:
            result = next((part[key] for key in _RESULT_KEYS if part.get(key) is not None), None)
            self._result(result, depth)
        elif kind in _REASONING_TYPES:
            for key in _REASONING_KEYS:
                self.reasoning(part.get(key), depth)
        elif kind in _TEXT_TYPES or kind is None:
            self._text_part(part, depth)
        else:
            # Also a kind nobody knew yet: its text is read, what is not text is counted.
            texts = [part[key] for key in _TEXT_KEYS if isinstance(part.get(key), str) and part[key]]
            self.text += texts
            self.unscanned += not texts

    def _text_part(self, part: Mapping[str, Any], depth: int) -> None:
        if "role" in part or "tool_calls" in part:
            self.message(part, depth)
            return
        found = [part[key] for key in _TEXT_KEYS if part.get(key) is not None]
        if "functionCall" in part:  # Gemini
            self.call(part["functionCall"])
        elif not found:
            self.unscanned += 1
        for value in found:
            self.add(value, depth)

    def _result(self, result: Any, depth: int) -> None:
        if isinstance(result, list):
            self.add(result, depth)
        elif result is not None:
            self.text.append(dumps(result))


def refusal(message: Mapping[str, Any]) -> str | None:
    """A refusal's text; LiteLLM puts it among the provider's own fields."""
    for holder in (message, message.get("provider_specific_fields")):
        if isinstance(holder, dict) and isinstance(holder.get("refusal"), str):
            return str(holder["refusal"]) or None
    return None
