"""The embedded model servers that several demonstrations share, as somebody else's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, Self

from sentinel.embedded.stack import BASE_NAME, GUARD_NAME, JUDGE_NAME, ModelProcess
from sentinel.tiny.artefacts import Model, shipped

_KINDS: Final = {
    "model": (Model.CHAT, BASE_NAME),
    "guard": (Model.GUARD_A, GUARD_NAME),
    "evaluation": (Model.CHAT, BASE_NAME),
    "judge": (Model.GUARD_B, JUDGE_NAME),
}
"""Weights and served name by the option of ``sentinel demo`` that takes the address, without ``-url``."""


class ModelServers:
    """Started on entry, stopped on exit: ``with ModelServers(folder, "model", "guard") as servers``."""

    def __init__(self, folder: Path, *kinds: str) -> None:
        self._models = {
            kind: ModelProcess(folder / kind, shipped(weights), name)
            for kind, (weights, name) in _KINDS.items()
            if kind in kinds
        }

    @property
    def urls(self) -> dict[str, str]:
        """Their addresses, without ``/v1``."""
        return {kind: model.url for kind, model in self._models.items()}

    @property
    def running(self) -> bool:
        """Whether all of them live."""
        return all(model.running for model in self._models.values())

    async def healthy(self) -> None:
        """Wait until all of them answer. Raises UnavailableError for one that does not."""
        await asyncio.gather(*(model.healthy() for model in self._models.values()))

    def __enter__(self) -> Self:
        try:
            for model in self._models.values():
                model.start()
            asyncio.run(self.healthy())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for model in self._models.values():
            model.stop()
