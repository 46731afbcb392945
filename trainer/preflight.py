"""What a run needs at its end, looked at before its beginning: hours of training must not fail for a missing key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from sentinel.errors import CommandError, ConfigurationError
from trainer.evaluation.items import LoadedSet
from trainer.evaluation.server import server_url
from trainer.evaluation.sets import load_sets
from trainer.evidence import SetKind
from trainer.finetune.recipe import Recipe, load_recipe
from trainer.gate.signing import signing_key

if TYPE_CHECKING:
    from sentinel.settings import Settings
    from sentinel.store.training import TrainingRun


class Prepared(Struct, frozen=True):
    """What a run works with."""

    recipe: Recipe
    sets: tuple[LoadedSet, ...]


def preflight(settings: Settings, run: TrainingRun) -> Prepared:
    """Read recipe, evaluation sets and signing key, and hold them against the served model. No network.

    Raises:
        CommandError: the served model is not configured, its replicas would refuse the adapter's rank, or no
            evaluation set asks the run's family.
        ConfigurationError: recipe, sets, key or evaluation server are missing or wrong.
    """
    served = settings.served_models.get(run.served_model)
    if served is None:
        raise CommandError(f"served_models has no {run.served_model}: its run cannot be made")
    recipe = load_recipe(str(run.config.get("recipe") or settings.training.recipe))
    if recipe.lora.rank > served.max_lora_rank:
        raise CommandError(
            f"the recipe's rank {recipe.lora.rank} is above max_lora_rank {served.max_lora_rank} of"
            f" {run.served_model}: its replicas would refuse the adapter"
        )
    server_url(settings, run.served_model)
    signing_key(settings)
    sets = load_sets(settings)
    if not sets:
        raise ConfigurationError(
            "evaluation.sets is empty: without held-out prompts nothing can be measured; `sentinel evalset build`"
            " draws them"
        )
    _check_family(str(run.config.get("family") or ""), sets)
    return Prepared(recipe, sets)


def _check_family(family: str, sets: tuple[LoadedSet, ...]) -> None:
    known = {item.family for one in sets if one.kind is SetKind.HARMFUL for item in one.items}
    if family and family not in known:
        raise CommandError(
            f"no evaluation set asks harmful prompts of the family {family!r}:"
            f" {', '.join(sorted(known - {''})) or 'their prompts name none'}"
        )
