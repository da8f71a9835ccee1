"""The shape of context snapshots. A snapshot has a conversation's newest items and their token counts, so its next reply need not read the log.

    context:{tenant}:{conversation_id}   HASH
        version            of the conversation; every event changes it
        chain_hash         of the event at `version`: the snapshot is used only if the log has this hash at this version
        incarnation        of the log that the snapshot was made from; versions of different incarnations are not compared
        instructions       absent if there are none
        policy             JSON of the ContextPolicy
        branch head depth  of the path's last item; without items, head is absent and depth is 0
        first              the snapshot has every item from this depth on that is not retracted. A fork's snapshot has no items of its origin
        count bytes        number of items, and bytes of their JSON
        i:{branch}:{block} the items of BLOCK_DEPTHS depths, from depth block * BLOCK_DEPTHS on. The first line is "{count} {tokens}",
                           their number and the sum of their tokens. A line for each item follows, by depth: JSON {"tokens", "depth",
                           "item_id", "item"}, in this order, and "copy_of" if it is a copy. `item`: as stored. `tokens`: the tokens of
                           its `counted_text` in o200k_base, plus its `fixed_tokens`
        made               SNAPSHOT_FORMAT; a snapshot with another value is ignored
        heavy              "1" if the pinned items are too large for the snapshot: then contexts are read from the log
        pins               JSON of the ids of the pinned items; absent if there are none
        pin:{id}           the JSON of a pinned item, as above, even if it is in a block too
        summary            JSON of the active Summary; absent if there is none
        fork               "1" in a fork. If it has a summary, contexts are read from the log, because the summary also covers items of
                           other conversations, and these may be deleted now. The same holds for a summary of copies
        deleted            "1" on a tombstone. It has only this field, version and incarnation, and expires after a day

A snapshot has at most 512 items, of at most 1 MB together. It has at most 1 MB of pinned items. Items are grouped in blocks, because Redis
takes longer for many small fields. `snapshot_store.py` reads and writes snapshots, `snapshot_from_log.py` makes them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw, Struct

from context.conversation_settings import Summary
from context.history_backwards import RecentItems, starts_at_first_item
from context.selection import ContextItem
from domain.events import ContextPolicy
from domain.items import from_stored

MAX_ITEMS = 512
MAX_BYTES = 1_000_000
SNAPSHOT_TTL_SECONDS = 30 * 24 * 3600
"""A snapshot expires this long after it was last written, so that Redis does not keep every conversation. Every event of the conversation writes it."""

TOMBSTONE_TTL_SECONDS = 24 * 3600

BLOCK_DEPTHS = 16
"""Depths in one block. An append rewrites its block. Smaller blocks would mean more fields to read."""

SNAPSHOT_FORMAT = "7"
"""Raise this number when the content of snapshots changes, or the way in which tokens are counted."""

KEY_PREFIX = "context:"
ITEM_PREFIX = "i:"
PIN_PREFIX = "pin:"

UNREADABLE = (KeyError, ValueError, msgspec.MsgspecError)
"""What `from_fields` raises for a hash that is no snapshot of SNAPSHOT_FORMAT."""


class SnapshotItem(Struct, frozen=True, omit_defaults=True):
    """An item as a line of a block. `read_context.lua` matches the first two fields. A ContextItem can be decoded from the line too."""

    tokens: int
    depth: int
    item_id: str
    item: Raw
    copy_of: str | None = None

    def context_item(self) -> ContextItem:
        item = from_stored(bytes(self.item))
        return ContextItem(item_id=self.item_id, item=item, tokens=self.tokens, depth=self.depth, copy_of=self.copy_of)


class Snapshot(Struct, frozen=True, kw_only=True):
    """A conversation's newest items at `version`, by depth. `deleted`: a tombstone, which has no items and no settings."""

    version: int
    chain_hash: str = ""
    incarnation: str = ""
    deleted: bool = False
    instructions: str | None = None
    policy: ContextPolicy = ContextPolicy()
    branch: int = 0
    head: str | None = None
    depth: int = 0
    first: int = 1
    items: tuple[SnapshotItem, ...] = ()
    pins: tuple[SnapshotItem, ...] = ()
    summary: Summary | None = None
    pins_too_large: bool = False
    is_fork: bool = False

    def recent_items(self) -> RecentItems:
        """All items of the snapshot that the summary does not replace. A context is chosen from them."""
        summarized_depth = self.summary.depth if self.summary else 0
        items = [item.context_item() for item in self.items if item.depth > summarized_depth]
        return make_recent_items(self, items, reaches_start=self.first <= summarized_depth + 1)


