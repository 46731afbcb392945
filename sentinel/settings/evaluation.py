"""Settings of evaluation: which server is asked, what about, and who judges the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from sentinel.settings.section import Count, Fraction, HttpUrl, Seconds, Section


class EvaluationSource(Section):
    """One evaluation set: a built-in one, or a file."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name on reports.")
    kind: Literal["harmful", "benign", "utility"] = Field(description="What its prompts are for.")
    builtin: Literal["tiny-harmful", "tiny-benign", "harmful-20", "benign-20"] | None = Field(
        None, description="A set that comes with the package."
    )
    path: Path | None = Field(None, description="JSONL or CSV file.")
    sha256: str | None = Field(None, description="Its hash; a set that has another one is refused.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.builtin is None) == (self.path is None):
            raise ValueError(f"{self.name} needs either builtin or path")
        return self


class Judge(Section):
    """The guard that judges answers in evaluation: other weights than the guard that labels traffic."""

    base_url: HttpUrl | None = Field(
        None, description="Address of its server, without /v1; none: nobody judges."
    )
    name: str = Field("Qwen/Qwen3Guard-Gen-4B", min_length=1, description="Model name in requests.")
    grammar: str = Field("qwen3guard", min_length=1, description="How prompts are made and answers are read.")
    weights: str = Field(
        "", description="Hash or revision of its weights; must differ from guard.weights to be independent."
    )
    family: str = Field(
        "", description="Family of the judge's model, as shown on reports; empty: by its name."
    )
    api_key: SecretStr | None = Field(None, description="Bearer token of its server.")
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(64, description="Texts of one batch at most.")
    concurrency: Count = Field(8, description="Batches under way at the same time.")
    timeout_s: Seconds = Field(120.0, description="Time for one request, answer included.")
    early: bool = Field(
        True,
        description="Whether it judges while others are still asked; false where both servers share a GPU.",
    )


class Evaluation(Section):
    """How candidates are measured before the gate."""

    server_url: HttpUrl | None = Field(
        None, description="OpenAI-compatible server with LoRA, without /v1, that carries no traffic."
    )
    allow_live: bool = Field(
        False, description="Whether the served model's first replica is asked where no server_url is set."
    )
    api_key: SecretStr | None = Field(None, description="Bearer token of that server.")
    remote_prefix: str | None = Field(
        None, description="Folder on its host that holds the adapters' folders; none: the same paths as here."
    )
    dtype: str = Field("", description="Data type that it computes in, where it does not tell (vLLM).")
    judge: Judge = Field(default_factory=Judge, description="The independent guard.")
    sets: tuple[EvaluationSource, ...] = Field(
        (), description="What is asked: a list of {name, kind, builtin or path, sha256}."
    )
    primary: Literal["judge", "labels"] = Field(
        "judge",
        description="What calls an answer unsafe: the judge, or the corpus's own labels (built-in tiny sets).",
    )
    utility: Literal["exact", "judge", "grammar"] | None = Field(
        None,
        description="What calls an answer useful: equal to the reference, the judge, or the tiny grammar; "
        "none: the gate cannot pass.",
    )
    probe_questions: Annotated[int, Field(ge=3, le=64)] = Field(
        10, description="Recorded answers by which replicas prove an adapter."
    )
    max_tokens: Count = Field(512, description="Tokens of one answer at most.")
    concurrency: Count = Field(64, description="Conversations at the server at the same time.")
    timeout_s: Seconds = Field(300.0, description="Time for one answer.")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed sent with each request.")
    perplexity: bool = Field(
        False, description="Whether reference answers are scored by prompt log-probabilities, one at a time."
    )
    reserved_share: Fraction = Field(
        0.05, description="Share of conversations kept for evaluation sets and never paired, chosen by hash."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [source.name for source in self.sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sets: names must differ, used twice: {', '.join(twice)}")
        return self
