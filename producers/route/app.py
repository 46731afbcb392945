"""The composition root of ``sentinel route``: settings in, a running pass-through out.

Start     the publisher's spool, the mapping (database, else file), replicas, listeners, READY
Stop      1. SIGTERM: STOPPING, the port closes
          2. answers under way come to their end                  (route.drain_s)
          3. events leave for Kafka, or stay in the spool; a second signal ends the process at once
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from producers.kafka import make_producer
from producers.route.forward import Forwarder, make_session
from producers.route.mapping import Follower, Promotions, reader
from producers.route.metrics import RouteMetrics
from producers.route.publish import Publisher
from producers.route.replicas import Pool, Watch
from producers.route.server import Handler
from producers.route.spool import Spool
from sentinel import logs
from sentinel.clock import Clock, SystemClock
from sentinel.errors import ConfigurationError, FatalError
from sentinel.health import Health, HealthServer
from sentinel.notify import Notifier
from sentinel.settings import Settings, service_manager
from sentinel.store.engine import create_engine

_log = logs.get("producers.route.app")

_PUBLISH_STOP_S = 15.0
_MAX_HEADER_BYTES = 64 * 1024


class RouteService:
    """One route. `run` returns when it was stopped and drained."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        """Raises ConfigurationError where there is nothing to route to."""
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.pools = [Pool(name, model) for name, model in settings.served_models.items()]
        if not self.pools or not all(pool.replicas for pool in self.pools):
            empty = [
                f"served_models.{pool.served_model}.replicas" for pool in self.pools if not pool.replicas
            ]
            raise ConfigurationError(
                f"{', '.join(empty) or 'served_models'} is empty: name the addresses that the route passes calls on"
                " to; `sentinel settings example` shows how"
            )
        self.metrics = RouteMetrics(
            CollectorRegistry(),
            served_models=settings.served_models,
            replicas=[replica.url for pool in self.pools for replica in pool.replicas],
        )
        self.promotions = Promotions()
        self.publisher = self._make_publisher() if settings.route.publish else None
        self.status = HealthServer(
            settings.route.host,
            settings.route.metrics_port,
            setting="route.metrics_port",
            exposition=self._exposition,
            live=lambda: Health(True, (), {}),
            ready=self._ready,
        )
        self.started = asyncio.Event()
        self.stopping = asyncio.Event()
        self._follower: Follower | None = None
        self._runner: web.ServerRunner | None = None

    @property
    def port(self) -> int:
        """The bound port, also where 0 was asked for."""
        if self._runner is None or not self._runner.addresses:
            return self.settings.route.port
        return int(self._runner.addresses[0][1])

    def stop(self) -> None:
        """Begin the graceful stop."""
        self.stopping.set()

    async def run(self) -> None:
        """Serve until `stop`. Raises ConfigurationError, and FatalError where a part of it ended by itself."""
        settings = self.settings
        manager = service_manager()
        async with AsyncExitStack() as stack:
            notifier = Notifier(manager.notify_socket)
            stack.callback(notifier.close)
            engine = create_engine(settings.database)
            stack.push_async_callback(engine.dispose)
            session = await stack.enter_async_context(make_session(settings))
            watch = Watch(self.pools, session, interval=settings.route.replica_check_s)
            follower = self._follower = Follower(
                self.promotions,
                reader(engine),
                clock=self.clock,
                interval=settings.route.follow_interval_s,
                file=settings.route.spool_dir / "mapping.json",
                changed=lambda _: watch.look_now(),
            )
            if self.publisher is not None:
                await self.publisher.start()
            await asyncio.gather(follower.start(), watch.look())
            await self.status.start()
            stack.push_async_callback(self.status.stop)
            running = {
                asyncio.create_task(follower.run(), name="route-follower"),
                asyncio.create_task(watch.run(), name="route-replicas"),
                asyncio.create_task(_feed(notifier, manager.watchdog_s), name="route-watchdog"),
            }
            publishing = None
            if self.publisher is not None:
                publishing = asyncio.create_task(self.publisher.run(), name="route-publisher")
                running.add(publishing)
            await self._listen(session, watch)
            try:
                self.started.set()
                notifier.ready()
                _log.info("The route is open.", action="start", port=self.port, models=len(self.pools))
                ended = await self._until_stopped(running)
                notifier.stopping()
                notifier.extend(settings.route.drain_s + _PUBLISH_STOP_S)
            finally:
                await self._drain(running, publishing)
            if ended is not None:
                raise FatalError(f"{ended.get_name()} ended") from ended.exception()

    async def _listen(self, session: aiohttp.ClientSession, watch: Watch) -> None:
        route = self.settings.route
        forwarder = Forwarder(
            session, self.promotions, watch, self.metrics, settings=self.settings, clock=self.clock
        )
        handler = Handler(
            self.pools,
            self.promotions,
            forwarder,
            self.metrics,
            clock=self.clock,
            max_body_bytes=route.max_body_bytes,
            publisher=self.publisher,
        )
        server = web.Server(
            handler,
            # An application that leaves ends its answer, so that the engine stops writing it.
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=route.drain_s)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, route.host, route.port, backlog=1024).start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {route.host}:{route.port} ({error.strerror}): set route.port"
            ) from error

    async def _until_stopped(self, running: set[asyncio.Task[None]]) -> asyncio.Task[None] | None:
        """Wait for `stop`; a task that ended before is returned."""
        stopped = asyncio.create_task(self.stopping.wait(), name="route-stop")
        try:
            done, _ = await asyncio.wait({stopped, *running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        ended = [task for task in running if task in done]
        return ended[0] if ended else None

    async def _drain(self, running: set[asyncio.Task[None]], publishing: asyncio.Task[None] | None) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self.publisher is not None and publishing is not None:
            self.publisher.stop()
            await asyncio.wait({publishing}, timeout=_PUBLISH_STOP_S)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        _log.info("The route is closed.", action="stop")

    def _ready(self) -> Health:
        problems = self._look()
        return Health(not problems, tuple(problems), {})

    def _exposition(self, accept: str) -> tuple[bytes, str]:
        self._look()
        return self.metrics.exposition(accept)

    def _look(self) -> list[str]:
        """What is wrong now; refreshes the gauges that nobody else sets."""
        problems: list[str] = []
        for pool in self.pools:
            self.metrics.generation.set(pool.served_model, self.promotions.generation(pool.served_model))
            for replica in pool.replicas:
                self.metrics.replica_up.set(replica.url, float(replica.up))
            if not any(replica.up for replica in pool.replicas):
                problems.append(f"no replica of {pool.served_model} answers")
        if self._follower is not None:
            self.metrics.mapping_age.set(self.clock.monotonic() - self._follower.last_read)
        if not self.promotions.known:
            problems.append("promotions were never read")
        return problems

    def _make_publisher(self) -> Publisher:
        settings = self.settings
        return Publisher(
            settings.kafka.topics[0],
            lambda: make_producer(settings.kafka, role="route"),
            Spool(settings.route.spool_dir / "spool", settings.route.spool_max_bytes),
            self.metrics,
            queue_bytes=settings.route.queue_bytes,
        )


async def _feed(notifier: Notifier, watchdog_s: float | None) -> None:
    """Tell the service manager that the loop turns."""
    interval = min(1.0, watchdog_s / 2) if watchdog_s else 1.0
    while True:
        notifier.watchdog()
        await asyncio.sleep(interval)


def handle_signals(service: RouteService) -> None:
    """SIGTERM and SIGINT stop gracefully, a second one ends the process."""
    loop = asyncio.get_running_loop()

    def again(number: int) -> None:
        os._exit(128 + number)

    def first(number: int) -> None:
        service.stop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, again, each)

    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, first, number)
