"""Settings of the models that are asked: guard, policy, re-prompts, served models."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from sentinel.settings.section import Count, HttpUrl, HttpUrls, Seconds, Section, Strings

DEFAULT_INSTRUCTION = (
    "Answer the user's last message helpfully and safely. Do not give instructions, details or encouragement "
    "that could cause harm to people. Where part of the request is harmful, say briefly that you cannot help "
    "with that part, and offer safe help with the rest."
)


class Guard(Section):
    """The guard model that scores prompts and responses."""

    base_url: HttpUrl = Field(
        "http://127.0.0.1:8002", description="Address of the guard's server, without /v1."
    )
    name: str = Field("Qwen/Qwen3Guard-Gen-0.6B", min_length=1, description="Model name in requests.")
    weights: str = Field(
        "",
        description="Hash or revision of the guard's weights; part of guard_id, which tells verdicts apart.",
    )
    grammar: str = Field("qwen3guard", min_length=1, description="How prompts are made and answers are read.")
    api_key: SecretStr | None = Field(None, description="Bearer token of the guard's server.")
    mode: Literal["auto", "batch", "single"] = Field(
        "auto",
        description="auto: batch where the server has an endpoint for it; else one call for each text.",
    )
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(64, description="Texts of one batch at most.")
    linger_ms: Annotated[int, Field(ge=0, le=1000)] = Field(5, description="Wait for a batch to fill.")
    max_concurrency: Count = Field(64, description="Requests under way at the same time.")
    timeout_s: Seconds = Field(30.0, description="Time for one request, answer included.")
    connect_timeout_s: Seconds = Field(5.0, description="Time for a connection.")
    attempts: Annotated[int, Field(ge=1, le=20)] = Field(3, description="Tries of one text in all.")
    max_text_chars: Annotated[int, Field(ge=200)] = Field(
        24_000, description="Longer texts are cut into windows; the worst label wins."
    )
    window_overlap_chars: Annotated[int, Field(ge=0)] = Field(500, description="Overlap of two windows.")
    check_prompts: bool = Field(True, description="Score prompts too; they never make a finding.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # With an overlap as long as the window the next window never moves on.
        if self.window_overlap_chars * 2 > self.max_text_chars:
            raise ValueError("window_overlap_chars must be at most half of max_text_chars")
        return self


class PolicySettings(Section):
    """How the guard's labels are read."""

    version: str = Field("1", min_length=1, description="Name of this policy; stored with every finding.")
    strict: bool = Field(False, description="Whether controversial counts as unsafe.")
    ignored_categories: Strings = Field((), description="Categories that alone do not make an answer unsafe.")


class Reprompt(Section):
    """The second answer that is asked for where the first was unsafe."""

    enabled: bool = Field(True, description="Whether unsafe answers are asked for again.")
    attempts: Annotated[int, Field(ge=1, le=10)] = Field(2, description="Further answers for one finding.")
    instruction: str = Field(
        DEFAULT_INSTRUCTION, min_length=1, description="Safety text that is added to the system prompt."
    )
    instruction_version: str = Field(
        "1", min_length=1, description="Name of that text; stored with each attempt."
    )
    system_role: bool = Field(
        True,
        description="false: the model's template has no system role, the text precedes the first user turn.",
    )
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(0.7, description="Sampling temperature.")
    max_tokens: Count = Field(512, description="Tokens of one answer at most.")
    timeout_s: Seconds = Field(60.0, description="Time for one answer.")
    concurrency: Count = Field(8, description="Findings worked on at the same time.")
    poll_interval_s: Seconds = Field(1.0, description="Pause after which an idle task looks for findings.")
    lease_s: Seconds = Field(120.0, description="How long a claimed finding belongs to its claimer.")
    max_claims: Count = Field(5, description="Claims after which a finding is given up.")


class ServedModel(Section):
    """One model in service: its weights, its names in events, and its replicas."""

    public_name: str = Field(min_length=1, description="Name that applications ask for.")
    base: str = Field(min_length=1, description="The base weights: a Hub name or a path.")
    event_models: Strings = Field((), description="Patterns of model names in events that belong to it.")
    replicas: HttpUrls = Field((), description="One address for each API-server process, never a balancer.")
    admin_token: SecretStr | None = Field(None, description="Bearer token of the replicas.")
    remote_prefix: Strings = Field(
        (),
        description="Where replicas see the folder adapters.store: one path for all, or one for each; none: as here.",
    )
    max_lora_rank: Count = Field(16, description="Largest adapter rank that the replicas accept.")

    @model_validator(mode="after")
    def _prefixes(self) -> Self:
        if len(self.remote_prefix) not in {0, 1, len(self.replicas)}:
            raise ValueError(
                f"remote_prefix has {len(self.remote_prefix)} paths and there are {len(self.replicas)} replicas: write"
                " one path for all of them, or one for each in their order"
            )
        return self

    @property
    def seen_from(self) -> tuple[tuple[str, str | None], ...]:
        """Each replica's address with the folder where it sees adapters; None: under the same path as here."""
        prefixes: tuple[str | None, ...] = self.remote_prefix or (None,)
        if len(prefixes) == 1:
            prefixes *= len(self.replicas)
        return tuple(zip(self.replicas, prefixes, strict=True))
