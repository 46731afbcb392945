"""What each of the Kafka client's errors becomes: an outage to wait out, a lost position, or the operator's task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition, errors
from structlog.testing import capture_logs

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

COMMITTING: list[Exception] = [
    errors.CommitFailedError("the group has moved on"),
    errors.IllegalGenerationError(),
    errors.UnknownMemberIdError(),
    errors.RebalanceInProgressError(),
    errors.KafkaTimeoutError(),
    errors.KafkaConnectionError("closed"),
    TimeoutError(),
]


class FailingConsumer:
    """The client, as far as a poll and a commit need it, whose every request fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._coordinator = self
        self.rejoins = 0
        self.committed: dict[TopicPartition, int] = {}

    def request_rejoin(self) -> None:
        self.rejoins += 1

    async def getmany(self, *_: TopicPartition, **__: int) -> Any:
        raise self._error

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition("t", 0)}

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        self.committed = offsets
        raise self._error


class SilentConsumer(FailingConsumer):
    """A broker that never answers a commit."""

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        self.committed = offsets
        await asyncio.Event().wait()


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


async def _failed_commit(consumer: FailingConsumer) -> list[Any]:
    """What was logged over a commit that does not succeed, of one partition that is ours and one that is not."""
    source = KafkaSource(["t"], {})
    source._consumer = consumer
    with capture_logs() as lines:
        assert await source.commit({P: 5, Partition("t", 1): 7}) is False
    # Of a partition that went to another member nothing is said: that member's position would be set back.
    assert consumer.committed == {TopicPartition("t", 0): 5}
    return lines


@pytest.mark.parametrize("raised", COMMITTING, ids=lambda value: type(value).__name__)
async def test_an_error_while_committing_is_said_and_goes_no_further(raised: Exception) -> None:
    """The position of record is in the store; an error raised here would halt a loop that lost nothing."""
    lines = await _failed_commit(FailingConsumer(raised))
    said = [(line["log_level"], line["action"], line["error"]) for line in lines]
    assert said == [("warning", "commit", type(raised).__name__)]


async def test_a_commit_without_an_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client itself retries for ever."""
    monkeypatch.setattr("consumers.kafka._COMMIT_LIMIT_S", 0.05)
    lines = await asyncio.wait_for(_failed_commit(SilentConsumer(TimeoutError())), 60)
    assert [line["error"] for line in lines] == ["TimeoutError"]


async def test_a_commit_of_nothing_asks_nobody() -> None:
    source = KafkaSource(["t"], {})
    source._consumer = consumer = FailingConsumer(errors.CommitFailedError())
    assert await source.commit({Partition("t", 1): 7})
    assert consumer.committed == {}
