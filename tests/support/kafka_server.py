"""A real Apache Kafka (one KRaft node) that tests start, stop, kill and freeze.

``KAFKA_HOME`` holds the published jars under ``libs/``; a folder ``../shared/kafka`` beside the checkout is
used where that is not set. Needs Java 17.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from sentinel.embedded.ports import HOST, ReservedPort
from sentinel.embedded.tether import MINIMAL_ENVIRONMENT, TetheredProcess
from tests.support.kafka_client import KafkaClient
from tests.support.security import Security

_CHECKOUT: Final = Path(__file__).resolve().parents[2]
_JVM: Final = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_START_SECONDS: Final = 180.0

# name of the listener -> security protocol
PLAIN_LISTENERS: Final = {"PLAINTEXT": "PLAINTEXT"}
SECURE_LISTENERS: Final = PLAIN_LISTENERS | {
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "SASL_SSL": "SASL_SSL",
    "SSL": "SSL",
}
"""``SSL`` asks for a client certificate."""


def kafka_home() -> Path:
    given = os.environ.get("KAFKA_HOME")
    return Path(given) if given else (_CHECKOUT.parent / "shared" / "kafka")


def why_no_kafka() -> str | None:
    """The reason why no broker can be started here, ``None`` if one can."""
    if not any((kafka_home() / "libs").glob("kafka_*.jar")):
        return f"no Apache Kafka in {kafka_home()} (set KAFKA_HOME or SENTINEL_TEST_KAFKA)"
    if shutil.which("java") is None:
        return "no Java runtime on PATH (Debian: openjdk-17-jre-headless)"
    return None


_reserved: Final[list[ReservedPort]] = []
"""Of `free_port`: who asks for a number binds it later, or relies on nobody listening there."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody uses, and that no other test or server of this run is given."""
    _reserved.append(ReservedPort())
    return _reserved[-1].number


class KafkaServer:
    """One broker and controller in one JVM; ports and data stay the same over restarts.

    ``security`` adds the listeners ``SASL_PLAINTEXT``, ``SASL_SSL`` (PLAIN, SCRAM-SHA-256 and -512 on both)
    and ``SSL`` (client certificate required). Topics are not created automatically: a test that deletes a
    topic would race with its own consumer, whose next metadata request would make it again.
    """

    def __init__(
        self, folder: Path, *, security: Security | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.log = folder / "kafka.log"
        self.security = security
        protocols = SECURE_LISTENERS if security else PLAIN_LISTENERS
        # The JVM binds them seconds later, and again after a restart: nobody may have them meanwhile.
        self._ports = {name: ReservedPort() for name in (*protocols, "CONTROLLER")}
        addresses = {name: f"{HOST}:{port.number}" for name, port in self._ports.items()}
        self._controller = addresses.pop("CONTROLLER")
        self.listeners = addresses
        self._protocols = protocols
        self._settings = dict(settings or {})
        self._process: TetheredProcess | None = None

    @property
    def bootstrap(self) -> str:
        """Address of the listener without security."""
        return self.listeners["PLAINTEXT"]

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.exit_status() is None else None

    def start(self) -> None:
        """Start it and wait until topics can be made and groups can be joined (3 to 10 s)."""
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        if not properties.exists():
            properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
            self._format(properties)
        self._process = TetheredProcess(
            ["java", *_JVM, "-cp", f"{kafka_home()}/libs/*", "kafka.Kafka", properties],
            log=self.log,
            cwd=self.folder,
            env=MINIMAL_ENVIRONMENT | {"PATH": os.environ["PATH"]},
        )
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Controlled shutdown (2 s)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As ``kill -9`` does; the data stays."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        if self._process is not None:
            self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.end(number, 30)

    def _format(self, properties: Path) -> None:
        command = [
            "java", "-XX:TieredStopAtLevel=1", "-cp", f"{kafka_home()}/libs/*", "kafka.tools.StorageTool",
            "format", "-t", _cluster_uuid(), "-c", str(properties),
        ]  # fmt: skip
        if self.security is not None:
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                user, password = self.security.username, self.security.password
                command += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
        if done.returncode != 0:
            raise RuntimeError(f"StorageTool format failed: {done.stdout}{done.stderr}")

    def _properties(self) -> dict[str, str]:
        plain = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self._controller}",
            "listeners": ",".join(
                [f"{name}://{address}" for name, address in self.listeners.items()]
                + [f"CONTROLLER://{self._controller}"]
            ),
            "advertised.listeners": ",".join(f"{name}://{at}" for name, at in self.listeners.items()),
            "listener.security.protocol.map": ",".join(
                [f"{name}:{protocol}" for name, protocol in self._protocols.items()]
                + ["CONTROLLER:PLAINTEXT"]
            ),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "num.partitions": "4",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            # After kill -9 the controller waits for the dead broker's session to expire.
            "broker.session.timeout.ms": "2500",
            "broker.heartbeat.interval.ms": "400",
            # Records dated 1970 would be deleted by the default retention.
            "log.retention.ms": "-1",
            "message.max.bytes": "16777216",
            "replica.fetch.max.bytes": "16777216",
            # Small machine: fewer threads, and not a third of the heap for the log cleaner.
            "num.network.threads": "2",
            "num.io.threads": "2",
            "background.threads": "2",
            "log.cleaner.dedupe.buffer.size": "16777216",
        }
        return plain | self._secure_properties() | self._settings

    def _secure_properties(self) -> dict[str, str]:
        if self.security is None:
            return {}
        user, password = self.security.username, self.security.password
        package = "org.apache.kafka.common.security"
        result = {
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.security.server_store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.security.ca),
            "listener.name.ssl.ssl.client.auth": "required",
        }
        for listener in ("sasl_plaintext", "sasl_ssl"):
            start = f"listener.name.{listener}"
            result[f"{start}.plain.sasl.jaas.config"] = (
                f'{package}.plain.PlainLoginModule required user_{user}="{password}";'
            )
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                result[f"{start}.{mechanism}.sasl.jaas.config"] = (
                    f"{package}.scram.ScramLoginModule required;"
                )
        return result

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        host, port = self.bootstrap.split(":")
        while True:
            if self.pid is None or time.monotonic() > deadline:
                raise RuntimeError(f"Kafka did not start:\n{self.log.read_text()[-3000:]}")
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        await_coordinator(self.bootstrap, deadline - time.monotonic())


def await_coordinator(bootstrap: str, timeout: float) -> None:
    """Wait until a group can be used: the first request makes the broker create its offsets topic."""
    deadline = time.monotonic() + timeout
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "ready", "log_level": 0})
    try:
        while True:
            try:
                consumer.committed([TopicPartition("ready", 0)], timeout=5)
                return
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
    finally:
        consumer.close()


def _cluster_uuid() -> str:
    """A random cluster id as Kafka writes it: 16 bytes in URL-safe base64, without a leading dash.

    StorageTool would take an id with one for an option.
    """
    while True:
        made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not made.startswith("-"):
            return made


__all__ = ["KafkaClient", "KafkaServer", "await_coordinator", "free_port", "kafka_home", "why_no_kafka"]
