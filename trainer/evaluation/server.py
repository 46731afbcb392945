"""The server that evaluation asks: what it is, which adapters it has, and its recorded greedy answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sentinel import logs
from sentinel.errors import CommandError, ConfigurationError, UnavailableError
from sentinel.serving_desired import Probe
from sentinel.serving_replica import RefusedError, ReplicaClient, ReplicaOptions
from trainer.asking import Asker, AskOptions
from trainer.evaluation.loaded import FOLDER, LeftBehind, LoadedNote
from trainer.evaluation.plan import Subject

if TYPE_CHECKING:
    from sentinel.settings import Settings

_log = logs.get("trainer.evaluation")

UNKNOWN: Final = "unknown"
SAME: Final = "same"


class EvaluationServer:
    """One server for the length of an evaluation. Made by `serving`."""

    def __init__(
        self,
        asker: Asker,
        replica: ReplicaClient,
        base: str,
        note: LoadedNote | None,
        *,
        remote_prefix: str | None,
    ) -> None:
        self.asker = asker
        self.base = base
        self.url = asker.url
        self._replica = replica
        self._note = note
        self._remote_prefix = remote_prefix
        self._loaded: list[str] = []

    async def load(self, subject: Subject) -> None:
        """Load an adapter unless it is there already; names are content-addressed, so the name is enough.

        Raises:
            CommandError: the server refuses it; UnavailableError: it is away.
        """
        if subject.name in await self._replica.models():
            return
        path = str(subject.path.absolute())
        if self._remote_prefix is not None:
            path = str(Path(self._remote_prefix) / subject.path.name)
        if self._note is not None:
            self._note.add(subject.name)
        self._loaded.append(subject.name)
        try:
            await self._replica.load(subject.name, path)
        except RefusedError as error:
            self._loaded.remove(subject.name)
            raise CommandError(
                f"{self.url} does not load {subject.name} from {path}: {error.reason}"
            ) from error

    async def unload_all(self) -> None:
        """Unload what `load` loaded; what was there before stays. From a server that is away the next one will."""
        if await _unload(self._replica, self._loaded) and self._note is not None:
            self._note.forget()

    async def probes(self, adapter: str, questions: Sequence[str]) -> tuple[Probe, ...]:
        """The first 16 greedy tokens of ``adapter`` to each question, and whether the base says something else."""
        # All at once, as replicas are probed: the rounding of one batch differs from another's.
        asked = [self._replica.greedy(name, text) for name in (adapter, self.base) for text in questions]
        said = await asyncio.gather(*asked)
        return tuple(
            Probe(question, mine, mine != theirs)
            for question, mine, theirs in zip(
                questions, said[: len(questions)], said[len(questions) :], strict=True
            )
        )


def server_url(settings: Settings, served_model: str) -> str:
    """Where to ask. Raises ConfigurationError where there is no server that may be asked."""
    evaluation = settings.evaluation
    if evaluation.server_url is not None:
        return evaluation.server_url
    if served_model not in settings.served_models:
        raise ConfigurationError(
            f"no served model is called {served_model}: see served_models in the settings"
        )
    replicas = settings.served_models[served_model].replicas
    if not replicas or not evaluation.allow_live:
        raise ConfigurationError(
            "evaluation.server_url is not set: name an OpenAI-compatible server with LoRA that carries no traffic, "
            "or set evaluation.allow_live to ask the served model's first replica"
        )
    return replicas[0]


def server_key(settings: Settings, served_model: str) -> str | None:
    """The bearer token of that server."""
    secret = settings.evaluation.api_key
    if secret is None and settings.evaluation.server_url is None:
        model = settings.served_models.get(served_model)
        secret = model.admin_token if model is not None else None
    return secret.get_secret_value() if secret is not None else None


def make_asker(settings: Settings, served_model: str, *, url: str | None = None) -> Asker:
    """A client of the evaluation server; its `ask_base` is what the data set's builder needs.

    Raises:
        ConfigurationError: there is no server that may be asked.
    """
    evaluation = settings.evaluation
    return Asker(
        AskOptions(
            base_url=url or server_url(settings, served_model),
            api_key=server_key(settings, served_model),
            max_tokens=evaluation.max_tokens,
            seed=evaluation.seed,
            concurrency=evaluation.concurrency,
            timeout=evaluation.timeout_s,
            system_role=settings.reprompt.system_role,
        )
    )


@asynccontextmanager
async def serving(
    settings: Settings, served_model: str, *, url: str | None = None, in_service: str | None = None
) -> AsyncIterator[EvaluationServer]:
    """The server, connected; afterwards it is without the adapters that were loaded for the evaluation.

    What evaluations that were killed had loaded there is unloaded first; where the server is a replica, not the
    adapter ``in_service``.
    """
    async with make_asker(settings, served_model, url=url) as asker:
        replica = ReplicaClient(
            asker.url,
            admin_token=asker.options.api_key,
            options=ReplicaOptions(timeout=settings.evaluation.timeout_s, load_timeout=600.0),
        )
        notes = settings.runs_dir / FOLDER
        try:
            base = await asker.base()
            await _clean_up(replica, notes, keep=in_service if _is_replica(settings, replica.url) else None)
            with ExitStack() as stack:
                server = EvaluationServer(
                    asker,
                    replica,
                    base,
                    _noted(stack, notes, replica.url),
                    remote_prefix=settings.evaluation.remote_prefix,
                )
                try:
                    yield server
                finally:
                    await server.unload_all()
        finally:
            await replica.aclose()


def _noted(stack: ExitStack, notes: Path, url: str) -> LoadedNote | None:
    """This evaluation's note until the stack is closed; None where the user may not write there."""
    try:
        return stack.enter_context(LoadedNote.hold(notes, url))
    except OSError as error:
        _log.warning(
            "What is loaded for the evaluation cannot be noted: were it killed, that would stay on the server.",
            action="evaluate",
            folder=str(notes),
            error=type(error).__name__,
        )
        return None


