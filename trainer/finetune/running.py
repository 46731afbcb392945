"""One training run in TRL, looked at by an overseer: figures, checkpoints, answers, limits."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentinel.errors import ConfigurationError, TrainingError
from trainer.finetune import checkpoints as register
from trainer.finetune.answering import answer
from trainer.finetune.checkpoints import Checkpoint
from trainer.finetune.guards import Watch
from trainer.finetune.recipe import Recipe
from trainer.finetune.records import Records
from trainer.finetune.rows import Chat, Row, as_chat, as_columns, takes_system, without_system
from trainer.finetune.validation import Grader, Score, ValidationItem, score
from trainer.reporting import Report, Stage


def steps_of(recipe: Recipe, rows: int, processes: int = 1) -> int:
    """Optimizer steps of a run over so many rows.

    Raises:
        ConfigurationError: they are fewer than the warm-up's.
    """
    wanted = recipe.optimizer
    per_epoch = max(1, math.ceil(math.ceil(rows / (wanted.batch_size * processes)) / wanted.accumulation))
    steps = wanted.max_steps or math.ceil(wanted.epochs * per_epoch)
    if wanted.warmup_steps >= steps:
        raise ConfigurationError(
            f"optimizer.warmup_steps {wanted.warmup_steps} leaves nothing of {steps} steps over {rows} rows: "
            "lower it, or gather more pairs"
        )
    return steps


def arguments(recipe: Recipe, folder: Path, *, device: str, seed: int) -> dict[str, Any]:
    """What DPOConfig and SFTConfig share. Saving and evaluating are the overseer's word alone."""
    wanted = recipe.optimizer
    return {
        "output_dir": str(folder / register.FOLDER),
        "per_device_train_batch_size": wanted.batch_size,
        "per_device_eval_batch_size": wanted.batch_size,
        "gradient_accumulation_steps": wanted.accumulation,
        "num_train_epochs": wanted.epochs,
        "max_steps": wanted.max_steps or -1,
        "optim": "adamw_torch",
        "learning_rate": wanted.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": wanted.warmup_steps,
        "weight_decay": wanted.weight_decay,
        "max_grad_norm": wanted.clip,
        "seed": seed,
        "data_seed": seed,
        "max_length": recipe.max_length,
        "bf16": recipe.hardware.precision == "bf16",
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device != "cpu",
        "logging_steps": 1,
        # Else a loss that is no number is logged as the mean of the others.
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        # Every factor is used in every pass; looking for unused ones costs a pass over the graph.
        "ddp_find_unused_parameters": False,
        "disable_tqdm": True,
    }


