"""The error tree: every failure is named by what must happen next.

SentinelError
├── ConfigurationError      stop, exit 78 (EX_CONFIG): a restart cannot help
│   └── SchemaVersionError
├── FatalError              stop, exit 1: the service manager restarts the process
│   ├── FencedError         another owner took the partition: drop its rows, go on with the others
│   └── StaleAttemptError   another attempt of this run took over, or the run has ended: write nothing more
├── PoisonError             this record or item can never succeed: dead letter with a reason
├── RetryableError          the same call may succeed later: retry with jitter, within a budget
│   ├── SlowDownError       the other side asks for less: wait ``retry_after`` seconds
│   └── UnavailableError    the other side is away: the breaker opens and intake stops
│       └── DeniedError     the other side refuses us: waited out too, an operator grants access there
├── GuardOutputError        the guard answered something that its grammar does not allow
├── HaltedError             a partition stopped on purpose, an operator decides
├── TrainingError           training broke down: the run fails, its recipe or data must change
└── CommandError            a command cannot do what was asked; the message says what to do
"""

from __future__ import annotations

EX_CONFIG = 78
"""Exit status of a configuration error (sysexits.h); the systemd unit does not restart on it."""


class SentinelError(Exception):
    """Root of every error that this product raises on purpose."""


class ConfigurationError(SentinelError):
    """A setting is missing or wrong; the message names it and the remedy."""


class SchemaVersionError(ConfigurationError):
    """The database schema is older than this release, or more than one release newer."""


class FatalError(SentinelError):
    """The process cannot go on, but a fresh one may."""


class FencedError(FatalError):
    """The partition's epoch in the store is no longer ours."""


class StaleAttemptError(FatalError):
    """The run belongs to a later attempt, or has ended: this attempt must stop and write nothing more."""


class PoisonError(SentinelError):
    """This record or item can never be processed.

    ``reason`` is one of a closed set of short names, safe as a metric label; ``detail`` is for people and
    must not contain prompt or response text.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class RetryableError(SentinelError):
    """The same call may succeed later."""


class SlowDownError(RetryableError):
    """The other side asks for less (HTTP 429 or 503 with Retry-After)."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds to wait, where the other side said so (RFC 9110 section 10.2.3)."""


class UnavailableError(RetryableError):
    """The other side cannot be reached or answers with server errors."""

    def __init__(self, message: str = "", *, target: str = "") -> None:
        super().__init__(*([message] if message else []))
        self.target = target
        """The dependency that is away, by its metric label; empty where the raiser does not know."""


class DeniedError(UnavailableError):
    """The other side is there and refuses us; what it grants may change under a running service."""


class GuardOutputError(SentinelError):
    """The guard's endpoint answered, but not with what its protocol promises."""


class HaltedError(SentinelError):
    """A partition was halted; ``reason`` is stored with it and an operator resumes it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class TrainingError(SentinelError):
    """Training broke down (a loss that is no number, every checkpoint past a limit); the message names the step."""


class CommandError(SentinelError):
    """A command cannot do what was asked; the message says what to do instead."""
