"""Kafka's topics: there, complete, and with settings that fit ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from daemon.doctor.report import Finding, fail, ok, warn

if TYPE_CHECKING:
    from sentinel.settings import Consumer, Kafka, Retention

_DAY_MS: Final = 86_400_000
SHORT_RETENTION_MS: Final = _DAY_MS
"""An outage over a weekend night must not outlast the log."""
ENVELOPE_BYTES: Final = 16_384
"""What a dead letter adds to its record: Kafka Connect's headers and ours."""

Topics = Mapping[str, Sequence[Mapping[str, Any]]]
"""Partitions by topic, as the metadata response describes them."""


def topics_of(kafka: Kafka) -> tuple[str, ...]:
    """Every topic that is read or written."""
    return (*kafka.topics, kafka.findings_topic, kafka.dead_letters_topic, kafka.promotions_topic)


def check_topics(kafka: Kafka, topics: Topics, *, brokers: int, embedded: bool) -> list[Finding]:
    """Topics exist, and each partition has a leader and copies."""
    found: list[Finding] = []
    for topic in topics_of(kafka):
        partitions = topics.get(topic)
        if partitions is None:
            found.append(_missing(kafka, topic, brokers=brokers, embedded=embedded))
            continue
        leaderless = [p["partition"] for p in partitions if p["leader"] < 0]
        if leaderless:
            found.append(
                fail(
                    "topics",
                    f"{topic}: partitions {_listed(leaderless)} have no leader",
                    "bring their brokers back",
                )
            )
        copies = min((len(p["replicas"]) for p in partitions), default=0)
        short = [p["partition"] for p in partitions if len(p["isr"]) < len(p["replicas"])]
        if short:
            found.append(
                warn(
                    "topics",
                    f"{topic}: partitions {_listed(short)} lack in-sync copies",
                    "bring their brokers back",
                )
            )
        if copies < 2 and not embedded:
            found.append(
                warn("topics", f"{topic} has one copy of each partition: a lost disk loses records",
                     "raise its replication factor to 3")
            )  # fmt: skip
        elif not leaderless and not short:
            found.append(ok("topics", f"{topic}: {len(partitions)} partitions, {copies} copies each"))
    return found


def check_topic_configs(
    kafka: Kafka, consumer: Consumer, retention: Retention, configs: Mapping[str, Mapping[str, str]]
) -> list[Finding]:
    """Settings of topics that do not fit ours."""
    found: list[Finding] = []
    keys_ms = retention.keys_days * _DAY_MS
    inputs = [topic for topic in kafka.topics if topic in configs]
    for topic in inputs:
        config = configs[topic]
        kept = int(config.get("retention.ms", -1))
        if "compact" in config.get("cleanup.policy", "delete"):
            found.append(
                fail("topic settings", f"{topic} is compacted: records vanish before they are read",
                     f"set cleanup.policy=delete on {topic}")
            )  # fmt: skip
        elif kept < 0 or kept > keys_ms:
            much = "for ever" if kept < 0 else f"for {kept // _DAY_MS} days"
            found.append(
                warn(
                    "topic settings",
                    f"{topic} keeps records {much}, event keys are kept for {retention.keys_days} days: what is read"
                    " again after that is stored twice",
                    f"raise retention.keys_days, or set retention.ms of {topic} below {keys_ms}",
                )
            )
        elif kept < SHORT_RETENTION_MS:
            found.append(
                warn("topic settings", f"{topic} keeps records {kept / 3_600_000:.1f} h, a longer outage loses them",
                     f"raise retention.ms of {topic} to some days")
            )  # fmt: skip
        largest = int(config.get("max.message.bytes", 0))
        if largest > consumer.max_record_bytes:
            found.append(
                warn(
                    "topic settings",
                    f"{topic} takes records of {largest} bytes, of which those above {consumer.max_record_bytes} become"
                    " dead letters",
                    "raise consumer.max_record_bytes, or lower max.message.bytes of the topic",
                )
            )
    for topic in topics_of(kafka):
        in_sync = int(configs.get(topic, {}).get("min.insync.replicas", 2))
        if in_sync < 2:
            found.append(
                warn("topic settings", f"{topic}: an acknowledged record may exist once (min.insync.replicas=1)",
                     f"set min.insync.replicas=2 on {topic}, with three copies")
            )  # fmt: skip
    letters = int(configs.get(kafka.dead_letters_topic, {}).get("max.message.bytes", 0))
    needed = max((int(configs[topic].get("max.message.bytes", 0)) for topic in inputs), default=0)
    if letters and letters < needed:
        found.append(
            warn(
                "topic settings",
                f"{kafka.dead_letters_topic} takes {letters} bytes, its sources up to {needed}: a large bad record"
                " could not be announced",
                f"set max.message.bytes={needed + ENVELOPE_BYTES} on {kafka.dead_letters_topic}",
            )
        )
    promotions = configs.get(kafka.promotions_topic)
    if promotions is not None and "compact" not in promotions.get("cleanup.policy", ""):
        found.append(
            warn("topic settings", f"{kafka.promotions_topic} is not compacted: late readers miss what is in service",
                 f"set cleanup.policy=compact on {kafka.promotions_topic}")
        )  # fmt: skip
    return found or [ok("topic settings", "retention, sizes and copies fit")]


def _missing(kafka: Kafka, topic: str, *, brokers: int, embedded: bool) -> Finding:
    copies = min(3, max(1, brokers))
    compact = " --config cleanup.policy=compact" if topic == kafka.promotions_topic else ""
    make = (
        f"kafka-topics.sh --bootstrap-server {kafka.bootstrap_servers[0]} --create --topic {topic}"
        f" --partitions {1 if compact else 4} --replication-factor {copies}{compact}"
    )
    if embedded:
        return ok("topics", f"{topic} is made by the embedded broker when it is first used")
    message = f"{topic} does not exist, or this account may not describe it"
    if compact:
        return warn("topics", f"{message}; promotions could not be announced", make)
    return fail("topics", message, make)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
