"""Create what one event leaves behind: its key, its interaction, texts, verdicts and screenings.

Revision: 0001, after nothing.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
deploy = "pre"
oldest_release = "0.1"

TABLES = ("event_keys", "interactions", "interaction_texts", "verdicts", "screenings")

STATEMENTS = (
    """
    CREATE TABLE event_keys (
        event_id UUID NOT NULL,
        day DATE NOT NULL,
        hash BYTEA NOT NULL,
        topic TEXT NOT NULL,
        incarnation INTEGER NOT NULL,
        partition INTEGER NOT NULL,
        "offset" BIGINT NOT NULL,
        item INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        reason TEXT DEFAULT '' NOT NULL,
        CONSTRAINT pk_event_keys PRIMARY KEY (event_id),
        CONSTRAINT ck_event_keys_outcome CHECK (outcome IN ('stored', 'unscored'))
    )
    """,
    "CREATE INDEX ix_event_keys_day ON event_keys USING brin (day)",
    """
    CREATE TABLE interactions (
        day DATE NOT NULL,
        event_id UUID NOT NULL,
        received_at timestamptz NOT NULL,
        recorded_at timestamptz DEFAULT now() NOT NULL,
        event_time timestamptz,
        format TEXT NOT NULL,
        source TEXT,
        tenant TEXT,
        model TEXT,
        provider TEXT,
        user_ref TEXT,
        conversation_id TEXT,
        response_id TEXT,
        choice SMALLINT DEFAULT 0 NOT NULL,
        served_model TEXT,
        served_by TEXT,
        finish_reason TEXT,
        input_tokens INTEGER,
        output_tokens INTEGER,
        trace_id TEXT,
        span_id TEXT,
        outcome TEXT NOT NULL,
        reason TEXT DEFAULT '' NOT NULL,
        prompt_label TEXT,
        response_label TEXT,
        refusal BOOLEAN,
        unsafe BOOLEAN,
        prompt_unscored TEXT DEFAULT '' NOT NULL,
        policy_version TEXT NOT NULL,
        guard_model TEXT,
        sampling_probability REAL DEFAULT 1 NOT NULL,
        flags INTEGER DEFAULT 0 NOT NULL,
        unscanned_parts INTEGER DEFAULT 0 NOT NULL,
        attrs JSONB,
        CONSTRAINT pk_interactions PRIMARY KEY (day, event_id),
        CONSTRAINT ck_interactions_outcome CHECK (outcome IN ('stored', 'unscored')),
        CONSTRAINT ck_interactions_scored_or_unknown CHECK ((outcome = 'stored') = (unsafe IS NOT NULL))
    ) PARTITION BY RANGE (day)
    """,
    "CREATE INDEX ix_interactions_recorded_at ON interactions USING brin (recorded_at)",
    "CREATE INDEX ix_interactions_served ON interactions (served_model, served_by, recorded_at)",
    "CREATE INDEX ix_interactions_unsafe ON interactions (recorded_at) WHERE unsafe",
    """
    CREATE TABLE interaction_texts (
        day DATE NOT NULL,
        event_id UUID NOT NULL,
        messages JSONB NOT NULL,
        response TEXT NOT NULL,
        response_extra TEXT DEFAULT '' NOT NULL,
        client_verdicts JSONB,
        CONSTRAINT pk_interaction_texts PRIMARY KEY (day, event_id)
    ) PARTITION BY RANGE (day)
    """,
    """
    CREATE TABLE verdicts (
        day DATE NOT NULL,
        event_id UUID NOT NULL,
        role TEXT NOT NULL,
        attempt SMALLINT NOT NULL,
        guard_id TEXT NOT NULL,
        score_run INTEGER NOT NULL,
        label TEXT NOT NULL,
        categories TEXT[] NOT NULL,
        refusal BOOLEAN,
        score REAL,
        raw TEXT NOT NULL,
        guard_model TEXT NOT NULL,
        template TEXT NOT NULL,
        policy_version TEXT NOT NULL,
        windows SMALLINT DEFAULT 1 NOT NULL,
        CONSTRAINT pk_verdicts PRIMARY KEY (day, event_id, role, attempt, guard_id, score_run),
        CONSTRAINT ck_verdicts_label CHECK (label IN ('safe', 'controversial', 'unsafe', 'unparseable')),
        CONSTRAINT ck_verdicts_role CHECK (role IN ('prompt', 'response'))
    ) PARTITION BY RANGE (day)
    """,
    """
    CREATE TABLE screenings (
        day DATE NOT NULL,
        event_id UUID NOT NULL,
        screener_id TEXT NOT NULL,
        label TEXT NOT NULL,
        score REAL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_screenings PRIMARY KEY (day, event_id, screener_id),
        CONSTRAINT ck_screenings_label CHECK (label IN ('suspect', 'clear', 'abstain'))
    ) PARTITION BY RANGE (day)
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
