"""What every table shares: the metadata with its naming convention, and small column words."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import DateTime, MetaData, text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Timestamp = DateTime(timezone=True)
NOW = text("now()")


def one_of(column: str, values: Iterable[StrEnum]) -> str:
    """SQL of a check that a column holds one of the enumeration's values."""
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"
