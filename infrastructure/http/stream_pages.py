"""Keeps the pages that streams are sending, with a limit for the memory.

A stream sends a page in slices, and does not hold the page meanwhile. A page that was dropped is read again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, Protocol, TypeVar

from msgspec import Struct

SLICE_BYTES: Final = 32 * 1024
"""For a client that does not read, the server holds about three slices."""

PAGE_BYTES: Final = 256 * 1024
"""A page ends after the event that reaches this size."""

MAX_KEPT_BYTES: Final = 32 * 1024 * 1024


class Page(Struct, frozen=True):
    """A part of a stream. `body`: encoded events, up to the number `last`. `ends`: the stream ends after this page."""

    last: int
    body: bytes
    ends: bool = False

    @property
    def kept_bytes(self) -> int:
        """A page that fits in one slice is not kept."""
        return len(self.body) if len(self.body) > SLICE_BYTES else 0

    def slice_end(self, start: int) -> int:
        return start + SLICE_BYTES


class StreamPosition(Struct):
    """The client was sent every event up to the number `after`, and `offset` bytes of the events after it."""

    after: int
    offset: int = 0

    def next_slice(self, page: Page) -> bytes:
        """May be empty, because a page that was read again may be shorter."""
        taken = page.body[self.offset : page.slice_end(self.offset)]
        self.offset += len(taken)
        if self.offset >= len(page.body):
            self.after, self.offset = page.last, self.offset - len(page.body)
        return taken


class Kept(Protocol):
    """A value that StreamPages may keep. `kept_bytes`: the memory that the value takes. A value of 0 bytes is not kept."""

    @property
    def kept_bytes(self) -> int: ...


K = TypeVar("K", bound=Kept)


class StreamPages:
    """Streams that need the same page at the same time share one read."""

    def __init__(self, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._max_kept_bytes = max_kept_bytes
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._kept_bytes = 0
        self._reading: dict[Hashable, asyncio.Task[Any]] = {}

    async def get(self, key: Hashable, read: Callable[[], Awaitable[K]]) -> K:
        """The kept value, or the value that `read` returns. Raises what `read` raises."""
        if key in self._kept:
            self._kept.move_to_end(key)
            kept: K = self._kept[key]
            return kept
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.create_task(self._read(key, read))
            reading.add_done_callback(_retrieve)
        # The stream that started the read may end before others have its result.
        page: K = await asyncio.shield(reading)
        return page

    def keep(self, key: Hashable, page: Kept) -> None:
        """Drops the least recently used pages to make room, but not the new page."""
        if page.kept_bytes == 0 or key in self._kept:
            return
        self._kept[key] = page
        self._kept_bytes += page.kept_bytes
        while self._kept_bytes > self._max_kept_bytes and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].kept_bytes

    async def _read(self, key: Hashable, read: Callable[[], Awaitable[K]]) -> K:
        try:
            page = await read()
        finally:
            del self._reading[key]
        self.keep(key, page)
        return page


def _retrieve(reading: "asyncio.Task[Any]") -> None:
    """Takes the exception. Without this, asyncio would log the exception if no stream is left to receive it."""
    if not reading.cancelled():
        reading.exception()
