"""Reads and writes context snapshots in Redis.

A new snapshot replaces the stored one if its version is higher, if the stored one has the same version in another format, or if the
stored one was made from another incarnation of the log.

A snapshot may be missing at any time. Then the log is read instead, and `refill` (`snapshot_from_log.py`) can make the snapshot again.
"""

import functools
from importlib import resources
from typing import Any

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.exceptions import RedisError

from context.assembly import SnapshotLookup
from context.history_backwards import RecentItems
from context.selection import ContextItem
from context.snapshots import (
    BLOCK_DEPTHS,
    SNAPSHOT_FORMAT,
    SNAPSHOT_TTL_SECONDS,
    TOMBSTONE_TTL_SECONDS,
    UNREADABLE,
    Snapshot,
    from_fields,
    make_recent_items,
    pins_from_json,
    snapshot_key,
    to_fields,
)

log = structlog.get_logger(__name__)

READ_HASH = "return cmsgpack.pack(redis.call('HGETALL', KEYS[1]))"
"""A script that returns a hash as one string. A large hash has a thousand strings, and the client takes ten milliseconds to parse so many."""


@functools.cache
def lua_script(name: str) -> str:
    """The text of a script of this package."""
    return resources.files(__package__).joinpath(name).read_text()


async def put_snapshot(redis: Redis, tenant: str, conversation_id: str, snapshot: Snapshot) -> bool:
    """Writes a snapshot or a tombstone if it may replace the stored one (see the module's docstring). Returns whether it was written."""
    seconds = TOMBSTONE_TTL_SECONDS if snapshot.deleted else SNAPSHOT_TTL_SECONDS
    argument = {"version": snapshot.version, "seconds": seconds, "fields": to_fields(snapshot)}
    script, key = lua_script("put_snapshot.lua"), snapshot_key(tenant, conversation_id)
    written: Any = redis.eval(script, 1, key, msgspec.msgpack.encode(argument))
    return bool(await written)


async def read_snapshot(redis: Redis, tenant: str, conversation_id: str) -> Snapshot | None:
    """The snapshot, of any version. None if there is none that can be read. Raises redis.exceptions.RedisError."""
    answer: Any = redis.eval(READ_HASH, 1, snapshot_key(tenant, conversation_id))
    packed: bytes = await answer
    try:
        fields = unpack_hash(packed)
        return from_fields(fields) if fields else None
    except UNREADABLE:
        log.warning("snapshot_unreadable", conversation_id=conversation_id)
        return None


def unpack_hash(packed: bytes) -> dict[str, str]:
    """The hash that READ_HASH packed. Empty if there is none."""
    flat = msgspec.msgpack.decode(packed, type=list[str])
    return dict(zip(flat[::2], flat[1::2], strict=True))


class _Header(Struct, frozen=True, array_like=True):
    """The first value that `read_context.lua` returns. `fits`: whether all items fit."""

    fields: dict[str, str]
    pins: list[str]
    fits: bool


_decode_header = msgspec.msgpack.Decoder(_Header).decode
_decode_items = msgspec.json.Decoder(ContextItem).decode_lines


async def read_recent_items(redis: Redis, tenant: str, conversation_id: str, max_tokens: int) -> RecentItems | None:
    """The newest items of the snapshot, which may have any version: those that fit in `max_tokens` and in the policy's budget, and one more.

    None if there is no readable snapshot, or if all its items fit and the conversation has older ones. Raises redis.exceptions.RedisError.
    """
    script, key = lua_script("read_context.lua"), snapshot_key(tenant, conversation_id)
    answer: Any = redis.eval(script, 1, key, max_tokens, SNAPSHOT_FORMAT, BLOCK_DEPTHS)
    values: list[bytes] | None = await answer
    if values is None:
        return None
    try:
        packed, *blocks = values
        header = _decode_header(packed)
        snapshot = replace(from_fields(header.fields), pins=pins_from_json(header.pins))
        items = _decode_items(b"".join([block[block.index(b"\n") :] for block in reversed(blocks)]))
    except UNREADABLE:
        log.warning("snapshot_unreadable", conversation_id=conversation_id)
        return None
    return make_recent_items(snapshot, items, reaches_start=header.fits)


def snapshot_lookup(redis: Redis) -> SnapshotLookup:
    """Returns the function with which `Contexts` looks up snapshots. While Redis is unavailable, the function finds none."""

    async def find_snapshot(tenant: str, conversation_id: str, max_tokens: int) -> RecentItems | None:
        try:
            return await read_recent_items(redis, tenant, conversation_id, max_tokens)
        except RedisError as error:
            log.warning("snapshots_unavailable", error_type=type(error).__name__)
            return None

    return find_snapshot
