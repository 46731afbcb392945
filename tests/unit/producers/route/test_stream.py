"""Event streams in any pieces: the name changes, everything else stays."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from producers.route.stream import StreamRestorer

TEXTS = st.text(max_size=20) | st.sampled_from(['"model":"old"', '{"model": "old"}', "data: ", "old"])


def event(text: str, name: str, end: str, spaced: bool) -> bytes:
    value = {"id": "1", "model": name, "choices": [{"index": 0, "delta": {"content": text}}]}
    body = json.dumps(value, separators=None if spaced else (",", ":"), ensure_ascii=spaced)
    return f"data:{' ' if spaced else ''}{body}{end}{end}".encode("utf-8", "surrogatepass")


def fed(restorer: StreamRestorer, data: bytes, cuts: list[int]) -> bytes:
    out, at = b"", 0
    for cut in [*sorted(cuts), len(data)]:
        out += restorer.feed(data[at:cut])
        at = max(at, cut)
    return out + restorer.end()


@given(
    st.lists(TEXTS, min_size=1, max_size=5),
    st.lists(st.integers(0, 600), max_size=8),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
)
def test_only_the_name_changes_wherever_the_stream_is_cut(
    texts: list[str], cuts: list[int], end: str, spaced: bool
) -> None:
    texts = [text.replace("\x85", "") for text in texts]
    tail = f': comment "model": "old"{end}event: x{end}data: [DONE]{end}{end}data: {{"mod'.encode()
    before = b"".join(event(text, "old", end, spaced) for text in texts) + tail
    after = b"".join(event(text, "new", end, spaced) for text in texts) + tail
    assert fed(StreamRestorer("old", "new"), before, cuts) == after


@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "2"]), st.sampled_from(["old", "other", "ol"]), TEXTS), max_size=6
    ),
    st.booleans(),
)
def test_lines_that_begin_alike_are_each_looked_at(lines: list[tuple[str, str, str]], late: bool) -> None:
    def stream(renamed: bool) -> bytes:
        out = b""
        for number, name, text in lines:
            named: dict[str, object] = {"model": "new" if renamed and name == "old" else name}
            rest: dict[str, object] = {"choices": [{"delta": {"content": text}}]}
            body = {"id": number, **(rest | named if late else named | rest)}
            out += b"data: " + json.dumps(body).encode() + b"\n\n"
        return out

    assert fed(StreamRestorer("old", "new"), stream(renamed=False), []) == stream(renamed=True)


def test_another_model_is_left_alone() -> None:
    data = event("text", "other", "\n", spaced=False)
    assert fed(StreamRestorer("old", "new"), data, [3, 9]) == data


def test_events_are_not_held_longer_than_their_line() -> None:
    restorer = StreamRestorer("old", "new")
    assert restorer.feed(b'data: {"model":"old"') == b""
    assert restorer.feed(b"}\n") == b'data: {"model":"new"}\n'
    assert restorer.feed(b"\ndata") == b"\n"


def test_a_line_without_end_is_not_kept_for_ever() -> None:
    restorer = StreamRestorer("old", "new", limit=1000)
    out = b"".join(restorer.feed(b"x" * 100) for _ in range(100))
    assert len(out) > 8000


def test_a_response_event_carries_the_name_inside() -> None:
    line = b'data: {"type":"response.created","response":{"id":"r","model":"old"}}\n'
    assert StreamRestorer("old", "new").feed(line) == line.replace(b"old", b"new")
