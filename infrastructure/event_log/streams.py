"""The known end of each stream. The next command is decided on this end, and its events are chained to the end.

The end may be out of date, so each append checks the end.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec import Struct

from domain.conversation import Conversation
from infrastructure.event_log.append_request import AppendRequest, StreamName
from infrastructure.event_log.rows import StreamEnd

MAX_CACHED_BYTES = 64 * 1024 * 1024
MAX_TENANT_SHARE = 0.75
"""One tenant may fill this part of the cache."""

SNAPSHOT_EVERY = 250
"""A new snapshot of a stream is at least this many versions after the last one."""

_STREAM_BYTES = 1_500
"""The texts in the state are not included."""

SNAPSHOT_FORMAT_BYTE = b"\x05"
"""A MessagePack map of `Stream` by field name. Other formats are ignored."""


class Stream(Struct, frozen=True, gc=False):
    """`snapshotted`: the version of the last snapshot, or 0."""

    state: Conversation
    position: int
    recorded_at: datetime
    chain_hash: bytes
    snapshotted: int = 0

    @property
    def end(self) -> StreamEnd:
        return self.state.version, self.chain_hash

    @property
    def needs_snapshot(self) -> bool:
        return self.state.version - self.snapshotted >= SNAPSHOT_EVERY


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Stream)


def to_snapshot(stream: Stream) -> bytes:
    return SNAPSHOT_FORMAT_BYTE + _encoder.encode(msgspec.structs.replace(stream, snapshotted=stream.state.version))


def from_snapshot(state: bytes) -> Stream | None:
    """None if this code does not know the format."""
    if not state.startswith(SNAPSHOT_FORMAT_BYTE):
        return None
    try:
        return _decoder.decode(memoryview(state)[1:])
    except msgspec.MsgspecError:
        return None


class _TenantStreams:
    """Least recently used first, each with its size."""

    def __init__(self) -> None:
        self.streams: OrderedDict[StreamName, tuple[Stream, int]] = OrderedDict()
        self.bytes = 0


class StreamCache:
    """Thread-safe. A tenant with more than MAX_TENANT_SHARE of the cache evicts its own streams."""

    def __init__(self, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self._names: OrderedDict[StreamName, None] = OrderedDict()
        """Least recently used first."""
        self._tenants: dict[str, _TenantStreams] = {}
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._names)

    def get(self, name: StreamName) -> Stream | None:
        """Marks the stream as used."""
        with self._lock:
            if name not in self._names:
                return None
            self._names.move_to_end(name)
            streams = self._tenants[name[0]].streams
            streams.move_to_end(name)
            return streams[name][0]

    def find(self, requests: Iterable[AppendRequest]) -> tuple[dict[StreamName, Stream], list[StreamName]]:
        """The cached streams, and the names of the streams that must be loaded."""
        cached: dict[StreamName, Stream] = {}
        missing: dict[StreamName, None] = {}
        for request in requests:
            name = request.stream_name
            stream = self.get(name)
            if stream is not None:
                cached[name] = stream
            elif not request.starts_conversation:
                missing[name] = None
        return cached, list(missing)

    def remove(self, name: StreamName) -> None:
        with self._lock:
            if name in self._names:
                self._remove(name)

    def put(self, name: StreamName, stream: Stream) -> None:
        """Evicts other streams, least recently used first, while the cache or the tenant's share is too large."""
        size = _size(stream)
        with self._lock:
            if name in self._names:
                self._remove(name)
            self._names[name] = None
            tenant = self._tenants.setdefault(name[0], _TenantStreams())
            tenant.streams[name] = (stream, size)
            tenant.bytes += size
            self._bytes += size
            while tenant.bytes > MAX_TENANT_SHARE * self._max_bytes and len(tenant.streams) > 1:
                self._remove(next(iter(tenant.streams)))
            while self._bytes > self._max_bytes and len(self._names) > 1:
                self._remove(next(iter(self._names)))

    def _remove(self, name: StreamName) -> None:
        del self._names[name]
        tenant = self._tenants[name[0]]
        _, size = tenant.streams.pop(name)
        tenant.bytes -= size
        self._bytes -= size
        if not tenant.streams:
            del self._tenants[name[0]]


def _path_branches(state: Conversation) -> int:
    return len(state.path) + sum(len(reply.leaf.path) for reply in state.running if reply.leaf)


def _size(stream: Stream) -> int:
    """Estimates bytes of memory. A character may take 4 bytes."""
    state = stream.state
    texts = len(state.title or "") + len(state.instructions or "")
    pairs = sum(len(name) + len(value) for name, value in state.metadata.items()) if state.metadata else 0
    return _STREAM_BYTES + 4 * (texts + pairs) + 100 * (len(state.running) + len(state.queued) + _path_branches(state))
