"""The producer against real secured listeners."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from producers.kafka import make_producer
from sentinel.settings import Kafka
from tests.support.kafka_client import KafkaClient
from tests.support.kafka_server import KafkaServer
from tests.support.relays import read_all
from tests.support.security import Security


def tls(security: Security) -> dict[str, Any]:
    return {"ca_file": security.ca}


def account(security: Security, mechanism: str) -> dict[str, Any]:
    return {"mechanism": mechanism, "username": security.username, "password": security.password}


def cases(security: Security) -> dict[str, dict[str, Any]]:
    client = {"cert_file": security.client_certificate, "key_file": security.client_key}
    return {
        "SASL_PLAINTEXT": account(security, "SCRAM-SHA-256"),
        "SASL_SSL": {**account(security, "SCRAM-SHA-512"), **tls(security)},
        "SSL": {**tls(security), **client},
    }


async def send(server: KafkaServer, topic: str, protocol: str, values: dict[str, Any]) -> None:
    kafka = Kafka.model_validate(
        {
            "bootstrap_servers": server.listeners[protocol],
            "security": {"protocol": protocol, **values},
            "request_timeout_ms": 30000,
        }
    )
    producer = make_producer(kafka, role="test")
    try:
        async with asyncio.timeout(60):
            await producer.start()
            await producer.send_and_wait(topic, protocol.encode())
    finally:
        await producer.stop()


async def test_records_arrive_through_every_listener(secure_kafka: KafkaServer, security: Security) -> None:
    topic = await asyncio.to_thread(lambda: KafkaClient(secure_kafka.bootstrap).create_topic(partitions=1))
    for protocol, values in cases(security).items():
        await send(secure_kafka, topic, protocol, values)
    await send(secure_kafka, topic, "SASL_SSL", {**account(security, "PLAIN"), **tls(security)})
    records = await read_all(secure_kafka.bootstrap, topic)
    assert [record.value for record in records] == [b"SASL_PLAINTEXT", b"SASL_SSL", b"SSL", b"SASL_SSL"]


@pytest.mark.parametrize("wrong", ["password", "authority", "certificate"])
async def test_wrong_credentials_send_nothing(
    secure_kafka: KafkaServer, security: Security, wrong: str
) -> None:
    protocol = "SSL" if wrong == "certificate" else "SASL_SSL"
    values = dict(cases(security)[protocol])
    match wrong:
        case "password":
            values["password"] = "guessed"
        case "authority":
            values["ca_file"] = security.other_ca
        case _:
            values |= {"cert_file": security.other_certificate, "key_file": security.other_key}
    with pytest.raises((KafkaError, TimeoutError)):
        await send(secure_kafka, "any", protocol, values)
