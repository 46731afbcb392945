"""Jobs that change what is in service: who acts, and the adapter that a payload means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from sentinel.errors import CommandError
from sentinel.store.adapters import AdapterRow, adapter_of_run

if TYPE_CHECKING:
    from sentinel.store.connections import Connect

ACTOR: Final = "trainer"
"""Who acts, in the audit log, where no person does."""


class ChangePayload(Protocol):
    """The part of a job's payload that is used here."""

    @property
    def served_model(self) -> str: ...

    @property
    def run_id(self) -> UUID: ...


async def adapter_of_payload(connect: Connect, payload: ChangePayload) -> AdapterRow:
    """The adapter that the payload's run made. Raises CommandError where it made none."""
    async with connect() as conn:
        row = await adapter_of_run(conn, payload.run_id)
    if row is None or row.served_model != payload.served_model:
        raise CommandError(f"the run {payload.run_id} has made no adapter of {payload.served_model}")
    return row
