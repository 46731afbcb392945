"""Server-sent events on their way to the application, with the public model name put back."""

from __future__ import annotations

from typing import Final

from producers.route.names import model_spans, replaced, text_at

_KEY: Final = b'"model"'
_FIELD: Final = b"data:"
_MAX_BEGIN: Final = 1024


class StreamRestorer:
    """Takes the body of an event stream in any pieces and gives it back, complete lines at a time.

    Only the model name in ``data`` lines changes. A line is held until its end is there, which costs nothing:
    an event counts for its reader from the blank line after it. A line longer than ``limit`` bytes goes through
    as it is.
    """

    def __init__(self, old: str, new: str, *, limit: int = 8 * 1024 * 1024) -> None:
        self._old = old
        self._new = new
        self._limit = limit
        self._held = bytearray()
        self._begin = self._begin_restored = b""
        """How the last line that named the model began, up to the name, and what became of that."""

    def feed(self, chunk: bytes) -> bytes:
        """What can be passed on after ``chunk`` has come; may be empty."""
        # A lone CR ends a line too (HTML standard, 9.2.5).
        cut = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if not cut:
            self._held += chunk
            return self.end() if len(self._held) > self._limit else b""
        if self._held:
            self._held += chunk[:cut]
            complete = bytes(self._held)
            self._held = bytearray(chunk[cut:])
        else:
            complete = chunk if cut == len(chunk) else chunk[:cut]
            self._held += chunk[cut:]
        if _KEY not in complete:
            return complete
        return b"".join([self._line(line) for line in complete.splitlines(keepends=True)])

    def end(self) -> bytes:
        """What is still held: an unfinished line, as it came."""
        rest, self._held = bytes(self._held), bytearray()
        return rest

    def _line(self, line: bytes) -> bytes:
        # Most lines of a stream begin alike (id, time, model), and what decides is in that beginning.
        if self._begin and line.startswith(self._begin):
            return self._begin_restored + line[len(self._begin) :]
        if not line.startswith(_FIELD) or _KEY not in line:
            return line
        for span in model_spans(line, len(_FIELD), in_response=True):
            if text_at(line, span) != self._old:
                return line
            if span[1] <= _MAX_BEGIN:
                self._begin = line[: span[1]]
                self._begin_restored = replaced(self._begin, [span], self._new)
            return replaced(line, [span], self._new)
        return line
