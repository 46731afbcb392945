"""Create the view data_entries: one row an interaction, in nine columns, for people and notebooks.

``answer`` is the answer to keep: the chosen side where a preference pair exists, and then ``rejected_answer``
is what was said in production; else it is what was said. ``refusal``, ``guard_rating``, ``guard_model`` and
``model`` are about what was said. An expired text is NULL, and so is the rating of an answer nobody scored.

Revision: 0005, after 0004.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
deploy = "pre"
oldest_release = "0.1"

VIEW = """
    CREATE VIEW data_entries AS
    SELECT
        i.event_id::text AS prompt_id,
        (
            SELECT m.value ->> 'text'
            FROM jsonb_array_elements(t.messages) WITH ORDINALITY AS m (value, place)
            WHERE m.value ->> 'role' = 'user'
            ORDER BY m.place DESC
            LIMIT 1
        ) AS prompt,
        coalesce(p.chosen, t.response) AS answer,
        CASE WHEN p.chosen IS NOT NULL THEN coalesce(t.response, p.rejected) END AS rejected_answer,
        i.refusal,
        i.response_label AS guard_rating,
        i.guard_model,
        i.model,
        i.recorded_at AS "timestamp"
    FROM interactions i
    LEFT JOIN interaction_texts t ON t.day = i.day AND t.event_id = i.event_id
    LEFT JOIN findings f ON f.event_id = i.event_id
    LEFT JOIN LATERAL (
        SELECT pair.chosen, pair.rejected
        FROM preference_pairs pair
        WHERE pair.finding_id = f.finding_id
        ORDER BY pair.attempt
        LIMIT 1
    ) p ON true
"""


def upgrade() -> None:
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW data_entries")
