"""The daemon behind every kind of listener: SASL (PLAIN, SCRAM), TLS, client certificates."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sentinel.embedded.scripted_guard import ScriptedGuard
from tests.support.accounting import account, assert_sums
from tests.support.events import many
from tests.support.kafka_client import KafkaClient
from tests.support.kafka_server import KafkaServer
from tests.support.security import Security
from tests.support.service import caught_up, running, settings_for
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


def _sasl(security: Security, mechanism: str) -> dict[str, Any]:
    return {"mechanism": mechanism, "username": security.username, "password": security.password}


def _sections(security: Security) -> dict[str, dict[str, Any]]:
    tls = {"ca_file": security.ca}
    return {
        "SASL_PLAINTEXT/PLAIN": {"protocol": "SASL_PLAINTEXT", **_sasl(security, "PLAIN")},
        "SASL_PLAINTEXT/SCRAM-SHA-256": {"protocol": "SASL_PLAINTEXT", **_sasl(security, "SCRAM-SHA-256")},
        "SASL_SSL/SCRAM-SHA-512": {"protocol": "SASL_SSL", **tls, **_sasl(security, "SCRAM-SHA-512")},
        "SSL/certificate": {
            "protocol": "SSL",
            **tls,
            "cert_file": security.client_certificate,
            "key_file": security.client_key,
        },
    }


@pytest.mark.parametrize(
    "case",
    ["SASL_PLAINTEXT/PLAIN", "SASL_PLAINTEXT/SCRAM-SHA-256", "SASL_SSL/SCRAM-SHA-512", "SSL/certificate"],
)
async def test_events_and_findings_pass_a_secured_listener(
    secure_kafka: KafkaServer, security: Security, database_url: str, guard: ScriptedGuard, case: str
) -> None:
    client = KafkaClient(secure_kafka.listeners["PLAINTEXT"])
    topic = await asyncio.to_thread(client.create_topic, partitions=2)
    findings = await asyncio.to_thread(client.create_topic, partitions=1)
    await asyncio.to_thread(client.produce, topic, many(40, unsafe_every=10))
    settings = settings_for(
        bootstrap=secure_kafka.listeners[case.split("/", maxsplit=1)[0]],
        topic=topic,
        database_url=database_url,
        guard_url=guard.url,
        group=topic,
        kafka={"security": _sections(security)[case], "findings_topic": findings},
    )
    async with running(settings) as service:
        await caught_up(service, 40)
        # Each finding leaves as our document and as an OpenTelemetry event.
        await wait_until(
            lambda: b'sentinel_outbox_sent_total{output="findings"} 8.0' in service.metrics.exposition()[0],
            timeout=60,
        )
    found = await account(database_url, topic)
    assert_sums(found, records=40)
    assert found.findings == 4
    client.close()


async def test_a_wrong_password_keeps_the_daemon_from_getting_ready(
    secure_kafka: KafkaServer, security: Security, database_url: str, guard: ScriptedGuard
) -> None:
    section = {"protocol": "SASL_PLAINTEXT", **_sasl(security, "SCRAM-SHA-256"), "password": "wrong"}
    settings = settings_for(
        bootstrap=secure_kafka.listeners["SASL_PLAINTEXT"],
        topic="llm.events",
        database_url=database_url,
        guard_url=guard.url,
        kafka={"security": section},
    )
    # The client library does not tell a refused password from a broker that is away, and a password may be being
    # changed: the daemon says what is wrong and tries again.
    async with running(settings) as service:
        await wait_until(lambda: "cannot reach Kafka" in str(service._ready().problems), timeout=60)
        assert "wrong" not in str(service._ready())
