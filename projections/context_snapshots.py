"""Context snapshots in Redis: the newest items of a conversation, counted, so that its next reply need not read the log.

    context:{tenant}:{conversation_id}   HASH
        version            of the conversation; every event moves it
        instructions       absent when there are none
        policy             JSON of the ContextPolicy
        branch head depth  of the path's last item; head is absent, and depth 0, while there is none
        first              every item of the path from this depth on is here, but for those retracted
        count bytes        of the items that are here
        i:{branch}:{depth} JSON {"id", "parent", "tokens", "item"}: the item as stored, tokens as `counted_text` of it in
                           o200k_base and `fixed_tokens` make them
        deleted            "1" on a tombstone, which has nothing else but its version, for a day

At most the newest 512 items and 1 MB of them. A snapshot is only ever replaced by one of a higher version. It may be
absent at any time: whoever misses it reads the log, and may `refill` it (`snapshot_making.py`). Commands and queries may
import this module.
"""

from importlib import resources
from typing import Any

import msgspec
import structlog
from msgspec import Raw, Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError

from domain.events import ContextPolicy
from domain.items import from_stored
from infrastructure.context import Snapshots, Tail, TailItem

log = structlog.get_logger(__name__)

MOST_ITEMS = 512
MOST_BYTES = 1_000_000
KEPT_SECONDS = 30 * 24 * 3600
"""How long a snapshot outlives the last event of its conversation: Redis need not hold every conversation there ever was."""

TOMBSTONE_SECONDS = 24 * 3600
KEY_PREFIX = "context:"
ITEM_PREFIX = "i:"


class Entry(Struct, frozen=True):
    """One item of a snapshot, as its field holds it."""

    id: str
    parent: str | None
    tokens: int
    item: Raw


class Snapshot(Struct, frozen=True, kw_only=True):
    """A conversation's end at `version`: `items` by depth, the oldest first. `deleted`: a tombstone, and nothing else."""

    version: int
    deleted: bool = False
    instructions: str | None = None
    policy: ContextPolicy = ContextPolicy()
    branch: int = 0
    head: str | None = None
    depth: int = 0
    first: int = 1
    items: tuple[tuple[int, Entry], ...] = ()

    def tail(self) -> Tail:
        """What a context is assembled from."""
        return Tail(
            version=self.version,
            instructions=self.instructions,
            policy=self.policy,
            items=tuple(
                TailItem(
                    item_id=entry.id,
                    parent_id=entry.parent,
                    depth=depth,
                    tokens=entry.tokens,
                    item=from_stored(bytes(entry.item)),
                )
                for depth, entry in self.items
            ),
            whole=self.first == 1,
        )


def key(tenant: str, conversation_id: str) -> str:
    """The key of a conversation's snapshot."""
    return f"{KEY_PREFIX}{tenant}:{conversation_id}"


def field(branch: int, depth: int) -> str:
    """The field of an item."""
    return f"{ITEM_PREFIX}{branch}:{depth}"


async def read_snapshot(redis: Redis, tenant: str, conversation_id: str) -> Snapshot | None:
    """The snapshot there is, of whatever version; None when there is none that can be read. Raises redis.exceptions.RedisError."""
    asked: Any = redis.eval(READ, 1, key(tenant, conversation_id))
    packed: bytes = await asked
    try:
        held = as_fields(packed)
        return from_fields(held) if held else None
    except UNREADABLE:
        log.warning("snapshot_unreadable", conversation_id=conversation_id)
        return None


UNREADABLE = (KeyError, ValueError, msgspec.MsgspecError)
"""What reading a hash raises that is no snapshot of ours."""

READ = "return cmsgpack.pack(redis.call('HGETALL', KEYS[1]))"
"""Gives a hash in one piece: the client would take ten milliseconds over the thousand pieces of a large one."""


def as_fields(packed: bytes) -> dict[str, str]:
    """The hash that READ packed; empty when there is none."""
    flat = msgspec.msgpack.decode(packed, type=list[str])
    return dict(zip(flat[::2], flat[1::2], strict=True))


def from_fields(held: dict[str, str]) -> Snapshot:
    """The snapshot of a hash."""
    if "deleted" in held:
        return Snapshot(version=int(held["version"]), deleted=True)
    items = [
        (int(name.rpartition(":")[2]), msgspec.json.decode(value, type=Entry))
        for name, value in held.items()
        if name.startswith(ITEM_PREFIX)
    ]
    items.sort(key=lambda item: item[0])
    return Snapshot(
        version=int(held["version"]),
        instructions=held.get("instructions"),
        policy=msgspec.json.decode(held["policy"], type=ContextPolicy),
        branch=int(held["branch"]),
        head=held.get("head"),
        depth=int(held["depth"]),
        first=int(held["first"]),
        items=tuple(items),
    )


def to_fields(snapshot: Snapshot) -> dict[str, str | int]:
    """The hash of a snapshot. Texts, not bytes: the scripts' MessagePack knows no other strings."""
    if snapshot.deleted:
        return {"version": snapshot.version, "deleted": 1}
    items = {field(snapshot.branch, depth): msgspec.json.encode(entry).decode() for depth, entry in snapshot.items}
    optional = {"instructions": snapshot.instructions, "head": snapshot.head}
    return {
        "version": snapshot.version,
        "policy": msgspec.json.encode(snapshot.policy).decode(),
        "branch": snapshot.branch,
        "depth": snapshot.depth,
        "first": snapshot.first,
        "count": len(items),
        "bytes": sum(len(entry.encode()) for entry in items.values()),
        **{name: value for name, value in optional.items() if value is not None},
        **items,
    }


_PUT = resources.files(__package__).joinpath("put_snapshot.lua").read_text()


async def put(redis: Redis, tenant: str, conversation_id: str, snapshot: Snapshot) -> bool:
    """Puts a whole snapshot (or tombstone) there, unless one of its version or a higher one is; says whether it did."""
    seconds = TOMBSTONE_SECONDS if snapshot.deleted else KEPT_SECONDS
    told = {"version": snapshot.version, "seconds": seconds, "fields": to_fields(snapshot)}
    done: Any = redis.eval(_PUT, 1, key(tenant, conversation_id), msgspec.msgpack.encode(told))
    return bool(await done)


def snapshots_of(redis: Redis) -> Snapshots:
    """Where contexts are assembled from when they can be; Redis away is a snapshot that is not there."""

    async def snapshot(tenant: str, conversation_id: str) -> Tail | None:
        try:
            found = await read_snapshot(redis, tenant, conversation_id)
        except RedisError as error:
            log.warning("snapshots_away", error_type=type(error).__name__)
            return None
        return None if found is None or found.deleted else found.tail()

    return snapshot
