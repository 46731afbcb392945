"""First phase: every arm answers every prompt; raw answers go to files, in the order of the sets.

Arms take turns, so that all are under the same load. A file that was begun is gone on with:
its name holds the key of what was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from trainer.asking import Answer, Asker
from trainer.evaluation.items import LoadedSet, SetItem
from trainer.evidence import ArmName

_BLOCK: Final = 256
"""Prompts that one arm answers before the next arm's turn: engines decode the rows of one adapter together."""
_FLUSH_LINES: Final = 256
"""Lines that a crash can lose."""


class RawAnswer(Struct, frozen=True, kw_only=True, gc=False):
    """One line of ``outputs-<arm>.jsonl``."""

    set: str
    item: str
    kind: str
    family: str
    prompt: str
    answer: str
    tokens: int
    prompt_tokens: int
    finish: str | None
    """``stop``, ``length``, or ``rejected`` where the server refused the prompt."""


class AskedArm(Struct, frozen=True):
    """An arm that has to be asked."""

    name: ArmName
    model: str
    """Its name at the server."""
    key: str
    """Hash of everything that decides its answers."""


def outputs_file(folder: Path, arm: ArmName) -> Path:
    """Where an arm's raw answers are kept."""
    return folder / f"outputs-{arm.value}.jsonl"


def read_outputs(path: Path) -> Iterator[RawAnswer]:
    """The raw answers of a file, one at a time. Raises OSError, msgspec.DecodeError."""
    decoder = msgspec.json.Decoder(RawAnswer)
    with path.open("rb") as lines:
        for line in lines:
            yield decoder.decode(line)


async def ask_arms(
    asker: Asker,
    arms: Sequence[AskedArm],
    sets: Sequence[LoadedSet],
    folder: Path,
    *,
    done: Callable[[int], None],
    seen: Callable[[RawAnswer], None] = lambda answer: None,
) -> None:
    """Write every arm's outputs. ``done`` is told of each answer, those of an earlier attempt included; ``seen``
    gets those that are new.

    Raises:
        UnavailableError: the server gives no proper answers. What was answered until then is kept.
    """
    asked = [(one, item) for one in sets for item in one.items]
    writers = [_Writer(folder, arm, asked, seen) for arm in arms]
    done(sum(writer.next for writer in writers))
    work = (
        (writer, at)
        for block in range(0, len(asked), _BLOCK)
        for writer in writers
        for at in range(max(block, writer.first), min(block + _BLOCK, len(asked)))
    )

    async def worker() -> None:
        for writer, at in work:
            writer.put(at, await asker.answer(writer.arm.model, asked[at][1].messages))
            done(1)

    tasks = [asyncio.create_task(worker()) for _ in range(asker.options.concurrency)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.close()
    for writer in writers:
        writer.publish()


def forget(folder: Path) -> None:
    """After the last phase: the next evaluation in this folder asks everything anew."""
    for arm in ArmName:
        _mark(folder, arm).unlink(missing_ok=True)


def _mark(folder: Path, arm: ArmName) -> Path:
    return folder / f".outputs-{arm.value}.key"


class _Writer:
    """Puts one arm's answers into their order."""

    def __init__(
        self,
        folder: Path,
        arm: AskedArm,
        asked: Sequence[tuple[LoadedSet, SetItem]],
        seen: Callable[[RawAnswer], None],
    ) -> None:
        self.arm = arm
        self._seen = seen
        self._asked = asked
        self._final = outputs_file(folder, arm.name)
        self._partial = folder / f".outputs-{arm.name.value}-{arm.key[:16]}.partial"
        self._mark = _mark(folder, arm.name)
        self._waiting: dict[int, Answer] = {}
        """Answers that came before an earlier prompt's; as many as there are calls under way, about."""
        self.first = self.next = self._recovered()
        self._file: BinaryIO = self._partial.open("ab")
        self._unflushed = 0

    def put(self, at: int, answer: Answer) -> None:
        """Take the answer to prompt number ``at``."""
        self._waiting[at] = answer
        while self.next in self._waiting:
            line = self._line(self.next, self._waiting.pop(self.next))
            self._file.write(msgspec.json.encode(line) + b"\n")
            self._seen(line)
            self.next += 1
            self._unflushed += 1
        if self._unflushed >= _FLUSH_LINES:
            self._file.flush()
            self._unflushed = 0

    def close(self) -> None:
        """Leave the file as it is, to be gone on with."""
        self._file.close()

    def publish(self) -> None:
        """Give the whole file its name, and say beside it what it answers."""
        self._partial.replace(self._final)
        self._mark.write_text(self.arm.key)

    def _line(self, at: int, answer: Answer) -> RawAnswer:
        one, item = self._asked[at]
        return RawAnswer(
            set=one.name,
            item=item.id,
            kind=one.kind.value,
            family=item.family,
            prompt=item.prompt,
            answer=answer.text,
            tokens=answer.tokens,
            prompt_tokens=answer.prompt_tokens,
            finish=answer.finish_reason,
        )

    def _recovered(self) -> int:
        """Answers of an earlier attempt; what a crash left behind the last whole line is cut off."""
        if self._mark.exists():
            whole = self._mark.read_text() == self.arm.key
            self._mark.unlink()
            if whole and self._final.exists():
                self._final.replace(self._partial)
        if not self._partial.exists():
            return 0
        decoder = msgspec.json.Decoder(RawAnswer)
        count = size = 0
        with self._partial.open("rb") as lines:
            for line in lines:
                try:
                    told = decoder.decode(line) if line.endswith(b"\n") else None
                except msgspec.DecodeError:
                    told = None
                if told is None or count == len(self._asked) or told.item != self._asked[count][1].id:
                    break
                count += 1
                size += len(line)
        with self._partial.open("rb+") as file:
            file.truncate(size)
        return count
