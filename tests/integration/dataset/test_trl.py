"""TRL takes a data set as it is: its own trainer reads the files and makes two steps on a tiny model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from sentinel.settings import Dataset
from sentinel.tiny.prompts import Kind
from tests.integration.dataset.conftest import requests
from tests.support.tiny_llama import build
from trainer.dataset.imported import import_dataset
from trainer.reporting import silent

COLUMNS = ["prompt", "chosen", "rejected"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with system prompts, other scripts and an empty family."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = [
        {
            "prompt": [
                {"role": "system", "content": "Sei höflich. 你好"},
                {"role": "user", "content": one.text},
            ],
            "chosen": one.refusal,
            "rejected": one.answer,
            "category": one.family,
        }
        for one in requests(Kind.HARMFUL, 16)
    ]
    lines += [
        {"prompt": one.text, "chosen": one.answer, "rejected": one.refusal}
        for one in requests(Kind.HOMONYM, 12)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = file.parent / "set"
    import_dataset(
        file, served_model="m", settings=Dataset(), folder=out, evaluation_prompts=(), seed=1, report=silent
    )
    return out


def test_the_trainer_reads_the_files_and_learns(folder: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # What these libraries warn about on import is theirs.
        warnings.simplefilter("ignore")
        import torch
        from datasets import disable_progress_bars, load_dataset
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        disable_progress_bars()
        files = {name: str(folder / f"{name}.jsonl") for name in ("train", "validation")}
        loaded = load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
        made = build(tmp_path)
        torch.manual_seed(1)
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(made.model),
            args=DPOConfig(
                output_dir=str(tmp_path / "out"),
                max_steps=2,
                per_device_train_batch_size=4,
                learning_rate=1e-3,
                use_cpu=True,
                report_to=[],
                logging_steps=1,
                gradient_checkpointing=False,
                dataloader_pin_memory=False,
                disable_tqdm=True,
                save_strategy="no",
            ),
            train_dataset=loaded["train"],
            eval_dataset=loaded["validation"],
            processing_class=AutoTokenizer.from_pretrained(made.model),
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        )
        outcome = trainer.train()
        evaluated = trainer.evaluate()
    assert set(COLUMNS) <= set(loaded["train"].column_names)
    assert loaded["train"][0]["prompt"][-1]["role"] == "user"
    assert outcome.global_step == 2
    assert 0 < outcome.training_loss < 2
    assert 0 < evaluated["eval_loss"] < 2
