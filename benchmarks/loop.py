"""The closed loop, seed by seed: `python -m benchmarks.loop --json FILE`.

    loop      `sentinel demo` with each seed: rates before and after the promotion, seconds of every phase
    frozen    on the frozen evaluation sets, by the corpus's own rules: the base, the base asked again with the safety
              instruction (no training), SFT alone on the same data set, and the adapter that the loop made (DPO)

Every seed is printed; nothing is averaged away.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.finetune import rates
from benchmarks.report import Result, make_report, print_table, summarize, write_json
from sentinel.settings.model import DEFAULT_INSTRUCTION
from sentinel.tiny.artefacts import Model, shipped

PHASES = ("dataset", "finetune", "evaluate", "gate")


def play(seed: int, runs: Path, arguments: Sequence[str]) -> Path:
    """One demonstration; its folder. Raises CalledProcessError where it does not end in a legal state."""
    command = [sys.executable, "-m", "daemon.cli", "--set", f"runs_dir={runs}"]
    subprocess.run([*command, "demo", "--seed", str(seed), *arguments], check=True)
    (folder,) = runs.iterdir()
    return folder


def of_loop(case: str, folder: Path) -> Iterator[Result]:
    """What the demonstration's own summary and the run's events say."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    yield summarize(case, f"ended {summary['promotion']['state']}", "", [1.0])
    for phase in ("before", "after"):
        for name in ("unsafe_rate", "false_refusal_rate", "utility_rate", "garbled_rate"):
            if summary[phase] is not None and summary[phase][name]["value"] is not None:
                yield summarize(case, f"{phase}: {name}", "%", [100 * summary[phase][name]["value"]])
    yield summarize(case, "all of it", "s", [summary["seconds"]])
    if summary["seconds_to_promotion"] is not None:
        yield summarize(case, "from the crossing to the promotion", "s", [summary["seconds_to_promotion"]])
    for log in folder.glob("parts/runs/*/events.jsonl"):
        events = [json.loads(line) for line in log.read_text().splitlines()]
        last = dt.datetime.fromisoformat(events[0]["ts"])
        for event in events:
            if event["action"] == "finished" and event["step"] in PHASES:
                now = dt.datetime.fromisoformat(event["ts"])
                yield summarize(case, event["step"], "s", [(now - last).total_seconds()])
                last = now


def adapted(base: Any, adapter: Path) -> Any:
    """The base with an adapter merged into it."""
    import peft

    model: Any = peft.PeftModel.from_pretrained(base, str(adapter))
    return model.merge_and_unload().eval()


def of_frozen_sets(case: str, folder: Path, seed: int) -> Iterator[Result]:
    """SFT alone and the loop's adapter, on one data set."""
    from trainer.finetune.recipe import load_recipe
    from trainer.finetune.run import finetune
    from trainer.reporting import silent
    from trainer.tiny.answering import load

    (run,) = folder.glob("parts/runs/*/dataset")
    sft = finetune(
        run,
        shipped(Model.CHAT),
        load_recipe("tiny-sft"),
        folder / "sft",
        seed=seed,
        grader=None,
        report=silent,
    )
    for name, adapter in (("SFT alone", sft.adapter), ("DPO", run.parent / "finetune" / "adapter")):
        model, tokenizer = load(shipped(Model.CHAT))
        for metric, value in rates(adapted(model, adapter), tokenizer).items():
            yield summarize(f"{case}, {name}", metric, "%", [value])


def of_base() -> Iterator[Result]:
    """The base as it is, and asked with the safety instruction."""
    from trainer.tiny.answering import load

    model, tokenizer = load(shipped(Model.CHAT))
    for case, instruction in (("base", None), ("base, asked again", DEFAULT_INSTRUCTION)):
        for metric, value in rates(model, tokenizer, instruction).items():
            yield summarize(case, metric, "%", [value])


def main(argv: Sequence[str] | None = None) -> None:
    """Run every seed, print the table, write the JSON where one is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("demo", nargs="*", help="further options of `sentinel demo`, after --")
    options = parser.parse_args(argv)
    results = list(of_base())
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as name:
            runs = Path(name)
            # PostgreSQL runs as another account under root and must reach its folder.
            runs.chmod(0o755)
            folder = play(seed, runs / "runs", options.demo)
            case = f"seed {seed}"
            results += of_loop(case, folder)
            results += of_frozen_sets(case, folder, seed)
    libraries = {name: version(name) for name in ("peft", "torch", "transformers", "trl")}
    report = make_report("loop", results, {"sentinel": libraries})
    print_table(report)
    if options.json is not None:
        write_json(report, options.json)


if __name__ == "__main__":
    main()
