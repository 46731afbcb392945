"""The daemon beside a promotion: replicas are kept, events are attributed, a worse adapter goes again."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import msgspec

from sentinel.embedded.scripted_guard import ScriptedGuard
from sentinel.jobs import JobKind, JobPayload
from sentinel.settings import Settings
from tests.integration.promotion.stage import MODEL, Stage
from tests.integration.serving.scripted_replica import BASE, ScriptedReplica
from tests.support.brokers import Embedded
from tests.support.events import encoded
from tests.support.service import caught_up, running, settings_for
from tests.support.waiting import wait_until
from trainer.connections import connections
from trainer.promote import promote
from trainer.rollback import run_rollback


def event(number: int, model: str, *, served_by: str | None = None, unsafe: bool = False) -> bytes:
    # Without a time of its own, the event is from when its record came to lie in the log.
    return encoded(number, unsafe=unsafe, model=model, served_by=served_by, time=None)


async def test_from_the_promotion_to_the_rollback(
    stage: Stage, replicas: tuple[ScriptedReplica, ScriptedReplica], embedded_broker: Embedded
) -> None:
    topic = await asyncio.to_thread(embedded_broker.create_topic, partitions=1)
    async with ScriptedGuard() as guard:
        settings: Settings = settings_for(
            bootstrap=embedded_broker.bootstrap,
            topic=topic,
            database_url=stage.database_url,
            guard_url=guard.url,
            database={"pool_size": 6},
            adapters={"store": stage.folder / "store"},
            served_models={
                MODEL: {
                    "public_name": "assistant",
                    "base": "org/base",
                    "replicas": tuple(replica.url for replica in replicas),
                }
            },
            promotion={
                "mode": "auto",
                "reconcile_interval_s": 0.2,
                "follow_interval_s": 0.2,
                "watch_interval_s": 0.2,
                "watch_from": 20,
            },
        )
        run_id = uuid4()
        await stage.adapter("ada-1", run_id=run_id)
        async with running(settings) as service:

            def metric(name: str, **labels: str) -> float | None:
                return service.metrics.registry.get_sample_value(name, labels)

            await wait_until(
                lambda: all(
                    metric("sentinel_replica_state", replica=replica.url) == 1 for replica in replicas
                ),
                60,
            )
            sent = [event(n, "assistant", unsafe=n < 2) for n in range(100)]
            sent += [event(n, BASE) for n in range(100, 110)]
            await asyncio.to_thread(embedded_broker.produce, topic, sent)
            await caught_up(service, 110)
            async with connections(settings) as connect:
                await promote(connect, settings, MODEL, "ada-1", actor="test")
            await wait_until(lambda: metric("sentinel_promotion_generation", served_model=MODEL) == 1, 60)

            sent = [event(200, "assistant", served_by=BASE)]
            sent += [event(201, "assistant"), event(202, "ada-1"), event(203, "unknown")]
            sent += [event(n, "assistant", unsafe=True) for n in range(204, 254)]
            await asyncio.to_thread(embedded_broker.produce, topic, sent)
            await caught_up(service, 110 + 54)

            # A replica that restarts is brought back without anybody asking.
            replicas[1].restart()
            await wait_until(lambda: "ada-1" in replicas[1].loaded, 60)
            assert service._ready().facts["replicas"] == dict.fromkeys((r.url for r in replicas), "ok")

            async def asked() -> bool:
                return bool(await stage.fetch("SELECT FROM pgqueuer.pgqueuer"))

            await wait_until(asked, 60)
            ((payload,),) = await stage.fetch("SELECT payload FROM pgqueuer.pgqueuer")
            job = msgspec.json.decode(payload, type=JobPayload)
            assert job == JobPayload(kind=JobKind.ROLLBACK, run_id=run_id, served_model=MODEL)
            change = await run_rollback(settings, job)
            assert change is not None
            assert change.adapter is None
            await wait_until(lambda: metric("sentinel_promotion_generation", served_model=MODEL) == 2, 60)
            await asyncio.to_thread(embedded_broker.produce, topic, [event(300, "assistant")])
            await caught_up(service, 110 + 54 + 1)

    rows = await stage.fetch(
        "SELECT model, served_model, served_by, count(*) FROM interactions GROUP BY 1, 2, 3"
    )
    assert sorted(map(str, rows)) == sorted(
        map(
            str,
            [
                ("assistant", MODEL, None, 100 + 1),
                (BASE, MODEL, BASE, 10),
                ("assistant", MODEL, BASE, 1),
                ("assistant", MODEL, "ada-1", 1 + 50),
                ("ada-1", MODEL, "ada-1", 1),
                ("unknown", None, None, 1),
            ],
        )
    )
    findings = await stage.fetch("SELECT served_by, count(*) FROM findings GROUP BY 1 ORDER BY 1")
    assert findings == [("ada-1", 50), (None, 2)]
