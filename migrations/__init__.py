"""The schema, one Alembic revision per file; `sentinel migrate` is the only migrator."""
