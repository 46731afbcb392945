"""Install PgQueuer's tables in a schema of their own, from the SQL that the installed PgQueuer builds.

The names are fixed, whatever PGQUEUER_* variables say, and the SQL must be a known one: a PgQueuer that wants
other tables is refused here, instead of giving two databases of one revision two schemas. Whoever raises
PgQueuer adds its fingerprint below, and a migration for the databases that were made before.

Revision: 0006, after 0005.
"""

from __future__ import annotations

import hashlib

from alembic import op
from pgqueuer.adapters.persistence.qb import DBSettings, QueryBuilderEnvironment

from sentinel.errors import ConfigurationError

revision = "0006"
down_revision = "0005"
deploy = "pre"
oldest_release = "0.1"

KNOWN = {"b4b58c469fce3076933b9047acc50c76c0e59acfb8d4183b307067d0a0f03de4": "1.6.0"}
"""sha256 of the install SQL without its comment lines, and the PgQueuer version that builds it."""


def install_sql() -> str:
    """The statements that PgQueuer wants executed, for its objects in the schema ``pgqueuer``."""
    settings = DBSettings.model_construct(db_schema="pgqueuer")
    lines = QueryBuilderEnvironment(settings).build_install_query(create_schema=False).splitlines()
    return "\n".join(line for line in lines if not line.startswith("--")).strip()


def upgrade() -> None:
    sql = install_sql()
    fingerprint = hashlib.sha256(sql.encode()).hexdigest()
    if fingerprint not in KNOWN:
        raise ConfigurationError(
            f"the installed pgqueuer wants a schema that this release does not know ({fingerprint}); "
            f"install pgqueuer {' or '.join(sorted(KNOWN.values()))}"
        )
    op.execute("CREATE SCHEMA pgqueuer")
    # One string of many statements: the driver prepares single ones only.
    op.execute(f"DO $install$ BEGIN EXECUTE $pgqueuer$ {sql} $pgqueuer$; END $install$")


def downgrade() -> None:
    op.execute("DROP SCHEMA pgqueuer CASCADE")
