"""Exchanges onto the topic, and a line for each into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import orjson
from aiokafka.errors import KafkaError

from producers.kafka import make_producer
from producers.traffic.events import Exchange
from producers.traffic.formats import Format, compressed
from producers.traffic.prompts import Prompt
from sentinel.errors import UnavailableError

if TYPE_CHECKING:
    from io import BufferedWriter

    from aiokafka import AIOKafkaProducer

    from sentinel.settings import Kafka


class Publisher:
    """Writes to the first consumed topic; ``record_format`` None publishes nothing (the route does).

    Records of formats that hold several exchanges get ``per_record`` of them; the last may have fewer.
    """

    def __init__(
        self,
        kafka: Kafka,
        record_format: Format | None,
        log: Path | None,
        *,
        per_record: int = 1,
        compress: bool = False,
    ) -> None:
        self._kafka = kafka
        self._format = record_format
        self._per_record = per_record if record_format is not None and record_format.several else 1
        self._compress = compress
        self._waiting: list[Exchange] = []
        self._log_path = log
        self._log: BufferedWriter | None = None
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> Self:
        if self._format is not None:
            producer = make_producer(self._kafka, role="traffic")
            try:
                await producer.start()
            except KafkaError as error:
                await producer.stop()
                servers = ", ".join(self._kafka.bootstrap_servers)
                raise UnavailableError(
                    f"Kafka does not answer at {servers} ({type(error).__name__}): set kafka.bootstrap_servers, or add"
                    " --no-publish where the route publishes"
                ) from error
            self._producer = producer
        if self._log_path is not None:
            self._log = self._log_path.open("ab")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._waiting:
                await self._send()
        finally:
            if self._producer is not None:
                await self._producer.stop()
            if self._log is not None:
                self._log.close()

    async def publish(self, exchange: Exchange, prompt: Prompt) -> None:
        """Send one event and wait for its acknowledgement; one that a record waits to fill with is kept.

        Raises UnavailableError where the broker does not take it.
        """
        if self._format is not None:
            self._waiting.append(exchange)
            if len(self._waiting) >= self._per_record:
                await self._send()
        if self._log is not None:
            line = {
                "id": exchange.event_id,
                "kind": prompt.kind,
                "family": prompt.family,
                "prompt": prompt.text,
                "answer": exchange.answer,
                "expected": prompt.answer,
                "subject": prompt.subject,
            }
            self._log.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    async def _send(self) -> None:
        if self._format is None or self._producer is None:
            return
        exchanges, self._waiting = self._waiting, []
        record = self._format.encode(exchanges)
        value, headers = compressed(record) if self._compress else record
        try:
            await self._producer.send_and_wait(self._kafka.topics[0], value=value, headers=headers)
        except KafkaError as error:
            raise UnavailableError(f"Kafka does not take the event: {type(error).__name__}") from error
