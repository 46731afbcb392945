"""What PostgreSQL itself says about a schema, as comparable text."""

from __future__ import annotations

from typing import Any

import asyncpg

_OURS = """
    n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
    AND c.relname NOT IN ('alembic_version', 'schema_revisions')
"""

_QUERIES = {
    "column": f"""
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
               regexp_replace(pg_get_expr(d.adbin, d.adrelid), '^''([0-9]+)''::[a-z]+$', '\\1')
        FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind <> 'v' AND {_OURS}""",
    "table": f"""
        SELECT c.relname, c.relkind::text, pg_get_partkeydef(c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind <> 'v' AND {_OURS}""",
    "constraint": f"""
        SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
        FROM pg_constraint k
        JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE k.contype <> 'n' AND {_OURS}""",
    "index": f"""
        SELECT c.relname, pg_get_indexdef(i.indexrelid)
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS}""",
}

_EVERYTHING = """
    SELECT n.nspname || '.' || c.relname || ' ' || c.relkind::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg_t%'
    UNION
    SELECT n.nspname || '.' || p.proname || '()'
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
    UNION
    SELECT c.relname || ' trigger ' || t.tgname
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal
    ORDER BY 1
"""


async def catalogue(conn: asyncpg.Connection[Any]) -> set[tuple[object, ...]]:
    """Tables, columns, constraints, indexes and partition keys, without partitions and the migrator's books."""
    found: set[tuple[object, ...]] = set()
    for kind, query in _QUERIES.items():
        found |= {(kind, *row) for row in await conn.fetch(query)}
    return found


async def objects(conn: asyncpg.Connection[Any]) -> list[str]:
    """Names of all relations, functions and triggers of ours and of PgQueuer's."""
    return [row[0] for row in await conn.fetch(_EVERYTHING)]
