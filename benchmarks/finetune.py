"""Fine-tuning the tiny chat model: `python -m benchmarks.finetune --json FILE`.

    steps     processor time of one optimizer step, ours beside TRL's own trainer with the same settings, in the
              same process, in turns; steps that end in a checkpoint are left out on both sides
    seeds     per seed: pairs made by script from the training split, one run of the recipe, and what base and
              adapter answer to the frozen evaluation sets, by the corpus's own rules

One thread. Processor time hardly depends on what else the machine does; the wall clock does.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks import tiny_pairs
from benchmarks.report import Result, make_report, print_table, summarize, write_json
from sentinel.tiny import evaluation_sets
from sentinel.tiny.grading import Outcome, counts, grade
from trainer.finetune import base
from trainer.finetune.quiet import quiet_training
from trainer.finetune.recipe import Recipe, load_recipe
from trainer.finetune.rows import as_columns, read_rows
from trainer.finetune.run import finetune
from trainer.finetune.running import arguments
from trainer.reporting import Stage, silent

STEPS: Final = 20
WARM: Final = 3
"""First steps of a run, which fill caches."""


class Clock:
    """Processor seconds from one report of a step to the next."""

    def __init__(self) -> None:
        self.marks: dict[int, float] = {}

    def mark(self, step: int) -> None:
        """The step has just ended."""
        self.marks.setdefault(step, time.process_time())

    def median_ms(self) -> float:
        """Of all steps that follow a step, the first few left out."""
        spans = [
            self.marks[step] - self.marks[step - 1]
            for step in sorted(self.marks)
            if step > WARM and step - 1 in self.marks
        ]
        return statistics.median(spans) * 1e3


def ours(data: tiny_pairs.TinyData, recipe: Recipe, folder: Path) -> float:
    """Median milliseconds of a step of `finetune`."""
    clock = Clock()

    def report(stage: Stage) -> None:
        # The report of the last step comes before its checkpoint, so no checkpoint is in a span.
        if stage.detail.startswith("loss"):
            clock.mark(stage.done)

    finetune(data.folder, tiny_pairs.CHAT, recipe, folder, seed=1, grader=None, report=report)
    return clock.median_ms()


def plain(data: tiny_pairs.TinyData, recipe: Recipe, folder: Path) -> float:
    """Median milliseconds of a step of TRL's DPOTrainer as its own documentation uses it."""
    import datasets
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    clock = Clock()

    class Marks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.mark(state.global_step)

    class Silent(DPOTrainer):  # type: ignore[misc, unused-ignore]
        def _send_telemetry(self) -> None:
            """Nothing leaves the machine."""

    rows = read_rows(data.folder / "train.jsonl")
    tokenizer = base.load_tokenizer(tiny_pairs.CHAT, recipe)
    model = base.load_model(tiny_pairs.CHAT, recipe, "cpu")
    with quiet_training():
        trainer = Silent(
            model=model,
            args=DPOConfig(
                **{
                    **arguments(recipe, folder, device="cpu", seed=1),
                    "logging_steps": 10,
                    "logging_nan_inf_filter": True,
                },
                activation_checkpointing=False,
                beta=recipe.preference.beta,
                loss_type=list(recipe.preference.loss),
                loss_weights=list(recipe.preference.loss.values()),
                precompute_ref_log_probs=True,
            ),
            train_dataset=datasets.Dataset.from_list(as_columns(rows, method="dpo", fold_system=False)),
            processing_class=tokenizer,
            peft_config=base.lora_config(model, recipe),
            callbacks=[Marks()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.median_ms()


def steps(folder: Path, repetitions: int) -> list[Result]:
    """Both sides in turns, each going first every other time."""
    from trainer.tiny.answering import load

    model, tokenizer = load(tiny_pairs.CHAT)
    data = tiny_pairs.make(folder / "data", model, tokenizer, seed=77, harmful=60, twins=30)
    whole = load_recipe("tiny").model_dump(exclude={"optimizer": {"epochs"}, "checkpoints": True})
    whole["optimizer"]["max_steps"] = STEPS
    recipe = Recipe.model_validate({**whole, "checkpoints": {"every": STEPS, "prompts": 0}})
    sides: dict[str, Callable[[tiny_pairs.TinyData, Recipe, Path], float]] = {
        "ours": ours,
        "plain TRL": plain,
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repetitions):
        for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            place = folder / "run"
            shutil.rmtree(place, ignore_errors=True)
            found[name].append(sides[name](data, recipe, place))
    results = [summarize(name, "CPU time of a step", "ms", samples) for name, samples in found.items()]
    ratios = [one / other for one, other in zip(found["ours"], found["plain TRL"], strict=True)]
    return [*results, summarize("ours", "beside plain TRL", "ratio", ratios)]


def rates(model: Any, tokenizer: Any, instruction: str | None = None) -> dict[str, float]:
    """Percentages on the frozen evaluation sets, asked under a system prompt where one is given."""
    from trainer.tiny.answering import answers

    found: dict[str, float] = {}
    for name, requests in (("harmful", evaluation_sets.harmful()), ("benign", evaluation_sets.benign())):
        system = [] if instruction is None else [{"role": "system", "content": instruction}]
        said = answers(
            model, tokenizer, [[*system, {"role": "user", "content": one.text}] for one in requests]
        )
        counted = counts(grade(one, text) for one, text in zip(requests, said, strict=True))
        for outcome in (Outcome.REFUSED, Outcome.USEFUL, Outcome.GARBLED):
            if not (name == "harmful" and outcome is Outcome.USEFUL):
                found[f"{name} {outcome.value}"] = 100 * counted[outcome] / len(requests)
    return found


def seeds(folder: Path, wanted: Sequence[int], harmful: int, twins: int, utility: int) -> list[Result]:
    """Base and adapter of every seed on the frozen sets, and what the run took."""
    import peft

    from trainer.tiny.answering import load

    model, tokenizer = load(tiny_pairs.CHAT)
    results = [summarize("base", name, "%", [value]) for name, value in rates(model, tokenizer).items()]
    for seed in wanted:
        place = folder / f"seed-{seed}"
        data = tiny_pairs.make(
            place / "data", model, tokenizer, seed=seed, harmful=harmful, twins=twins, utility=utility
        )
        cpu, wall = time.process_time(), time.perf_counter()
        made = finetune(
            data.folder,
            tiny_pairs.CHAT,
            load_recipe("tiny"),
            place / "run",
            seed=seed,
            grader=data.grader,
            report=silent,
        )
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        case = f"seed {seed}, {data.rows['train']} + {data.rows['validation']} pairs"
        adapted: Any = peft.PeftModel.from_pretrained(load(tiny_pairs.CHAT)[0], str(made.adapter))
        found = rates(adapted.merge_and_unload().eval(), tokenizer)
        results += [
            summarize(case, "steps", "steps", [made.steps]),
            summarize(case, "run, CPU", "s", [cpu]),
            summarize(case, "run, wall", "s", [wall]),
            *(summarize(case, name, "%", [value]) for name, value in found.items()),
        ]
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Run both parts, print the table, write the JSON where one is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument(
        "--repetitions", type=int, default=5, help="runs of each side in `steps`; 0: not at all"
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="seeds; none: not at all")
    parser.add_argument("--harmful", type=int, default=120, help="harmful requests of a data set")
    parser.add_argument("--twins", type=int, default=48, help="benign twins")
    parser.add_argument("--utility", type=int, default=24, help="facts asked for")
    options = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name, quiet_training():
        folder = Path(name)
        if options.repetitions:
            results += steps(folder, options.repetitions)
        if options.seeds:
            results += seeds(folder, options.seeds, options.harmful, options.twins, options.utility)
    libraries = {name: version(name) for name in ("peft", "torch", "transformers", "trl")}
    report = make_report("finetune", results, {"sentinel": libraries})
    print_table(report)
    if options.json is not None:
        write_json(report, options.json)


if __name__ == "__main__":
    main()
