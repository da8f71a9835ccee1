"""Reads and writes context snapshots in Redis.

A new snapshot replaces a stored one of a lower version, of the same version in another format, or of another
incarnation of the log. A snapshot may be missing at any time.
"""

import functools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from hashlib import sha1
from importlib import resources
from itertools import accumulate
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from context.assembly import SnapshotLookup
from context.history_backwards import RecentItems, starts_at_first_item, token_limit
from context.last_requests import comparable_requests
from context.selection import ContextItem
from context.snapshots import (
    MAX_BYTES,
    MAX_FIELDS,
    MAX_ITEMS,
    SNAPSHOT_FORMAT,
    SNAPSHOT_TTL_SECONDS,
    TOMBSTONE_TTL_SECONDS,
    UNREADABLE,
    Snapshot,
    from_stored,
    json_lines,
    snapshot_keys,
    to_elements,
    to_fields,
)

FIRST_READ_ITEMS = 256
TOKENS_PER_ITEM = 16
"""The first read takes at most about `max_tokens` / TOKENS_PER_ITEM items."""

MAX_REMEMBERED = 10_000

REPLACE = -1

log = structlog.get_logger(__name__)


@functools.cache
def write_script() -> tuple[str, str]:
    """The script, and its SHA-1."""
    script = resources.files(__package__).joinpath("write_snapshot.lua").read_text()
    return script, sha1(script.encode(), usedforsecurity=False).hexdigest()


def write_arguments(
    before: int,
    fields: Mapping[str, str | int],
    elements: Sequence[bytes],
    *,
    branch: int | str = "",
    keep: int | str = "",
    seconds: int = SNAPSHOT_TTL_SECONDS,
) -> list[str | int | bytes]:
    """The arguments that `write_snapshot.lua` explains."""
    bounds = (MAX_ITEMS, MAX_BYTES, MAX_FIELDS)
    names_and_values = [value for field in fields.items() for value in field]
    identity = (fields["version"], fields["incarnation"], SNAPSHOT_FORMAT, branch)
    return [before, *identity, keep, seconds, *bounds, len(names_and_values), *names_and_values, *elements]


async def put_snapshot(redis: Redis, tenant: str, conversation_id: str, snapshot: Snapshot) -> bool:
    """Returns whether the snapshot was written."""
    seconds = TOMBSTONE_TTL_SECONDS if snapshot.deleted else SNAPSHOT_TTL_SECONDS
    arguments = write_arguments(REPLACE, to_fields(snapshot), to_elements(snapshot), seconds=seconds)
    return await run_script(redis, tenant, conversation_id, arguments) == 1


async def run_script(redis: Redis, tenant: str, conversation_id: str, arguments: Sequence[str | int | bytes]) -> int:
    """Raises redis.exceptions.RedisError."""
    script, _ = write_script()
    result: Any = redis.eval(script, 2, *snapshot_keys(tenant, conversation_id), *arguments)
    return int(await result)


async def read_stored(
    redis: Redis, tenant: str, conversation_id: str, newest: int = MAX_ITEMS, *, skip: int = 0
) -> tuple[dict[str, str], list[bytes]]:
    """The hash, and the last `newest` elements of the list, except the last `skip` elements.

    Raises redis.exceptions.RedisError and UnicodeDecodeError.
    """
    hash_key, list_key = snapshot_keys(tenant, conversation_id)
    async with redis.pipeline(transaction=True) as pipeline:
        pipeline.hgetall(hash_key)
        pipeline.lrange(list_key, -newest, -skip - 1)
        fields, elements = await pipeline.execute()
    return {name.decode(): value.decode() for name, value in fields.items()}, elements


async def read_snapshot(redis: Redis, tenant: str, conversation_id: str) -> Snapshot | None:
    """None if the snapshot is missing, incomplete or unreadable. Raises redis.exceptions.RedisError."""
    try:
        fields, elements = await read_stored(redis, tenant, conversation_id)
        snapshot = from_stored(fields, elements)
    except UNREADABLE:
        log.warning("snapshot_unreadable", conversation_id=conversation_id)
        return None
    return snapshot if snapshot is None or len(elements) == snapshot.length else None


