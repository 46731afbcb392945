"""Let retention find the second answers that still have a text.

Revision: 0008, after 0007.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
deploy = "pre"
oldest_release = "0.1"


def upgrade() -> None:
    op.execute("CREATE INDEX ix_reprompts_texts ON reprompts (created_at) WHERE response <> ''")


def downgrade() -> None:
    op.execute("DROP INDEX ix_reprompts_texts")
