"""The embedded Kafka broker: librdkafka's mock cluster, a demo transport and nothing more.

It speaks Kafka's protocol over TCP on 127.0.0.1 and lives in this process's memory (or in a child's:
``python -m sentinel.embedded.broker``). librdkafka comes with the PyPI distribution ``confluent-kafka``
(extra ``demo``); its public C interface (``rdkafka_mock.h``) is called directly, since the Python binding can
neither choose a topic's partitions nor shorten the group's join delay.

What differs from Apache Kafka, as seen with aiokafka 0.14 and librdkafka 2.16:

- A partition keeps its last 5 MB; older records vanish although their producer was told "acked".
- A group serves one member, once. A second member breaks it for both, and a later one waits until about
  three session timeouts are over (128 s at 45 s), even where the first left in order; a static member that
  comes back gets error after error. A consumer takes a fresh group id at each start, which joins in 0.1 s.
- No admin requests (create topics, describe configs): use ``create_topic`` here. A topic that anybody asks
  for is made with four partitions.
- The port is a new one at each start and the cluster id is not stored: nothing survives a restart.
- ``offsets_for_times`` answers nothing, for any time.
- The cluster id is made from a memory address; two starts have different ones but for an accident.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self

from sentinel.embedded.librdkafka import PRODUCER, load
from sentinel.embedded.owned import OwnedServer
from sentinel.embedded.tether import MINIMAL_ENVIRONMENT, TetheredProcess
from sentinel.errors import ConfigurationError, UnavailableError

_JOIN_DELAY_MS: Final = 100  # librdkafka's default of 3 s is what a group waits for further members
_STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class BrokerCapabilities:
    """What a broker can be relied on for; contract tests choose their cases by it."""

    rebalance: bool
    """Several members share one group, or follow each other in it."""
    restart: bool
    """It comes back with the same address, identity and records."""
    admin: bool
    """Topics are made, deleted and described through the protocol."""
    durable: bool
    """An acknowledged record stays until the topic's retention says otherwise."""


EMBEDDED: Final = BrokerCapabilities(rebalance=False, restart=False, admin=False, durable=False)
APACHE_KAFKA: Final = BrokerCapabilities(rebalance=True, restart=True, admin=True, durable=True)


