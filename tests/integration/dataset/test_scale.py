"""Ten thousand pairs over thirty days, before the planner knows anything about them."""

from __future__ import annotations

import asyncio

from sentinel.settings import Settings
from sentinel.store.partitions import ensure_partitions
from tests.integration.dataset.conftest import DAY, Traffic
from trainer.dataset.building import collected_for
from trainer.dataset.drops import Drop

PAIRS = 10_000

FILL = f"""
CREATE TEMP TABLE made AS SELECT gen_random_uuid() AS id, DATE '{DAY}' + (n % 30) AS day, n
FROM generate_series(1, {PAIRS}) AS n;
INSERT INTO interactions (day, event_id, received_at, format, source, model, served_model, outcome, response_label,
    unsafe, policy_version)
SELECT day, id, now(), 'native', 's', 'tiny', 'main', 'stored', 'unsafe', TRUE, '1' FROM made;
INSERT INTO verdicts (day, event_id, role, attempt, guard_id, score_run, label, categories, raw, guard_model, template,
    policy_version)
SELECT day, id, 'response', attempt, 'g', 0,
    CASE attempt WHEN 0 THEN 'unsafe' ELSE 'safe' END, '{{}}', '', 'g', 't', '1'
FROM made, generate_series(0, 1) AS attempt;
INSERT INTO findings (finding_id, event_id, day, policy_version, label, categories, guard_id, source, served_model)
SELECT id, id, day, '1', 'unsafe', '{{Violent}}', 'g', 's', 'main' FROM made;
INSERT INTO preference_pairs (pair_id, finding_id, event_id, attempt, served_model, prompt, chosen, rejected,
    chosen_generator, rejected_generator, guard_id, policy_version)
SELECT id, id, id, 1, 'main', jsonb_build_array(jsonb_build_object('role', 'user', 'text', 'Thing ' || n)), 'No. ' || n,
    'Sure. ' || n, 'tiny', 'tiny', 'g', '1' FROM made;
"""


async def test_collecting_does_not_hang_on_statistics(traffic: Traffic, settings: Settings) -> None:
    await ensure_partitions(traffic.conn, DAY, 30)
    await traffic.conn.execute(FILL)
    # A second or two on a machine of its own; with a join of everything with everything it took minutes there.
    async with asyncio.timeout(120):
        collected = await collected_for(traffic.conn, "main", settings)
    assert len(collected.valid) + len(collected.dropped) == PAIRS
    assert set(collected.dropped.values()) <= {Drop.RESERVED}
    assert len(collected.valid) > 0.9 * PAIRS
