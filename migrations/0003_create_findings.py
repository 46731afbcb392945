"""Create findings, their second answers and the preference pairs.

Revision: 0003, after 0002.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
deploy = "pre"
oldest_release = "0.1"

TABLES = ("findings", "reprompts", "preference_pairs")

STATEMENTS = (
    """
    CREATE TABLE findings (
        finding_id UUID NOT NULL,
        event_id UUID NOT NULL,
        day DATE NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        policy_version TEXT NOT NULL,
        label TEXT NOT NULL,
        categories TEXT[] NOT NULL,
        score REAL,
        guard_id TEXT NOT NULL,
        source TEXT,
        tenant TEXT,
        model TEXT,
        served_model TEXT,
        served_by TEXT,
        response_id TEXT,
        trace_id TEXT,
        span_id TEXT,
        reprompt_state TEXT DEFAULT 'pending' NOT NULL,
        lease_id UUID,
        lease_until timestamptz,
        claims SMALLINT DEFAULT 0 NOT NULL,
        CONSTRAINT pk_findings PRIMARY KEY (finding_id),
        CONSTRAINT ck_findings_reprompt_state
            CHECK (reprompt_state IN ('pending', 'claimed', 'safe', 'unsafe', 'failed', 'skipped')),
        CONSTRAINT uq_findings_event_id UNIQUE (event_id)
    )
    """,
    """
    CREATE INDEX ix_findings_claimable ON findings (created_at)
        WHERE reprompt_state IN ('pending', 'claimed')
    """,
    "CREATE INDEX ix_findings_created_at ON findings (created_at, finding_id)",
    """
    CREATE TABLE reprompts (
        finding_id UUID NOT NULL,
        attempt SMALLINT NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        generator TEXT NOT NULL,
        instruction_version TEXT NOT NULL,
        response TEXT NOT NULL,
        finish_reason TEXT,
        unsafe BOOLEAN,
        error TEXT DEFAULT '' NOT NULL,
        CONSTRAINT pk_reprompts PRIMARY KEY (finding_id, attempt),
        CONSTRAINT fk_reprompts_finding_id_findings FOREIGN KEY(finding_id)
            REFERENCES findings (finding_id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE preference_pairs (
        pair_id UUID NOT NULL,
        finding_id UUID NOT NULL,
        event_id UUID NOT NULL,
        attempt SMALLINT NOT NULL,
        served_model TEXT NOT NULL,
        prompt JSONB NOT NULL,
        chosen TEXT NOT NULL,
        rejected TEXT NOT NULL,
        chosen_generator TEXT NOT NULL,
        rejected_generator TEXT NOT NULL,
        guard_id TEXT NOT NULL,
        policy_version TEXT NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_preference_pairs PRIMARY KEY (pair_id),
        CONSTRAINT ck_preference_pairs_sides_differ CHECK (chosen <> rejected),
        CONSTRAINT ck_preference_pairs_sides_not_empty CHECK (chosen <> '' AND rejected <> ''),
        CONSTRAINT fk_preference_pairs_finding_id_findings FOREIGN KEY(finding_id)
            REFERENCES findings (finding_id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX ix_preference_pairs_finding_id ON preference_pairs (finding_id)",
    "CREATE INDEX ix_preference_pairs_served ON preference_pairs (served_model, created_at)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
