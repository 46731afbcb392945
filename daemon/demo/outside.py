"""Parts that a demonstration is pointed at instead of starting them: what it needs to find there, what it makes.

A run shares nothing with what is there already: it has topics and a consumer group of its own, named after its
folder, and it refuses a database that holds rows. Otherwise records and findings of an earlier run, or of a
service that uses the same parts, would be counted as its own.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiohttp
import asyncpg
import orjson
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code
from pydantic import SecretStr, ValidationError

from sentinel.command_line import http_address
from sentinel.embedded.stack import BASE_NAME, GUARD_NAME, JUDGE_NAME, TOPIC, External
from sentinel.errors import CommandError
from sentinel.settings import Database, Kafka
from sentinel.store.engine import libpq_url

Changes = dict[str, dict[str, object]]
"""Settings, section by section."""

_LIMIT_S: Final = 15.0
_PARTITIONS: Final = 4
_REPLICAS: Final = 3
"""Copies of each topic where there are so many brokers."""
_ROWS: Final = ("consumer_offsets", "event_keys", "training_runs", "adapters", "promotions")
"""Tables of which one holds a row as soon as anything has happened."""


async def prepare(external: External, run: str) -> tuple[External, Changes]:
    """Look at what was named, and make this run's topics on a real Kafka.

    ``run`` is the run's name. Returns the parts with their addresses as settings write them, and settings that
    keep the run apart. Raises CommandError, with what to do, for a part that cannot be used.
    """
    database = _database(external.database_url) if external.database_url else ""
    kafka = _kafka(external.kafka, run) if external.kafka else None
    models = (
        ("--model-url", external.model_url, BASE_NAME),
        ("--guard-url", external.guard_url, GUARD_NAME),
        ("--evaluation-url", external.evaluation_url, BASE_NAME),
        ("--judge-url", external.judge_url, JUDGE_NAME),
    )
    for option, url, name in models:
        if url:
            await _serves(option, url, name)
    if database:
        await _is_empty(database)
    # The last step, since it is the only one that leaves something behind.
    if kafka is not None:
        await _make_topics(kafka)
    changes: Changes = {} if kafka is None else {"kafka": _written(kafka)}
    prepared = External(
        kafka=external.kafka,
        database_url=database,
        model_url=external.model_url.rstrip("/"),
        guard_url=external.guard_url.rstrip("/"),
        evaluation_url=external.evaluation_url.rstrip("/"),
        judge_url=external.judge_url.rstrip("/"),
    )
    return prepared, changes


# -- models


async def _serves(option: str, url: str, name: str) -> None:
    asked = f"{http_address(option, url)}/v1/models"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_LIMIT_S)) as client,
            client.get(asked) as answer,
        ):
            body = await answer.read()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise CommandError(
            f"{option}: nothing answers at {asked} ({type(error).__name__}); start the server, or leave the option"
            " out for an embedded one"
        ) from None
    if answer.status != 200:
        raise CommandError(
            f"{option}: {asked} answers {answer.status}; name the server's address without /v1"
        )
    listed = _names(body)
    if name not in listed:
        raise CommandError(
            f"{option}: the server at {url} serves {', '.join(listed) or 'no model'}, not {name!r}; start it with"
            f" that name (--served-name {name}, or vLLM's --served-model-name)"
        )


def _names(body: bytes) -> list[str]:
    try:
        found: Any = orjson.loads(body)
        return [str(card["id"]) for card in found["data"]]
    except (ValueError, KeyError, TypeError):
        return []


# -- the database


def _database(url: str) -> str:
    try:
        return Database(url=SecretStr(url)).url.get_secret_value()
    except ValidationError:
        raise CommandError("--database-url: write postgresql://user:password@host:port/database") from None


async def _is_empty(url: str) -> None:
    try:
        conn = await asyncpg.connect(libpq_url(url), timeout=_LIMIT_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise CommandError(
            f"--database-url: the database cannot be opened ({type(error).__name__}); check address, account and"
            " that it exists, or leave the option out for an embedded one"
        ) from None
    try:
        for table in _ROWS:
            known = await conn.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
            if known and await conn.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):  # noqa: S608
                name = await conn.fetchval("SELECT current_database()")
                raise CommandError(
                    f"--database-url: the database {name!r} holds rows of an earlier run or of a service, and a"
                    " demonstration counts everything in it; name an empty one (CREATE DATABASE …), or drop and"
                    " make it anew"
                )
    finally:
        await conn.close()


# -- Kafka


def _kafka(servers: str, run: str) -> Kafka:
    own = f"sentinel-{run}"
    try:
        return Kafka(
            # The settings' own reader of comma-separated lists.
            bootstrap_servers=servers,
            topics=(f"{own}.{TOPIC}",),
            group_id=own,
            findings_topic=f"{own}.findings",
            dead_letters_topic=f"{own}.dead-letters",
            promotions_topic=f"{own}.promotions",
        )
    except ValidationError:
        raise CommandError(f"--kafka {servers!r}: write HOST:PORT, several with commas") from None


def _written(kafka: Kafka) -> dict[str, object]:
    return {
        "bootstrap_servers": list(kafka.bootstrap_servers),
        "topics": list(kafka.topics),
        "group_id": kafka.group_id,
        "findings_topic": kafka.findings_topic,
        "dead_letters_topic": kafka.dead_letters_topic,
        "promotions_topic": kafka.promotions_topic,
    }


async def _make_topics(kafka: Kafka) -> None:
    """Brokers need not make topics by themselves, and those that do give them one partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=list(kafka.bootstrap_servers), client_id="sentinel-demo")
    try:
        try:
            async with asyncio.timeout(_LIMIT_S):
                await admin.start()
                brokers = len((await admin.describe_cluster())["brokers"])
                copies = max(1, min(_REPLICAS, brokers))
                made = [NewTopic(kafka.topics[0], _PARTITIONS, copies)]
                made += [
                    NewTopic(name, 1, copies) for name in (kafka.findings_topic, kafka.dead_letters_topic)
                ]
                compact = {"cleanup.policy": "compact"}
                made.append(NewTopic(kafka.promotions_topic, 1, copies, topic_configs=compact))
                answer = await admin.create_topics(made)
        finally:
            await admin.close()
    except (KafkaError, OSError, TimeoutError) as error:
        raise CommandError(
            f"--kafka: no broker at {', '.join(kafka.bootstrap_servers)} answers ({type(error).__name__}); it needs a"
            " listener without TLS and password, or leave the option out for an embedded one"
        ) from None
    for name, code, message in answer.topic_errors:
        if code:
            raise CommandError(
                f"--kafka: the topic {name} cannot be made ({for_code(code).__name__}: {message or 'no reason given'})"
            )
