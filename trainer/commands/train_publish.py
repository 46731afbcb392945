"""``sentinel train publish``: a data set or an adapter to the Hub, when somebody asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentinel.command_line import settings_of
from sentinel.errors import CommandError

if TYPE_CHECKING:
    from trainer.publish import Upload


def publish(
    context: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of a finished data set, of a run, or of its fine-tuning."),
    ],
    repo: Annotated[
        str | None,
        typer.Option(
            metavar="ACCOUNT/NAME", help="Else <account>/<model>_DPO (a data set) or _LoRA (an adapter)."
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Readable by everybody; else private.")] = False,
    unredacted: Annotated[
        bool, typer.Option("--unredacted", help="Also what was made of texts without redaction.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Send a data set or an adapter to the Hub, with a card that says what it is. Private by default; needs a token.

    With an adapter go its settings, the recipe, and what training, evaluation and gate measured.

    Account, address, token and licence come from dataset.publication; only that token is used.

    Example: sentinel train publish runs/data --repo my-team/assistant_DPO --dry-run
    """
    from trainer.publish import listed, plan_dataset
    from trainer.publish import publish as send
    from trainer.publish_adapter import holds_adapter, plan_adapter

    settings = settings_of(context).dataset.publication
    plan = plan_adapter if holds_adapter(folder) else plan_dataset
    upload = plan(folder, settings, repo=repo, private=not public, unredacted=unredacted)
    if dry_run:
        if as_json:
            import orjson

            typer.echo(orjson.dumps(listed(upload), option=orjson.OPT_INDENT_2).decode())
        else:
            _show(upload)
        return
    token = settings.token.get_secret_value() if settings.token is not None else ""
    if not token:
        raise CommandError(
            "dataset.publication.token is not set: nothing was sent. --dry-run shows what would go"
        )
    address = send(upload, token)
    if as_json:
        import orjson

        typer.echo(orjson.dumps({"repo": upload.repo, "private": upload.private, "url": address}).decode())
        return
    typer.echo(f"{upload.repo} ({'private' if upload.private else 'public'}): {address}")


def _show(upload: Upload) -> None:
    from trainer.publish import CARD

    typer.echo(f"would go to {upload.page}, {_visibility(upload)}:")
    for name, data in sorted(upload.files.items()):
        typer.echo(f"  {name:20} {len(data):>10,} bytes")
    typer.echo(f"\n{upload.files[CARD].decode()}")


def _visibility(upload: Upload) -> str:
    return "private" if upload.private else "PUBLIC"
