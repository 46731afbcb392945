"""The replicas of a served model: which are up, and which models each says that it serves.

What ``/v1/models`` says is a hint that spares a detour. A replica that does not say (a key is asked for) is
tried; one that answers "no such model" is passed over for that name until it was looked at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

import aiohttp
import orjson

from sentinel import logs
from sentinel.settings.model import ServedModel

_log = logs.get("producers.route.replicas")

_CHECK_TIMEOUT_S: Final = 5.0
_MAX_LIST_BYTES: Final = 4 * 1024 * 1024


class Replica:
    """One API-server process, as last seen."""

    __slots__ = ("base", "cards", "in_flight", "missing", "up", "url")

    def __init__(self, url: str, base: str) -> None:
        self.url = url
        self.base = base
        """Name under which it serves the base weights."""
        self.cards: dict[str, dict[str, Any]] | None = None
        """Entries of its list of models by name; None where it does not give one."""
        self.up = True
        """Whether its address answers; a new replica is trusted until it does not."""
        self.missing: set[str] = set()
        """Names, also the base's, that it answered 404 for since it was last looked at."""
        self.in_flight = 0

    def may_have(self, name: str) -> bool:
        """Whether a request for ``name`` is worth sending."""
        return name not in self.missing

    def lists(self, name: str) -> bool:
        """Whether it said so."""
        return self.cards is not None and name in self.cards


class Pool:
    """The replicas of one served model."""

    def __init__(self, served_model: str, model: ServedModel) -> None:
        self.served_model = served_model
        self.public_name = model.public_name
        self.base = model.base
        self.token = model.admin_token.get_secret_value() if model.admin_token else None
        self.replicas = tuple(Replica(url, model.base) for url in model.replicas)
        self._turn = 0

    def base_of(self, replica: Replica) -> str:
        """The name to ask a replica's base by: by its own list, else by another replica's, else the configured.

        The configured one are the weights, which need not be served under that name: until a list was read it
        is a guess.
        """
        if replica.cards is None:
            for other in self.replicas:
                if other.cards is not None:
                    return other.base
        return replica.base

    def order(self, adapter: str | None) -> list[Replica]:
        """Whom to ask, best first: those that list the name, then those that may have it; the idle first.

        Replicas that are down are asked only where all are.
        """
        self._turn += 1
        start = self._turn % len(self.replicas) if self.replicas else 0
        turned = (*self.replicas[start:], *self.replicas[:start])
        candidates = [replica for replica in turned if replica.up] or list(turned)
        if adapter is not None:
            candidates = [replica for replica in candidates if replica.may_have(adapter)]
            candidates.sort(key=lambda replica: (not replica.lists(adapter), replica.in_flight))
        else:
            candidates.sort(
                key=lambda replica: (not replica.may_have(self.base_of(replica)), replica.in_flight)
            )
        return candidates

    def knows(self, name: str) -> bool:
        """Whether ``name`` is the base, or a replica lists it."""
        return name == self.base or any(replica.lists(name) for replica in self.replicas)

    def is_base(self, name: str) -> bool:
        """Whether ``name`` is the base weights' own name."""
        return name == self.base or any(name == replica.base for replica in self.replicas)

    def card(self, name: str | None) -> dict[str, Any]:
        """The list entry of an adapter (None: of the base) on some replica, empty where none gives it."""
        for replica in self.replicas:
            wanted = replica.base if name is None else name
            if replica.cards is not None and wanted in replica.cards:
                return replica.cards[wanted]
        return {}


class Watch:
    """Looks at every replica now and then. `run` is a task of its own."""

    def __init__(self, pools: Sequence[Pool], session: aiohttp.ClientSession, *, interval: float) -> None:
        self._pools = pools
        self._session = session
        self._interval = interval
        self._now = asyncio.Event()
        self._looking: dict[str, asyncio.Task[None]] = {}

    def look_now(self) -> None:
        """Do not wait for the interval: a promotion has changed what the replicas should have."""
        self._now.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            try:
                async with asyncio.timeout(self._interval):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()

    async def look(self) -> None:
        """Ask every replica once, all at the same time."""
        await asyncio.gather(*(self._ask(pool, replica) for pool in self._pools for replica in pool.replicas))

    async def look_at(self, pool: Pool, replica: Replica) -> None:
        """Ask one replica now; all that want it at the same time share one question."""
        looking = self._looking.get(replica.url)
        if looking is None:
            looking = asyncio.create_task(self._ask(pool, replica), name="route-look")
            self._looking[replica.url] = looking
            looking.add_done_callback(lambda _: self._looking.pop(replica.url, None))
        # The application of one request may leave; the others still wait for the answer.
        await asyncio.shield(looking)

    async def _ask(self, pool: Pool, replica: Replica) -> None:
        headers = {"Authorization": f"Bearer {pool.token}"} if pool.token else {}
        # Answers of requests that are under way now are newer than this list.
        missing, replica.missing = replica.missing, set()
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                async with self._session.get(f"{replica.url}/v1/models", headers=headers) as reply:
                    body = await reply.content.read(_MAX_LIST_BYTES)
                    while not reply.content.at_eof() and len(body) < _MAX_LIST_BYTES:
                        body += await reply.content.read(_MAX_LIST_BYTES - len(body))
                    cards = _cards(body) if reply.status == 200 else None
        except TimeoutError:
            # A busy engine lists its models late; its answers are worth waiting for.
            replica.missing |= missing
            return
        except (aiohttp.ClientError, OSError) as error:
            replica.missing |= missing
            self.mark(replica, up=False, why=type(error).__name__)
            return
        replica.cards = cards
        if cards:
            replica.base = _base(cards, pool.base)
        self.mark(replica, up=True)

    def mark(self, replica: Replica, *, up: bool, why: str = "") -> None:
        """Note that a replica answers or does not; a change is logged."""
        if replica.up and not up:
            _log.warning("A replica does not answer.", action="replica_down", replica=replica.url, error=why)
        elif up and not replica.up:
            _log.info("A replica answers again.", action="replica_up", replica=replica.url)
        replica.up = up


def _cards(body: bytes) -> dict[str, dict[str, Any]] | None:
    try:
        listed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    entries = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(entries, list):
        return None
    return {
        entry["id"]: entry
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    }


def _base(cards: dict[str, dict[str, Any]], configured: str) -> str:
    """The served name of the base: the configured one where it is listed, else the entry without a parent."""
    if configured in cards:
        return configured
    return next((name for name, card in cards.items() if not card.get("parent")), configured)


def known_names(pools: Iterable[Pool]) -> list[str]:
    """The names that applications are meant to ask for."""
    return sorted(pool.public_name for pool in pools)
