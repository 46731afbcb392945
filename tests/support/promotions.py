"""Rows of adapters and promotions, put in by hand."""

from __future__ import annotations

import uuid

import asyncpg

from sentinel.store.engine import libpq_url

_ADAPTER = """
INSERT INTO adapters (adapter, served_model, state, path, weights_sha256, manifest)
VALUES ($1, $2, 'candidate', '/nowhere', 'none', '{}') ON CONFLICT DO NOTHING
"""
_PROMOTION = """
INSERT INTO promotions (promotion_id, served_model, generation, adapter, action, actor)
VALUES ($1, $2, (SELECT coalesce(max(generation), 0) + 1 FROM promotions WHERE served_model = $2), $3, $4, 'test')
RETURNING generation
"""


async def promote(
    database_url: str, served_model: str, adapter: str | None, *, action: str = "promote"
) -> int:
    """Put ``adapter`` (None: the base) into service; returns the generation."""
    connection = await asyncpg.connect(libpq_url(database_url))
    try:
        async with connection.transaction():
            if adapter is not None:
                await connection.execute(_ADAPTER, adapter, served_model)
            generation: int = await connection.fetchval(
                _PROMOTION, uuid.uuid4(), served_model, adapter, action
            )
            return generation
    finally:
        await connection.close()
