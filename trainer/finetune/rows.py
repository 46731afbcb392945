"""Rows of a data set as files hold them, and as TRL takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from sentinel.errors import CommandError

TRAIN: Final = "train.jsonl"
VALIDATION: Final = "validation.jsonl"

Kind = Literal["harmful", "twin", "utility"]
Chat = list[dict[str, str]]


class Turn(Struct, frozen=True, gc=False):
    """One message."""

    role: str
    content: str


class Row(Struct, frozen=True, kw_only=True):
    """A preference pair; further keys (provenance) stay in the file."""

    prompt: tuple[Turn, ...]
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]
    kind: Kind
    pair_id: str = ""
    family: str | None = None


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file, in order.

    Raises:
        CommandError: it cannot be read, or a line is no pair; the message says file:line.
    """
    decoder = msgspec.json.Decoder(Row)
    rows: list[Row] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CommandError(
            f"{path} cannot be read ({error.strerror}): build it with `sentinel train dataset`"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise CommandError(f"{path}:{number}: {error}") from error
        if not row.prompt or not _said(row.chosen) or not _said(row.rejected):
            raise CommandError(f"{path}:{number}: a prompt, a chosen and a rejected answer are needed")
        if row.chosen == row.rejected:
            raise CommandError(f"{path}:{number}: chosen and rejected are the same")
        rows.append(row)
    return rows


def _said(side: Sequence[Turn]) -> bool:
    return bool(side) and side[-1].role == "assistant" and bool(side[-1].content.strip())


def dataset_sha256(dataset: Path) -> str:
    """One hash over the files that training reads: of ``train.jsonl`` and ``validation.jsonl``."""
    whole = hashlib.sha256()
    for name in (TRAIN, VALIDATION):
        with (dataset / name).open("rb") as file:
            whole.update(name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def as_chat(turns: Iterable[Turn]) -> Chat:
    """Messages as chat templates take them."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def without_system(chat: Chat) -> Chat:
    """The same with the system text put before the first user message, for templates without a system role."""
    system = "\n\n".join(turn["content"] for turn in chat if turn["role"] == "system")
    rest = [dict(turn) for turn in chat if turn["role"] != "system"]
    if system and rest:
        rest[0]["content"] = f"{system}\n\n{rest[0]['content']}"
    return rest


def takes_system(tokenizer: Any) -> bool:
    """Whether the chat template takes a system message (Gemma's raises)."""
    import jinja2

    try:
        tokenizer.apply_chat_template(
            [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
            tokenize=False,
            add_generation_prompt=True,
        )
    except jinja2.TemplateError:
        return False
    return True


def as_columns(rows: Sequence[Row], *, method: str, fold_system: bool) -> list[dict[str, Chat]]:
    """TRL's conversational columns: prompt, chosen, rejected for DPO; prompt, completion for SFT."""
    columns = []
    for row in rows:
        prompt = as_chat(row.prompt)
        if fold_system:
            prompt = without_system(prompt)
        if method == "sft":
            columns.append({"prompt": prompt, "completion": as_chat(row.chosen)})
        else:
            columns.append(
                {"prompt": prompt, "chosen": as_chat(row.chosen), "rejected": as_chat(row.rejected)}
            )
    return columns
