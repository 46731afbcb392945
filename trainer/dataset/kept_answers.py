"""What the base has answered for a data set that is not finished: a killed attempt asks only what is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sentinel.events import Message
from trainer.asking import Ask

FILE: Final = ".answers.jsonl"
CHUNK: Final = 256
"""Conversations that a crash can lose; several times what a server answers at once, so that it does not run empty."""


class KeptAnswers:
    """Asks, and keeps what was said in the data set's folder until `forget`."""

    def __init__(self, folder: Path, ask: Ask, *, about: str) -> None:
        """``about``: which model answers, and how it is asked; another one's answers are not taken."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._ask = ask
        self._about = about
        self._known = dict(self._read())

    async def ask(self, conversations: Sequence[Sequence[Message]], system: str | None) -> list[str]:
        """An `Ask`. Raises what the one behind it raises; what was answered until then is kept."""
        keys = [self._key(messages, system) for messages in conversations]
        missing = [
            (key, messages)
            for key, messages in zip(keys, conversations, strict=True)
            if key not in self._known
        ]
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            said = await self._ask([messages for _, messages in part], system)
            with self._path.open("ab") as file:
                for (key, _), answer in zip(part, said, strict=True):
                    self._known[key] = answer
                    # In ASCII: half a surrogate pair is a text that a model can make, and no UTF-8.
                    file.write(json.dumps([key, answer]).encode() + b"\n")
        return [self._known[key] for key in keys]

    def forget(self) -> None:
        """The data set is finished: made again, it is asked for anew."""
        self._path.unlink(missing_ok=True)

    def _key(self, messages: Sequence[Message], system: str | None) -> str:
        turns = [(message.role, message.text) for message in messages]
        return hashlib.sha256(json.dumps([self._about, system, turns]).encode()).hexdigest()

    def _read(self) -> list[tuple[str, str]]:
        """Whole lines; one that a crash cut off ends what can be read, and is cut off."""
        found: list[tuple[str, str]] = []
        size = 0
        if not self._path.exists():
            return found
        with self._path.open("rb+") as file:
            for line in file:
                try:
                    key, answer = json.loads(line) if line.endswith(b"\n") else (None, None)
                except ValueError:
                    break
                if not isinstance(key, str) or not isinstance(answer, str):
                    break
                found.append((key, answer))
                size += len(line)
            file.truncate(size)
        return found