def make_recent_items(snapshot: Snapshot, items: Sequence[ContextItem], *, reaches_start: bool) -> RecentItems:
    """RecentItems with these items of the snapshot, oldest first, and with its settings and pins."""
    ids = {item.item_id for item in items} if snapshot.pins else set()
    return RecentItems(
        version=snapshot.version,
        chain_hash=snapshot.chain_hash,
        incarnation=snapshot.incarnation,
        instructions=snapshot.instructions,
        policy=snapshot.policy,
        items=tuple(items),
        reaches_start=reaches_start or starts_at_first_item(items),
        pins=tuple(pin.context_item() for pin in snapshot.pins if pin.item_id not in ids),
        pinned=frozenset(pin.item_id for pin in snapshot.pins),
        summary=snapshot.summary,
    )


def snapshot_key(tenant: str, conversation_id: str) -> str:
    """The Redis key of a conversation's snapshot."""
    return f"{KEY_PREFIX}{tenant}:{conversation_id}"


def to_fields(snapshot: Snapshot) -> dict[str, str | int]:
    """The hash of a snapshot. Values are str, not bytes: MessagePack in Lua has only one string type."""
    if snapshot.deleted:
        return {"version": snapshot.version, "incarnation": snapshot.incarnation, "deleted": 1}
    pins = {f"{PIN_PREFIX}{pin.item_id}": msgspec.json.encode(pin).decode() for pin in snapshot.pins}
    optional = {
        "instructions": snapshot.instructions,
        "head": snapshot.head,
        "heavy": "1" if snapshot.pins_too_large else None,
        "pins": msgspec.json.encode([pin.item_id for pin in snapshot.pins]).decode() if pins else None,
        "summary": msgspec.json.encode(snapshot.summary).decode() if snapshot.summary else None,
        "fork": "1" if snapshot.is_fork else None,
    }
    return {
        "version": snapshot.version,
        "chain_hash": snapshot.chain_hash,
        "incarnation": snapshot.incarnation,
        "made": SNAPSHOT_FORMAT,
        "policy": msgspec.json.encode(snapshot.policy).decode(),
        "branch": snapshot.branch,
        "depth": snapshot.depth,
        "first": snapshot.first,
        "count": len(snapshot.items),
        "bytes": sum(len(msgspec.json.encode(item)) for item in snapshot.items),
        **{name: value for name, value in optional.items() if value is not None},
        **_to_blocks(snapshot.branch, snapshot.items),
        **pins,
    }


def from_fields(fields: dict[str, str]) -> Snapshot:
    """The snapshot of a hash. Raises UNREADABLE."""
    if "deleted" in fields:
        return Snapshot(version=int(fields["version"]), deleted=True, incarnation=fields.get("incarnation", ""))
    if fields.get("made") != SNAPSHOT_FORMAT:
        raise ValueError("another snapshot format")
    blocks = (value for name, value in fields.items() if name.startswith(ITEM_PREFIX))
    return Snapshot(
        pins_too_large="heavy" in fields,
        is_fork="fork" in fields,
        pins=pins_from_json(value for name, value in fields.items() if name.startswith(PIN_PREFIX)),
        summary=msgspec.json.decode(fields["summary"], type=Summary) if "summary" in fields else None,
        version=int(fields["version"]),
        chain_hash=fields["chain_hash"],
        incarnation=fields["incarnation"],
        instructions=fields.get("instructions"),
        policy=msgspec.json.decode(fields["policy"], type=ContextPolicy),
        branch=int(fields["branch"]),
        head=fields.get("head"),
        depth=int(fields["depth"]),
        first=int(fields["first"]),
        items=tuple(sorted((item for block in blocks for item in _from_block(block)), key=lambda item: item.depth)),
    )


def pins_from_json(values: Iterable[str]) -> tuple[SnapshotItem, ...]:
    """Pinned items by depth."""
    return tuple(sorted((msgspec.json.decode(value, type=SnapshotItem) for value in values), key=lambda pin: pin.depth))


def _to_blocks(branch: int, items: Iterable[SnapshotItem]) -> dict[str, str]:
    """The fields for a branch's items. `items` must be ordered by depth."""
    lines: dict[str, list[str]] = {}
    tokens: Counter[str] = Counter()
    for item in items:
        name = f"{ITEM_PREFIX}{branch}:{item.depth // BLOCK_DEPTHS}"
        lines.setdefault(name, []).append(msgspec.json.encode(item).decode())
        tokens[name] += item.tokens
    return {
        name: "\n".join([f"{len(block_lines)} {tokens[name]}", *block_lines, ""]) for name, block_lines in lines.items()
    }


def _from_block(block: str) -> list[SnapshotItem]:
    _, _, lines = block.partition("\n")
    return _decode_items(lines)


_decode_items = msgspec.json.Decoder(SnapshotItem).decode_lines