def make_trainer(
    model: Any,
    tokenizer: Any,
    lora: Any,
    recipe: Recipe,
    training: Sequence[Row],
    validation: Sequence[Row],
    folder: Path,
    *,
    device: str,
    seed: int,
) -> Any:
    """A TRL trainer over the rows, with the adapter attached to ``model``; computes the base's log-probabilities."""
    from transformers.trainer_callback import PrinterCallback

    fold = not takes_system(tokenizer)
    tables = [
        _table(as_columns(rows, method=recipe.method, fold_system=fold), folder / "rows" / name)
        if rows
        else None
        for name, rows in (("train", training), ("validation", validation))
    ]
    settings = arguments(recipe, folder, device=device, seed=seed)
    trainer = _trainer_class(recipe.method)(
        model=model,
        args=_config(recipe, settings),
        train_dataset=tables[0],
        eval_dataset=tables[1],
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.remove_callback(PrinterCallback)
    trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    strange = [name for name in trained if ".lora_" not in name]
    if strange or not trained:
        raise TrainingError(
            f"weights other than the adapter's would be trained: {', '.join(strange[:3]) or 'none'}"
        )
    return trainer


def _table(columns: list[dict[str, Chat]], place: Path) -> Any:
    """A table in memory; of several processes' one, a table on disk: TRL caches the base's log-probabilities beside it,
    and in memory each process would look for the first one's cache in a temporary folder of its own.
    """
    import datasets
    from accelerate import PartialState

    state = PartialState()
    if state.num_processes == 1:
        return datasets.Dataset.from_list(columns)
    if state.is_main_process:
        shutil.rmtree(place, ignore_errors=True)
        datasets.Dataset.from_list(columns).save_to_disk(place)
    state.wait_for_everyone()
    return datasets.load_from_disk(place)


def _config(recipe: Recipe, settings: dict[str, Any]) -> Any:
    from transformers import TrainingArguments

    # Renamed in transformers 5.2x; the old name warns there.
    new = "activation_checkpointing"
    name = new if new in TrainingArguments.__dataclass_fields__ else "gradient_checkpointing"
    settings = {**settings, name: recipe.hardware.gradient_checkpointing}
    if recipe.method == "sft":
        from trl.trainer.sft_config import SFTConfig

        return SFTConfig(**settings, completion_only_loss=True)
    from trl.trainer.dpo_config import DPOConfig

    return DPOConfig(
        **settings,
        beta=recipe.preference.beta,
        loss_type=list(recipe.preference.loss),
        loss_weights=list(recipe.preference.loss.values()),
        label_smoothing=recipe.preference.label_smoothing,
        precompute_ref_log_probs=True,
        disable_dropout=recipe.lora.dropout == 0,
    )


def _trainer_class(method: str) -> Any:
    """TRL's trainer without its calls home and without a model card at every checkpoint."""
    base: Any
    if method == "sft":
        from trl.trainer.sft_trainer import SFTTrainer

        base = SFTTrainer
    else:
        from trl.trainer.dpo_trainer import DPOTrainer

        base = DPOTrainer

    class Trainer(base):  # type: ignore[misc]
        def _send_telemetry(self) -> None:
            """Nothing is sent to anybody."""

        def create_model_card(self, *_: object, **__: object) -> None:
            """The adapter's card is written when it is published."""

    return Trainer


class Overseer:
    """What happens at every step and at every checkpoint. `callback` makes TRL call it."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Any,
        items: Sequence[ValidationItem],
        grader: Grader,
        records: Records,
        report: Report,
        *,
        done: Sequence[Checkpoint],
        main: bool,
    ) -> None:
        self.checkpoints = list(done)
        self._recipe = recipe
        self._tokenizer = tokenizer
        self._items = items
        self._grader = grader
        self._records = records
        self._report = report
        self._main = main
        fold = not takes_system(tokenizer)
        self._chats: list[Chat] = [
            without_system(as_chat(item.prompt)) if fold else as_chat(item.prompt) for item in items
        ]
        self._watch = Watch(recipe.limits, recipe.preference.beta if recipe.method == "dpo" else None)
        self._stop: str | None = None
        self._loss: float | None = None

    def logged(self, step: int, steps: int, figures: dict[str, Any]) -> bool:
        """Take a step's figures; True where the run must end, and be saved as it stands."""
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        if "train_runtime" in numbers:
            return False
        self._records.metrics(step, numbers)
        why = self._watch.step(step, numbers)
        if "loss" in numbers:
            self._report(Stage("finetune", step, steps, f"loss {numbers['loss']:.3f}"))
        if "eval_loss" in numbers:
            self._loss = float(numbers["eval_loss"])
        elif why is not None and self._stop is None:
            self._stop = why
            self._records.event("limit", step=step, reason=why)
        return self._stop is not None

    def saved(self, step: int, model: Any) -> bool:
        """Ask the model, grade it and enter the checkpoint; True where the run must end."""
        found = self._look(step, model)
        why = self._stop or self._watch.answers(step, found)
        within = why is None
        entry = Checkpoint(
            step=step,
            files=register.digest(register.folder_of(self._records.folder, step)) if self._main else {},
            score=found,
            stop=why,
            within_limits=within,
        )
        self.checkpoints = [*(one for one in self.checkpoints if one.step != step), entry]
        if within and register.out_of_patience(self.checkpoints, self._recipe.checkpoints.patience):
            why = f"no better checkpoint in the last {self._recipe.checkpoints.patience}"
            self.checkpoints[-1] = Checkpoint(
                step=step, files=entry.files, score=found, stop=why, within_limits=True
            )
        self._records.event(
            "checkpoint",
            step=step,
            safety=found.safety,
            usefulness=found.usefulness,
            garbled=found.garbled,
            length_ratio=found.length_ratio,
            loss=found.loss,
            stop=why,
        )
        if self._main:
            register.write(self._records.folder, self.checkpoints)
            register.prune(self._records.folder, self.checkpoints, self._recipe.checkpoints.keep)
        return why is not None

    def _look(self, step: int, model: Any) -> Score:
        if not self._items:
            return Score(safety=None, usefulness=None, garbled=0.0, length_ratio=1.0, loss=self._loss)
        wanted = self._recipe.checkpoints
        answers = answer(
            model,
            self._tokenizer,
            self._chats,
            max_new_tokens=wanted.max_new_tokens,
            batch_size=wanted.batch_size,
        )
        outcomes = self._grader(self._items, answers)
        self._records.samples(step, self._items, answers, outcomes)
        return score(self._items, answers, outcomes, self._loss)

    def callback(self, every: int, *, evaluates: bool) -> Any:
        """A callback of transformers' Trainer that hands everything to this overseer."""
        from transformers import TrainerCallback

        overseer = self

        class Callback(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
                if state.global_step % every == 0 or state.global_step >= state.max_steps:
                    control.should_save = True
                    control.should_evaluate = evaluates
                return control

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> Any:
                if overseer.logged(state.global_step, state.max_steps, logs or {}):
                    control.should_training_stop = True
                    control.should_save = True
                return control

            def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> Any:
                if overseer.saved(state.global_step, model):
                    control.should_training_stop = True
                return control

        return Callback()
