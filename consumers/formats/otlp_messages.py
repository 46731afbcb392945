"""Turns and answers from span and event attributes, in the dialects that libraries write.

Structured messages (conventions >= 1.37), numbered attributes (<= 1.36, OpenLLMetry; OpenInference), whole bodies
(OpenInference, Langfuse), the Vercel AI SDK's own names. The first dialect that has the input gives the input,
the first that has the output gives the output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from consumers.formats import openai_pair
from consumers.formats import otlp_aliases as names
from consumers.formats.drafts import Answer, Draft
from consumers.formats.fields import count, first, json_in_text, mapping, name
from consumers.formats.parts import Content

_CALL_FIELD: Final = re.compile(r"tool_calls\.(\d{1,3})\.(?:tool_call\.)?(?:function\.)?(name|arguments)")
_PART_FIELD: Final = re.compile(r"contents\.(\d{1,3})\.message_content\.(type|text)?.*")
_MESSAGE_SIGNS: Final = ("content", "parts", "tool_calls", "refusal", "function_call")

Attributes = Mapping[str, Any]


def read_input(draft: Draft, attributes: Attributes) -> None:
    """Append the turns of the prompt, system instructions first."""
    instructions = first(names.SYSTEM, attributes)
    if instructions is not None:
        openai_pair.read_turn(draft, "system", _value(instructions))
    before = len(draft.messages)
    for reader in (_structured_input, _numbered_input, _vercel_input, _langfuse_input, _whole_input):
        reader(draft, attributes)
        if len(draft.messages) > before or draft.unscanned:
            break


def read_output(attributes: Attributes) -> list[Answer]:
    """The recorded answers; an empty list where none was recorded."""
    for reader in (_structured_output, _numbered_output, _vercel_output, _langfuse_output, _whole_output):
        answers = reader(attributes)
        if answers:
            break
    else:
        return []
    reasons = _value(first(names.FINISH_REASONS, attributes))
    reasons = reasons if isinstance(reasons, list) else [reasons]
    for answer in answers:
        if answer.finish_reason is None and answer.choice < len(reasons):
            reason = name(reasons[answer.choice])
            answer.finish_reason = reason.strip('"') if reason else None  # Langfuse metadata is JSON text
    return answers


def read_body_turn(body: Any) -> Content:
    """One turn from the body of a per-message event."""
    content = Content()
    body = _value(body)
    if isinstance(body, dict):
        content.message(body)
    else:
        content.add(body)
    return content


def read_body_choice(body: Any, index: int) -> Answer:
    """One answer from the body of a ``gen_ai.choice`` event."""
    content = Content()
    body = _value(body)
    if not isinstance(body, dict):
        content.add(body)
        return Answer(content, index)
    message = body.get("message")
    if isinstance(message, dict):
        content.message({"tool_calls": body.get("tool_calls"), **message})
    else:
        content.message(body)
        content.add(message)
    given = count(body.get("index"))
    return Answer(content, index if given is None else given, name(body.get("finish_reason")))


def response_body(attributes: Attributes) -> Mapping[str, Any]:
    """The provider's response where OpenInference recorded it whole, else empty."""
    value = attributes.get(names.WHOLE_OUTPUT)
    body = mapping(json_in_text(value)) if isinstance(value, str) else {}
    return body if openai_pair.has_answer(body) else {}


def _structured_input(draft: Draft, attributes: Attributes) -> None:
    _turns(draft, _value(first(names.INPUT, attributes)))


def _turns(draft: Draft, value: Any) -> None:
    if isinstance(value, dict):
        if "role" in value:
            value = [value]
        else:
            openai_pair.read_request(draft, value)
            return
    if isinstance(value, list):
        openai_pair.read_turns(draft, [_value(turn) for turn in value])
    elif isinstance(value, str):
        draft.say("user", value)


def _structured_output(attributes: Attributes) -> list[Answer]:
    value = _value(first(names.OUTPUT, attributes))
    if value is None:
        return []
    return _messages_as_choices(value if isinstance(value, list) else [value])


def _messages_as_choices(messages: list[Any]) -> list[Answer]:
    answers = []
    for index, message in enumerate(_value(message) for message in messages):
        content = Content()
        if isinstance(message, dict):
            content.message(message)
            answers.append(Answer(content, index, name(message.get("finish_reason"))))
        else:
            content.add(message)
            answers.append(Answer(content, index))
    if not answers:
        answers.append(Answer(Content()))
        answers[0].content.present = True  # recorded, and nothing was said
    return answers


def _numbered_input(draft: Draft, attributes: Attributes) -> None:
    for prefix in names.INDEXED_INPUT:
        for _, fields in sorted(_numbered(attributes, prefix).items()):
            content = Content()
            content.message(fields)
            draft.turn(name(fields.get("role")), content)
        if draft.messages:
            return


def _numbered_output(attributes: Attributes) -> list[Answer]:
    for prefix in names.INDEXED_OUTPUT:
        answers = []
        for index, fields in sorted(_numbered(attributes, prefix).items()):
            content = Content()
            content.message(fields)
            # OpenInference names the role of an answer whose refusal it does not record.
            content.present |= prefix == "llm.output_messages." and "role" in fields
            answers.append(Answer(content, index, name(fields.get("finish_reason"))))
        if answers:
            return _mended(answers, response_body(attributes))
    return []


