"""What each of the Kafka client's errors becomes: an outage to wait out, a lost position, or the operator's task."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import TopicPartition, errors

from consumers.kafka import KafkaSource, _start_error
from consumers.source import PositionLostError
from consumers.tracker import Partition
from sentinel.errors import ConfigurationError, DeniedError, FatalError, UnavailableError

P = Partition("t", 0)

POLLING: list[tuple[Exception, type[Exception]]] = [
    (errors.KafkaError("anything"), UnavailableError),
    (errors.KafkaConnectionError("closed"), UnavailableError),
    (errors.RequestTimedOutError(), UnavailableError),
    (errors.KafkaTimeoutError(), UnavailableError),
    (errors.OffsetOutOfRangeError({TopicPartition("t", 0): 5}), PositionLostError),
    (errors.NoOffsetForPartitionError(TopicPartition("t", 0)), PositionLostError),
    (errors.TopicAuthorizationFailedError("t"), DeniedError),
    (errors.GroupAuthorizationFailedError("g"), DeniedError),
    (errors.SaslAuthenticationFailed("no"), DeniedError),
    (errors.UnsupportedCodecError("zstd"), ConfigurationError),
    (errors.ConsumerStoppedError(), FatalError),
]

STARTING: list[tuple[Exception, type[Exception]]] = [
    (errors.KafkaConnectionError("Unable to bootstrap"), UnavailableError),
    # What the first questions meet while a broker restarts.
    (errors.NodeNotReadyError("node 1"), UnavailableError),
    (errors.RequestTimedOutError(), UnavailableError),
    (errors.StaleMetadata("node 1"), UnavailableError),
    (errors.KafkaError("Unable to get cluster metadata over all known brokers"), UnavailableError),
    (errors.AuthenticationFailedError("no"), DeniedError),
    (errors.SaslAuthenticationFailed("no"), DeniedError),
    (errors.ClusterAuthorizationFailedError("no"), DeniedError),
    (errors.UnsupportedVersionError("0.8"), ConfigurationError),
]


class FailingConsumer:
    """The client, as far as a poll needs it, whose every fetch fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._coordinator = self
        self.rejoins = 0

    def request_rejoin(self) -> None:
        self.rejoins += 1

    async def getmany(self, *_: TopicPartition, **__: int) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("raised", "becomes"), POLLING, ids=lambda value: getattr(value, "__name__", repr(value))
)
async def test_an_error_while_polling(raised: Exception, becomes: type[Exception]) -> None:
    source = KafkaSource(["t"], {})
    source._consumer = consumer = FailingConsumer(raised)
    with pytest.raises(becomes) as caught:
        await source.poll([P], max_records=1, timeout_s=0.01)
    assert type(caught.value) is becomes
    if isinstance(caught.value, UnavailableError):
        assert caught.value.target == "kafka"
    assert consumer.rejoins == isinstance(raised, errors.GroupAuthorizationFailedError)
    if isinstance(caught.value, PositionLostError):
        assert caught.value.partitions == (P,)


@pytest.mark.parametrize(
    ("raised", "becomes"), STARTING, ids=lambda value: getattr(value, "__name__", repr(value))
)
def test_an_error_while_starting(raised: Exception, becomes: type[Exception]) -> None:
    made = _start_error(raised)
    assert type(made) is becomes
    assert str(made)
