"""The guard that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentinel.clock import Clock
from sentinel.guards.base import load_grammar
from sentinel.guards.client import GuardOptions, HttpGuard
from sentinel.guards.observer import Observer
from sentinel.guards.windows import WindowSize

if TYPE_CHECKING:
    from sentinel.settings import Settings


def configured_guard(settings: Settings, clock: Clock, observer: Observer | None = None) -> HttpGuard:
    """The guard's client, not connected yet. Raises ConfigurationError for an unknown grammar."""
    guard = settings.guard
    options = GuardOptions(
        base_url=guard.base_url,
        model=guard.name,
        weights=guard.weights,
        api_key=guard.api_key.get_secret_value() if guard.api_key else None,
        mode=guard.mode,
        max_batch=guard.batch_size,
        max_in_flight=guard.max_concurrency,
        connect_timeout=guard.connect_timeout_s,
        total_timeout=guard.timeout_s,
        attempts=guard.attempts,
        windows=WindowSize(text=guard.max_text_chars, overlap=guard.window_overlap_chars),
    )
    return HttpGuard(options, load_grammar(guard.grammar), clock=clock, observer=observer)