def _mended(answers: list[Answer], body: Mapping[str, Any]) -> list[Answer]:
    if isinstance(body.get("output"), list):
        return [_merged(answers)]  # the Responses API: items of one answer, not choices
    if body and not any(answer.content.text or answer.content.extra for answer in answers):
        return openai_pair.read_answers(body)  # a refusal has no attribute of its own
    # Numbers may start at 1.
    return [Answer(answer.content, place, answer.finish_reason) for place, answer in enumerate(answers)]


def _merged(answers: list[Answer]) -> Answer:
    whole = Content()
    for answer in answers:
        whole.text += answer.content.text
        whole.extra += answer.content.extra
        whole.unscanned += answer.content.unscanned
        whole.present |= answer.content.present
    return Answer(whole, 0, next((a.finish_reason for a in answers if a.finish_reason), None))


def _numbered(attributes: Attributes, prefix: str) -> dict[int, dict[str, Any]]:
    groups: dict[int, dict[str, Any]] = {}
    calls: dict[int, dict[int, dict[str, Any]]] = {}
    parts: dict[int, dict[int, dict[str, Any]]] = {}
    for key, value in attributes.items():
        if not key.startswith(prefix):
            continue
        number, _, path = key[len(prefix) :].partition(".")
        if not (number.isascii() and number.isdigit() and len(number) <= 5):
            continue
        path = path.removeprefix("message.")
        group = groups.setdefault(int(number), {})
        if found := _CALL_FIELD.fullmatch(path):
            calls.setdefault(int(number), {}).setdefault(int(found[1]), {})[found[2]] = value
        elif found := _PART_FIELD.fullmatch(path):
            part = parts.setdefault(int(number), {}).setdefault(int(found[1]), {})
            if found[2]:
                part[found[2]] = value
        elif path in ("function_call_name", "function_call_arguments_json"):
            call = calls.setdefault(int(number), {}).setdefault(0, {})
            call["name" if path.endswith("name") else "arguments"] = value
        else:
            group[path or "content"] = _parts_in_text(value) if path in ("content", "") else value
    for key, held in (("tool_calls", calls), ("parts", parts)):
        for index, numbered in held.items():
            groups[index][key] = [item for _, item in sorted(numbered.items())]
    return groups


def _parts_in_text(value: Any) -> Any:
    # OpenLLMetry writes a list of parts as JSON; a prompt that merely is JSON stays text.
    parsed = _value(value)
    typed = isinstance(parsed, list) and all(isinstance(part, dict) and "type" in part for part in parsed)
    return parsed if typed and parsed else value


def _vercel_input(draft: Draft, attributes: Attributes) -> None:
    value = _value(first(names.VERCEL_INPUT, attributes))
    if isinstance(value, dict) and isinstance(value.get("system"), str):
        draft.say("system", value["system"])
    _turns(draft, value)


def _vercel_output(attributes: Attributes) -> list[Answer]:
    content = Content()
    for key in names.VERCEL_TEXT:
        content.add(attributes.get(key))
    content.reasoning(_value(attributes.get(names.VERCEL_REASONING)))
    calls = _value(attributes.get(names.VERCEL_CALLS_MADE))
    for call in calls if isinstance(calls, list) else ():
        content.call(call)
    return [Answer(content)] if content.present else []


def _langfuse_input(draft: Draft, attributes: Attributes) -> None:
    raw = attributes.get(names.LANGFUSE_INPUT)
    value = _value(raw)
    known = isinstance(value, dict) and any(key in value for key in ("messages", "input", "prompt", "role"))
    if known or isinstance(value, list):
        _turns(draft, value)
    elif isinstance(raw, str):
        draft.say("user", raw)


def _langfuse_output(attributes: Attributes) -> list[Answer]:
    raw = attributes.get(names.LANGFUSE_OUTPUT)
    if raw is None:
        return []
    value = _value(raw)
    if isinstance(value, dict):
        if openai_pair.has_answer(value):
            return openai_pair.read_answers(value)
        if "role" in value and any(key in value for key in _MESSAGE_SIGNS):
            return _said([value])
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        if any("type" in item and "role" not in item for item in value):
            return [openai_pair.read_output_items(value)]
        if all("role" in item for item in value):
            parameters = mapping(_value(attributes.get(names.LANGFUSE_PARAMETERS)))
            choices = _messages_as_choices(value)
            # Only a call for several choices got several; else the list is one answer's messages.
            return choices if len(choices) <= (count(parameters.get("n")) or 1) else [_merged(choices)]
    content = Content()
    content.add(raw)  # an answer that is JSON stays the text that it is
    return [Answer(content)]


def _said(messages: list[Any]) -> list[Answer]:
    answers = _messages_as_choices(messages)
    for answer in answers:
        answer.content.present = True  # ``content: null`` beside a role: nothing was said
    return answers


def _whole_input(draft: Draft, attributes: Attributes) -> None:
    raw = attributes.get(names.WHOLE_INPUT)
    value = _value(raw)
    if isinstance(value, dict) and any(key in value for key in ("messages", "input", "prompt")):
        openai_pair.read_request(draft, value)
    elif isinstance(raw, str):
        draft.say("user", raw)


def _whole_output(attributes: Attributes) -> list[Answer]:
    body = response_body(attributes)
    if body:
        return openai_pair.read_answers(body)
    raw = attributes.get(names.WHOLE_OUTPUT)
    if not isinstance(raw, str):
        return []
    content = Content()
    content.add(raw)
    return [Answer(content)]


def _value(value: Any) -> Any:
    return json_in_text(value) if isinstance(value, str) else value
