"""The mapping as LiteLLM proxy configuration, for those who have that gateway already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from sentinel.settings import Settings
from sentinel.store.promotions import Promoted

_HEAD: Final = """\
# Written by `sentinel route --litellm-config`: each public name stands for what is in service now.
# Write it again after a promotion or a rollback; LiteLLM reads it at its start.
"""
_PROVIDER: Final = "hosted_vllm"
_KEY: Final = "SENTINEL_REPLICA_KEY"
"""Variable with the replicas' key, read by LiteLLM where the served model has one."""


def litellm_config(settings: Settings, promoted: Mapping[str, Promoted]) -> str:
    """YAML with one deployment for each replica; LiteLLM balances between those of one name."""
    deployments: list[dict[str, Any]] = []
    for name, model in settings.served_models.items():
        current = promoted.get(name)
        adapter = current.adapter if current is not None else None
        for replica in model.replicas:
            params = {
                "model": f"{_PROVIDER}/{adapter or model.base}",
                "api_base": f"{replica}/v1",
                "api_key": f"os.environ/{_KEY}" if model.admin_token else "none",
            }
            info = {"sentinel_adapter": adapter or "base"}
            deployments.append(
                {"model_name": model.public_name, "litellm_params": params, "model_info": info}
            )
    return _HEAD + yaml.safe_dump({"model_list": deployments}, sort_keys=False, allow_unicode=True)