class EmbeddedBroker:
    """One broker in this process, gone when it is stopped. Not thread-safe; ``start`` takes milliseconds."""

    capabilities: Final = EMBEDDED

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        """``topics``: name and number of partitions of those that exist from the start."""
        self._topics = dict(topics or {})
        self._library: ctypes.CDLL | None = None
        self._handle: int | None = None
        self._cluster: int | None = None
        self._bootstrap = ""
        self._cluster_id = ""

    @property
    def bootstrap(self) -> str:
        """``host:port``, a new port at each start. Raises ConfigurationError when it does not run."""
        if not self._bootstrap:
            raise ConfigurationError("the embedded broker does not run")
        return self._bootstrap

    @property
    def cluster_id(self) -> str:
        """What clients see as the cluster's identity; another one after each start."""
        if not self._cluster_id:
            self._cluster_id = _cluster_id(self.bootstrap)
        return self._cluster_id

    def start(self) -> None:
        """Start it, empty but for its topics.

        Raises:
            ConfigurationError: the extra ``demo`` is not installed, or its librdkafka lacks the mock cluster.
            UnavailableError: librdkafka could not make the cluster.
        """
        if self._cluster is not None:
            return
        library = self._library = load()
        problem = ctypes.create_string_buffer(512)
        configuration = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(configuration, b"log_level", b"2", problem, len(problem))
        # Owns the configuration from here on.
        self._handle = library.rd_kafka_new(PRODUCER, configuration, problem, len(problem))
        if not self._handle:
            raise UnavailableError(f"librdkafka: {problem.value.decode(errors='replace')}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._handle, 1)
        if not self._cluster:
            self.stop()
            raise UnavailableError("librdkafka could not make the embedded broker (no free port?)")
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, _JOIN_DELAY_MS)
        self._bootstrap = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        for name, partitions in self._topics.items():
            self.create_topic(name, partitions=partitions)

    def stop(self) -> None:
        """End it; every record is gone."""
        library = self._library
        if library is not None and self._cluster:
            library.rd_kafka_mock_cluster_destroy(self._cluster)
        if library is not None and self._handle:
            library.rd_kafka_destroy(self._handle)
        self._cluster = self._handle = None
        self._bootstrap = self._cluster_id = ""

    def create_topic(self, name: str, *, partitions: int = 4) -> None:
        """Make a topic. Raises UnavailableError where it exists, ConfigurationError for no partitions."""
        if partitions < 1:
            # librdkafka would make it, and every client would wait for a leader for ever.
            raise ConfigurationError(f"topic {name}: {partitions} partitions")
        self._call("rd_kafka_mock_topic_create", name, ctypes.c_int(partitions), ctypes.c_int(1))

    def delete_topic(self, name: str) -> None:
        """Delete a topic with its records. Raises UnavailableError where there is none."""
        self._call("rd_kafka_mock_topic_delete", name)

    def _call(self, function: str, topic: str, *arguments: ctypes.c_int) -> None:
        if self._library is None or self._cluster is None:
            raise ConfigurationError("the embedded broker does not run")
        code = getattr(self._library, function)(self._cluster, topic.encode(), *arguments)
        if code != 0:
            text = self._library.rd_kafka_err2str(code).decode()
            raise UnavailableError(f"embedded broker: {function.rpartition('mock_')[2]} {topic}: {text}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class EmbeddedBrokerProcess(OwnedServer):
    """The same broker in a child process, which ends with this one.

    A broker in the daemon's own process would lose its records with the daemon, and its threads would count
    as the daemon's. ``start`` blocks for about a third of a second.
    """

    capabilities: Final = EMBEDDED

    def __init__(self, folder: Path, topics: Mapping[str, int] | None = None) -> None:
        """``folder`` receives ``broker.json`` (bootstrap, cluster_id, pid) and ``broker.log``."""
        super().__init__()
        self.folder = folder
        self._topics = dict(topics or {})
        self._facts: dict[str, Any] = {}

    @property
    def bootstrap(self) -> str:
        """``host:port``, a new port at each start. Raises ConfigurationError before the first one."""
        return self._fact("bootstrap")

    @property
    def cluster_id(self) -> str:
        """What clients see as the cluster's identity; another one after each start."""
        return self._fact("cluster_id")

    def start(self) -> None:
        """Start it and wait for its address.

        Raises:
            UnavailableError: it ended or said nothing for 60 s; the message holds the end of its log.
        """
        if self.pid is not None:
            return
        self.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        port_file, log = self.folder / "broker.json", self.folder / "broker.log"
        port_file.unlink(missing_ok=True)
        topics = [f"--topic={name}:{partitions}" for name, partitions in self._topics.items()]
        self._process = TetheredProcess(
            [
                sys.executable,
                "-m",
                "sentinel.embedded.broker",
                f"--port-file={port_file.absolute()}",
                *topics,
            ],
            log=log,
            env=MINIMAL_ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._await_address(port_file, log)

    def stop(self) -> None:
        """End it in order."""
        self._end(signal.SIGTERM, _STOP_SECONDS)

    def kill(self) -> None:
        """As ``kill -9`` does; like ``stop`` it takes every record along."""
        self._end(signal.SIGKILL, _STOP_SECONDS)

    def restart(self) -> None:
        """A new, empty broker on another port."""
        self.stop()
        self.start()

    def _await_address(self, port_file: Path, log: Path) -> None:
        deadline = time.monotonic() + 60
        while not port_file.exists():
            if self.pid is None or time.monotonic() > deadline:
                self.kill()
                raise UnavailableError(f"the embedded broker did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        self._facts = json.loads(port_file.read_text())

    def _fact(self, name: str) -> str:
        if name not in self._facts:
            raise ConfigurationError("the embedded broker has not been started")
        return str(self._facts[name])


def _cluster_id(bootstrap: str) -> str:
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    return str(client.list_topics(timeout=10).cluster_id)


def main(arguments: list[str] | None = None) -> int:
    """Run one broker until SIGTERM or SIGINT; its address goes to ``--port-file`` as JSON."""
    parser = argparse.ArgumentParser(prog="python -m sentinel.embedded.broker", description=main.__doc__)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--topic", action="append", default=[], metavar="NAME:PARTITIONS")
    given = parser.parse_args(arguments)
    topics = {}
    for item in given.topic:
        name, _, partitions = item.partition(":")
        topics[name] = int(partitions or 4)
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with EmbeddedBroker(topics) as broker:
        facts = {"bootstrap": broker.bootstrap, "cluster_id": broker.cluster_id, "pid": os.getpid()}
        # Whoever waits for the file reads it whole or not at all.
        unfinished = given.port_file.with_name(given.port_file.name + ".unfinished")
        unfinished.write_text(json.dumps(facts))
        unfinished.rename(given.port_file)
        ended.wait()
    given.port_file.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
