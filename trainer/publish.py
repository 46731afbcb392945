"""A data set or an adapter on the Hub: only when a person asks, private unless that person says otherwise."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from msgspec import Struct
from pydantic import ValidationError

from sentinel.errors import CommandError, UnavailableError
from sentinel.manifests import DatasetManifest
from sentinel.settings import Publication
from trainer.dataset.card import card
from trainer.dataset.writing import MANIFEST

CARD: Final = "README.md"
_DENIED: Final = frozenset({401, 403})
_PART: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")


class Upload(Struct, frozen=True, kw_only=True):
    """What would go, and where."""

    repo: str
    endpoint: str
    private: bool
    kind: Literal["dataset", "model"]
    files: dict[str, bytes]
    sha256: str
    """Of the data set's content, or of the adapter's weights."""

    @property
    def page(self) -> str:
        """Address of the repository for people."""
        return f"{self.endpoint.rstrip('/')}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"


def plan_dataset(
    folder: Path,
    settings: Publication,
    *,
    repo: str | None = None,
    private: bool = True,
    unredacted: bool = False,
) -> Upload:
    """Check a data set's folder and say what would go; nothing is sent.

    ``repo`` is ``<account>/<model>_DPO`` where none is given.

    Raises:
        CommandError: no account, a name that the Hub does not take, a folder that is no data set or was changed
            after it was made, or one that was made without redaction and ``unredacted`` is not set.
    """
    manifest, files = _checked(folder)
    if not manifest.redacted and not unredacted:
        raise CommandError(
            f"{folder} was made with dataset.redact: false and may hold personal data; make it anew, or say"
            " --unredacted"
        )
    name = repo_of(repo, settings.account, manifest.served_model, "DPO")
    files[CARD] = card(manifest, name=name.split("/")[1], licence=settings.licence).encode()
    return Upload(
        repo=name,
        endpoint=settings.endpoint,
        private=private,
        kind="dataset",
        files=files,
        sha256=manifest.content_sha256,
    )


def repo_of(given: str | None, account: str, served_model: str, ending: str) -> str:
    """The name that was given, else ``<account>/<model>_<ending>``.

    Raises:
        CommandError: the Hub takes no such name, or none was given and there is no account: none is the default.
    """
    if not given and not account:
        raise CommandError("set dataset.publication.account, or name the repository with --repo")
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", served_model).strip("-.") or "model"
    name = given or f"{account}/{model}_{ending}"
    if len(parts := name.split("/")) != 2 or not all(_PART.fullmatch(part) for part in parts):
        raise CommandError(f"{name!r} is no repository of the Hub: give <account>/<name>")
    return name


def _checked(folder: Path) -> tuple[DatasetManifest, dict[str, bytes]]:
    try:
        raw = (folder / MANIFEST).read_bytes()
        manifest = DatasetManifest.model_validate_json(raw)
    except (OSError, ValidationError) as error:
        raise CommandError(
            f"{folder} holds no finished data set ({type(error).__name__}): make one with `sentinel train dataset`"
        ) from error
    files = {MANIFEST: raw}
    for name, digest in manifest.files.items():
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise CommandError(f"{folder / name} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise CommandError(f"{folder / name} is not what its manifest says: make the data set anew")
        files[name] = data
    return manifest, files


def publish(upload: Upload, token: str) -> str:
    """Send a planned upload in one commit; answers its address. Blocks.

    A repository that exists keeps its visibility, so one that is public is refused where a private one is asked.

    Raises:
        CommandError: the token is refused, or the repository is public.
        UnavailableError: the Hub is away or answers with an error.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    # The client's own base of network errors, which its versions take from different libraries.
    away: tuple[Any, ...] = (OSError, *HfHubHTTPError.__bases__)
    api = HfApi(endpoint=upload.endpoint, token=token)
    try:
        try:
            exists = api.repo_info(upload.repo, repo_type=upload.kind)
        except RepositoryNotFoundError:
            api.create_repo(upload.repo, repo_type=upload.kind, private=upload.private)
        else:
            if upload.private and not exists.private:
                raise CommandError(
                    f"{upload.repo} exists and is public: choose another --repo, or say --public"
                )
        commit = api.create_commit(
            upload.repo,
            [CommitOperationAdd(path, data) for path, data in sorted(upload.files.items())],
            commit_message=f"{'Data set' if upload.kind == 'dataset' else 'Adapter'} {upload.sha256[:12]}",
            repo_type=upload.kind,
        )
    except away as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in _DENIED:
            raise CommandError(
                f"{upload.endpoint} refuses the token for {upload.repo}: it needs write access there"
            ) from error
        raise UnavailableError(
            f"{upload.endpoint} did not take {upload.repo}: {type(error).__name__}"
            + (f", status {status}" if status else ""),
            target="hub",
        ) from error
    return str(commit.commit_url)


def listed(upload: Upload) -> Mapping[str, Any]:
    """What would go, for people and scripts; rows and weights are not in it."""
    return {
        "repo": upload.repo,
        "kind": upload.kind,
        "endpoint": upload.endpoint,
        "private": upload.private,
        "files": {name: len(data) for name, data in sorted(upload.files.items())},
        "sha256": upload.sha256,
        "card": upload.files[CARD].decode(),
    }
