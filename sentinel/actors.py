"""Who acts, for the record."""

from __future__ import annotations

import os
import pwd
import socket


def actor(given: str | None) -> str:
    """``given``, else the account and the host of this process."""
    if given:
        return given
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"  # a dynamic user without an entry
    return f"{name}@{socket.gethostname()}"
