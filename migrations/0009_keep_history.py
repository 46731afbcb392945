"""Let the history of decisions only grow.

Revision: 0009, after 0008.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
deploy = "pre"
oldest_release = "0.1"

TABLES = ("audit_log", "promotions", "evaluation_tries", "adapter_moves", "approvals")


def upgrade() -> None:
    # SQLSTATE 55000: a data error would have the writer look for the one row that cannot be stored.
    op.execute("""
        CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% on % refused: the table is append-only', TG_OP, TG_TABLE_NAME
                USING ERRCODE = 'object_not_in_prerequisite_state', TABLE = TG_TABLE_NAME,
                    HINT = 'What was decided is kept; write a new row that says what holds now.';
        END $$
    """)
    for table in TABLES:
        # Of the statement: TRUNCATE has no rows, and a careless DELETE must not pass because it finds none.
        op.execute(f"""
            CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION append_only()
        """)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TRIGGER {table}_append_only ON {table}")
    op.execute("DROP FUNCTION append_only()")
