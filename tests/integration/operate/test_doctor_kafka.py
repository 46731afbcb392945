"""The doctor's questions to a real Kafka and to the embedded one, with each fault planted."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from daemon.doctor.brokers import examine_kafka
from daemon.doctor.lag import examine_lag
from daemon.doctor.report import Finding, Level
from sentinel.clock import ManualClock, SystemClock
from sentinel.embedded.broker import EmbeddedBroker
from sentinel.settings import Consumer, Database, Kafka, KafkaSecurity, Retention
from sentinel.store.engine import create_engine, libpq_url
from tests.support.brokers import ApacheKafka
from tests.support.kafka_client import KafkaClient
from tests.support.kafka_server import KafkaServer
from tests.support.security import Security

DAY_MS = 86_400_000
FITTING = {
    "retention.ms": str(7 * DAY_MS),
    "max.message.bytes": str(Consumer().max_record_bytes),
    "min.insync.replicas": "1",
}


def make_topics(client: KafkaClient | ApacheKafka, **changed: dict[str, str]) -> dict[str, str]:
    """Four topics that fit, but for what is changed."""
    configs: dict[str, dict[str, str]] = {
        "topics": dict(FITTING),
        "findings_topic": {},
        "dead_letters_topic": {"max.message.bytes": "16777216"},
        "promotions_topic": {"cleanup.policy": "compact"},
    }
    for name, config in changed.items():
        configs[name].update(config)
    return {name: client.create_topic(partitions=2, config=config) for name, config in configs.items()}


def settings(bootstrap: str, topics: dict[str, Any], **more: Any) -> Kafka:
    return Kafka(bootstrap_servers=(bootstrap,), **{**topics, "topics": (topics["topics"],)}, **more)


async def examine(kafka: Kafka) -> list[Finding]:
    return await examine_kafka(kafka, Consumer(), Retention())


def named(found: list[Finding], level: Level, words: str) -> Finding:
    hits = [f for f in found if f.level is level and words in f.message]
    assert len(hits) == 1, found
    assert level is Level.OK or hits[0].remedy
    return hits[0]


def problems(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level is Level.FAIL]


# -- a sound cluster


async def test_a_sound_cluster_has_no_problem(kafka: ApacheKafka) -> None:
    topics = make_topics(kafka)
    before = kafka.client.admin.list_topics(timeout=60).topics.keys()
    found = await examine(settings(kafka.bootstrap, topics))
    assert problems(found) == []
    assert kafka.cluster_id() in named(found, Level.OK, "cluster ").message
    named(found, Level.OK, "0 member(s)")
    # One broker can keep one copy, and that is said of every topic.
    assert sum("one copy of each partition" in f.message for f in found) == 4
    assert kafka.client.admin.list_topics(timeout=60).topics.keys() == before, "looking makes no topic"


async def test_the_embedded_broker_is_called_not_durable() -> None:
    with EmbeddedBroker({"llm.events": 2}) as broker:
        found = await examine(Kafka(bootstrap_servers=(broker.bootstrap,)))
    assert problems(found) == []
    assert "Apache Kafka" in named(found, Level.WARN, "not durable").remedy


# -- reaching it


async def test_nothing_listens(free_port: int) -> None:
    (found,) = await examine(Kafka(bootstrap_servers=(f"127.0.0.1:{free_port}",)))
    assert found.level is Level.FAIL
    assert "cannot be reached" in found.message
    assert "kafka.bootstrap_servers" in found.remedy


def security_settings(security: Security, protocol: str, **changed: Any) -> KafkaSecurity:
    values: dict[str, Any] = {"protocol": protocol}
    if protocol.startswith("SASL"):
        values |= {"mechanism": "PLAIN", "username": security.username, "password": security.password}
    if protocol.endswith("SSL"):
        values["ca_file"] = security.ca
    return KafkaSecurity(**(values | changed))


@pytest.mark.parametrize(
    ("listener", "protocol", "changed", "message", "remedy"),
    [
        (
            "SASL_PLAINTEXT",
            "SASL_PLAINTEXT",
            {"password": "hidden-word"},
            "not as SASL_PLAINTEXT",
            "password",
        ),
        ("SASL_PLAINTEXT", "PLAINTEXT", {}, "not as PLAINTEXT", "kafka.security.protocol"),
        ("PLAINTEXT", "SASL_SSL", {}, "no TLS session", "kafka.security.ca_file"),
        ("SASL_SSL", "SASL_SSL", {"ca_file": "other"}, "no TLS session", "kafka.security.ca_file"),
    ],
)
async def test_wrong_security_is_told_apart(
    secure_kafka: KafkaServer,
    security: Security,
    listener: str,
    protocol: str,
    changed: dict[str, Any],
    message: str,
    remedy: str,
) -> None:
    changed = {name: security.other_ca if value == "other" else value for name, value in changed.items()}
    made = security_settings(security, protocol, **changed)
    found = await examine(Kafka(bootstrap_servers=(secure_kafka.listeners[listener],), security=made))
    (finding,) = found
    assert finding.level is Level.FAIL
    assert message in finding.message
    assert remedy in finding.remedy
    assert "hidden-word" not in str(finding)


async def test_the_right_security_passes(secure_kafka: KafkaServer, security: Security) -> None:
    made = security_settings(security, "SASL_SSL")
    topics = make_topics(KafkaClient(secure_kafka.bootstrap))
    found = await examine(settings(secure_kafka.listeners["SASL_SSL"], topics, security=made))
    assert problems(found) == []
    named(found, Level.OK, "SASL_SSL")


async def test_a_certificate_that_cannot_be_read(free_port: int) -> None:
    made = KafkaSecurity(protocol="SSL", ca_file="/nonexistent.pem")
    (found,) = await examine(Kafka(bootstrap_servers=(f"127.0.0.1:{free_port}",), security=made))
    assert "kafka.security.ca_file" in found.message


async def test_an_account_without_rights(
    kafka_factory: Callable[..., KafkaServer], security: Security
) -> None:
    server = await asyncio.to_thread(
        kafka_factory,
        security=security,
        settings={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        },
    )
    topics = await asyncio.to_thread(make_topics, KafkaClient(server.bootstrap))
    made = security_settings(security, "SASL_PLAINTEXT")
    found = await examine(settings(server.listeners["SASL_PLAINTEXT"], topics, security=made))
    assert "grant it READ" in named(found, Level.FAIL, "may not use the group").remedy
    named(found, Level.FAIL, f"{topics['topics']} does not exist, or this account may not describe it")


# -- topics


async def test_a_missing_topic_names_the_command_that_makes_it(kafka: ApacheKafka) -> None:
    topics = make_topics(kafka) | {"topics": "not.there", "promotions_topic": "nor.this"}
    found = await examine(settings(kafka.bootstrap, topics))
    remedy = named(found, Level.FAIL, "not.there does not exist").remedy
    assert "kafka-topics.sh" in remedy
    assert "--topic not.there" in remedy
    assert "cleanup.policy=compact" in named(found, Level.WARN, "nor.this does not exist").remedy


@pytest.mark.parametrize(
    ("topic", "config", "level", "message"),
    [
        ("topics", {"retention.ms": "-1"}, Level.WARN, "keeps records for ever"),
        ("topics", {"retention.ms": str(400 * DAY_MS)}, Level.WARN, "for 400 days"),
        ("topics", {"retention.ms": "3600000"}, Level.WARN, "1.0 h"),
        ("topics", {"cleanup.policy": "compact"}, Level.FAIL, "is compacted"),
        ("topics", {"max.message.bytes": "16000000"}, Level.WARN, "become dead letters"),
        ("dead_letters_topic", {"max.message.bytes": "1000"}, Level.WARN, "could not be announced"),
        ("promotions_topic", {"cleanup.policy": "delete"}, Level.WARN, "is not compacted"),
    ],
)
async def test_settings_of_topics_that_do_not_fit(
    kafka: ApacheKafka, topic: str, config: dict[str, str], level: Level, message: str
) -> None:
    topics = make_topics(kafka, **{topic: config})
    found = await examine(settings(kafka.bootstrap, topics))
    assert topics[topic] in named(found, level, message).message


# -- lag


async def add_position(
    url: str, topic: str, partition: int, offset: int, *, halted: str | None = None, cluster: str = ""
) -> None:
    conn = await asyncpg.connect(libpq_url(url))
    try:
        await conn.execute(
            "INSERT INTO consumer_offsets (topic, partition, cluster_id, group_id, owner, first_offset, next_offset,"
            " halted) VALUES ($1, $2, $5, 'sentinel', 'o', 0, $3, $4)",
            topic, partition, offset, halted, cluster,
        )  # fmt: skip
    finally:
        await conn.close()


async def lag(url: str, kafka: Kafka, later: float = 0.0) -> list[Finding]:
    clock = ManualClock(SystemClock().now() + dt.timedelta(seconds=later))
    return await examine_lag(create_engine(Database(url=url)), kafka, clock)


async def test_lag_and_standstill(kafka: ApacheKafka, database_url: str) -> None:
    topics = make_topics(kafka)
    made = settings(kafka.bootstrap, topics)
    assert "no position yet" in named(await lag(database_url, made), Level.OK, "sentinel").message
    kafka.produce(topics["topics"], [b"x"] * 40)
    ends = kafka.client.end_offsets(topics["topics"], 2)
    await add_position(database_url, topics["topics"], 0, ends[0])
    await add_position(database_url, topics["topics"], 1, 1 if ends[1] else 0)
    behind = ends[1] - (1 if ends[1] else 0)
    named(await lag(database_url, made), Level.OK, f"{behind} records over 2 partition(s)")
    late = await lag(database_url, made, later=600)
    if behind:
        assert "/readyz" in named(late, Level.FAIL, f"{behind} records wait in 1 partition(s)").remedy
    else:
        assert problems(late) == []


async def test_a_position_beyond_the_end(kafka: ApacheKafka, database_url: str) -> None:
    topics = make_topics(kafka)
    await add_position(database_url, topics["topics"], 0, 99)
    await add_position(database_url, topics["topics"], 1, 99, halted="foreign")
    found = await lag(database_url, settings(kafka.bootstrap, topics))
    assert "offsets reset" in named(found, Level.FAIL, f"{topics['topics']}/0").remedy
    assert len(found) == 1, "the halted one is named by its halt"


async def test_positions_of_another_cluster(kafka: ApacheKafka, database_url: str) -> None:
    topics = make_topics(kafka)
    made = settings(kafka.bootstrap, topics)
    await add_position(database_url, topics["topics"], 0, 0, cluster=kafka.cluster_id())
    assert problems(await lag(database_url, made)) == []
    await add_position(database_url, topics["topics"], 1, 0, cluster="of-old")
    found = named(await lag(database_url, made), Level.FAIL, "of cluster of-old")
    assert kafka.cluster_id() in found.message
    assert "kafka.bootstrap_servers" in found.remedy


async def test_records_that_expired_unread(kafka: ApacheKafka, database_url: str) -> None:
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    topics = make_topics(kafka)
    topic = topics["topics"]
    kafka.produce(topic, [b"x"] * 40)
    ends = kafka.client.end_offsets(topic, 2)
    partition = max(ends, key=lambda number: ends[number])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for done in admin.delete_records([TopicPartition(topic, partition, ends[partition])]).values():
        done.result(60)
    await add_position(database_url, topic, partition, 0)
    found = await lag(database_url, settings(kafka.bootstrap, topics))
    named(found, Level.WARN, f"{ends[partition]} records expired unread")


async def test_without_kafka_or_database_there_is_nothing_to_compare(
    kafka: ApacheKafka, database_url: str, empty_database_url: str, free_port: int
) -> None:
    await add_position(database_url, "llm.events", 0, 5)
    assert await lag(database_url, Kafka(bootstrap_servers=(f"127.0.0.1:{free_port}",))) == []
    here = Kafka(bootstrap_servers=(kafka.bootstrap,))
    assert await lag(f"postgresql://u@127.0.0.1:{free_port}/d", here) == []
    assert await lag(empty_database_url, here) == []
