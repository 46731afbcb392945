"""Exchanges onto the topic, and a line for each into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import orjson

from producers.kafka import make_producer
from producers.traffic.events import FORMATS, Exchange
from producers.traffic.prompts import Prompt

if TYPE_CHECKING:
    from io import BufferedWriter

    from aiokafka import AIOKafkaProducer

    from sentinel.settings import Kafka


class Publisher:
    """Writes to the first consumed topic; ``record_format`` None publishes nothing (the route does)."""

    def __init__(self, kafka: Kafka, record_format: str | None, log: Path | None) -> None:
        self._kafka = kafka
        self._format = FORMATS[record_format] if record_format else None
        self._log_path = log
        self._log: BufferedWriter | None = None
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> Self:
        if self._format is not None:
            self._producer = make_producer(self._kafka, role="traffic")
            await self._producer.start()
        if self._log_path is not None:
            self._log = self._log_path.open("ab")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._producer is not None:
            await self._producer.stop()
        if self._log is not None:
            self._log.close()

    async def publish(self, exchange: Exchange, prompt: Prompt) -> None:
        """Send one event and wait for its acknowledgement."""
        if self._format is not None and self._producer is not None:
            value, headers = self._format(exchange)
            await self._producer.send_and_wait(self._kafka.topics[0], value=value, headers=headers)
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
