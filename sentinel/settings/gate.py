"""Settings of the gate: which policy decides, and whose signature stands under the verdict."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sentinel.settings.section import Section, Strings


class Gate(Section):
    """What decides whether a candidate may go into service."""

    policy: str = Field(
        "default", min_length=1, description="A shipped policy (default, demo), or the path of a YAML file."
    )
    signing_key_file: Path | None = Field(
        None,
        description="Ed25519 key that signs bundles (`sentinel train gate keygen`); none: one is made in runs_dir.",
    )
    public_keys: Strings = Field(
        (), description="Public keys (base64) whose bundles `gate verify` trusts, beside that key's own."
    )
