"""`event_data` makes the messages of a WebSocket from server-sent events."""

from collections.abc import AsyncGenerator

import pytest

from replies import stream_events
from replies.event_data import event_data

EVENTS: list[stream_events.StreamEvent] = [
    {"type": "response.created", "n": 1},
    {"type": "response.output_text.delta", "delta": "a\n\nb: c\n"},
]


class Stream:
    """A stream in chunks. `closed` is set when the reader stops, and at the stream's end."""

    def __init__(self, body: bytes, size: int) -> None:
        self._body, self._size = body, size
        self.closed = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            for start in range(0, len(self._body), self._size):
                yield self._body[start : start + self._size]
        finally:
            self.closed = True


@pytest.mark.parametrize("size", [1, 7, 50, 10_000])
async def test_each_event_is_one_message_and_comments_are_left_out(size: int) -> None:
    encoded = [stream_events.encode(event, number) for number, event in enumerate(EVENTS)]
    body = b": still here\n\n" + encoded[0] + b": still here\n\n" + encoded[1] + b"data: [DONE]\n\n"
    messages = [message async for message in event_data(Stream(body, size).chunks())]
    assert messages == [
        (event["type"], block.split(b"\ndata: ", 1)[1][:-2]) for event, block in zip(EVENTS, encoded, strict=True)
    ]


async def test_the_stream_is_closed_when_its_reader_stops() -> None:
    stream = Stream(stream_events.encode(EVENTS[0], 0) * 3, 10)
    messages = event_data(stream.chunks())
    assert (await anext(messages))[0] == "response.created"
    await messages.aclose()
    assert stream.closed
