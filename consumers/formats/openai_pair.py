"""Request and response of an OpenAI-compatible call, as gateways log them: completions, chat, Responses.

The bodies are read by the other formats too, which carry them whole (LiteLLM, OpenInference, Langfuse).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from consumers.formats.drafts import Answer, Bad, Draft, Outcome, Skip, marked_as_own
from consumers.formats.fields import count, first, json_in_text, mapping, moment, name, traceparent
from consumers.formats.parts import Content, refusal
from sentinel.chunks import assembled
from sentinel.errors import PoisonError
from sentinel.events import Message

FORMAT: Final = "openai"

_ITEM_ROLES: Final = {
    "function_call": "assistant", "custom_tool_call": "assistant", "reasoning": "assistant",
    "function_call_output": "tool", "custom_tool_call_output": "tool",
}  # fmt: skip


def looks_like_pair(obj: dict[str, Any]) -> bool:
    """Whether an object holds a request and what was answered."""
    return isinstance(obj.get("request"), dict) and ("response" in obj or "error" in obj)


def read(obj: dict[str, Any]) -> list[Outcome]:
    """The calls of one pair: one, or one for each prompt of a list.

    Raises:
        PoisonError: ``missing_field`` where request or response is none of a model call.
    """
    request, response = _body(obj.get("request")), _body(obj.get("response"))
    if marked_as_own(
        obj, obj.get("headers"), obj.get("metadata"), request.get("metadata"), request.get("headers"),
        mapping(obj.get("request")).get("headers"), request.get("extra_headers"),
    ):  # fmt: skip
        return [Skip("own_traffic")]
    if not request:
        raise PoisonError("missing_field", "request")
    if is_embedding(request, response):
        return [Skip("not_generation")]
    if not response or (response.get("error") and not has_answer(response)):
        if obj.get("error") or response.get("error") or obj.get("status") == "error":
            return [Skip("failed_call")]
        raise PoisonError("missing_field", "response")
    if not has_answer(response):
        raise PoisonError("missing_field", "response has neither choices nor output")
    metadata = mapping(request.get("metadata"))
    trace_id, span_id = traceparent(obj.get("traceparent") or mapping(obj.get("headers")).get("traceparent"))
    draft = Draft(
        format=FORMAT,
        response_id=name(response.get("id")),
        producer_id=name(obj.get("id")),
        source=name(obj.get("source")),
        tenant=name(obj.get("tenant")),
        model=name(response.get("model")) or name(request.get("model")),
        provider=name(obj.get("provider")),
        user=name(first(("safety_identifier", "user"), request)),
        conversation_id=name(metadata.get("conversation_id")) or _conversation(request),
        event_time=moment(first(("created", "created_at"), response)) or moment(obj.get("time")),
        trace_id=trace_id,
        span_id=span_id,
        client_verdicts=_filter_results(response),
    )
    read_usage(draft, response)
    prompts = request.get("prompt")
    if isinstance(prompts, list) and len(prompts) > 1 and all(isinstance(p, str) for p in prompts):
        return _per_prompt(draft, prompts, response)
    read_request(draft, request)
    draft.answers = read_answers(response)
    return [draft]


def read_request(draft: Draft, request: Mapping[str, Any]) -> None:
    """Append the turns of a request body: ``messages``, ``instructions`` and ``input``, or ``prompt``."""
    instructions = request.get("instructions")
    if isinstance(instructions, str | list):
        read_turn(draft, "system", instructions)
    for key in ("messages", "input", "prompt"):
        turns = request.get(key)
        if isinstance(turns, str):
            draft.say("user", turns)
        elif isinstance(turns, list):
            read_turns(draft, turns)


def read_turns(draft: Draft, turns: list[Any]) -> None:
    """Append a list of messages, of Responses items, or of bare parts."""
    for turn in turns:
        content = Content()
        role = None
        if isinstance(turn, dict):
            role = name(turn.get("role")) or _ITEM_ROLES.get(str(turn.get("type")))
            if "role" in turn or ("content" in turn and "type" not in turn):
                content.message(turn)
            else:
                content.add(turn)
        elif isinstance(turn, str):
            content.add(turn)
        else:
            content.unscanned += 1  # token ids
        draft.turn(role, content)


def read_turn(draft: Draft, role: str, value: Any) -> None:
    """Append one turn that is text or a list of parts."""
    content = Content()
    content.add(value)
    draft.turn(role, content)


def read_usage(draft: Draft, response: Mapping[str, Any]) -> None:
    """Token counts of a response body."""
    usage = mapping(response.get("usage"))
    draft.input_tokens = count(first(("input_tokens", "prompt_tokens"), usage))
    draft.output_tokens = count(first(("output_tokens", "completion_tokens"), usage))


def has_answer(response: Mapping[str, Any]) -> bool:
    """Whether a response body is one of a model call that answered."""
    return isinstance(response.get("choices"), list) or isinstance(response.get("output"), list)


def is_embedding(request: Mapping[str, Any], response: Mapping[str, Any]) -> bool:
    """Embeddings, moderations and rankings carry texts and tokens too, but nobody answered."""
    if has_answer(response):
        return False
    return response.get("object") in ("list", "embedding") or isinstance(
        first(("data", "results"), response), list
    )


def read_answers(response: Mapping[str, Any]) -> list[Answer]:
    """The answers of a response body: one for each choice; the output items of Responses are one answer."""
    choices = response.get("choices")
    if isinstance(choices, list):
        answers = [_choice(choice, index) for index, choice in enumerate(choices) if isinstance(choice, dict)]
        return answers or [_empty()]
    output = response.get("output")
    answer = read_output_items(output if isinstance(output, list) else [])
    details = mapping(response.get("incomplete_details"))
    answer.finish_reason = name(details.get("reason")) or name(response.get("status"))
    return [answer]


def read_output_items(items: list[Any]) -> Answer:
    """One answer from the items of the Responses API."""
    answer = _empty()
    for item in items:
        answer.content.add(item)
    return answer


def _empty() -> Answer:
    answer = Answer(Content())
    answer.content.present = True  # the model was asked and said nothing
    return answer


def _choice(choice: dict[str, Any], index: int) -> Answer:
    content = Content()
    content.present = True
    message = choice.get("message")
    if isinstance(message, dict):
        content.message(message)
    else:
        content.add(choice.get("text"))
        content.add(refusal(choice))
    given = count(choice.get("index"))
    return Answer(content, index if given is None else given, name(choice.get("finish_reason")))


def _per_prompt(draft: Draft, prompts: list[str], response: Mapping[str, Any]) -> list[Outcome]:
    # Choices of a list of prompts come prompt by prompt, ``n`` each, and count through.
    answers = read_answers(response)
    each, rest = divmod(len(answers), len(prompts))
    if rest or not each:
        return [Bad("invalid_field", "choices do not divide among the prompts")]
    drafts: list[Outcome] = []
    for number, prompt in enumerate(prompts):
        part = Draft(**{slot: getattr(draft, slot) for slot in Draft.__slots__})
        part.messages = [Message("user", prompt)]
        part.answers = answers[number * each : (number + 1) * each]
        drafts.append(part)
    return drafts


def _body(value: Any) -> dict[str, Any]:
    # Gateways write bodies as text, the Batch API as {status_code, body}, streams as a list of chunks.
    if isinstance(value, str):
        value = json_in_text(value)
    if isinstance(value, list):
        return assembled(value)
    if not isinstance(value, dict):
        return {}
    inner = value.get("body")
    if isinstance(inner, str | dict | list) and not has_answer(value) and "messages" not in value:
        return _body(inner)
    return value


def _conversation(request: Mapping[str, Any]) -> str | None:
    conversation = request.get("conversation")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
    return name(conversation) or name(request.get("previous_response_id"))


def _filter_results(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    results = response.get("prompt_filter_results")  # Azure
    return (
        [{"source": "azure", **r} for r in results if isinstance(r, dict)]
        if isinstance(results, list)
        else []
    )
