"""A promotion that kills its own process, without any farewell, once a step is behind it.

python -m tests.integration.promotion.killed SETTINGS_JSON ADAPTER STEP
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import orjson

from sentinel.settings import Settings
from tests.integration.promotion.stage import MODEL
from trainer.connections import connections
from trainer.promote import promote


async def main(settings: Settings, adapter: str, at: str) -> None:
    def passed(step: str) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    async with connections(settings) as connect:
        await promote(connect, settings, MODEL, adapter, actor="killed", passed=passed)


if __name__ == "__main__":
    asyncio.run(main(Settings.model_validate(orjson.loads(sys.argv[1])), sys.argv[2], sys.argv[3]))
