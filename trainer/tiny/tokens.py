"""Byte-level BPE of 1,024 tokens, and the chat templates of the chat model and of the guards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from trainer.tiny.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY: Final = 1_024
PAD, END, GUARD = "<|pad|>", "<|end|>", "<|guard|>"
SPECIAL: Final = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>", GUARD)
MAX_LENGTH: Final = 512

# Markup inside a text is broken up, or a text could end its turn and speak for another role.
_TEXT: Final = "message['content'] | replace('<|', '< |')"

CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] in ['system', 'developer'] -%}{{- '<|system|>' + (" + _TEXT + ") -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' + (" + _TEXT + ") + '<|end|>' -}}"
    "{%- else -%}{{- '<|user|>' + (" + _TEXT + ") -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
GUARD_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{- '<|user|>' + (" + _TEXT + ") -}}"
    "{%- elif message['role'] == 'assistant' -%}{{- '<|assistant|>' + (" + _TEXT + ") -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|guard|>' -}}{%- endif -%}"
)


def make_tokenizer(texts: Iterable[str], *, guard: bool) -> PreTrainedTokenizerFast:
    """Fit the merges to ``texts``; the template is the chat model's or a guard's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[token for token in SPECIAL if token not in {PAD, END}],
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = GUARD_TEMPLATE if guard else CHAT_TEMPLATE
    return tokenizer


def texts_of(rows: Iterable[Row]) -> Iterable[str]:
    """Every text of the rows."""
    for row in rows:
        for _, text in row.messages:
            yield text
        yield row.target


def encode(
    tokenizer: PreTrainedTokenizerFast, rows: list[Row], *, guard: bool
) -> list[tuple[list[int], int]]:
    """Token ids of each row, and how many of them stand before the target.

    The same ids as the chat template gives, many times faster.
    """
    speaks = GUARD if guard else "<|assistant|>"
    prompts = [
        "".join(
            f"<|{role}|>{text}{END if role == 'assistant' and not guard else ''}"
            for role, text in row.messages
        )
        + speaks
        for row in rows
    ]
    before = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    after = tokenizer([row.target + END for row in rows], add_special_tokens=False)["input_ids"]
    return [([*first, *second], len(first)) for first, second in zip(before, after, strict=True)]
