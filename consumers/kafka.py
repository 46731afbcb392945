"""Kafka through aiokafka, behind the `Source` interface.

Facts about aiokafka 0.14 that shape this file:

- `getmany(*partitions)` leaves the buffers of other partitions alone, while `pause()` drops them; an empty
  argument list means *all* partitions.
- Errors raised inside a rebalance listener are logged and swallowed, and `getmany` may hand out records before
  the listener ends. So the listener only notes what changed; the loop takes partitions over and seeks.
- `commit()` retries for ever by itself, hence the time limit around it.
- `stop()` does not call the listener.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from consumers.source import Assigned, Bounds, LogRecord, PositionLostError, Revoked
from consumers.tracker import Partition
from sentinel import logs
from sentinel.embedded import VOLATILE_CLUSTER_PREFIX
from sentinel.errors import ConfigurationError, DeniedError, FatalError, UnavailableError

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition

_COMMIT_LIMIT_S = 10.0
_STOP_LIMIT_S = 5.0
_log = logs.get("consumers.kafka")


class KafkaSource:
    """One member of a consumer group.

    ``options`` are keyword arguments of `AIOKafkaConsumer` (bootstrap servers, group, security, fetch sizes);
    what correctness depends on is set here and cannot be overridden.
    """

    def __init__(self, topics: Sequence[str], options: Mapping[str, Any]) -> None:
        self._topics = tuple(topics)
        self._options = dict(options)
        self._consumer: AIOKafkaConsumer | None = None
        self._cluster_id = ""
        self._paused = False

    @property
    def cluster_id(self) -> str:
        return self._cluster_id

    @property
    def exhausted(self) -> bool:
        return False

    async def start(self, revoked: Revoked, assigned: Assigned) -> None:
        from aiokafka import AIOKafkaConsumer
        from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
        from aiokafka.errors import KafkaError

        _require_compiled_decoder()
        await self._name_group()
        consumer = AIOKafkaConsumer(
            **self._options,
            enable_auto_commit=False,
            auto_offset_reset="none",
            partition_assignment_strategy=[StickyPartitionAssignor],
        )
        try:
            await consumer.start()
            self._cluster_id = await cluster_id_of(consumer)
        except KafkaError as error:
            await consumer.stop()
            raise _start_error(error) from error
        self._consumer = consumer
        consumer.subscribe(self._topics, listener=_listener(revoked, assigned))

    async def _name_group(self) -> None:
        """Ask for the cluster's id first: the embedded broker never lets a group be joined a second time.

        A later member of the same group waits there for the old one's session to end, a static one for ever. It
        has one consumer and no memory, so a group of its own for each start loses nothing.
        """
        from aiokafka import AIOKafkaConsumer
        from aiokafka.errors import KafkaError

        group = ("group_id", "group_instance_id")
        probe = AIOKafkaConsumer(**{k: v for k, v in self._options.items() if k not in group})
        try:
            await probe.start()
            cluster_id = await cluster_id_of(probe)
        except KafkaError as error:
            raise _start_error(error) from error
        finally:
            await probe.stop()
        if cluster_id.startswith(VOLATILE_CLUSTER_PREFIX):
            self._options["group_id"] = f"{self._options['group_id']}-{uuid4().hex[:8]}"
            self._options["group_instance_id"] = None

    async def bounds(self, partitions: Sequence[Partition]) -> Mapping[Partition, Bounds]:
        from aiokafka.errors import KafkaError

        consumer = self._started()
        wanted = [_topic_partition(p) for p in partitions]
        try:
            beginning = await consumer.beginning_offsets(wanted)
            end = await consumer.end_offsets(wanted)
        except (KafkaError, TimeoutError) as error:
            raise self._outage("cannot read offsets", error) from error
        return {p: Bounds(beginning[t], end[t]) for p, t in zip(partitions, wanted, strict=True)}

    def seek(self, partition: Partition, offset: int) -> bool:
        from aiokafka.errors import IllegalStateError

        try:
            self._started().seek(_topic_partition(partition), offset)
        except IllegalStateError:
            return False
        return True

    async def poll(
        self, partitions: Sequence[Partition], *, max_records: int, timeout_s: float
    ) -> Mapping[Partition, Sequence[LogRecord]]:
        from aiokafka import errors

        if not partitions:
            raise ValueError("an empty list would mean all partitions")
        consumer = self._started()
        if self._paused:
            consumer.resume(*consumer.paused())
            self._paused = False
        try:
            batches = await consumer.getmany(
                *(_topic_partition(p) for p in partitions),
                timeout_ms=int(timeout_s * 1000),
                max_records=max_records,
            )
        except (errors.OffsetOutOfRangeError, errors.NoOffsetForPartitionError) as error:
            raise PositionLostError(_named_partitions(error) or partitions) from error
        except errors.ConsumerStoppedError as error:
            raise FatalError("the Kafka consumer was stopped under the loop") from error
        except errors.UnsupportedCodecError as error:
            raise ConfigurationError(
                f"a batch is compressed with a codec that is not installed: {error}"
            ) from error
        except errors.KafkaError as error:
            raise self._outage("polling failed", error) from error
        return {Partition(t.topic, t.partition): records for t, records in batches.items()}

    async def keepalive(self, timeout_s: float) -> None:
        from aiokafka.errors import KafkaError

        consumer = self._started()
        # Dropping the prefetched records once is cheap; being expelled after max_poll_interval_ms is not.
        consumer.pause(*consumer.assignment())
        self._paused = True
        try:
            await consumer.getmany(timeout_ms=int(timeout_s * 1000))
        except KafkaError as error:
            raise self._outage("keep-alive failed", error) from error

    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        from aiokafka.errors import KafkaError

        consumer = self._started()
        assigned = consumer.assignment()
        wanted = {_topic_partition(p): offset for p, offset in offsets.items()}
        wanted = {t: offset for t, offset in wanted.items() if t in assigned}
        if not wanted:
            return True
        try:
            async with asyncio.timeout(_COMMIT_LIMIT_S):
                await consumer.commit(wanted)
        except (KafkaError, TimeoutError) as error:
            # The position of record is in the store; this one is for lag tools.
            _log.warning(
                "The group offset could not be committed.", action="commit", error=type(error).__name__
            )
            return False
        return True

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        from aiokafka.errors import IllegalStateError

        try:
            highwater = self._started().highwater(_topic_partition(partition))
        except (IllegalStateError, AssertionError):
            return None
        return None if highwater is None else max(0, highwater - next_offset)

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        try:
            async with asyncio.timeout(_STOP_LIMIT_S):
                await consumer.stop()
        except TimeoutError:
            # It waits for a join under way, and the group may wait a whole rebalance for a member that is gone.
            _log.warning("The group was left without a word; it notices by itself.", action="leave")
            await consumer._fetcher.close()
            await consumer._client.close()

    def _outage(self, doing: str, error: Exception) -> UnavailableError:
        from aiokafka.errors import GroupAuthorizationFailedError

        if isinstance(error, GroupAuthorizationFailedError) and self._consumer is not None:
            # The heartbeat task ended with it, and only joining anew starts another one.
            self._consumer._coordinator.request_rejoin()
        if isinstance(error, _denials()):
            return _denied(error)
        return UnavailableError(f"{doing}: {type(error).__name__}: {error}", target="kafka")

    def _started(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise FatalError("the Kafka source is not started")
        return self._consumer


def _start_error(error: Exception) -> UnavailableError | ConfigurationError:
    """What a failed start means: only an error that no waiting can mend is the operator's.

    A process that ends with a configuration error is not started again, so a broker that restarts in the middle
    of our first questions must not look like one.
    """
    from aiokafka import errors

    too_old = (
        errors.UnsupportedVersionError,
        errors.UnrecognizedBrokerVersion,
        errors.IncompatibleBrokerVersion,
    )
    if isinstance(error, _denials()):
        return _denied(error)
    if isinstance(error, too_old):
        return ConfigurationError(f"Kafka refused the connection: {type(error).__name__}: {error}")
    return UnavailableError(f"cannot reach Kafka: {str(error) or type(error).__name__}", target="kafka")


def _denied(error: Exception) -> DeniedError:
    return DeniedError(
        f"Kafka denies access ({type(error).__name__}): check kafka.security, and grant READ on the topics and"
        " the group",
        target="kafka",
    )


def _denials() -> tuple[type[Exception], ...]:
    """Errors that say who we are not, or what we may not; the library has no class over them."""
    from aiokafka import errors

    return (
        errors.TopicAuthorizationFailedError,
        errors.GroupAuthorizationFailedError,
        errors.ClusterAuthorizationFailedError,
        errors.AuthenticationFailedError,
        errors.SaslAuthenticationFailed,
    )


def _topic_partition(partition: Partition) -> TopicPartition:
    from aiokafka import TopicPartition

    return TopicPartition(partition.topic, partition.partition)


def _named_partitions(error: Exception) -> tuple[Partition, ...]:
    """Partitions that an out-of-range or no-offset error is about."""
    from aiokafka import TopicPartition

    found: list[Partition] = []
    for argument in error.args:
        candidates = argument if isinstance(argument, dict | list | set | tuple) else [argument]
        if isinstance(argument, TopicPartition):
            candidates = [argument]
        found += [Partition(c.topic, c.partition) for c in candidates if isinstance(c, TopicPartition)]
    return tuple(found)


def _listener(revoked: Revoked, assigned: Assigned) -> Any:
    from aiokafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # the base class is untyped
        async def on_partitions_revoked(self, revoked_partitions: Any) -> None:
            try:
                await revoked(frozenset(Partition(t.topic, t.partition) for t in revoked_partitions))
            except Exception:  # noqa: BLE001  # aiokafka would swallow it too, without a word
                # Consumption goes on; the fence still protects the rows.
                _log.error("Draining revoked partitions failed.", action="revoke", exc_info=True)

        async def on_partitions_assigned(self, assigned_partitions: Any) -> None:
            assigned(frozenset(Partition(t.topic, t.partition) for t in assigned_partitions))

    return Listener()


async def cluster_id_of(consumer: AIOKafkaConsumer) -> str:
    """The cluster's own id from a metadata response (KIP-78); empty where the broker names none."""
    from aiokafka.protocol.metadata import MetadataRequest

    client = consumer._client  # no public accessor
    node = client.get_random_node()
    response = await client.send(node, MetadataRequest([], False))
    return str(getattr(response, "cluster_id", None) or "")


def _require_compiled_decoder() -> None:
    """Without the C extension decoding is several times slower, silently."""
    try:
        importlib.import_module("aiokafka.record._crecords")
    except ImportError as error:
        raise ConfigurationError(
            "aiokafka was installed without its C extension: reinstall the wheel"
        ) from error
