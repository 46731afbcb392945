"""`Serving` made from settings, for whoever keeps replicas: the daemon, a promotion, a rollback."""

from __future__ import annotations

from sentinel.clock import Clock
from sentinel.errors import CommandError
from sentinel.serving import Replica, Serving, ServingMetrics
from sentinel.settings import Settings


def make_serving(
    settings: Settings,
    served_model: str,
    *,
    metrics: ServingMetrics | None = None,
    clock: Clock | None = None,
) -> Serving:
    """The replicas of one served model, not connected yet.

    Raises:
        CommandError: the settings know no such model, or no replica of it.
    """
    model = settings.served_models.get(served_model)
    if model is None:
        known = ", ".join(settings.served_models) or "none"
        raise CommandError(f"served_models has no {served_model!r}; it has {known}")
    if not model.replicas:
        raise CommandError(f"served_models.{served_model}.replicas is empty: nothing can be loaded anywhere")
    return Serving(
        served_model,
        [Replica(url, prefix) for url, prefix in model.seen_from],
        admin_token=model.admin_token.get_secret_value() if model.admin_token else None,
        metrics=metrics,
        clock=clock,
        probe_interval_s=settings.promotion.probe_interval_s,
        unload_grace_s=settings.promotion.unload_grace_s,
    )
