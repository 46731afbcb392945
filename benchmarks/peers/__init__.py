"""The programs that the daemon is compared with, each in an environment of its own.

All fulfil the same one-table profile (`programs/onetable.py`). `bare` is no framework but the limit: what
consuming, parsing, storing and committing cost at least. A framework appears as its documentation shows it
and, where going round parts of it is faster, once more as `<name>_tuned`.
"""

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Peer:
    """One compared program.

    `environment` names its requirements and its Python environment; `distributions` are those whose versions
    are reported, the framework first.
    """

    name: str
    environment: str
    distributions: tuple[str, ...]

    @property
    def program(self) -> Path:
        """The program, run by the Python of its environment."""
        return HERE / "programs" / f"{self.name}_app.py"

    @property
    def requirements(self) -> Path:
        """What the environment needs, as written by hand."""
        return HERE / f"{self.environment}.in"

    @property
    def lock(self) -> Path:
        """The same with every version and hash."""
        return HERE / f"{self.environment}.txt"


ASYNC = ("aiokafka", "asyncpg", "msgspec", "uvloop")

PEERS = (
    Peer("bare", "bare", ASYNC),
    Peer("quix", "quix", ("quixstreams", "confluent-kafka", "psycopg2-binary", "msgspec")),
    Peer("quix_tuned", "quix", ("quixstreams", "confluent-kafka", "psycopg", "msgspec")),
    Peer("faststream", "faststream", ("faststream", *ASYNC)),
    Peer("faststream_tuned", "faststream", ("faststream", *ASYNC)),
    Peer("faust", "faust", ("faust-streaming", *ASYNC)),
)
