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
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.finetune import rates
from benchmarks.report import Report, Result, format_figure, make_report, print_table, summarize, write_json
from sentinel.settings.model import DEFAULT_INSTRUCTION
from sentinel.tiny.artefacts import Model, shipped

PHASES = ("dataset", "finetune", "evaluate", "gate")


def play(seed: int, runs: Path, arguments: Sequence[str]) -> Path:
    """One demonstration; its folder. Raises CalledProcessError where it does not end in a legal state."""
    command = [sys.executable, "-m", "daemon.cli", "--set", f"runs_dir={runs}"]
    subprocess.run([*command, "demo", "--seed", str(seed), *arguments], check=True)
    (folder,) = runs.iterdir()
    return folder


def said(case: str, what: str) -> Result:
    """A row that is a statement and no figure."""
    return summarize(case, what, "", [1.0])


def of_loop(case: str, folder: Path) -> Iterator[Result]:
    """What the demonstration's own summary and the run's events say."""
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    yield said(case, f"ended {summary['promotion']['state']}")
    for phase in ("before", "between", "after"):
        found: dict[str, Any] = summary.get(phase) or {}
        for name in ("unsafe_rate", "false_refusal_rate", "utility_rate", "garbled_rate"):
            if name in found and found[name]["value"] is not None:
                yield summarize(case, f"{phase}: {name}", "%", [100 * found[name]["value"]])
    yield summarize(case, "all of it", "s", [summary["seconds"]])
    if summary["seconds_to_promotion"] is not None:
        yield summarize(case, "from the crossing to the promotion", "s", [summary["seconds_to_promotion"]])
    runs = runs_of(folder)
    if not runs:
        yield said(case, "no training run")
    for number, run in enumerate(runs, 1):
        # A second round trains again, and its seconds are not the first one's.
        yield from of_phases(case if len(runs) == 1 else f"{case}, round {number}", events_of(run))


def of_phases(case: str, events: Sequence[dict[str, Any]]) -> Iterator[Result]:
    """The seconds of each phase of one training run; a phase that it did not end is said to be missing."""
    ended = {event["step"]: event["ts"] for event in events if event["action"] == "finished"}
    last = events[0]["ts"]
    for phase in PHASES:
        if phase not in ended:
            yield said(case, f"{phase} did not end")
            continue
        yield summarize(
            case,
            phase,
            "s",
            [(dt.datetime.fromisoformat(ended[phase]) - dt.datetime.fromisoformat(last)).total_seconds()],
        )
        last = ended[phase]


def runs_of(folder: Path) -> list[Path]:
    """The folders of a demonstration's training runs that began, in the order of their beginning."""
    begun = [run for run in folder.glob("parts/runs/*") if events_of(run)]
    return sorted(begun, key=lambda run: str(events_of(run)[0]["ts"]))


def events_of(run: Path) -> list[dict[str, Any]]:
    """What a training run wrote down, none where it wrote nothing."""
    log = run / "events.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def adapted(base: Any, adapter: Path) -> Any:
    """The base with an adapter merged into it."""
    import peft

    model: Any = peft.PeftModel.from_pretrained(base, str(adapter))
    return model.merge_and_unload().eval()


def of_frozen_sets(case: str, folder: Path, seed: int) -> Iterator[Result]:
    """SFT alone and the loop's adapter, on one data set: that of the last training run."""
    runs = runs_of(folder)
    if not runs or not (runs[-1] / "dataset" / "manifest.json").exists():
        yield said(case, "no data set to compare on")
        return
    adapter = runs[-1] / "finetune" / "adapter"
    if adapter.exists():
        yield from of_adapter(f"{case}, DPO", adapter)
    else:
        yield said(f"{case}, DPO", "no adapter was made")
    yield from of_adapter(f"{case}, SFT alone", sft_alone(runs[-1] / "dataset", folder / "sft", seed))


def sft_alone(dataset: Path, out: Path, seed: int) -> Path:
    """The adapter that SFT alone makes of a data set."""
    from trainer.finetune.recipe import load_recipe
    from trainer.finetune.run import finetune
    from trainer.reporting import silent

    recipe = load_recipe("tiny-sft")
    return finetune(dataset, shipped(Model.CHAT), recipe, out, seed=seed, grader=None, report=silent).adapter


def of_adapter(case: str, adapter: Path) -> Iterator[Result]:
    """Rates of one adapter on the frozen sets."""
    from trainer.tiny.answering import load

    model, tokenizer = load(shipped(Model.CHAT))
    for metric, value in rates(adapted(model, adapter), tokenizer).items():
        yield summarize(case, metric, "%", [value])


def of_base() -> Iterator[Result]:
    """The base as it is, and asked with the safety instruction."""
    from trainer.tiny.answering import load

    model, tokenizer = load(shipped(Model.CHAT))
    for case, instruction in (("base", None), ("base, asked again", DEFAULT_INSTRUCTION)):
        for metric, value in rates(model, tokenizer, instruction).items():
            yield summarize(case, metric, "%", [value])


def of_seed(seed: int, arguments: Sequence[str]) -> Iterator[Result]:
    """Every row of one seed. Raises CalledProcessError, after what was found before it."""
    case = f"seed {seed}"
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name)
        # PostgreSQL runs as another account under root and must reach its folder.
        runs.chmod(0o755)
        folder = play(seed, runs / "runs", arguments)
        yield from of_loop(case, folder)
        yield from of_frozen_sets(case, folder, seed)


def shown(results: Iterable[Result]) -> Iterator[Result]:
    """The same rows, each printed as soon as it is there: what fails later takes none of them away."""
    for row in results:
        print(f"{row.case:<20} {row.metric:<40} {format_figure(row.value):>8} {row.unit}", flush=True)
        yield row


def main(argv: Sequence[str] | None = None) -> None:
    """Run every seed, print its rows, then the table; the JSON is written again after every seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("demo", nargs="*", help="further options of `sentinel demo`, after --")
    options = parser.parse_args(argv)
    libraries = {name: version(name) for name in ("peft", "torch", "transformers", "trl")}
    results: list[Result] = []
    failed: list[int] = []

    def written() -> Report:
        report = make_report("loop", results, {"sentinel": libraries})
        if options.json is not None:
            write_json(report, options.json)
        return report

    results += shown(of_base())
    for seed in options.seeds:
        try:
            # One by one: the rows before a failure stay.
            for row in shown(of_seed(seed, options.demo)):
                results.append(row)
        except subprocess.CalledProcessError as error:
            results += shown([said(f"seed {seed}", f"the demonstration failed, status {error.returncode}")])
            failed.append(seed)
        written()
    print_table(written())
    if failed:
        sys.exit(f"no whole result for the seeds {failed}")


if __name__ == "__main__":
    main()
