"""The encoded events of a running reply in memory."""

import asyncio
from collections.abc import AsyncIterator

from infrastructure.http.stream_pages import SLICE_BYTES
from replies import stream_events
from replies.stream_events import StreamEvent


class EventBuffer:
    """Clients see an appended event only after `make_readable`."""

    def __init__(self) -> None:
        self.ended = False
        self._events: list[bytes] = []
        self._readable = 0
        self._changed = asyncio.Event()
        self._error_event: bytes | None = None
        self._cut_off = asyncio.Event()

    def append(self, event: StreamEvent) -> tuple[int, bytes]:
        sequence = len(self._events)
        encoded = stream_events.encode(event, sequence)
        self._events.append(encoded)
        return sequence, encoded

    def make_readable(self, sequence: int) -> None:
        self._readable = max(self._readable, sequence + 1)
        self._notify()

    def end(self) -> None:
        self.ended = True
        self._notify()

    def end_with_error(self, error: StreamEvent) -> None:
        # The error has the number of the last event. Except after `cut_off`, the error comes after all events.
        # So a client that resumes after this number misses no event.
        self._error_event = stream_events.encode(error, max(0, len(self._events) - 1))
        self.end()

    def cut_off(self, error: StreamEvent) -> None:
        """Ends the streams at once. A stream in the middle of an event ends without the `error` event."""
        self._cut_off.set()
        self.end_with_error(error)

    async def wait_for_end(self) -> None:
        while not self.ended:
            await self._changed.wait()

    async def stream(self) -> AsyncIterator[bytes]:
        """The events in slices of at most SLICE_BYTES."""
        position = 0
        while True:
            if position < self._readable and not self._cut_off.is_set():
                page = self._page(position)
                position += len(page)
                body = b"".join(page)
                for start in range(0, len(body), SLICE_BYTES):
                    if start and self._cut_off.is_set():
                        return  # in the middle of an event
                    yield body[start : start + SLICE_BYTES]
            elif self._cut_off.is_set() or (self.ended and position == len(self._events)):
                if self._error_event is not None:
                    yield self._error_event
                return
            else:
                await self._changed.wait()

    def _page(self, position: int) -> list[bytes]:
        """At most SLICE_BYTES, or one larger event."""
        end, size = position + 1, len(self._events[position])
        while end < self._readable and size + len(self._events[end]) <= SLICE_BYTES:
            size += len(self._events[end])
            end += 1
        return self._events[position:end]

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
