"""The Apache Kafka that tests start: restarts, and each listener reached by the client in use."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.support.kafka_client import KafkaClient
from tests.support.kafka_server import KafkaServer
from tests.support.security import Security

_CHECKOUT = Path(__file__).resolve().parents[3]


async def round_trip(bootstrap: str, topic: str, **settings: Any) -> bytes:
    """Write one record and read it in a group of its own; returns what came back."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", **settings)
    try:
        await producer.start()
        written = await producer.send_and_wait(topic, os.urandom(16).hex().encode())
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=f"g-{os.urandom(4).hex()}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        **settings,
    )
    try:
        await consumer.start()
        async with asyncio.timeout(60):
            async for record in consumer:
                if (record.partition, record.offset) == (written.partition, written.offset):
                    return bytes(record.value or b"")
    finally:
        await consumer.stop()
    raise AssertionError("the consumer ended")


def security_settings(security: Security, listener: str, mechanism: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"security_protocol": listener}
    if listener.startswith("SASL"):
        settings |= {
            "sasl_mechanism": mechanism,
            "sasl_plain_username": security.username,
            "sasl_plain_password": security.password,
        }
    if listener.endswith("SSL"):
        settings["ssl_context"] = security.client_context(certificate=listener == "SSL")
    return settings


@pytest.fixture(scope="module")
def secure_topic(secure_kafka: KafkaServer) -> str:
    client = KafkaClient(secure_kafka.bootstrap)
    topic = client.create_topic(partitions=1)
    client.close()
    return topic


@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [
        ("PLAINTEXT", ""),
        ("SASL_PLAINTEXT", "PLAIN"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        ("SASL_SSL", "PLAIN"),
        ("SASL_SSL", "SCRAM-SHA-256"),
        ("SASL_SSL", "SCRAM-SHA-512"),
        ("SSL", ""),
    ],
)
async def test_each_listener_is_reached(
    secure_kafka: KafkaServer, security: Security, secure_topic: str, listener: str, mechanism: str
) -> None:
    settings = security_settings(security, listener, mechanism)
    assert len(await round_trip(secure_kafka.listeners[listener], secure_topic, **settings)) == 32


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_wrong_password_is_refused(
    secure_kafka: KafkaServer, security: Security, secure_topic: str, mechanism: str
) -> None:
    settings = security_settings(security, "SASL_SSL", mechanism) | {"sasl_plain_password": "wrong"}
    with pytest.raises(KafkaError):
        await round_trip(secure_kafka.listeners["SASL_SSL"], secure_topic, **settings)


@pytest.mark.parametrize("case", ["no certificate", "a stranger's certificate", "an unknown authority"])
async def test_tls_is_refused_without_trust_on_both_sides(
    secure_kafka: KafkaServer, security: Security, secure_topic: str, case: str
) -> None:
    context = security.client_context(trusted=case != "an unknown authority")
    if case == "a stranger's certificate":
        context.load_cert_chain(security.other_certificate, security.other_key)
    with pytest.raises(KafkaError):
        await round_trip(
            secure_kafka.listeners["SSL"], secure_topic, security_protocol="SSL", ssl_context=context
        )


def test_records_address_and_identity_survive_restart_and_kill(
    kafka_factory: Callable[..., KafkaServer],
) -> None:
    server = kafka_factory()
    client = KafkaClient(server.bootstrap)
    topic = client.create_topic(partitions=2)
    assert len(client.produce(topic, [b"x"] * 10)) == 10
    before = server.bootstrap, server.pid, client.cluster_id()
    server.restart()
    assert sum(client.end_offsets(topic, 2).values()) == 10
    server.kill()
    assert server.pid is None
    server.start()
    assert sum(client.end_offsets(topic, 2).values()) == 10
    client.produce(topic, [b"y"])
    assert sum(client.end_offsets(topic, 2).values()) == 11
    assert (server.bootstrap, client.cluster_id()) == (before[0], before[2])
    assert server.pid != before[1]
    client.close()


async def test_a_frozen_broker_answers_nothing_until_resumed(
    kafka_factory: Callable[..., KafkaServer],
) -> None:
    server = kafka_factory(settings={"num.partitions": "1"})
    client = KafkaClient(server.bootstrap)
    topic = client.create_topic(partitions=1)
    server.pause()
    written = asyncio.ensure_future(asyncio.to_thread(client.produce, topic, [b"x"]))
    done, _ = await asyncio.wait([written], timeout=1)
    assert not done
    server.resume()
    assert await asyncio.wait_for(written, 60) == [(0, 0)]
    client.close()


@pytest.mark.parametrize(("required", "status", "word"), [("0", 0, "skipped"), ("1", 1, "is required")])
@pytest.mark.parametrize(
    ("given", "case"),
    [
        ("", "embedded/test_fixtures.py::test_records_come_back_as_written[kafka]"),
        # A broker that runs somewhere cannot be killed, nor secured; nothing listens there, and nobody asks it.
        ("127.0.0.1:1", "embedded/test_kafka_server.py::test_a_frozen_broker_answers_nothing_until_resumed"),
        ("127.0.0.1:1", "operate/test_doctor_kafka.py::test_the_right_security_passes"),
    ],
    ids=["any", "factory", "secure"],
)
def test_without_kafka_a_test_skips_or_fails_as_asked(
    given: str, case: str, required: str, status: int, word: str
) -> None:
    environment = os.environ | {
        "KAFKA_HOME": "/nowhere",
        "SENTINEL_TEST_REQUIRE_KAFKA": required,
        "SENTINEL_TEST_KAFKA": given,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/integration/{case}"],
        env=environment,
        cwd=_CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert word in done.stdout
    assert "no Apache Kafka in /nowhere" in done.stdout
