"""The shape of context snapshots.

A snapshot has a conversation's newest items and their token counts, so the next reply need not read the log.

    context:{tenant}:{conversation_id}        HASH
        version        of the conversation; every event changes it
        chain_hash     of the event at `version`: the snapshot is used only if the log has this hash at this version
        incarnation    of the log that the snapshot was made from; versions of different incarnations are not compared
        format         SNAPSHOT_FORMAT; a snapshot of another format is ignored
        settings       JSON of SnapshotSettings
        branch depth   of the path's last item, which may be retracted. Without items, depth is 0,
                       or in a fork the depth of the item after which the fork begins
        first          the depth of the list's first element; depth + 1 if the list is empty
        bytes          the size of all elements together
        request:{model}  JSON of a LastRequest: the last request to this model. `Snapshot.last_requests` has only the
                         newer ones
        deleted        "1" on a tombstone. It has only this field, version and incarnation, and expires after a day

    context_items:{tenant}:{conversation_id}  LIST
        an element for each depth from `first` to `depth`: JSON of a SnapshotItem, or empty if the item is retracted

The list has the newest items of the active path, as many as fit in MAX_ITEMS and MAX_BYTES. It has no items that
the summary replaces, and none of a fork's origin. Redis may evict one of the two keys. So the list is used only if it
has the length that `first` and `depth` say.

`snapshot_store.py` reads and writes snapshots, `snapshot_from_log.py` makes them, and
`moved_snapshot.py` changes them when the head is moved.
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
"""If the hash has more fields, the snapshot is made again.

Without this limit, the hash could get a `request:` field for each of many models.
"""

SNAPSHOT_TTL_SECONDS = 30 * 24 * 3600
"""A snapshot expires this long after it was last written, so that Redis does not keep every conversation.

Every event of the conversation writes the snapshot.
"""

TOMBSTONE_TTL_SECONDS = 24 * 3600

SNAPSHOT_FORMAT = "11"
"""Raise this number when the content of snapshots changes, or the way in which tokens are counted."""

REQUEST_PREFIX = "request:"
KEY_PREFIX = "context:"
ITEMS_KEY_PREFIX = "context_items:"

UNREADABLE = (KeyError, ValueError, msgspec.MsgspecError)
"""The errors that `from_stored` raises if the fields or the elements cannot be read as a snapshot."""


class SnapshotItem(Struct, frozen=True, array_like=True):
    """An item as an element of the list. `item`, `form`: the item as stored, or in its short form. `tokens`: in o200k_base.

    Its fields are the first fields of ContextItem. So a ContextItem can be decoded from the same JSON.
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
    """The part of a snapshot that changes only when the snapshot is made again.

    `pins`: the pinned items, ordered by depth. They may be in the list too. `needs_log`: contexts are read from the log,
    for one of two reasons. The conversation has inherited pins, an inherited summary, a fork's summary or a summary of
    copies: their content belongs to other conversations and may be deleted there. Or the pinned items have more than
    MAX_PINNED_BYTES; then `pins` is empty.
    """

    instructions: str | None = None
    policy: ContextPolicy = ContextPolicy()
    summary: Summary | None = None
    pins: tuple[SnapshotItem, ...] = ()
    needs_log: bool = False


class LastRequest(Struct, frozen=True, array_like=True):
    """The last request to a model. `version`: the version of the event that records the request."""

    version: int
    sequence: SentSequence


class Snapshot(Struct, frozen=True, kw_only=True):
    """A conversation's newest items at `version`, by depth. `deleted`: whether it is a tombstone, which has no items and no settings.

    `last_requests`: the last request to each of at most MAX_LAST_REQUESTS models. Requests whose depth is less than
    `first` - 1 are left out.
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
        """The number of elements of the list."""
        return self.depth - self.first + 1

    @property
    def reaches_start(self) -> bool:
        """Whether no items lie before `first`, except those that the summary replaces."""
        return self.first <= (self.settings.summary.depth if self.settings.summary else 0) + 1


def snapshot_keys(tenant: str, conversation_id: str) -> tuple[str, str]:
    """The Redis keys of a conversation's snapshot: of the hash and of the list."""
    return f"{KEY_PREFIX}{tenant}:{conversation_id}", f"{ITEMS_KEY_PREFIX}{tenant}:{conversation_id}"


def to_fields(snapshot: Snapshot) -> dict[str, str | int]:
    """The hash of a snapshot."""
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
    """The field `settings`."""
    return msgspec.json.encode(settings).decode()


def request_fields(last_requests: Mapping[str, LastRequest]) -> dict[str, str]:
    """The fields `request:{model}`."""
    return {f"{REQUEST_PREFIX}{model}": msgspec.json.encode(last).decode() for model, last in last_requests.items()}


def newest_requests(last_requests: Mapping[str, LastRequest], first: int) -> dict[str, LastRequest]:
    """The requests that `Snapshot.last_requests` has if the snapshot's list begins at depth `first`."""
    newest = sorted(last_requests.items(), key=lambda entry: -entry[1].version)[:MAX_LAST_REQUESTS]
    return {model: last for model, last in newest if last.sequence.depth >= first - 1}


def to_elements(snapshot: Snapshot) -> list[bytes]:
    """The list of a snapshot."""
    by_depth = {item.depth: msgspec.json.encode(item) for item in snapshot.items}
    return [by_depth.get(depth, b"") for depth in range(snapshot.first, snapshot.depth + 1)]


def from_stored(fields: Mapping[str, str], elements: Sequence[bytes] = ()) -> Snapshot | None:
    """The snapshot in a hash and a list. `elements`: the list, or a part of it. None if there is no hash, or if it has another format. Raises UNREADABLE."""
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
    """The items of these elements as JSON lines. Empty elements are empty lines, which a decoder skips."""
    return b"\n".join(elements)
