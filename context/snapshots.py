"""Context snapshots in Redis: the newest items of a conversation, counted, so that its next reply need not read the log.

    context:{tenant}:{conversation_id}   HASH
        version            of the conversation; every event moves it
        instructions       absent when there are none
        policy             JSON of the ContextPolicy
        branch head depth  of the path's last item; head is absent, and depth 0, while there is none
        first              every item of the path from this depth on is here, but for those retracted; in a fork, its own items
        count bytes        of the items that are here, and of the JSON they are here as
        i:{branch}:{block} the items of BLOCK depths, from `block` times as many on: a line "{count} {tokens}" of all of them, then
                           a line for each, by depth: JSON {"tokens", "depth", "item_id", "item"}, in this order: the item as
                           stored, tokens as `counted_text` of it in o200k_base and `fixed_tokens` make them
        made               how it was made: SNAPSHOT_FORMAT; a snapshot that was made otherwise is as good as none
        heavy              "1" where the pinned items are too large to be here: then the log has to say what a context is
        pins               JSON of the ids of the pinned items, absent when there are none
        pin:{id}           of each of those the JSON as above, wherever it is
        summary            JSON of the Summary that stands; absent when none does
        deleted            "1" on a tombstone, which has nothing else but its version, for a day

At most the newest 512 items and 1 MB of them; and 1 MB of pinned ones. A snapshot is only ever replaced by one of a higher version. It may be
absent at any time: whoever misses it reads the log, and may `refill` it (`snapshot_making.py`). To assemble a context its end is
read alone (`read_context.lua`), as much as a model has room for; block by block, since going through items one by one is what takes
Redis its time. Commands and queries may import this module.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import msgspec
import structlog
from msgspec import Raw, Struct
from msgspec.structs import replace
from redis.asyncio import Redis
from redis.exceptions import RedisError

from context.assembly import Snapshots
from context.conversation_settings import Summary
from context.history_backwards import RecentItems, begins
from context.selection import ContextItem
from domain.events import ContextPolicy
from domain.items import from_stored

log = structlog.get_logger(__name__)

MAX_ITEMS = 512
MAX_BYTES = 1_000_000
KEPT_SECONDS = 30 * 24 * 3600
"""How long a snapshot outlives the last event of its conversation: Redis need not hold every conversation there ever was."""

BLOCK = 16
"""How many depths share a field: an append writes its block again. Fewer are more to read one by one."""

SNAPSHOT_FORMAT = "5"
"""Raised when a snapshot holds other things than before, or counts otherwise."""

TOMBSTONE_SECONDS = 24 * 3600
KEY_PREFIX = "context:"
ITEM_PREFIX = "i:"
PIN_PREFIX = "pin:"


class Entry(Struct, frozen=True):
    """One item of a snapshot, as a line holds it: what the scripts look for first. Read with its item, it is a ContextItem."""

    tokens: int
    depth: int
    item_id: str
    item: Raw

    def candidate(self) -> ContextItem:
        """The item, to choose from."""
        item = from_stored(bytes(self.item))
        return ContextItem(item_id=self.item_id, item=item, tokens=self.tokens, depth=self.depth)


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
    items: tuple[Entry, ...] = ()
    pins: tuple[Entry, ...] = ()
    summary: Summary | None = None
    pins_too_large: bool = False

    def recent(self) -> RecentItems:
        """What a context is assembled from."""
        above = self.summary.depth if self.summary else 0
        items = [entry.candidate() for entry in self.items if entry.depth > above]
        return make_recent_items(self, items, reaches_start=self.first <= above + 1)


def make_recent_items(held: Snapshot, items: Sequence[ContextItem], *, reaches_start: bool) -> RecentItems:
    """The tail with these of a snapshot's items, oldest first."""
    ids = {item.item_id for item in items} if held.pins else set()
    return RecentItems(
        version=held.version,
        instructions=held.instructions,
        policy=held.policy,
        items=tuple(items),
        reaches_start=reaches_start or begins(items),
        pins=tuple(entry.candidate() for entry in held.pins if entry.item_id not in ids),
        pinned=frozenset(entry.item_id for entry in held.pins),
        summary=held.summary,
    )


def key(tenant: str, conversation_id: str) -> str:
    """The key of a conversation's snapshot."""
    return f"{KEY_PREFIX}{tenant}:{conversation_id}"


def blocks_of(branch: int, entries: Iterable[Entry]) -> dict[str, str]:
    """The fields of a branch's items, given by depth."""
    lines: dict[str, list[str]] = {}
    tokens: Counter[str] = Counter()
    for entry in entries:
        name = f"{ITEM_PREFIX}{branch}:{entry.depth // BLOCK}"
        lines.setdefault(name, []).append(msgspec.json.encode(entry).decode())
        tokens[name] += entry.tokens
    return {name: "\n".join([f"{len(held)} {tokens[name]}", *held, ""]) for name, held in lines.items()}


