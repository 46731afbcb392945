"""What a run will test, written into its row before anything is trained; a verdict about something else is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from sentinel.errors import CommandError
from sentinel.store import training
from sentinel.store.tries import require_budget

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[Any]

_WORDS: Final = {
    "safer_than": "the adapter in service",
    "family": "the family",
    "policy_sha256": "the gate's policy",
    "sets_version": "the version of the evaluation sets",
}
"""What decides; the policy's name is for people."""


class Hypothesis(Struct, frozen=True, kw_only=True):
    """The candidate is safer than ``safer_than`` on these sets, by this policy."""

    safer_than: str | None
    """Adapter in service, None for the base."""
    family: str
    """Of the prompts on which it has to be safer; empty: all harmful ones."""
    policy: str
    policy_sha256: str
    sets_version: str

    def require_same(self, later: Hypothesis) -> None:
        """Nothing that decides may change once training has begun: it would be chosen with the data in sight.

        Raises:
            CommandError: ``later`` differs; it names what does.
        """
        changed = [
            f"{words} (was {getattr(self, name) or 'none'}, is {getattr(later, name) or 'none'})"
            for name, words in _WORDS.items()
            if getattr(self, name) != getattr(later, name)
        ]
        if changed:
            raise CommandError(
                f"since the run was begun {' and '.join(changed)} changed; what it tests was written down before"
                " training: put it back, or start another run"
            )


async def written(conn: Connection, run_id: UUID) -> Hypothesis | None:
    """The hypothesis in the run's row; None where there is no such run, or it has written none.

    Raises what asyncpg raises.
    """
    text = await conn.fetchval("SELECT hypothesis::text FROM training_runs WHERE run_id = $1", run_id)
    if text is None or text == "{}":
        return None
    return msgspec.json.decode(text, type=Hypothesis)


async def write_once(
    conn: Connection, run: training.TrainingRun, attempt: int, now: Hypothesis, *, begun: bool
) -> bool:
    """Write ``now`` into the run's row; False where the run is ``begun``, and ``now`` is what it wrote then.

    Raises:
        CommandError: the run is begun, and ``now`` is something else; or no candidate can be measured on these sets
            any more, which is better known before training than after it.
        StaleAttemptError: another attempt owns the run.
    """
    if begun and (before := await written(conn, run.run_id)) is not None:
        before.require_same(now)
        return False
    await require_budget(conn, run.served_model, now.sets_version)
    await training.set_hypothesis(conn, run.run_id, attempt, msgspec.to_builtins(now))
    return True
