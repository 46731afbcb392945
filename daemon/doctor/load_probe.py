"""Whether each replica could take an adapter: it is asked to load one that it has to refuse.

For a moment a folder lies in the store as a promoted adapter does, with settings and without weights. The engine
reads the settings, holds their rank against its own limit and refuses for want of weights, so that nothing that it
serves changes; its reason tells how far it came.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import aiohttp
import orjson

from daemon.doctor.adapter_store import PART, check_ranks, check_store, needing_store
from daemon.doctor.fetching import fetch
from daemon.doctor.report import Finding, fail, ok, warn
from sentinel.errors import UnavailableError
from sentinel.serving import Replica
from sentinel.serving_desired import WantedAdapter
from sentinel.serving_replica import RefusedError, ReplicaClient, ReplicaOptions

if TYPE_CHECKING:
    from sentinel.settings import ServedModel, Settings

LEAST_SLOTS: Final = 2
"""The adapter in service and the one that follows it are asked at the same time."""
_REQUEST_S: Final = 10.0
_SLOTS: Final = re.compile(rb'\bmax_lora="(\d+)"|^model_server_max_loras (\d+)', re.MULTILINE)
"""vLLM's label of `vllm:lora_requests_info`, told after its first answer, and the embedded server's gauge."""
_FOLDER_MODE: Final = 0o750
_FILE_MODE: Final = 0o640


async def examine_adapters(settings: Settings) -> list[Finding]:
    """The store, the ranks, and every replica; empty where no served model has a replica."""
    names = needing_store(settings)
    if not names:
        return []
    store = settings.adapters.store.absolute()
    same_host = any(not settings.served_models[name].remote_prefix for name in names)
    found = [*check_ranks(settings), *check_store(store, same_host=same_host)]
    if not store.is_dir():
        return found
    for name in names:
        served = settings.served_models[name]
        try:
            with _without_weights(store, served.max_lora_rank) as folder:
                found += await asyncio.gather(
                    *(_replica(name, served, url, prefix, folder) for url, prefix in served.seen_from)
                )
        except OSError as error:
            text = f"{store} cannot be written by this user ({error.strerror}), so no replica was asked"
            return [*found, ok(PART, f"{text}; as root or as the trainer's user it is")]
    return found


@contextmanager
def _without_weights(store: Path, rank: int) -> Iterator[Path]:
    """A folder like an adapter's, gone afterwards. Raises OSError where it cannot be made."""
    about = store.stat()
    folder = store / f".doctor-{uuid4().hex}"
    folder.mkdir()
    try:
        config = folder / "adapter_config.json"
        config.write_bytes(
            orjson.dumps(
                {
                    "peft_type": "LORA",
                    "task_type": "CAUSAL_LM",
                    "r": rank,
                    "lora_alpha": rank,
                    "target_modules": [],
                    "bias": "none",
                }
            )
        )
        if os.geteuid() == 0:
            # Root's own files would prove nothing about those of the trainer.
            os.chown(config, about.st_uid, about.st_gid)
            os.chown(folder, about.st_uid, about.st_gid)
        config.chmod(_FILE_MODE)
        folder.chmod(_FOLDER_MODE)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _replica(name: str, served: ServedModel, url: str, prefix: str | None, folder: Path) -> Finding:
    token = served.admin_token.get_secret_value() if served.admin_token else None
    asked = WantedAdapter(folder.name.removeprefix("."), folder)
    path = Replica(url, prefix).path_of(asked)
    options = ReplicaOptions(timeout=_REQUEST_S, load_timeout=_REQUEST_S)
    client = ReplicaClient(url, admin_token=token, options=options)
    try:
        slots = await _slots(url)
        if slots is not None and slots < LEAST_SLOTS:
            text = f"{name}: {url} holds {slots} adapter at once; at a promotion two are asked"
            return fail(PART, text, "start the engine with --max-loras 2 or more")
        try:
            await client.load(asked.name, path)
        except RefusedError as error:
            return _judged(name, served, url, path, error, slots)
        with suppress(RefusedError):
            await client.unload(asked.name)
        text = f"{name}: {url} takes adapters without looking at their files, so that a wrong one shows late"
        return warn(PART, text, "look whether its version checks adapters when they are loaded")
    except UnavailableError as error:
        return warn(
            PART, f"{name}: whether {url} can take adapters is not known: {error}", "see served models"
        )
    finally:
        await client.aclose()


def _judged(
    name: str, served: ServedModel, url: str, path: str, error: RefusedError, slots: int | None
) -> Finding:
    """What a refusal means."""
    reason, place = error.reason, f"{name}: {url}"
    if error.status in {401, 403}:
        return fail(
            PART,
            f"{place} refuses the admin token ({error.status})",
            f"correct served_models.{name}.admin_token",
        )
    if "max_lora_rank" in reason:
        return fail(
            PART,
            f"{place} refuses rank {served.max_lora_rank}: {reason}",
            f"start the engine with --max-lora-rank {served.max_lora_rank}, or lower"
            f" served_models.{name}.max_lora_rank to what it takes",
        )
    if "ermission denied" in reason:
        return fail(
            PART,
            f"{place} may not read {path}",
            "make the engine's user a member of the store's group, and start the engine again",
        )
    # vLLM tells no paths, but the name that it could not load.
    if error.status == 404 and Path(path).name.removeprefix(".") in reason:
        return fail(
            PART,
            f"{place} finds nothing at {path}, where it should see adapters.store",
            f"mount the folder on its host, or set served_models.{name}.remote_prefix to where it is mounted",
        )
    if error.status in {404, 405}:
        return fail(
            PART,
            f"{place} has no /v1/load_lora_adapter",
            "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment",
        )
    if "tensors" in reason or "adapter_model" in reason:
        room = "" if slots is None else f", {slots} at once"
        return ok(
            PART, f"{place} reads adapters at {Path(path).parent} and takes rank {served.max_lora_rank}{room}"
        )
    return warn(PART, f"{place} refused a probe of adapters: {reason[:200]}", "look into the engine's log")


async def _slots(url: str) -> int | None:
    """Adapters that it can use in one batch; None where its metrics do not say."""
    try:
        status, body = await fetch(f"{url}/metrics", limit_s=_REQUEST_S)
    except (OSError, TimeoutError, aiohttp.ClientError):
        return None
    match = _SLOTS.search(body) if status == 200 else None
    return None if match is None else int(match[1] or match[2])
