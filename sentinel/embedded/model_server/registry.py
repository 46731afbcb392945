"""The names that requests may ask for: the base, and adapters that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from sentinel.embedded.model_server.adapters import AdaptedModel, Adapter
from sentinel.embedded.model_server.engine import Engine
from sentinel.embedded.model_server.errors import AdapterError, RequestError


class Registry:
    """Belongs to the event loop; what touches the model is handed to the engine."""

    def __init__(self, base: str, engine: Engine, adapted: AdaptedModel, *, max_loras: int) -> None:
        self.base = base
        self._engine = engine
        self._adapted = adapted
        self.max_loras = max_loras
        self._serving: dict[str, Adapter] = {}
        self._loading: set[str] = set()
        self._leaving: dict[str, asyncio.Task[None]] = {}

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """What is loaded, by name."""
        return self._serving

    def find(self, name: str | None) -> Adapter | None:
        """The adapter of that name, None for the base. Raises RequestError (404)."""
        if name is None or name == self.base:
            return None
        adapter = self._serving.get(name)
        if adapter is None:
            raise RequestError(f"The model `{name}` does not exist.", status=404, param="model")
        return adapter

    async def load(self, name: str, path: Path) -> None:
        """Add an adapter. Raises AdapterError with the reason."""
        if not name:
            raise AdapterError("lora_name must not be empty", param="lora_name")
        if name == self.base:
            raise AdapterError(f"'{name}' is the name of the base", param="lora_name")
        if name in self._serving or name in self._loading:
            raise AdapterError(f"The lora adapter '{name}' has already been loaded.", param="lora_name")
        if name in self._leaving:
            await asyncio.shield(self._leaving[name])
            return await self.load(name, path)
        if len(self._serving) + len(self._loading) + len(self._leaving) >= self.max_loras:
            raise AdapterError(f"max_loras {self.max_loras} adapters are loaded: unload one first")
        self._loading.add(name)
        try:
            self._serving[name] = await self._engine.call(lambda: self._adapted.load(name, path))
        finally:
            self._loading.discard(name)

    async def unload(self, name: str) -> None:
        """Stop taking requests for it at once, and drop it when the last one in flight is over.

        Raises AdapterError (404) for a name that is not loaded. A caller that goes away changes nothing.
        """
        adapter = self._serving.pop(name, None)
        if adapter is None:
            raise AdapterError(f"The lora adapter '{name}' cannot be found.", status=404, param="lora_name")
        task = asyncio.create_task(self._leave(adapter), name=f"unload {name}")
        self._leaving[name] = task
        await asyncio.shield(task)

    async def _leave(self, adapter: Adapter) -> None:
        idle = asyncio.Event()
        adapter.released = lambda: idle.set() if adapter.in_use == 0 else None
        adapter.released()
        try:
            await idle.wait()
            await self._engine.call(lambda: self._adapted.delete(adapter))
        finally:
            del self._leaving[adapter.name]
