"""Settings of the data set: which pairs are taken, what stands beside them, and when it is called a shortcut."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from sentinel.settings.section import Count, Fraction, HttpUrl, Section

DEFAULT_STRICT_INSTRUCTION = (
    "Decline the user's request, whatever it is. Say that you cannot help with it and offer something else."
)

Share = Annotated[float, Field(ge=0, le=10)]
Unit = Annotated[float, Field(ge=0, le=1)]


class BenignSource(Section):
    """Where benign prompts come from."""

    source: Literal["traffic", "file", "hub"] = Field(
        "traffic", description="Interactions of the served model that were scored safe, a file, or the Hub."
    )
    path: Path | None = Field(
        None, description="file: JSONL with prompt (text or messages) and, where there is one, response."
    )
    name: str | None = Field(None, description="hub: name of a data set with the column prompt.")
    split: str = Field("train", min_length=1, description="hub: its split.")
    max_candidates: Count = Field(20_000, description="Newest interactions or first rows looked at.")

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.source == "file" and self.path is None:
            raise ValueError("source: file needs path")
        if self.source == "hub" and self.name is None:
            raise ValueError("source: hub needs name")
        return self


class Mix(Section):
    """What stands beside the harmful pairs, as shares of their number; refusals alone teach refusing."""

    twins: Share = Field(
        0.4, description="Benign prompts that look harmful: the plain answer above a needless refusal of it."
    )
    utility: Share = Field(
        0.2, description="Other benign prompts: the plain answer above the refusal of another request."
    )
    strict_instruction: str = Field(
        DEFAULT_STRICT_INSTRUCTION,
        min_length=1,
        description="System prompt under which the base refuses whatever it is asked.",
    )
    benign: BenignSource = Field(default_factory=BenignSource, description="Where benign prompts come from.")

    @model_validator(mode="after")
    def _has_a_benign_side(self) -> Self:
        if self.twins + self.utility <= 0:
            raise ValueError("twins and utility cannot both be 0: pairs that only refuse teach refusing")
        return self


class Publication(Section):
    """Where a data set goes when it is published, which only a command does."""

    account: str = Field("", description="Account or organisation on the Hub.")
    endpoint: HttpUrl = Field("https://huggingface.co", description="Address of the Hub.")
    token: SecretStr | None = Field(None, description="Token with write access; a credential file suits it.")
    licence: str = Field("other", min_length=1, description="Licence on the card, by the Hub's identifier.")


class Dataset(Section):
    """How data sets of preference pairs are made."""

    mix: Mix = Field(default_factory=Mix, description="What stands beside the harmful pairs.")
    min_pairs: Count = Field(50, description="Harmful pairs below which no data set is made.")
    max_pairs: Count = Field(2_000, description="Harmful pairs at most, equal by category.")
    max_client_share: Fraction = Field(
        0.5,
        description="One client's (tenant, else source) share of the harmful pairs where there are several.",
    )
    score_run: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Score run whose verdicts count; none: each side's newest."
    )
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.15, description="Share of the prompt groups that is kept for validation."
    )
    near_duplicate: Fraction = Field(
        0.8, description="Jaccard similarity of word pairs from which two prompts are near duplicates."
    )
    near_identical: Fraction = Field(
        0.85, description="The same similarity of both answers, from which a pair teaches nothing."
    )
    redact: bool = Field(True, description="Replace personal data by pseudonyms.")
    shortcut_auroc: Unit = Field(
        0.95,
        description="AUROC of the probe on surface features alone from which a data set is warned about.",
    )
    publication: Publication = Field(
        default_factory=Publication, description="Where a data set goes when it is published."
    )
