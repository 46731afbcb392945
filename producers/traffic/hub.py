"""Prompt sets of the Hugging Face Hub: ``OWNER/NAME``, ``OWNER/NAME@REVISION``, ``OWNER/NAME:PATTERN``.

Files are kept in the Hub library's cache, so that a second run downloads nothing. PATTERN chooses among a set's
files (``*train*``); without one all that hold rows are read.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from producers.traffic.rows import ENDINGS, ending
from sentinel.errors import CommandError

_LIMIT_S: Final = 30.0

_T = TypeVar("_T")


def fetch(name: str, endpoint: str | None = None) -> list[Path]:
    """Local copies of the data files of a set.

    Raises CommandError with what to do: for a missing package, a gate, an unknown set, a Hub out of reach.
    """
    name, _, pattern = name.partition(":")
    name, _, revision = name.partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise CommandError(f"hub:{name} names no data set: write hub:OWNER/NAME")
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise CommandError(
            f"hub:{name} needs the package huggingface-hub: pip install 'sentinel-loop[train]',"
            " or fetch the set's file yourself and name it instead"
        ) from None
    api = HfApi(endpoint=endpoint)

    def asked(ask: Callable[[], _T]) -> _T:
        return _answered(ask, name, f"{api.endpoint}/datasets/{name}")

    # The listing of the tree would ask a dead Hub for half a minute.
    about = asked(partial(api.dataset_info, name, revision=revision or None, timeout=_LIMIT_S))
    listed = [sibling.rfilename for sibling in about.siblings or ()]
    files = [file for file in sorted(listed) if ending(file) in ENDINGS]
    chosen = [file for file in files if fnmatch.fnmatch(file, pattern or "*")]
    if not chosen:
        raise CommandError(
            f"hub:{name} has no {pattern or 'file'} that ends in {', '.join(ENDINGS)};"
            f" it has {', '.join(files or sorted(listed)) or 'nothing'}"
        )
    fetched = []
    for file in chosen:
        download = partial(api.hf_hub_download, name, file, repo_type="dataset", revision=revision or None)
        fetched.append(Path(asked(download)))
    return fetched


def _answered(ask: Callable[[], _T], name: str, page: str) -> _T:
    from huggingface_hub import errors

    # Of httpx or its successor, by the library's release.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    instead = "or fetch its file elsewhere and name that with --prompts"
    try:
        return ask()
    except errors.GatedRepoError:
        raise CommandError(
            f"hub:{name} is gated: accept its terms at {page}, log in with `hf auth login` (or set HF_TOKEN) and"
            f" start again, {instead}"
        ) from None
    except errors.RevisionNotFoundError:
        raise CommandError(f"hub:{name} has no such revision: see {page}") from None
    except errors.RepositoryNotFoundError:
        raise CommandError(
            f"hub:{name} does not exist, or is private: check the name at {page}; for a private one log in with"
            " `hf auth login` (or set HF_TOKEN)"
        ) from None
    except errors.HFValidationError as error:
        raise CommandError(f"hub:{name} is no name of a data set: {error}") from None
    except (HTTPError, errors.OfflineModeIsEnabled, OSError) as error:
        # The library's messages are long and may name a token's end; the kind of error is enough.
        raise CommandError(
            f"the Hub cannot be reached for hub:{name} ({type(error).__name__}): check the network, HF_ENDPOINT and"
            f" HF_HUB_OFFLINE, {instead}"
        ) from None
