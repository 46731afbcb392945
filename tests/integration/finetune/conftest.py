"""One small data set of the tiny language and one finished run over it, shared by all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import tiny_pairs
from trainer.finetune.outcome import Finetuned
from trainer.finetune.recipe import Recipe
from trainer.finetune.run import finetune
from trainer.reporting import silent

STEPS, EVERY = 12, 4


def small(**changes: object) -> Recipe:
    """A few steps of plain DPO, so that its loss is comparable to ln 2."""
    return Recipe.model_validate(
        {
            "family": "llama",
            "max_length": 256,
            "lora": {"rank": 4, "alpha": 8},
            "preference": {"loss": {"sigmoid": 1.0}},
            "optimizer": {"learning_rate": 2e-3, "batch_size": 8, "max_steps": STEPS, "warmup_steps": 2},
            "checkpoints": {"every": EVERY, "prompts": 8, "max_new_tokens": 48, "batch_size": 8},
            "hardware": {"device": "cpu"},
            **changes,
        }
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> tiny_pairs.TinyData:
    import torch

    from trainer.tiny.answering import load

    # Threads that wait for each other on a busy machine take many times as long.
    torch.set_num_threads(1)
    model, tokenizer = load(tiny_pairs.CHAT)
    made = tiny_pairs.make(
        tmp_path_factory.mktemp("tiny"), model, tokenizer, seed=7, harmful=76, twins=0, validation=0.15
    )
    assert made.rows["train"] >= 60
    assert made.rows["validation"] >= 10
    return made


@pytest.fixture(scope="session")
def finished(data: tiny_pairs.TinyData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finetuned]:
    folder = tmp_path_factory.mktemp("finished")
    made = finetune(data.folder, tiny_pairs.CHAT, small(), folder, seed=3, grader=data.grader, report=silent)
    return folder, made
