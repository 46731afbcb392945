"""Which conversations are kept for evaluation: 5 % by hash, never paired and never trained on.

The same conversation is reserved on every machine and for ever, whoever asks: pairing, data sets and
`sentinel evalset build` all ask here.
"""

from __future__ import annotations

import hashlib
from typing import Final
from uuid import UUID

RESERVED_SHARE: Final = 0.05
_PREFIX: Final = b"sentinel/reserved\x1f"
_BELOW: Final = int(RESERVED_SHARE * 2**64)


def is_reserved(conversation_id: str | None, event_id: UUID) -> bool:
    """Whether the conversation belongs to evaluation; an event without a conversation stands for itself.

    All turns of one conversation share their fate: a later turn repeats the earlier ones as its prompt.
    """
    identity = f"c\x1f{conversation_id}" if conversation_id else f"e\x1f{event_id.hex}"
    digest = hashlib.blake2b(_PREFIX + identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < _BELOW
