"""One step of the tiny models' optimizer beside torch's: `python -m benchmarks.muon --json FILE`.

Processor time of an update of all matrices of the tiny chat model, in turns: `trainer.tiny.muon` in fp32 and in
bfloat16, and `torch.optim.Muon`, which computes in bfloat16 everywhere. With `ONEDNN_MAX_CPU_ISA=AVX2` in the
environment the products are those of a processor without bfloat16. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.report import Result, make_report, print_table, summarize, write_json
from sentinel.tiny.artefacts import Model
from trainer.tiny.building import RECIPES, prepare
from trainer.tiny.muon import WEIGHT_DECAY, Muon

if TYPE_CHECKING:
    from torch import Tensor

RATE: Final = 1e-3
STEPS: Final = 10
PEER: Final = "torch.optim.Muon"


def updates() -> dict[str, Callable[[], object]]:
    """An update by each, of copies of the same matrices with the same gradients."""
    import torch

    layers = prepare(RECIPES[Model.CHAT]).model.model.layers
    matrices = [one.detach() for one in layers.parameters() if one.ndim == 2]
    gradients = [torch.randn_like(one) for one in matrices]

    def copies() -> list[Tensor]:
        made: list[Tensor] = [torch.nn.Parameter(one.clone()) for one in matrices]
        for one, gradient in zip(made, gradients, strict=True):
            one.grad = gradient.clone()
        return made

    fp32, bf16 = Muon(copies()), Muon(copies(), bf16=True)
    peer = torch.optim.Muon(copies(), lr=RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
    return {"ours, fp32": lambda: fp32.step(RATE), "ours, bf16": lambda: bf16.step(RATE), PEER: peer.step}


def measure(repetitions: int) -> list[Result]:
    """Milliseconds of a step, and each as a share of the peer's in the same repetition."""
    steps = updates()
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repetitions):
        for name, step in steps.items():
            spans = []
            for _ in range(STEPS):
                begun = time.process_time()
                step()
                spans.append((time.process_time() - begun) * 1e3)
            spent[name].append(statistics.median(spans))
    results = [summarize(name, "step, CPU", "ms", found) for name, found in spent.items()]
    for name, found in spent.items():
        if name != PEER:
            shares = [own / peer for own, peer in zip(found, spent[PEER], strict=True)]
            results.append(summarize(name, f"of {PEER}'s", "x", shares))
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON where one is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--repetitions", type=int, default=5, help="of ten steps by each")
    options = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)
    report = make_report("muon", measure(options.repetitions), {"sentinel": {"torch": version("torch")}})
    print_table(report)
    if options.json is not None:
        write_json(report, options.json)


if __name__ == "__main__":
    main()
