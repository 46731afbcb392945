"""An evaluation that kills its own process, without any farewell, once some answers are there.

python -m tests.integration.evaluation.killed SETTINGS_JSON FOLDER CANDIDATE ANSWERS
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import orjson

from sentinel.settings import Settings
from tests.integration.evaluation.plans import plan_of, run_of
from trainer.evaluation.run import evaluate
from trainer.reporting import Stage


def main(settings: Settings, out: Path, candidate: str, answers: int) -> None:
    def report(stage: Stage) -> None:
        if stage.done >= answers:
            os.kill(os.getpid(), signal.SIGKILL)

    plan = plan_of(settings, out.parent, candidate, run_id=run_of(out))
    asyncio.run(evaluate(plan, out, report=report))


if __name__ == "__main__":
    main(Settings.model_validate(orjson.loads(sys.argv[1])), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
