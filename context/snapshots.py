"""The shape of context snapshots.

A snapshot has a conversation's newest items and their token counts, so the next reply need not read the log.

    context:{tenant}:{conversation_id}        HASH
        version        the conversation's version; every event changes it
        chain_hash     the chain hash of the event at `version`; the log must have the same hash
        incarnation    the log's incarnation; versions of different incarnations are not compared
        format         SNAPSHOT_FORMAT; a snapshot of another format is ignored
        settings       JSON of SnapshotSettings
        branch depth   the branch and the depth of the path's last item, which may be retracted.
                       Without items, depth is 0, or in a fork the depth of the item after which the fork begins
        first          the depth of the list's first element; depth + 1 if the list is empty
        bytes          the size of all elements together
        request:{model}  JSON of a LastRequest
        deleted        "1" on a tombstone, which has only this field, version and incarnation

    context_items:{tenant}:{conversation_id}  LIST
        an element for each depth from `first` to `depth`: JSON of a SnapshotItem, or empty if the item is retracted

The list has the newest items of the active path, without summarized and inherited ones. A snapshot depends only on the
events of its own conversation. Redis may evict one of the two keys. So the list is used only if its length is right.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Raw, Struct

from context.conversation_settings import Summary
from context.last_requests import MAX_LAST_REQUESTS
from context.selection import ContextItem
from domain.events import ContextPolicy, SentSequence

MAX_ITEMS = 8_192
MAX_BYTES = 2_000_000
"""A context of 128,000 tokens has about 6,400 short messages, which take 1.5 MB."""

MAX_PINNED_BYTES = 1_000_000
MAX_FIELDS = 40
"""If the hash has more fields, the snapshot is made again. Each model that is used adds a field."""

SNAPSHOT_TTL_SECONDS = 30 * 24 * 3600
"""A snapshot expires this long after its last write. Every event of the conversation writes the snapshot."""

TOMBSTONE_TTL_SECONDS = 24 * 3600

SNAPSHOT_FORMAT = "12"
"""Raise this number when the content of snapshots changes, or the way in which tokens are counted."""

REQUEST_PREFIX = "request:"
KEY_PREFIX = "context:"
ITEMS_KEY_PREFIX = "context_items:"

UNREADABLE = (KeyError, ValueError, msgspec.MsgspecError)


class SnapshotItem(Struct, frozen=True, array_like=True):
    """An element of the list.

    `item`, `form`: the item itself and 0, or a plain message's text and the number of its form. The fields are the
    first fields of ContextItem, so a ContextItem can be decoded from the same JSON.
    """

    item_id: str
    item: Raw
    tokens: int
    depth: int
    form: int = 0
    copy_of: str | None = None

    def context_item(self) -> ContextItem:
        return msgspec.json.decode(msgspec.json.encode(self), type=ContextItem)


class SnapshotSettings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The field `settings` of the hash.

    `pins`: in order of depth; the list may have these items too. `needs_log`: contexts are read from the log, for one
    of two reasons. Pins or the summary may have content of other conversations, which may be deleted there; this
    content is left out. Or the pins exceed MAX_PINNED_BYTES; then `pins` is empty.
    """

    instructions: str | None = None
    policy: ContextPolicy = ContextPolicy()
    summary: Summary | None = None
    pins: tuple[SnapshotItem, ...] = ()
    needs_log: bool = False


class LastRequest(Struct, frozen=True, array_like=True):
    version: int
    sequence: SentSequence


class Snapshot(Struct, frozen=True, kw_only=True):
    """`deleted`: a tombstone, without items and settings.

    `last_requests`: the last requests of at most MAX_LAST_REQUESTS models, without requests whose depth
    is less than `first` - 1.
    """

    version: int
    chain_hash: str = ""
    incarnation: str = ""
    deleted: bool = False
    settings: SnapshotSettings = SnapshotSettings()
    branch: int = 0
    depth: int = 0
    first: int = 1
    items: tuple[SnapshotItem, ...] = ()
    last_requests: Mapping[str, LastRequest] = {}

    @property
    def length(self) -> int:
        return self.depth - self.first + 1

    @property
    def reaches_start(self) -> bool:
        return self.first <= (self.settings.summary.depth if self.settings.summary else 0) + 1


def snapshot_keys(tenant: str, conversation_id: str) -> tuple[str, str]:
    return f"{KEY_PREFIX}{tenant}:{conversation_id}", f"{ITEMS_KEY_PREFIX}{tenant}:{conversation_id}"


def to_fields(snapshot: Snapshot) -> dict[str, str | int]:
    if snapshot.deleted:
        return {"version": snapshot.version, "incarnation": snapshot.incarnation, "deleted": 1}
    return {
        "version": snapshot.version,
        "chain_hash": snapshot.chain_hash,
        "incarnation": snapshot.incarnation,
        "format": SNAPSHOT_FORMAT,
        "settings": encode_settings(snapshot.settings),
        "branch": snapshot.branch,
        "depth": snapshot.depth,
        "first": snapshot.first,
        "bytes": sum(map(len, to_elements(snapshot))),
        **request_fields(snapshot.last_requests),
    }


def encode_settings(settings: SnapshotSettings) -> str:
    return msgspec.json.encode(settings).decode()


def request_fields(last_requests: Mapping[str, LastRequest]) -> dict[str, str]:
    return {f"{REQUEST_PREFIX}{model}": msgspec.json.encode(last).decode() for model, last in last_requests.items()}


def newest_requests(last_requests: Mapping[str, LastRequest], first: int) -> dict[str, LastRequest]:
    newest = sorted(last_requests.items(), key=lambda entry: -entry[1].version)[:MAX_LAST_REQUESTS]
    return {model: last for model, last in newest if last.sequence.depth >= first - 1}


def to_elements(snapshot: Snapshot) -> list[bytes]:
    by_depth = {item.depth: msgspec.json.encode(item) for item in snapshot.items}
    return [by_depth.get(depth, b"") for depth in range(snapshot.first, snapshot.depth + 1)]


def from_stored(fields: Mapping[str, str], elements: Sequence[bytes] = ()) -> Snapshot | None:
    """Decodes a snapshot. `elements`: the list, or a part of it.

    None if there is no hash, or if the hash has another format. Raises the errors in UNREADABLE.
    """
    if "deleted" in fields:
        return Snapshot(version=int(fields["version"]), deleted=True, incarnation=fields.get("incarnation", ""))
    if fields.get("format") != SNAPSHOT_FORMAT:
        return None
    first = int(fields["first"])
    last_requests = {
        name.removeprefix(REQUEST_PREFIX): msgspec.json.decode(value, type=LastRequest)
        for name, value in fields.items()
        if name.startswith(REQUEST_PREFIX)
    }
    return Snapshot(
        version=int(fields["version"]),
        chain_hash=fields["chain_hash"],
        incarnation=fields["incarnation"],
        settings=msgspec.json.decode(fields["settings"], type=SnapshotSettings),
        branch=int(fields["branch"]),
        depth=int(fields["depth"]),
        first=first,
        items=tuple(msgspec.json.Decoder(SnapshotItem).decode_lines(json_lines(elements))),
        last_requests=newest_requests(last_requests, first),
    )


def json_lines(elements: Iterable[bytes]) -> bytes:
    """Empty elements are empty lines, which a decoder skips."""
    return b"\n".join(elements)
