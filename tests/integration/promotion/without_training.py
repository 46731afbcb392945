"""A promotion's job and its rollback's, where nothing that fits weights is installed.

python -m tests.integration.promotion.without_training SETTINGS_JSON RUN_ID
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Final
from uuid import UUID

import orjson

from sentinel.jobs import JobKind, JobPayload
from sentinel.settings import Settings
from tests.integration.promotion.stage import MODEL

ABSENT: Final = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets")


async def main(settings: Settings, run_id: UUID) -> None:
    from trainer.promote import run_promotion
    from trainer.rollback import run_rollback

    importlib.import_module("trainer.worker")  # the process that takes these jobs
    promoted = await run_promotion(
        settings, JobPayload(kind=JobKind.PROMOTE, run_id=run_id, served_model=MODEL)
    )
    back = await run_rollback(settings, JobPayload(kind=JobKind.ROLLBACK, run_id=run_id, served_model=MODEL))
    assert back is not None
    assert (back.adapter, back.previous_adapter) == (None, promoted.adapter)


if __name__ == "__main__":
    for name in ABSENT:
        sys.modules[name] = None  # type: ignore[assignment] # an import of it fails from here on
    asyncio.run(main(Settings.model_validate(orjson.loads(sys.argv[1])), UUID(sys.argv[2])))
