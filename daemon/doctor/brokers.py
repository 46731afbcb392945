"""Kafka: reachable, the right listener, an account with rights; `topics` looks at what it answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

from daemon.doctor.report import Finding, fail, ok, warn
from daemon.doctor.topics import Topics, check_topic_configs, check_topics, topics_of
from sentinel.embedded import VOLATILE_CLUSTER_PREFIX
from sentinel.errors import ConfigurationError
from sentinel.failures import describe
from sentinel.kafka_security import SecurityArguments, security_arguments

if TYPE_CHECKING:
    from sentinel.settings import Consumer, Kafka, Retention

REQUEST_MS: Final = 5_000
_DIAL_S: Final = 2.0


async def examine_kafka(kafka: Kafka, consumer: Consumer, retention: Retention) -> list[Finding]:
    """Everything about the brokers that the store is not needed for."""
    try:
        security = security_arguments(kafka.security)
    except ConfigurationError as error:
        return [fail("kafka", str(error), "correct kafka.security")]
    admin = AIOKafkaAdminClient(
        bootstrap_servers=list(kafka.bootstrap_servers),
        client_id=f"{kafka.client_id}-doctor",
        request_timeout_ms=REQUEST_MS,
        **security,
    )
    try:
        try:
            await admin.start()
        except KafkaError as error:
            return [await _unreachable(kafka, security, error)]
        cluster = await admin.describe_cluster()
        # Asking for all topics makes none; asking for one by name may make it.
        topics: Topics = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
        embedded = str(cluster.get("cluster_id") or "").startswith(VOLATILE_CLUSTER_PREFIX)
        found = check_cluster(cluster, kafka)
        found += check_topics(kafka, topics, brokers=len(cluster["brokers"]), embedded=embedded)
        if not embedded:
            configs = await _topic_configs(admin, [t for t in topics_of(kafka) if t in topics])
            if isinstance(configs, Finding):
                found.append(configs)
            else:
                found += check_topic_configs(kafka, consumer, retention, configs)
        found += await _check_group(admin, kafka, embedded=embedded)
        found += await _check_readable(kafka, security, topics)
        return found
    except KafkaError as error:
        return [fail("kafka", f"a request failed: {describe(error)}", "look into the brokers' logs")]
    finally:
        await admin.close()


def check_cluster(cluster: Mapping[str, Any], kafka: Kafka) -> list[Finding]:
    """What kind of cluster answers."""
    name = str(cluster.get("cluster_id") or "without an id")
    if name.startswith(VOLATILE_CLUSTER_PREFIX):
        return [
            warn(
                "kafka",
                "the embedded broker answers: it is not durable, keeps about 5 MB a partition and one consumer",
                "use Apache Kafka for anything but a demonstration (kafka.bootstrap_servers)",
            )
        ]
    brokers = len(cluster["brokers"])
    return [ok("kafka", f"cluster {name}, {brokers} broker(s), {kafka.security.protocol}")]


async def _check_group(admin: AIOKafkaAdminClient, kafka: Kafka, *, embedded: bool) -> list[Finding]:
    try:
        await admin.find_coordinator(kafka.group_id)
        if embedded:
            return []
        (answer,) = await admin.describe_consumer_groups([kafka.group_id])
    except GroupAuthorizationFailedError:
        return [_no_group(kafka)]
    group = answer.to_object()["groups"][0]
    if group["error_code"] == GroupAuthorizationFailedError.errno:
        return [_no_group(kafka)]
    members = len(group.get("members", ()))
    state = str(group.get("state", "")) or "unknown"
    return [ok("group", f"{kafka.group_id}: {state}, {members} member(s)")]


async def _check_readable(kafka: Kafka, security: SecurityArguments, topics: Topics) -> list[Finding]:
    """One fetch from the end of each input topic: whether this account may read."""
    partitions = [TopicPartition(topic, 0) for topic in kafka.topics if topics.get(topic)]
    if not partitions:
        return []
    reader = AIOKafkaConsumer(**reader_options(kafka, security))
    try:
        await reader.start()
        reader.assign(partitions)
        await reader.seek_to_end(*partitions)
        await reader.getmany(timeout_ms=500, max_records=1)
    except TopicAuthorizationFailedError as error:
        topic = error.args[0] if error.args else "a topic"
        return [
            fail("topics", f"this account may not read {topic}", "grant it READ and DESCRIBE on kafka.topics")
        ]
    finally:
        await reader.stop()
    return []


def reader_options(kafka: Kafka, security: SecurityArguments) -> dict[str, Any]:
    """Arguments of a consumer outside any group, which neither commits nor disturbs anybody."""
    return {
        "bootstrap_servers": list(kafka.bootstrap_servers),
        "client_id": f"{kafka.client_id}-doctor",
        "group_id": None,
        "enable_auto_commit": False,
        "request_timeout_ms": REQUEST_MS,
        "fetch_max_wait_ms": 200,
        **security,
    }


async def _topic_configs(
    admin: AIOKafkaAdminClient, topics: Iterable[str]
) -> Mapping[str, Mapping[str, str]] | Finding:
    """Settings by topic, or why they cannot be read."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    if not resources:
        return {}
    configs: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(resources):
        for code, _, _, name, entries in answer.resources:
            if code == TopicAuthorizationFailedError.errno:
                return warn(
                    "topic settings", f"this account may not read the settings of {name}",
                    "grant it DESCRIBE_CONFIGS on its topics to have them examined",
                )  # fmt: skip
            configs[name] = {entry[0]: entry[1] or "" for entry in entries}
    return configs


async def _unreachable(kafka: Kafka, security: SecurityArguments, error: KafkaError) -> Finding:
    """Tell a closed port from a refused certificate from a refused account: aiokafka says only 'unable'."""
    place = ", ".join(kafka.bootstrap_servers)
    protocol = kafka.security.protocol
    closed = [
        reason for server in kafka.bootstrap_servers if (reason := await _dial(server, None)) is not None
    ]
    if len(closed) == len(kafka.bootstrap_servers):
        return fail(
            "kafka", f"{place} cannot be reached: {type(closed[0]).__name__}",
            "start Kafka, or correct kafka.bootstrap_servers",
        )  # fmt: skip
    context = security.get("ssl_context")
    refused = [await _dial(server, context) for server in kafka.bootstrap_servers] if context else []
    if refused and all(refused):
        why = (
            getattr(refused[0], "verify_message", "")
            or getattr(refused[0], "reason", "")
            or "the connection ends"
        )
        return fail(
            "kafka", f"{place}: no TLS session: {why}",
            "correct kafka.security.protocol and kafka.security.ca_file; the certificate must name the host as"
            " kafka.bootstrap_servers does",
        )  # fmt: skip
    hint = "mechanism, username and password" if protocol.startswith("SASL_") else "cert_file and key_file"
    return fail(
        "kafka",
        f"{place} answers, but not as {protocol} ({type(error).__name__})",
        "correct kafka.security.protocol"
        + (f", or {hint}" if protocol != "PLAINTEXT" else ": the listener may ask for TLS or SASL"),
    )


async def _dial(server: str, context: ssl.SSLContext | None) -> OSError | None:
    """Connect and hang up; None where that works. `ssl.SSLError` is an OSError."""
    host, _, port = server.rpartition(":")
    try:
        async with asyncio.timeout(_DIAL_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except OSError as error:  # TimeoutError is one too
        return error
    writer.close()
    return None


def _no_group(kafka: Kafka) -> Finding:
    return fail(
        "group",
        f"this account may not use the group {kafka.group_id}",
        f"grant it READ on the group {kafka.group_id}",
    )