def _is_replica(settings: Settings, url: str) -> bool:
    replicas = {one for model in settings.served_models.values() for one in model.replicas}
    return url in {one.rstrip("/").removesuffix("/v1") for one in replicas}


async def _clean_up(replica: ReplicaClient, notes: Path, *, keep: str | None) -> None:
    """Unload what is left of evaluations that were killed. Raises UnavailableError."""
    with LeftBehind.find(notes, replica.url) as left:
        there = left.names & (await replica.models()).keys() - {keep} if left.names else set()
        if there:
            _log.info(
                "Adapters of a broken-off evaluation are unloaded.", action="evaluate", adapters=sorted(there)
            )
        if await _unload(replica, there):
            left.forget()


async def _unload(replica: ReplicaClient, names: Collection[str]) -> bool:
    """Whether the server is without ``names`` now: one that knows no such name is, one that is away may not be."""
    gone = True
    for name in names:
        try:
            await replica.unload(name)
        except RefusedError as error:
            gone = gone and error.status < HTTPStatus.INTERNAL_SERVER_ERROR
        except UnavailableError:
            gone = False
    return gone


async def engine_of(asker: Asker, dtype: str) -> dict[str, str]:
    """Name, version and data type of the engine, as far as it tells; ``dtype`` where it does not."""
    told = await asker.version()
    name = told.get("engine") or ("vllm" if "version" in told else UNKNOWN)
    return {
        "name": name,
        "version": told.get("version", UNKNOWN),
        "dtype": told.get("dtype") or dtype or UNKNOWN,
    }


async def replicas_beside(settings: Settings, served_model: str, engine: dict[str, str]) -> str:
    """Whether the replicas run what evaluation runs, by what they tell: ``same``, ``none``, or what is otherwise.

    Never raises for a replica: one that is away or refuses is said not to tell. What an adapter answers there is
    proven at its promotion; this says why it may differ.
    """
    model = settings.served_models.get(served_model)
    if model is None or not model.replicas:
        return "none"
    key = model.admin_token.get_secret_value() if model.admin_token else None
    found = await asyncio.gather(*(_engine_there(url, key, engine["dtype"]) for url in model.replicas))
    other = [
        f"replica {number} {'does not tell' if told is None else 'runs ' + ' '.join(told.values())}"
        for number, told in enumerate(found, 1)
        if told != engine
    ]
    return ", ".join(other) or SAME


async def _engine_there(url: str, key: str | None, dtype: str) -> dict[str, str] | None:
    options = AskOptions(base_url=url, api_key=key, attempts=1, timeout=5.0, connect_timeout=2.0)
    async with Asker(options) as asker:
        try:
            return await engine_of(asker, dtype)
        except UnavailableError:
            return None