def entries_of(block: str) -> list[Entry]:
    """The items of a block."""
    _, _, lines = block.partition("\n")
    return _entries(lines)


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
    if held.get("made") != SNAPSHOT_FORMAT:
        raise ValueError("made otherwise")
    items = [entry for name, value in held.items() if name.startswith(ITEM_PREFIX) for entry in entries_of(value)]
    items.sort(key=lambda entry: entry.depth)
    return Snapshot(
        pins_too_large="heavy" in held,
        pins=pins_of([value for name, value in held.items() if name.startswith(PIN_PREFIX)]),
        summary=msgspec.json.decode(held["summary"], type=Summary) if "summary" in held else None,
        version=int(held["version"]),
        instructions=held.get("instructions"),
        policy=msgspec.json.decode(held["policy"], type=ContextPolicy),
        branch=int(held["branch"]),
        head=held.get("head"),
        depth=int(held["depth"]),
        first=int(held["first"]),
        items=tuple(items),
    )


def pins_of(values: Iterable[str]) -> tuple[Entry, ...]:
    """The entries of pinned items, oldest first."""
    return tuple(sorted((msgspec.json.decode(value, type=Entry) for value in values), key=lambda entry: entry.depth))


def to_fields(snapshot: Snapshot) -> dict[str, str | int]:
    """The hash of a snapshot. Texts, not bytes: the scripts' MessagePack knows no other strings."""
    if snapshot.deleted:
        return {"version": snapshot.version, "deleted": 1}
    pins = {f"{PIN_PREFIX}{entry.item_id}": msgspec.json.encode(entry).decode() for entry in snapshot.pins}
    optional = {
        "instructions": snapshot.instructions,
        "head": snapshot.head,
        "heavy": "1" if snapshot.pins_too_large else None,
        "pins": msgspec.json.encode([entry.item_id for entry in snapshot.pins]).decode() if pins else None,
        "summary": msgspec.json.encode(snapshot.summary).decode() if snapshot.summary else None,
    }
    return {
        "version": snapshot.version,
        "made": SNAPSHOT_FORMAT,
        "policy": msgspec.json.encode(snapshot.policy).decode(),
        "branch": snapshot.branch,
        "depth": snapshot.depth,
        "first": snapshot.first,
        "count": len(snapshot.items),
        "bytes": sum(len(msgspec.json.encode(entry)) for entry in snapshot.items),
        **{name: value for name, value in optional.items() if value is not None},
        **blocks_of(snapshot.branch, snapshot.items),
        **pins,
    }


_PUT = resources.files(__package__).joinpath("put_snapshot.lua").read_text()


async def put(redis: Redis, tenant: str, conversation_id: str, snapshot: Snapshot) -> bool:
    """Puts a whole snapshot (or tombstone) there, unless one of its version or a higher one is; says whether it did."""
    seconds = TOMBSTONE_SECONDS if snapshot.deleted else KEPT_SECONDS
    told = {"version": snapshot.version, "seconds": seconds, "fields": to_fields(snapshot)}
    done: Any = redis.eval(_PUT, 1, key(tenant, conversation_id), msgspec.msgpack.encode(told))
    return bool(await done)


_READ_END = resources.files(__package__).joinpath("read_context.lua").read_text()


class _Held(Struct, frozen=True, array_like=True):
    """What `read_context.lua` answers beside the items."""

    fields: dict[str, str]
    pins: list[str]
    fits: bool


_held = msgspec.msgpack.Decoder(_Held).decode
_entries = msgspec.json.Decoder(Entry).decode_lines
_candidates = msgspec.json.Decoder(ContextItem).decode_lines


async def read_recent_items(redis: Redis, tenant: str, conversation_id: str, room: int) -> RecentItems | None:
    """The end of the snapshot there is, of whatever version: one item more than fits in `room` tokens, or in what the policy gives.

    None when there is none that can be read, or not that much of it. Raises redis.exceptions.RedisError.
    """
    asked: Any = redis.eval(_READ_END, 1, key(tenant, conversation_id), room, SNAPSHOT_FORMAT, BLOCK)
    answer: list[bytes] | None = await asked
    if answer is None:
        return None
    try:
        beside, *blocks = answer
        end = _held(beside)
        held = replace(from_fields(end.fields), pins=pins_of(end.pins))
        items = _candidates(b"".join([block[block.index(b"\n") :] for block in reversed(blocks)]))
    except UNREADABLE:
        log.warning("snapshot_unreadable", conversation_id=conversation_id)
        return None
    return make_recent_items(held, items, reaches_start=end.fits)


def snapshots_of(redis: Redis) -> Snapshots:
    """Where contexts are assembled from when they can be; Redis away is a snapshot that is not there."""

    async def snapshot(tenant: str, conversation_id: str, room: int) -> RecentItems | None:
        try:
            return await read_recent_items(redis, tenant, conversation_id, room)
        except RedisError as error:
            log.warning("snapshots_away", error_type=type(error).__name__)
            return None

    return snapshot
