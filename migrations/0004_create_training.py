"""Create data sets, training runs, adapters, gate reports and promotions, and guard their states.

Revision: 0004, after 0003.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
deploy = "pre"
oldest_release = "0.1"

RUN_MOVES = """
    ('queued', 'running'), ('queued', 'failed'), ('queued', 'cancelled'),
    ('running', 'succeeded'), ('running', 'failed'), ('running', 'cancelled')
"""

ADAPTER_MOVES = """
    ('candidate', 'rejected'), ('candidate', 'inconclusive'), ('candidate', 'awaiting_approval'),
    ('candidate', 'loading'), ('candidate', 'failed'),
    ('awaiting_approval', 'rejected'), ('awaiting_approval', 'loading'), ('awaiting_approval', 'failed'),
    ('loading', 'probing'), ('loading', 'failed'),
    ('probing', 'promoted'), ('probing', 'failed'),
    ('promoted', 'superseded'), ('promoted', 'rolled_back'),
    ('superseded', 'promoted')
"""

TABLES = ("datasets", "training_runs", "trigger_firings", "adapters", "gate_reports", "promotions")

STATEMENTS = (
    """
    CREATE TABLE datasets (
        dataset_id UUID NOT NULL,
        served_model TEXT NOT NULL,
        content_sha256 TEXT NOT NULL,
        rows INTEGER NOT NULL,
        manifest JSONB NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_datasets PRIMARY KEY (dataset_id)
    )
    """,
    """
    CREATE TABLE training_runs (
        run_id UUID NOT NULL,
        served_model TEXT NOT NULL,
        kind TEXT NOT NULL,
        state TEXT DEFAULT 'queued' NOT NULL,
        attempt INTEGER DEFAULT 0 NOT NULL,
        dataset_id UUID,
        config JSONB DEFAULT '{}'::jsonb NOT NULL,
        progress REAL DEFAULT 0 NOT NULL,
        log_tail TEXT DEFAULT '' NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        started_at timestamptz,
        finished_at timestamptz,
        CONSTRAINT pk_training_runs PRIMARY KEY (run_id),
        CONSTRAINT ck_training_runs_state
            CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
        CONSTRAINT ck_training_runs_progress CHECK (progress BETWEEN 0 AND 1),
        CONSTRAINT fk_training_runs_dataset_id_datasets FOREIGN KEY(dataset_id)
            REFERENCES datasets (dataset_id)
    )
    """,
    """
    CREATE UNIQUE INDEX uq_training_runs_running ON training_runs (served_model, kind)
        WHERE state IN ('queued', 'running')
    """,
    """
    CREATE TABLE trigger_firings (
        trigger TEXT NOT NULL,
        served_model TEXT NOT NULL,
        crossing BIGINT NOT NULL,
        family TEXT,
        run_id UUID,
        fired_at timestamptz DEFAULT now() NOT NULL,
        evidence JSONB DEFAULT '{}'::jsonb NOT NULL,
        CONSTRAINT pk_trigger_firings PRIMARY KEY (trigger, served_model, crossing),
        CONSTRAINT fk_trigger_firings_run_id_training_runs FOREIGN KEY(run_id)
            REFERENCES training_runs (run_id)
    )
    """,
    """
    CREATE TABLE adapters (
        adapter TEXT NOT NULL,
        served_model TEXT NOT NULL,
        run_id UUID,
        state TEXT DEFAULT 'candidate' NOT NULL,
        path TEXT NOT NULL,
        weights_sha256 TEXT NOT NULL,
        manifest JSONB NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_adapters PRIMARY KEY (adapter),
        CONSTRAINT ck_adapters_state
            CHECK (state IN ('candidate', 'rejected', 'inconclusive', 'awaiting_approval', 'loading',
                'probing', 'promoted', 'superseded', 'rolled_back', 'failed')),
        CONSTRAINT fk_adapters_run_id_training_runs FOREIGN KEY(run_id) REFERENCES training_runs (run_id)
    )
    """,
    "CREATE UNIQUE INDEX uq_adapters_promoted ON adapters (served_model) WHERE state = 'promoted'",
    """
    CREATE TABLE gate_reports (
        gate_report_id UUID NOT NULL,
        served_model TEXT NOT NULL,
        adapter TEXT NOT NULL,
        incumbent TEXT,
        verdict TEXT NOT NULL,
        bundle_sha256 TEXT NOT NULL,
        report JSONB NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_gate_reports PRIMARY KEY (gate_report_id),
        CONSTRAINT ck_gate_reports_verdict CHECK (verdict IN ('pass', 'fail', 'inconclusive')),
        CONSTRAINT fk_gate_reports_adapter_adapters FOREIGN KEY(adapter) REFERENCES adapters (adapter)
    )
    """,
    """
    CREATE TABLE promotions (
        promotion_id UUID NOT NULL,
        served_model TEXT NOT NULL,
        generation BIGINT NOT NULL,
        adapter TEXT,
        previous_adapter TEXT,
        action TEXT NOT NULL,
        gate_report_id UUID,
        actor TEXT NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_promotions PRIMARY KEY (promotion_id),
        CONSTRAINT ck_promotions_action CHECK (action IN ('promote', 'rollback')),
        CONSTRAINT uq_promotions_served_model UNIQUE (served_model, generation),
        CONSTRAINT fk_promotions_adapter_adapters FOREIGN KEY(adapter) REFERENCES adapters (adapter),
        CONSTRAINT fk_promotions_previous_adapter_adapters FOREIGN KEY(previous_adapter)
            REFERENCES adapters (adapter),
        CONSTRAINT fk_promotions_gate_report_id_gate_reports FOREIGN KEY(gate_report_id)
            REFERENCES gate_reports (gate_report_id)
    )
    """,
)


def _refuse_other_moves(table: str, key: str, moves: str) -> None:
    """A trigger that lets ``state`` change only along ``moves``; SQLSTATE 23514 names it ``legal_move``."""
    op.execute(f"""
        CREATE FUNCTION {table}_legal_move() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN ({moves}) THEN
                RAISE EXCEPTION '{table} % may not go from % to %', OLD.{key}, OLD.state, NEW.state
                    USING ERRCODE = 'check_violation', TABLE = '{table}', COLUMN = 'state',
                          CONSTRAINT = '{table}_legal_move';
            END IF;
            RETURN NEW;
        END $$
        """)
    op.execute(f"""
        CREATE TRIGGER {table}_legal_move BEFORE UPDATE OF state ON {table}
        FOR EACH ROW EXECUTE FUNCTION {table}_legal_move()
        """)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
    _refuse_other_moves("training_runs", "run_id", RUN_MOVES)
    _refuse_other_moves("adapters", "adapter", ADAPTER_MOVES)


def downgrade() -> None:
    for table in ("training_runs", "adapters"):
        op.execute(f"DROP TRIGGER {table}_legal_move ON {table}")
        op.execute(f"DROP FUNCTION {table}_legal_move()")
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
