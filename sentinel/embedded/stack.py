"""All embedded parts together: database, broker, served model and guard, owned and restarted by one process.

What may go when: PostgreSQL and the model servers are restarted on their ports after a crash; the broker has no
memory, so a new one is another log and whoever produces to it must be told. A demonstration and test stack:
nothing in it is durable but the database's folder.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from msgspec import Struct

from sentinel import logs
from sentinel.embedded.broker import EmbeddedBrokerProcess
from sentinel.embedded.ports import ReservedPort
from sentinel.embedded.postgres import EmbeddedPostgres
from sentinel.embedded.tether import MINIMAL_ENVIRONMENT, TetheredProcess
from sentinel.errors import UnavailableError
from sentinel.tiny.artefacts import Model, shipped, verify

_log = logs.get("sentinel.embedded.stack")

TOPIC: Final = "llm.events"
SERVED_MODEL: Final = "tiny"
PUBLIC_NAME: Final = "tiny-assistant"
BASE_NAME: Final = "tiny-chat"
GUARD_NAME: Final = "tiny-guard"
JUDGE_NAME: Final = "tiny-judge"
START_LIMIT_S: Final = 240.0
"""Importing torch and loading a model on a busy machine."""


class External(Struct, frozen=True, kw_only=True):
    """Real parts to use instead of embedded ones; empty strings leave the embedded one."""

    kafka: str = ""
    database_url: str = ""
    model_url: str = ""
    guard_url: str = ""
    evaluation_url: str = ""
    judge_url: str = ""


class ModelProcess:
    """One embedded model server as a child process, on a port that stays."""

    def __init__(self, folder: Path, weights: Path, served_name: str) -> None:
        self._folder = folder
        self._weights = weights
        self._name = served_name
        self._port = ReservedPort()
        self._process: TetheredProcess | None = None

    @property
    def url(self) -> str:
        """Address without ``/v1``."""
        return f"http://127.0.0.1:{self._port.number}"

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.exit_status() is None

    def start(self) -> None:
        """Start the process; `healthy` tells when it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._process is not None:
            # Its tether must know that it has ended, or signals whoever has got its process id by then.
            self._process.wait(0)
        command: list[str | Path] = [sys.executable, "-m", "sentinel.embedded.model_server"]
        command += ["--model", self._weights]
        command += ["--port", str(self._port.number), "--served-name", self._name, "--threads", "1"]
        self._process = TetheredProcess(
            command,
            log=self._folder / f"{self._name}.log",
            env=MINIMAL_ENVIRONMENT
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"},
        )

    def kill(self) -> None:
        """SIGKILL; whoever supervises it starts it again."""
        if self._process is not None:
            self._process.end(signal.SIGKILL, 10.0)

    def stop(self) -> None:
        """End it; idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.end(signal.SIGTERM, 10.0)

    async def healthy(self) -> None:
        """Wait until it answers. Raises UnavailableError with the end of its log when it does not."""
        deadline = asyncio.get_running_loop().time() + START_LIMIT_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as client:
            while asyncio.get_running_loop().time() < deadline and self.running:
                try:
                    async with client.get(f"{self.url}/health") as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                await asyncio.sleep(0.1)
        log = self._folder / f"{self._name}.log"
        end = log.read_text(errors="replace")[-2000:] if log.exists() else "no log"
        raise UnavailableError(f"the model server {self._name} did not start:\n{end}")


class EmbeddedStack:
    """Start with `start`, keep alive with `supervise`, end with `stop`; everything lives in ``folder``."""

    def __init__(
        self,
        folder: Path,
        *,
        partitions: int = 4,
        external: External | None = None,
        training: bool = False,
        changes: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        """``training`` adds what evaluation needs: a server that carries no traffic, and an independent judge.

        ``changes`` are laid over `settings`, section by section.
        """
        self.folder = folder
        self.external = external or External()
        self._exit = AsyncExitStack()
        self._broker = EmbeddedBrokerProcess(folder / "broker", _topics(partitions))
        self._postgres = EmbeddedPostgres(folder / "postgres")
        self._model = ModelProcess(folder / "model", shipped(Model.CHAT), BASE_NAME)
        self._guard = ModelProcess(folder / "guard", shipped(Model.GUARD_A), GUARD_NAME)
        self._evaluation = ModelProcess(folder / "evaluation", shipped(Model.CHAT), BASE_NAME)
        self._judge = ModelProcess(folder / "judge", shipped(Model.GUARD_B), JUDGE_NAME)
        self._training = training
        self._changes = changes or {}
        self.restarts = 0
        self._route_port = ReservedPort()

    @property
    def route_port(self) -> int:
        """Where a route on this stack listens."""
        return self._route_port.number

    @property
    def bootstrap(self) -> str:
        """Address of the broker."""
        return self.external.kafka or self._broker.bootstrap

    @property
    def cluster_id(self) -> str:
        """Identity of the embedded broker, another one after each start."""
        return self._broker.cluster_id

    @property
    def database_url(self) -> str:
        """Address of the database, as SQLAlchemy writes it."""
        return self.external.database_url or self._postgres.url

    @property
    def model_url(self) -> str:
        """Address of the served model."""
        return self.external.model_url or self._model.url

    @property
    def guard_url(self) -> str:
        """Address of the guard."""
        return self.external.guard_url or self._guard.url

    async def start(self) -> None:
        """Start what no external part replaces, all at once, and wait until everything answers.

        Raises UnavailableError with the reason; what had started is stopped by `stop`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        models = [model for model, given in self._models() if not given]
        for model in models:
            model.start()
            self._exit.push_async_callback(asyncio.to_thread, model.stop)
        waiting = [model.healthy() for model in models]
        if not self.external.database_url:
            self._exit.push_async_callback(asyncio.to_thread, self._postgres.stop)
            waiting.append(asyncio.to_thread(self._postgres.start))
        if not self.external.kafka:
            self._exit.push_async_callback(asyncio.to_thread, self._broker.stop)
            waiting.append(asyncio.to_thread(self._broker.start))
        await asyncio.gather(*waiting)

    async def stop(self) -> None:
        """End everything that was started."""
        await self._exit.aclose()

    async def supervise(self) -> None:
        """Restart what ended, until cancelled. Raises UnavailableError when the broker ended: its log is gone."""
        while True:
            await asyncio.sleep(1.0)
            if not self.external.kafka and self._broker.pid is None:
                raise UnavailableError(
                    "the embedded broker ended, and with it every record that was not read"
                )
            if not self.external.database_url and self._postgres.pid is None:
                await self._again("database", asyncio.to_thread(self._postgres.start))
            for model, given in self._models():
                if not given and not model.running:
                    await asyncio.to_thread(model.start)
                    await self._again("model server", model.healthy())

    async def _again(self, part: str, starting: Coroutine[Any, Any, None]) -> None:
        self.restarts += 1
        _log.warning("An embedded part ended and is started again.", action="restart", part=part)
        await starting

    def _models(self) -> tuple[tuple[ModelProcess, str], ...]:
        watched = ((self._model, self.external.model_url), (self._guard, self.external.guard_url))
        if not self._training:
            return watched
        return (
            *watched,
            (self._evaluation, self.external.evaluation_url),
            (self._judge, self.external.judge_url),
        )

    @property
    def round_pairs(self) -> int | None:
        """New pairs that start a training run; None without training."""
        if not self._training:
            return None
        triggers: Any = self.settings()["triggers"]
        return int(triggers["new_pairs"]["count"])

    def kill_guard(self) -> None:
        """Kill the embedded guard; `supervise` starts it again, which takes it some seconds."""
        self._guard.kill()

    def settings(self) -> dict[str, object]:
        """Settings of a daemon, a route and a trainer on this stack, as `sentinel --config` reads them."""
        made: dict[str, dict[str, object]] = {
            "kafka": {"bootstrap_servers": [self.bootstrap], "topics": [TOPIC]},
            "database": {"url": self.database_url},
            "guard": {
                "base_url": self.guard_url,
                "name": GUARD_NAME,
                "weights": _weights(Model.GUARD_A),
                "batch_size": 32,
            },
            "served_models": {
                SERVED_MODEL: {
                    "public_name": PUBLIC_NAME,
                    "base": str(shipped(Model.CHAT)),
                    "event_models": [BASE_NAME],
                    "replicas": [self.model_url],
                }
            },
            "route": {
                "port": self.route_port,
                "metrics_port": 0,
                "spool_dir": str(self.folder / "route"),
            },
            "metrics": {"port": 0},
            "adapters": {"store": str(self.folder / "adapters")},
        }
        if self._training:
            for section, values in self._training_settings().items():
                made[section] = made.get(section, {}) | values
        for section, changed in self._changes.items():
            made[section] = made.get(section, {}) | dict(changed)
        return {**made, "runs_dir": str(self.folder / "runs")}

    def _training_settings(self) -> dict[str, dict[str, object]]:
        return {
            # One rule, so that the number of runs is known; a second round need not wait an hour.
            "triggers": {
                "check_interval_s": 1.0,
                "cooldown_s": 1.0,
                "new_pairs": {"count": 95},
                "min_fresh_pairs": 40,
                "unsafe_rate": {"enabled": False},
                "adapter_age": {"enabled": False},
                "drift": {"enabled": False},
            },
            "training": {"recipe": "tiny", "poll_interval_s": 1.0, "retry_pause_s": 1.0},
            "dataset": {"mix": {"twins": 1.2, "utility": 0.4}},
            "evaluation": {
                "server_url": self.external.evaluation_url or self._evaluation.url,
                "judge": {
                    "base_url": self.external.judge_url or self._judge.url,
                    "name": JUDGE_NAME,
                    "weights": _weights(Model.GUARD_B),
                },
                "sets": [
                    {"name": "harmful", "kind": "harmful", "builtin": "tiny-harmful"},
                    {"name": "benign", "kind": "benign", "builtin": "tiny-benign"},
                ],
                "primary": "labels",
                "utility": "grammar",
            },
            "gate": {"policy": "demo"},
            "promotion": {"mode": "auto"},
        }

    def write_settings(self) -> Path:
        """Write `settings` into the folder and return the file."""
        path = self.folder / "sentinel.yaml"
        path.write_text(yaml.safe_dump(self.settings(), sort_keys=False))
        path.chmod(0o600)  # the database's password is in it
        return path


def _weights(model: Model) -> str:
    return verify(shipped(model)).files["model.safetensors"]


def _topics(partitions: int) -> dict[str, int]:
    outputs = dict.fromkeys(("sentinel.findings", "sentinel.dead-letters", "sentinel.promotions"), 1)
    return {TOPIC: partitions, **outputs}