_decode_items = msgspec.json.Decoder(ContextItem).decode_lines


async def read_recent_items(
    redis: Redis, tenant: str, conversation_id: str, max_tokens: int, expected: int = FIRST_READ_ITEMS
) -> RecentItems | None:
    """The newest items that fit in `max_tokens` and in the policy's budget, and one more.

    The snapshot may have any version. Returns None if there is no usable snapshot, or if the conversation has older
    items that may fit. `expected`: how many items the first read takes at most. Removes a snapshot that cannot be
    decoded. Raises redis.exceptions.RedisError.
    """
    newest, read = min(expected, max_tokens // TOKENS_PER_ITEM + 1), 0
    items: tuple[ContextItem, ...] = ()
    previous: dict[str, str] = {}
    while True:
        try:
            fields, elements = await read_stored(redis, tenant, conversation_id, newest, skip=read)
            if read and fields != previous:  # the snapshot was written again after the last read
                read, items = 0, ()
                continue
            snapshot = from_stored(fields)
            items = (*_decode_items(json_lines(elements)), *items)
        except UNREADABLE:
            log.warning("snapshot_unreadable", conversation_id=conversation_id)
            await redis.unlink(*snapshot_keys(tenant, conversation_id))
            return None
        if snapshot is None or snapshot.deleted or snapshot.settings.needs_log:
            return None
        read, previous = read + len(elements), fields
        if read != min(newest, snapshot.length):
            return None
        limit = token_limit(snapshot.settings.policy, max_tokens)
        start, tokens = _newest_within(items, limit)
        if tokens > limit:
            return _recent_items(snapshot, items[start:], reaches_start=False)
        if read == snapshot.length:
            return _recent_items(snapshot, items, reaches_start=True) if snapshot.reaches_start else None
        # An estimate of how many items are enough, and a tenth more.
        newest = max(2 * newest, newest * limit * 11 // (tokens * 10)) if tokens else MAX_ITEMS


def _newest_within(items: Sequence[ContextItem], limit: int) -> tuple[int, int]:
    tokens = [item.tokens for item in items]
    if (total := sum(tokens)) <= limit:
        return 0, total
    sums = list(accumulate(reversed(tokens)))
    count = bisect_right(sums, limit) + 1
    return len(items) - count, sums[count - 1]


def _recent_items(snapshot: Snapshot, items: tuple[ContextItem, ...], *, reaches_start: bool) -> RecentItems:
    settings = snapshot.settings
    reaches_start = reaches_start or starts_at_first_item(items)
    ids = {item.item_id for item in items} if settings.pins else set()
    return RecentItems(
        version=snapshot.version,
        chain_hash=snapshot.chain_hash,
        incarnation=snapshot.incarnation,
        instructions=settings.instructions,
        policy=settings.policy,
        items=items,
        reaches_start=reaches_start,
        pins=tuple(pin.context_item() for pin in settings.pins if pin.item_id not in ids),
        pinned=frozenset(pin.item_id for pin in settings.pins),
        summary=settings.summary,
        last_requests=comparable_requests(
            {model: last.sequence for model, last in snapshot.last_requests.items()},
            items,
            reaches_start=reaches_start,
            summary_depth=settings.summary.depth if settings.summary else 0,
        ),
    )


def snapshot_lookup(redis: Redis) -> SnapshotLookup:
    """The lookup remembers which conversations need many items. The next context of such a conversation mostly takes one read."""
    needed: dict[str, int] = {}

    async def find_snapshot(tenant: str, conversation_id: str, max_tokens: int) -> RecentItems | None:
        expected = needed.pop(conversation_id, 0) + FIRST_READ_ITEMS
        try:
            recent = await read_recent_items(redis, tenant, conversation_id, max_tokens, expected)
        except RedisError as error:
            log.warning("snapshots_unavailable", error_type=type(error).__name__)
            return None
        if recent is not None and len(recent.items) > FIRST_READ_ITEMS:
            needed[conversation_id] = len(recent.items)
            if len(needed) > MAX_REMEMBERED:
                del needed[next(iter(needed))]
        return recent

    return find_snapshot
