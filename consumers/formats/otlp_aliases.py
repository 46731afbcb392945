"""Attribute names of the OpenTelemetry GenAI conventions and of libraries beside them: names are data.

The conventions left the main repository in 2026 and are still in development; instrumentations of several years
write at once. Each tuple is in order of preference; the first attribute that is set wins.
"""

from __future__ import annotations

from typing import Final

OPERATION_EVENT: Final = "gen_ai.client.inference.operation.details"
"""Log event with a whole call (conventions >= 1.37)."""

MESSAGE_EVENTS: Final = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}
"""Log events with one turn each (conventions 1.28 to 1.36) and their roles."""

CHOICE_EVENT: Final = "gen_ai.choice"
"""Log event with one answer (conventions 1.28 to 1.36)."""

CONTENT_EVENTS: Final = ("gen_ai.content.prompt", "gen_ai.content.completion")
"""Span events of conventions <= 1.27, with the attributes ``gen_ai.prompt`` and ``gen_ai.completion``."""

EVENT_CONTENT: Final = "gen_ai.event.content"
"""Attribute in which span events carry a turn as JSON."""

OPERATION: Final = "gen_ai.operation.name"
GENERATIONS: Final = frozenset({"chat", "text_completion", "generate_content", "completion", "responses"})
PARENTS: Final = frozenset({"invoke_agent", "create_agent", "invoke_workflow", "agent_step"})
"""Operations whose spans repeat the texts of the model calls below them."""

VERCEL_OPERATION: Final = "ai.operationId"
VERCEL_CALLS: Final = (".doGenerate", ".doStream")
VERCEL_PARENTS: Final = frozenset(
    {"ai.generateText", "ai.streamText", "ai.generateObject", "ai.streamObject"}
)

REQUEST_TYPE: Final = "llm.request.type"
REQUEST_GENERATIONS: Final = frozenset({"chat", "completion"})

OPENINFERENCE_KIND: Final = "openinference.span.kind"
OPENINFERENCE_PARENTS: Final = frozenset({"AGENT", "CHAIN"})

LANGFUSE_TYPE: Final = "langfuse.observation.type"
LANGFUSE_PARENTS: Final = frozenset({"agent", "chain"})

TRACELOOP_KIND: Final = "traceloop.span.kind"

GENERATION_SIGNS: Final = (
    "gen_ai.response.id", "gen_ai.response.model", "gen_ai.request.model", "gen_ai.input.messages",
    "gen_ai.output.messages",
)  # fmt: skip
"""Attributes that make a span without any operation a model call."""

RESPONSE_ID: Final = ("gen_ai.response.id", "ai.response.id")
MODEL: Final = (
    "gen_ai.response.model", "ai.response.model", "langfuse.observation.model.name", "llm.model_name",
    "gen_ai.request.model", "ai.model.id", "llm.request.model",
)  # fmt: skip
PROVIDER: Final = (
    "gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "ai.model.provider", "llm.vendor",
)  # fmt: skip
CONVERSATION: Final = (
    "gen_ai.conversation.id", "session.id", "langfuse.session.id", "ai.telemetry.metadata.sessionId",
    "traceloop.association.properties.session_id",
)  # fmt: skip
USER: Final = (
    "user.id", "enduser.id", "langfuse.user.id", "ai.telemetry.metadata.userId", "llm.user",
    "traceloop.association.properties.user_id",
)  # fmt: skip
INPUT_TOKENS: Final = (
    "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt", "llm.usage.prompt_tokens",
    "ai.usage.inputTokens", "ai.usage.promptTokens",
)  # fmt: skip
OUTPUT_TOKENS: Final = (
    "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion",
    "llm.usage.completion_tokens", "ai.usage.outputTokens", "ai.usage.completionTokens",
)  # fmt: skip
FINISH_REASONS: Final = (
    "gen_ai.response.finish_reasons", "ai.response.finishReason", "llm.finish_reason",
    "langfuse.observation.metadata.finish_reason", "langfuse.observation.metadata.status",
)  # fmt: skip
TENANT_RESOURCE: Final = ("service.namespace",)
SOURCE_RESOURCE: Final = ("service.name",)
ERROR: Final = "error.type"

INPUT: Final = ("gen_ai.input.messages", "gen_ai.prompt")
"""Structured on events, a JSON string on spans."""
OUTPUT: Final = ("gen_ai.output.messages", "gen_ai.completion")
SYSTEM: Final = ("gen_ai.system_instructions", "langfuse.observation.metadata.instructions")
REFERENCES: Final = ("gen_ai.input.messages_ref", "gen_ai.output.messages_ref")
"""Where contents were uploaded instead of sent."""

INDEXED_INPUT: Final = ("gen_ai.prompt.", "llm.input_messages.", "llm.prompts.")
"""Prefixes of turns spread over numbered attributes (<= 1.36, OpenLLMetry; OpenInference)."""
INDEXED_OUTPUT: Final = ("gen_ai.completion.", "llm.output_messages.", "llm.completions.")

WHOLE_INPUT: Final = "input.value"
"""OpenInference: the request as text, JSON by ``input.mime_type``."""
WHOLE_OUTPUT: Final = "output.value"

LANGFUSE_INPUT: Final = "langfuse.observation.input"
LANGFUSE_OUTPUT: Final = "langfuse.observation.output"
LANGFUSE_USAGE: Final = "langfuse.observation.usage_details"
USAGE_INPUT: Final = ("input", "input_tokens", "prompt_tokens")
USAGE_OUTPUT: Final = ("output", "output_tokens", "completion_tokens")
LANGFUSE_PARAMETERS: Final = "langfuse.observation.model.parameters"

VERCEL_INPUT: Final = ("ai.prompt.messages", "ai.prompt")
VERCEL_TEXT: Final = ("ai.response.text", "ai.response.object")
VERCEL_CALLS_MADE: Final = "ai.response.toolCalls"
VERCEL_REASONING: Final = "ai.response.reasoning"

KEPT: Final = (
    "gen_ai.operation.name", "gen_ai.agent.name", "gen_ai.agent.id", "gen_ai.output.type", "server.address",
    "ai.telemetry.functionId", "traceloop.workflow.name", "langfuse.environment", "langfuse.release",
    "deployment.environment.name", "service.version",
)  # fmt: skip
"""Attributes without texts that are kept with the event."""
