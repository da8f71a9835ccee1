"""The ends of streams: what the next command on a conversation is decided on and chained to.

Those used last are in memory, bounded in bytes; older ones begin again from a snapshot and a short tail. Neither is ever
trusted: each batch reads what was committed since. A snapshot that is missing, or can not be read, costs time and nothing else.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Struct

from domain.conversation import Conversation, evolve
from infrastructure.event_log.codec import decode
from infrastructure.ids import conversation_id

CACHED_BYTES = 64 * 1024 * 1024
SNAPSHOT_EVERY = 250
"""Versions after which a stream gets a new snapshot: the longest tail that a cold process folds, or about."""

_STREAM_BYTES = 1_500
"""About what a stream takes in memory beside the texts in its state."""

_FORMAT = b"\x01"
"""A snapshot's first byte: a MessagePack map of `Stream` by field name. Any other is ignored, and written anew."""

LogRow = tuple[UUID, str, bytes, datetime, bytes, int]
"""(stream, topic, state, recorded_at, chain_hash, position)"""


class Stream(Struct, frozen=True, gc=False):
    """The end of one stream. `snapshotted` is the version of its last snapshot; 0 where it has none."""

    state: Conversation
    position: int
    recorded_at: datetime
    chain_hash: bytes
    snapshotted: int = 0

    @property
    def wants_snapshot(self) -> bool:
        return self.state.version - self.snapshotted >= SNAPSHOT_EVERY


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Stream)


def to_snapshot(stream: Stream) -> bytes:
    """The stored state of a snapshot."""
    return _FORMAT + _encoder.encode(msgspec.structs.replace(stream, snapshotted=stream.state.version))


def from_snapshot(state: bytes) -> Stream | None:
    """The stream of a stored snapshot; None when it was written in a form that this code does not know."""
    if not state.startswith(_FORMAT):
        return None
    try:
        return _decoder.decode(memoryview(state)[1:])
    except msgspec.MsgspecError:
        return None


class Streams:
    """The streams used last, least recently used first. For any thread."""

    def __init__(self, max_bytes: int = CACHED_BYTES) -> None:
        self._cached: OrderedDict[str, tuple[Stream, int]] = OrderedDict()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._turn = threading.Lock()

    def __len__(self) -> int:
        return len(self._cached)

    def __contains__(self, ident: str) -> bool:
        return ident in self._cached

    def get(self, ident: str) -> Stream | None:
        """The end of this conversation's stream, if it is in memory."""
        with self._turn:
            found = self._cached.get(ident)
            if found is None:
                return None
            self._cached.move_to_end(ident)
            return found[0]

    def remember(self, ident: str, stream: Stream) -> None:
        """Keeps it, and lets go of those not used for longest while there is too much; never of this one."""
        size = _size(stream)
        with self._turn:
            if (before := self._cached.pop(ident, None)) is not None:
                self._bytes -= before[1]
            self._cached[ident] = (stream, size)
            self._bytes += size
            while self._bytes > self._max_bytes and len(self._cached) > 1:
                _, (_, dropped) = self._cached.popitem(last=False)
                self._bytes -= dropped


def fold(held: dict[str, Stream], rows: Iterable[LogRow]) -> None:
    """Folds rows of any streams, in order, onto those held; a stream that is not held begins with its first row."""
    for stream_id, topic, state, recorded_at, chained, position in rows:
        ident = conversation_id(stream_id)
        before = held.get(ident)
        evolved = evolve(before.state if before else None, decode(topic, state))
        held[ident] = Stream(evolved, position, recorded_at, chained, before.snapshotted if before else 0)


def _size(stream: Stream) -> int:
    state = stream.state
    texts = len(state.title or "") + len(state.instructions or "")
    pairs = sum(len(name) + len(value) for name, value in state.metadata.items()) if state.metadata else 0
    return _STREAM_BYTES + 4 * (texts + pairs) + 100 * len(state.running)
